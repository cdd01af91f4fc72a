"""Results of earlier jobs: taken only where nothing can have changed, and as proven as if they had been read."""

import os
import signal
import zlib
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from conftest import Database
from extraction_worker.demo.postgres import postgres_server
from extraction_worker.model import Manifest
from extraction_worker.report.progress import Progress
from extraction_worker.sink.s3_client import S3Credentials
from extraction_worker.stages.local import LocalRun
from extraction_worker.stages.reuse import KnownResult
from extraction_worker.stages.settings import LocalOptions
from extraction_worker.verify.manifest import open_set, verify_set
from support.databases import wait_until
from support.jobs import resolve_job, write_job
from support.redis_server import RedisServer

ROWS = 3000
CANARY = "canary-in-a-row"


@pytest.fixture(scope="module")
def database(postgres18):
    """One database of all tests of this module; each begins with a table of its own."""
    value = Database(postgres18)
    yield value
    value.drop()


@pytest.fixture(scope="module")
def server():
    with RedisServer() as found:
        yield found


@pytest.fixture
def redis(server) -> RedisServer:
    server.client().flushall()
    return server


@pytest.fixture
def table(database):
    for schema in database.execute("SELECT nspname FROM pg_namespace WHERE nspname !~ '^(pg_|information_s)'"):
        database.execute(f'DROP SCHEMA "{schema[0]}" CASCADE')
    database.execute("CREATE SCHEMA public")
    database.execute("CREATE TABLE t (id int PRIMARY KEY, word text, n int)")
    database.execute(f"INSERT INTO t SELECT i, '{CANARY} ' || i, 1 FROM generate_series(1, {ROWS}) AS i")
    return database


class Jobs:
    """Jobs on one volume, each into a folder of its name."""

    def __init__(self, folder: Path, database, redis: RedisServer, **declared) -> None:
        self.folder, self.database, self.redis, self.declared = folder, database, redis, declared
        self.url: str | None = redis.url
        self.said: list[str] = []
        self.read = 0

    def resolved(self, name: str, **spec):
        declared = {"reuse": {}, "verification": "Decoded", "partitioning": {"targetBytes": "64Ki"}} | spec
        declared["sink"] = self.place(name) | spec.get("sink", {})
        if declared["reuse"] is None:
            del declared["reuse"]
        return resolve_job(write_job(self.folder, self.database, spec=declared, **self.declared))

    def place(self, name: str) -> dict:
        return {"volume": {"claimName": "lake", "path": name}}

    def of(self, name: str, **spec) -> LocalRun:
        self.progress = Progress()
        self.progress.say = self.said.append
        file = self.redis.url_file(self.folder, self.url) if self.url is not None else None
        options = LocalOptions(self.folder / "volumes", 2, redis_url_file=file)
        return LocalRun(self.resolved(name, **spec), options, self.progress)

    def run(self, name: str, **spec) -> Manifest:
        """Run a job to its end; :attr:`read` are the rows that it read of the source."""
        manifest = self.of(name, **spec).run()
        self.read = self.progress.now().read_rows
        return manifest

    def location(self, name: str) -> Path:
        return self.folder / "volumes" / "lake" / name


@pytest.fixture
def jobs(tmp_path, table, redis) -> Jobs:
    return Jobs(tmp_path, table, redis)


def test_a_job_that_would_read_the_same_takes_the_result_and_says_so(jobs):
    first = jobs.run("first")
    assert jobs.read == first.rows == ROWS
    second = jobs.run("second")
    assert jobs.read == 0
    assert second.reused is not None
    assert (second.reused.run_id, second.reused.digest) == (first.run_id, first.digest)
    assert second.reused.published_at == first.published_at
    assert second.run_id != first.run_id
    assert [part.xxh3_128 for part in second.parts] == [part.xxh3_128 for part in first.parts]
    assert {part.name for part in second.parts}.isdisjoint(part.name for part in first.parts)
    for name in ("first", "second"):
        report = verify_set(open_set(str(jobs.location(name)))).require_whole()
        assert (report.rows, report.columns_proven) == (ROWS, True)
    assert any("is reused" in line for line in jobs.said)
    # A copy is none to take again: what is taken was read within the time.
    assert jobs.run("third").reused.run_id == first.run_id


def test_the_same_place_is_replaced_by_itself(jobs):
    replace = {"sink": {"ifExists": "Replace"}}
    first = jobs.run("same", **replace)
    second = jobs.run("same", **replace)
    assert (jobs.read, second.reused.run_id) == (0, first.run_id)
    verify_set(open_set(str(jobs.location("same")))).require_whole()
    assert sorted(path.name for path in jobs.location("same").iterdir()) == sorted(
        ["_manifest.json", *(part.name for part in second.parts)]
    )


CHANGES = {
    "insert": "INSERT INTO t VALUES (0, 'new', 1)",
    "update": "UPDATE t SET n = 2 WHERE id = 1",
    "delete": "DELETE FROM t WHERE id = 1",
    "truncate": "TRUNCATE t",
    "ddl": "ALTER TABLE t ALTER word TYPE varchar(100)",
    "elsewhere": "CREATE TABLE other ()",
    "rolled back": "DO $$ BEGIN INSERT INTO t VALUES (0); RAISE 'no'; EXCEPTION WHEN raise_exception THEN END $$",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_any_write_to_the_source_makes_the_next_job_read(jobs, table, change):
    jobs.run("first")
    table.execute(change)
    after = jobs.run("second")
    assert after.reused is None
    assert jobs.read == after.rows == table.execute("SELECT count(*) FROM t")[0][0]


def test_a_transaction_in_flight_proves_nothing(jobs, table):
    with psycopg.connect(table.conninfo) as writer:
        writer.execute("CREATE TABLE busy ()")
        # A later one has ended: the snapshot is "5:7:5", where one alone is as if it hadn't begun.
        table.execute("CREATE TABLE later ()")
        assert jobs.of("plan").plan().marker is None
        jobs.run("first")
        writer.rollback()
    assert jobs.run("second").reused is None


OTHERS = {
    "predicate": {"where": "id > 10"},
    "columns": {"columns": ["id", "word"]},
    "format": {"sink": {"format": {"type": "CSV", "compression": "none"}}},
    "verification": {"verification": "Written"},
    "unrepresentable": {"onUnrepresentable": "Null"},
    "mask": {"masks": [{"column": "word", "method": "Nullify"}]},
    "consistency": {"consistency": "PerPartition"},
    "opt-in": {"reuse": None},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_another_reading_takes_nothing(jobs, other):
    jobs.run("first")
    manifest = jobs.run("second", **other)
    assert manifest.reused is None
    assert jobs.read == manifest.rows


def test_who_did_not_opt_in_leaves_nothing_behind(jobs, redis):
    jobs.run("first", reuse=None)
    assert redis.client().keys("extraction:1:result:*") == []
    assert jobs.run("second").reused is None


def change_known(redis: RedisServer, **update) -> None:
    """Change what is remembered of the only result."""
    client = redis.client()
    [key] = client.keys("extraction:1:result:*")
    known = KnownResult.from_json(zlib.decompress(client.get(key)))
    client.set(key, zlib.compress(known.model_copy(update=update).to_json()))


def test_a_result_is_taken_for_as_long_as_the_job_allows(jobs, redis):
    first = jobs.run("first")
    change_known(redis, published_at=first.published_at - timedelta(minutes=2))
    assert jobs.run("strict", reuse={"maxAge": "1m"}).reused is None
    change_known(redis, published_at=first.published_at - timedelta(minutes=2))
    assert jobs.run("patient", reuse={"maxAge": "15m"}).reused is not None


def damaged(folder: Path) -> None:
    part = next(folder.glob("part-*"))
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)


DAMAGES = {
    "manifest gone": lambda folder: (folder / "_manifest.json").unlink(),
    "part gone": lambda folder: next(folder.glob("part-*")).unlink(),
    "a bit": damaged,
    "another manifest": lambda folder: (folder / "_manifest.json").write_text(
        (folder / "_manifest.json").read_text().replace('"job":"default/job"', '"job":"default/joc"')
    ),
    "no manifest": lambda folder: (folder / "_manifest.json").write_text("{}"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_what_is_not_there_any_more_as_it_was_is_read(jobs, damage):
    jobs.run("first")
    damage(jobs.location("first"))
    second = jobs.run("second")
    assert (second.reused, jobs.read) == (None, ROWS)
    assert any("isn't reused" in line for line in jobs.said)
    verify_set(open_set(str(jobs.location("second")))).require_whole()
    # Nothing of the attempt to copy is left.
    assert not (jobs.folder / "volumes" / "lake" / "_staging").exists()


def test_a_redis_that_names_another_set_is_not_believed(jobs, redis, table):
    jobs.run("first")
    other = jobs.run("other", where="id <= 10")
    [first_key] = [
        key for key in redis.client().keys("extraction:1:result:*")
        if KnownResult.from_json(zlib.decompress(redis.client().get(key))).path == "first"
    ]  # fmt: skip
    known = KnownResult.from_json(zlib.decompress(redis.client().get(first_key)))
    forged = known.model_copy(update={"path": "other", "manifest": other.fingerprint()})
    redis.client().set(first_key, zlib.compress(forged.to_json()))
    assert jobs.run("second").rows == ROWS
    assert any("another reading" in line for line in jobs.said)
    # Nor one without a time, nor one that leads out of the volume.
    text = known.to_json().replace(b'Z"', b'"')
    assert text != known.to_json()
    redis.client().set(first_key, zlib.compress(text))
    assert jobs.run("timeless").reused is None
    forged = known.model_copy(update={"path": "../../secret"})
    redis.client().set(first_key, zlib.compress(forged.to_json()))
    assert jobs.run("third").rows == ROWS


UNPROVEN = {
    "unlogged": ("CREATE UNLOGGED TABLE x (id int)", {"table": "public.x"}),
    "view": ("CREATE VIEW x AS SELECT * FROM t", {"table": "public.x"}),
    "foreign": (
        """CREATE EXTENSION file_fdw SCHEMA public;
        CREATE SERVER far FOREIGN DATA WRAPPER file_fdw;
        CREATE TABLE x (id int) PARTITION BY RANGE (id);
        CREATE FOREIGN TABLE y PARTITION OF x DEFAULT SERVER far OPTIONS (filename '/dev/null')""",
        {"table": "public.x"},
    ),
    "clock": ("", {"where": "now() > '2020-01-01'"}),
    "moving date": ("", {"where": "word <> 'yesterday'"}),
    "sample": ("", {"query": "SELECT id FROM public.t TABLESAMPLE SYSTEM (50)"}),
    "system catalog": ("", {"query": "SELECT relname::text AS name FROM pg_class"}),
    "stable function": (
        "CREATE FUNCTION x(int) RETURNS int STABLE LANGUAGE sql AS 'SELECT $1'", {"where": "public.x(id) > 0"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("prepare", "spec"), UNPROVEN.values(), ids=UNPROVEN)
def test_a_reading_that_may_differ_has_no_marker(jobs, table, prepare, spec):
    for statement in filter(None, prepare.split(";")):
        table.execute(statement)
    jobs.declared["source"] = {"policy": {"allowFunctions": ["public.x"]}}
    assert jobs.of("plan", **spec).plan().marker is None


@pytest.fixture(scope="module")
def other_role(database) -> str:
    return database.role("other")


PROVEN = {
    "table": ("", {}),
    "partitioned": ("CREATE TABLE x (id int) PARTITION BY RANGE (id)", {"table": "public.x"}),
    "materialised view": ("CREATE MATERIALIZED VIEW x AS SELECT * FROM t", {"table": "public.x"}),
    "aggregate": ("", {"query": "SELECT n, count(*) AS many FROM public.t GROUP BY n"}),
    "immutable function": (
        "CREATE FUNCTION x(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1'", {"where": "public.x(id) > 0"},
    ),
    "subquery": ("", {"where": "id IN (SELECT max(id) FROM public.t)"}),
}  # fmt: skip


@pytest.mark.parametrize(("prepare", "spec"), PROVEN.values(), ids=PROVEN)
def test_a_reading_that_is_the_same_again_has_one(jobs, table, other_role, prepare, spec):
    if prepare:
        table.execute(prepare)
    jobs.declared["source"] = {"policy": {"allowFunctions": ["public.x"]}}
    marker = jobs.of("plan", **spec).plan().marker
    assert marker is not None
    assert jobs.of("plan", **spec).plan().marker == marker
    # Another role may see other rows.
    role = other_role
    table.execute(f"GRANT USAGE ON SCHEMA public TO {role}")
    table.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    before = jobs.of("plan", **spec).plan().marker
    jobs.declared |= {"user": role, "password": "reader-password"}
    assert jobs.of("plan", **spec).plan().marker not in {None, before}


def test_a_crash_changes_the_marker_although_the_server_did_not_restart(tmp_path, redis):
    """What was emptied or lost by it had no transaction of its own."""
    with postgres_server() as crashing:
        database = Database(crashing)
        database.execute("CREATE TABLE t (id int)")
        database.execute("CHECKPOINT")
        jobs = Jobs(tmp_path, database, redis)
        before = jobs.of("plan").plan()
        [[victim]] = database.execute("SELECT pg_backend_pid()")
        os.kill(victim, signal.SIGKILL)

        def is_back() -> bool:
            try:
                with closing(psycopg.connect(database.conninfo)):
                    return True
            except psycopg.OperationalError:
                return False

        wait_until(lambda: "all server processes terminated" in crashing.log.read_text() and is_back())
        after = jobs.of("plan").plan()
    assert after.identity.postmaster_start == before.identity.postmaster_start
    assert after.marker is not None
    assert after.marker != before.marker


def test_the_cache_holds_neither_rows_nor_sql_nor_secrets(jobs, redis):
    jobs.run("first", where=f"word <> '{CANARY} 17'")
    client = redis.client()
    [key] = client.keys("extraction:1:result:*")
    text = key + zlib.decompress(client.get(key))
    assert b'"path":"first"' in text
    for secret in (CANARY, "word", "<>", jobs.database.server.password, jobs.database.server.user):
        assert secret.encode() not in text
    assert 890 <= client.ttl(key) <= 900


@pytest.mark.parametrize("trouble", ["none", "away"])
def test_without_redis_the_source_is_read(tmp_path, table, redis, trouble):
    jobs = Jobs(tmp_path, table, redis)
    jobs.run("first")
    jobs.url = None if trouble == "none" else "redis://127.0.0.1:1/0"
    second = jobs.run("second")
    assert (second.reused, jobs.read) == (None, ROWS)


def test_a_result_in_a_bucket_is_copied_there(tmp_path, table, redis, s3_server, bucket):
    class InBucket(Jobs):
        def place(self, name: str) -> dict:
            return {"s3": {
                "bucket": bucket, "prefix": name, "endpoint": s3_server.endpoint,
                "credentialsSecretRef": {"name": "lake"},
            }}  # fmt: skip

    jobs = InBucket(tmp_path, table, redis, s3=(s3_server, bucket))
    first = jobs.run("first")
    second = jobs.run("second")
    assert (jobs.read, second.reused.run_id) == (0, first.run_id)

    def keys() -> S3Credentials:
        return S3Credentials(s3_server.access_key, s3_server.secret_key, None)

    where = f"s3://{bucket}/second"
    verify_set(open_set(where, endpoint=s3_server.endpoint, credentials=keys)).require_whole()
    client = s3_server.client()
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)
    # A part that is gone: its neighbours' uploads don't stay behind.
    client.delete_object(Bucket=bucket, Key=f"first/{first.parts[-1].name}")
    assert jobs.run("third").reused is None
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)
    found = [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket, Prefix="third")["Contents"]]
    assert all("_staging" not in key for key in found)
