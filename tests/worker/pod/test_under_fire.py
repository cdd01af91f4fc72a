"""While the table is written and DDL tries to get at it: the snapshot is published, or the job gave way in time."""

import contextlib
import itertools
import threading
from collections.abc import Iterable

import psycopg
import pyarrow.parquet as pq
import pytest

from extraction_worker.errors import Interrupted, SchemaDrift, SnapshotLost, SourceInDanger
from extraction_worker.stages.pod.stop import Stop
from support.databases import wait_until
from support.lock_waits import LockWaits
from support.pods import Pods, end, events, run, wait_for_error

SPEC = {"partitioning": {"targetBytes": "64Ki"}}
ONE_CHUNK = {"partitioning": {"strategy": "None"}}
SLOW = {"limits": {"bytesPerSecond": "64Ki", "yieldToDDLAfter": "1s"}}
"""A rate at which a chunk takes far longer than anybody may wait."""
LONGEST_WAIT = 1.0 + 1.0
"""Seconds: what is declared there, and one more."""
PATIENCE = "SET statement_timeout = '25s'"
"""Of the application: far more than it has to wait, far less than a chunk takes, also on a busy machine."""
DDL = {
    "truncate": "TRUNCATE t",
    "vacuum full": "VACUUM FULL t",
    "cluster": "CLUSTER t USING t_pkey",
    "rewrite": "ALTER TABLE t ALTER amount TYPE text",
    "add column": "ALTER TABLE t ADD COLUMN more int DEFAULT 7",
    "drop and recreate": "DROP TABLE t; CREATE TABLE t (id int8 PRIMARY KEY, name text, amount numeric(12,2))",
}
PARTITIONED_DDL = {
    "truncate": "TRUNCATE t2",
    "vacuum full": "VACUUM FULL t2",
    "cluster": "CLUSTER t2 USING t2_pkey",
    "detach": "ALTER TABLE t DETACH PARTITION t1",
    # The rows of the default partition are looked at, under its lock.
    "attach": "ALTER TABLE t ATTACH PARTITION more FOR VALUES FROM (900000) TO (900009)",
    "drop and recreate": "DROP TABLE t2; CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (5000) TO (20000)",
}
WRITES = {
    "insert": "INSERT INTO t (id, name) SELECT 100000 + {0}, 'new'",
    "update": "UPDATE t SET name = 'changed {0}' WHERE id = {0}",
    "delete": "DELETE FROM t WHERE id = 40 + {0}",
}


def reading(database) -> bool:
    """Whether a chunk is being read, and its session has its locks."""
    return database.execute(
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'COPY%' "
        "AND application_name LIKE 'extraction/%'"
    )[0][0]


@contextlib.contextmanager
def working(pods: Pods, index: int = 0, stop: Stop | None = None):
    """Run a worker in a thread; yields the errors that it ends with."""
    errors = []
    invocation = pods.invocation("work", f"pod-{index}", stop=stop, **pods.worker(index))

    def work():
        try:
            run("work", invocation)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield errors
    thread.join(60)
    assert not thread.is_alive()


def rows_of(pods: Pods) -> list[tuple]:
    """Return the published rows, sorted."""
    folder = pods.etc / "volumes" / "lake" / "default" / "job"
    tables = [pq.read_table(file) for file in sorted(folder.glob("part-*"))]
    return sorted(tuple(row.values()) for table in tables for row in table.to_pylist())


def copy_of(database, pods: Pods) -> list[tuple]:
    """Return the rows that the held snapshot shows, sorted."""
    snapshot = pods.lead().read_snapshot().identity.snapshot_id
    with psycopg.connect(database.conninfo) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.execute(f"SET TRANSACTION SNAPSHOT '{snapshot}'")
        return sorted(connection.execute("SELECT * FROM public.t").fetchall())


@pytest.fixture
def large(table):
    """The table, so large that at 64 KiB/s a chunk of all of it takes a minute."""
    table.execute("INSERT INTO t SELECT i, md5(i::text), 1 FROM generate_series(20000, 90000) AS i")
    table.execute(PATIENCE)
    return table


# Giving way -------------------------------------------------------------------------------------------------------


class Application:
    """Sessions that run DDL, one each and once, and others that write until the last of these has ended."""

    def __init__(self, database, ddl: dict[str, str]) -> None:
        self._database = database
        self._ended = threading.Event()
        self._ddl = [self._thread(name, [statement]) for name, statement in ddl.items()]
        self._writers = [self._thread(name, itertools.repeat(statement)) for name, statement in WRITES.items()]
        self.failed: dict[str, psycopg.Error] = {}

    def run(self) -> None:
        """Let all begin; return when all have ended."""
        for thread in [*self._ddl, *self._writers]:
            thread.start()
        for thread in self._ddl:
            thread.join()
        self._ended.set()
        for thread in self._writers:
            thread.join()

    def _thread(self, name: str, statements: Iterable[str]) -> threading.Thread:
        connection = psycopg.connect(self._database.conninfo, autocommit=True)
        connection.execute(PATIENCE)

        def run() -> None:
            with connection:
                for number, statement in enumerate(statements):
                    try:
                        connection.execute(statement.format(number))
                    except psycopg.Error as error:
                        self.failed[name] = error
                        return
                    if self._ended.is_set():
                        return

        return threading.Thread(target=run, daemon=True)


def partition(database) -> None:
    """Make ``t`` a partitioned table of the same rows."""
    database.execute("ALTER TABLE t RENAME TO old")
    database.execute("ALTER INDEX t_pkey RENAME TO old_pkey")
    database.execute("CREATE TABLE t (id int8 PRIMARY KEY, name text, amount numeric(12,2)) PARTITION BY RANGE (id)")
    database.execute("CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (5000)")
    database.execute("CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (5000) TO (20000)")
    database.execute("CREATE TABLE t3 PARTITION OF t DEFAULT")
    database.execute("INSERT INTO t SELECT * FROM old")


@pytest.mark.parametrize(("kind", "ddl"), [("plain", DDL), ("partitioned", PARTITIONED_DDL)])
def test_nothing_of_an_application_waits_longer_than_declared_and_a_second(large, tmp_path, kind, ddl):
    if kind == "partitioned":
        partition(large)
        large.execute("CREATE TABLE more (LIKE t INCLUDING INDEXES)")
    pods = Pods(tmp_path, large, bundles=2, spec={"partitioning": {"targetBytes": "2Mi"}}, source=SLOW)
    application, stop = Application(large, ddl), Stop()
    with pods.held() as files, LockWaits(large) as seen:
        pods.run("plan")
        with working(pods, 0, stop) as first, working(pods, 1, stop) as second:
            wait_until(lambda: reading(large), 60)
            application.run()
            error = wait_for_error(files)
            # What the server had sent would keep the workers busy for a minute, at this rate.
            stop.request("the test")
        assert isinstance(error, SourceInDanger)
        assert "public.t" in str(error)
        assert (len(first), len(second)) == (1, 1)
        with pytest.raises(SourceInDanger):
            pods.run("publish")
    assert pods.published() is None
    assert application.failed == {}
    assert seen.waits
    assert seen.longer_than(LONGEST_WAIT) == []


def test_processes_give_way_too_and_the_lead_says_why(large, tmp_path):
    pods = Pods(tmp_path, large, bundles=2, spec={"partitioning": {"targetBytes": "2Mi"}}, source=SLOW)
    with pods.held(), LockWaits(large) as seen:
        pods.run("plan")
        publish, worker = pods.start("publish"), pods.start("work", "w", **pods.worker(0))
        wait_until(lambda: reading(large), 100)
        large.execute("TRUNCATE t")
        assert end(publish) == SourceInDanger.exit_code == 24
        assert pods.last_words("publish").reason == "SourceInDanger"
        worker.terminate()
        end(worker)
        # Not by its exit code: once its last words are written, the signal ends it as any process.
        assert pods.last_words("work", "w").reason in {SnapshotLost.reason, Interrupted.reason}
        assert pods.results() == []
    assert seen.longer_than(LONGEST_WAIT) == []
    assert pods.published() is None


def test_readers_without_a_holder_give_way_too_and_read_again(large, tmp_path):
    slow = {"limits": SLOW["limits"] | {"bytesPerSecond": "1Mi"}}
    pods = Pods(tmp_path, large, consistency="PerPartition", spec=ONE_CHUNK, source=slow)
    pods.run("plan")
    stop = Stop()
    with LockWaits(large) as seen, working(pods, stop=stop) as errors:
        wait_until(lambda: reading(large), 60)
        # Nothing that the job reads.
        large.execute("ALTER TABLE t ADD COLUMN more int")
        wait_until(lambda: reading(large), 60)
        stop.request("the test")
    assert [type(error) for error in errors] == [Interrupted]
    assert seen.waits
    assert seen.longer_than(LONGEST_WAIT) == []


def test_who_waits_for_an_index_that_only_readers_locked_is_let_through_and_the_snapshot_stays(large, tmp_path):
    # What the server had sent is read to its end before the chunk is begun again: some seconds at this rate.
    slow = {"limits": SLOW["limits"] | {"bytesPerSecond": "1Mi"}}
    pods = Pods(tmp_path, large, spec=ONE_CHUNK, source=slow)
    stop = Stop()
    with pods.held() as files:
        pods.run("plan")
        with working(pods, stop=stop) as errors:
            wait_until(lambda: reading(large), 60)
            large.execute("REINDEX INDEX t_pkey")
            # Its chunk is read again, under the same snapshot.
            wait_until(lambda: reading(large), 60)
            stop.request("the test")
        assert files.read_error() is None
        assert [type(error) for error in errors] == [Interrupted]
        assert any("t_pkey" in event.get("message", "") for event in events(pods.holder))


# Going on ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def fire(database, partitioned: bool):
    """Write to the table, and try DDL on it, from two sessions until the block ends; yields the counts of both."""
    stop, counts = threading.Event(), {"written": 0, "tried": 0, "failed": []}
    writes = [
        "INSERT INTO t SELECT i, 'new', 1 FROM generate_series(100000 + {0} * 10, 100009 + {0} * 10) AS i",
        "UPDATE t SET name = 'changed {0}', amount = {0} WHERE id % 50 = {0} % 50",
        "DELETE FROM t WHERE id % 97 = {0} % 97",
    ]
    tries = list(DDL.values())
    if partitioned:
        tries = ["TRUNCATE t", "ALTER TABLE t ADD COLUMN more int DEFAULT 7", "ALTER TABLE t DETACH PARTITION t1"]
        tries += ["VACUUM FULL t2", "DROP TABLE t"]

    def run(statements, name, setting):
        with psycopg.connect(database.conninfo, autocommit=True) as connection:
            connection.execute(setting)
            for number in itertools.count():
                if stop.is_set():
                    return
                try:
                    connection.execute(statements[number % len(statements)].format(number))
                    counts[name] += 1
                except psycopg.errors.LockNotAvailable:
                    counts[name] += name == "tried"
                except psycopg.Error as error:
                    counts["failed"].append(error)
                    return

    threads = [
        threading.Thread(target=run, args=(writes, "written", "SET lock_timeout = '5s'")),
        threading.Thread(target=run, args=(tries, "tried", "SET lock_timeout = '100ms'")),
    ]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: counts["written"] and counts["tried"])
        yield counts
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)


@pytest.mark.parametrize("kind", ["plain", "partitioned"])
def test_what_is_published_is_the_snapshot_whatever_is_written_and_tried_meanwhile(database18, table, tmp_path, kind):
    if kind == "partitioned":
        partition(table)
    pods = Pods(tmp_path, table, bundles=2, spec=SPEC | {"verification": "Source"})
    with pods.held() as files:
        wait_until(lambda: files.read_snapshot() is not None)
        with fire(table, kind == "partitioned") as counts, LockWaits(table) as seen:
            pods.run("plan")
            with working(pods, 0) as first, working(pods, 1) as second:
                copied = copy_of(table, pods)
        published = pods.run("publish")
    assert (first, second, counts["failed"]) == ([], [], [])
    # DDL gave up by itself, and nothing waited for longer behind it.
    assert seen.longer_than(0.1 + 1) == []
    assert rows_of(pods) == copied
    assert published.rows == len(copied) == 12858


# Attaching and detaching ------------------------------------------------------------------------------------------


@pytest.fixture
def parted(database18):
    """Three ways to a table ``t`` to which ``more``, with rows that the snapshot shows, can be attached."""

    def make(kind: str) -> str:
        columns = "(id int8 NOT NULL, name text)"
        bounds = kind != "plain" and kind != "inherited"
        database18.execute(f"CREATE TABLE t {columns} {'PARTITION BY RANGE (id)' if bounds else ''}")
        if bounds:
            database18.execute("CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (2000)")
            database18.execute("CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (2000) TO (9001)")
        elif kind == "inherited":
            database18.execute("CREATE TABLE t1 () INHERITS (t)")
            database18.execute("INSERT INTO t1 SELECT i, md5(i::text) FROM generate_series(9001, 9100) AS i")
        database18.execute("INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 9000) AS i")
        # Longer than the others, so that the last, open range of pages would reach into it.
        database18.execute(f"CREATE TABLE more {columns}")
        database18.execute("INSERT INTO more SELECT i, md5(i::text) FROM generate_series(30000, 50000) AS i")
        for name in ("t", "more"):
            database18.execute(f"CREATE INDEX ON {name} (id)")
        database18.execute("CREATE VIEW v AS SELECT * FROM t")
        database18.execute("SET lock_timeout = '5s'")
        if bounds:
            return "ALTER TABLE t ATTACH PARTITION more FOR VALUES FROM (30000) TO (60000)"
        return "ALTER TABLE more INHERIT t"

    return make


def extracted_while(database, tmp_path, statement: str, **spec):
    """Return what is published where a statement comes between two bundles."""
    pods = Pods(tmp_path, database, bundles=2, spec=SPEC | spec)
    with pods.held():
        pods.run("plan")
        pods.run("work", "first", **pods.worker(0))
        database.execute(statement)
        pods.run("work", "second", **pods.worker(1))
        return pods.run("publish")


RANGE = {"partitioning": {"targetBytes": "64Ki", "strategy": "Range", "column": "id"}}


@pytest.mark.parametrize(
    ("kind", "spec", "rows"),
    [("partitioned", {}, 9000), ("partitioned", RANGE, 9000), ("plain", {}, 9000), ("inherited", RANGE, 9100)],
)
def test_a_table_that_is_attached_meanwhile_isnt_read(database18, parted, tmp_path, kind, spec, rows):
    assert extracted_while(database18, tmp_path, parted(kind), **spec).rows == rows


@pytest.mark.parametrize("kind", ["partitioned", "plain"])
def test_under_a_view_a_table_that_is_attached_meanwhile_is_named(database18, parted, tmp_path, kind):
    view = {"table": "public.v"} | RANGE
    with pytest.raises(SchemaDrift, match=r"public\.more became part"):
        extracted_while(database18, tmp_path, parted(kind), **view)


def test_under_a_view_a_new_partition_is_no_drift(database18, parted, tmp_path):
    parted("partitioned")
    statement = "CREATE TABLE t3 (LIKE t); ALTER TABLE t ATTACH PARTITION t3 FOR VALUES FROM (9001) TO (9999)"
    assert extracted_while(database18, tmp_path, statement, table="public.v", **RANGE).rows == 9000


def test_a_partition_that_is_being_detached_concurrently_is_read(database18, parted, tmp_path):
    parted("partitioned")
    pods = Pods(tmp_path, database18, bundles=2, spec=SPEC)
    with pods.held():
        pods.run("plan")
        with psycopg.connect(database18.conninfo, autocommit=True) as other:
            # It waits for our snapshot once it has marked the partition.
            other.execute("SET statement_timeout = '500ms'")
            with pytest.raises(psycopg.errors.QueryCanceled):
                other.execute("ALTER TABLE t DETACH PARTITION t1 CONCURRENTLY")
        assert database18.execute("SELECT count(*) FROM pg_inherits WHERE inhdetachpending") == [(1,)]
        for index in range(2):
            pods.run("work", f"pod-{index}", **pods.worker(index))
        assert pods.run("publish").rows == 9000
