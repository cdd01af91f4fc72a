"""Local mode from manifest to published files, on real servers: what is published is what the table held."""

import threading

import pyarrow.parquet as pq
import pytest

from extraction_worker.errors import (
    DeadlineExceeded,
    Interrupted,
    InvalidQuery,
    SchemaDrift,
    SinkExists,
    SinkRefused,
    SnapshotLost,
    SourceInDanger,
    SourceUnavailable,
)
from extraction_worker.model import Consistency, Manifest
from extraction_worker.report.progress import Progress
from extraction_worker.source.session import ReadSession
from extraction_worker.stages import extraction as extraction_module
from extraction_worker.stages.work import ChunkWorker
from support.databases import wait_until
from support.jobs import everything, local_run, published

ALLOW_SLEEP = {"policy": {"allowFunctions": ["pg_sleep"]}}
SMALL_CHUNKS = {"targetBytes": "64Ki"}


@pytest.fixture
def table(database):
    """A table of about 20 pages of 8 KiB, with holes and updated rows."""
    return fill(database)


@pytest.fixture
def table18(database18):
    return fill(database18)


def fill(database):
    database.execute("CREATE TABLE t (id int8 PRIMARY KEY, name text, amount numeric(12,2))")
    database.execute("INSERT INTO t SELECT i, 'name ' || md5(i::text), i / 100.0 FROM generate_series(1, 30000) AS i")
    database.execute("DELETE FROM t WHERE id % 7 = 0")
    database.execute("UPDATE t SET name = NULL WHERE id % 11 = 0")
    return database


def rows_of(database, query="SELECT id, name, amount FROM t"):
    return sorted(database.execute(query), key=repr)


def rows_in(folder):
    files = sorted(published(folder).glob("part-*.parquet"))
    return sorted((tuple(row.values()) for file in files for row in pq.read_table(file).to_pylist()), key=repr)


def backends(database) -> int:
    [(count,)] = database.execute(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name LIKE 'extraction/%'"
    )
    return count


def wait_for_no_backends(database):
    wait_until(lambda: backends(database) == 0)


# What is published ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verification", ["None", "Written", "Decoded", "Source"])
def test_the_published_rows_are_the_tables(table, tmp_path, verification):
    manifest = local_run(tmp_path, table, spec={"verification": verification, "partitioning": SMALL_CHUNKS}).run()
    assert rows_in(tmp_path) == rows_of(table)
    assert manifest.rows == len(rows_of(table))
    assert len(manifest.chunks) > 10
    assert manifest == Manifest.from_json((published(tmp_path) / "_manifest.json").read_bytes())
    assert all(chunk.source_proven for chunk in manifest.chunks) is (verification == "Source")
    assert all(chunk.columns for chunk in manifest.chunks if chunk.rows) is (verification in {"Decoded", "Source"})
    wait_for_no_backends(table)
    assert {file.split("/")[0] for file in everything(tmp_path)} == {"default"}


def test_rows_written_while_the_job_runs_are_not_in_it(table, tmp_path, monkeypatch):
    expected = rows_of(table)
    original = ChunkWorker.extract

    def extract(self, chunk):
        table.execute("DELETE FROM t WHERE id %% 100 = %s", chunk.index)
        table.execute("INSERT INTO t VALUES (%s)", -1 - chunk.index)
        table.execute("UPDATE t SET amount = amount + 1 WHERE id %% 100 = %s", chunk.index + 50)
        return original(self, chunk)

    monkeypatch.setattr(ChunkWorker, "extract", extract)
    local_run(tmp_path, table, threads=1, spec={"partitioning": SMALL_CHUNKS, "verification": "Source"}).run()
    assert rows_in(tmp_path) == expected
    assert rows_of(table) != expected


@pytest.mark.parametrize(
    "setup", ["", "INSERT INTO t VALUES (1, 'one', 1)", "INSERT INTO t VALUES (1), (2); DELETE FROM t"]
)
def test_empty_and_tiny_tables_are_published_with_their_schema(database18, tmp_path, setup):
    database18.execute("CREATE TABLE t (id int8 PRIMARY KEY, name text, amount numeric(12,2))")
    if setup:
        database18.connection.execute(setup)
    manifest = local_run(tmp_path, database18).run()
    assert rows_in(tmp_path) == rows_of(database18)
    assert len(manifest.parts) == 1
    assert pq.read_schema(next(published(tmp_path).glob("*.parquet"))).names == ["id", "name", "amount"]


def test_columns_and_where_choose(table18, tmp_path):
    spec = {"columns": ["name", "id"], "where": "id % 2 = 0 AND name IS NOT NULL -- even", "partitioning": SMALL_CHUNKS}
    local_run(tmp_path, table18, spec=spec).run()
    assert rows_in(tmp_path) == rows_of(table18, "SELECT name, id FROM t WHERE id % 2 = 0 AND name IS NOT NULL")


def test_a_query_is_extracted_and_split_by_the_declared_column(table18, tmp_path):
    query = "SELECT id, upper(name) AS name, amount * 2 AS twice FROM public.t WHERE id < 5000"
    spec = {"query": query, "partitioning": {"strategy": "Range", "column": "id"} | SMALL_CHUNKS}
    local_run(tmp_path, table18, spec=spec).run()
    found = [(identity, name, str(twice)) for identity, name, twice in rows_in(tmp_path)]
    assert sorted(found, key=repr) == rows_of(table18, f"SELECT id, name, twice::text FROM ({query}) AS q")


@pytest.mark.parametrize(
    ("definition", "name"),
    [
        ("CREATE VIEW v AS SELECT * FROM t WHERE id > 100", "public.v"),
        ("CREATE MATERIALIZED VIEW mv AS SELECT * FROM t", "public.mv"),
        ('CREATE TABLE "Mixed Case" AS SELECT id AS "Id", name AS "the name" FROM t', 'public."Mixed Case"'),
    ],
)
def test_views_and_quoted_names_are_extracted(table, tmp_path, definition, name):
    table.execute(definition)
    local_run(tmp_path, table, spec={"table": name, "partitioning": SMALL_CHUNKS}).run()
    assert rows_in(tmp_path) == rows_of(table, f"SELECT * FROM {name}")


def test_a_partitioned_table_is_read_through_its_parent(database, tmp_path):
    database.execute("CREATE TABLE t (id int8, name text, amount numeric(12,2)) PARTITION BY RANGE (id)")
    for low, high in ((0, 100), (100, 20000), (20000, 20001), (20001, 30000)):
        database.execute(f"CREATE TABLE t_{low} PARTITION OF t FOR VALUES FROM ({low}) TO ({high})")
    database.execute("INSERT INTO t SELECT i, md5(i::text), i FROM generate_series(0, 29999) AS i")
    manifest = local_run(tmp_path, database, spec={"partitioning": SMALL_CHUNKS, "verification": "Source"}).run()
    assert len(manifest.chunks) > 5
    assert rows_in(tmp_path) == rows_of(database)


def test_a_table_of_very_many_partitions_is_extracted(database18, tmp_path):
    database18.execute("CREATE TABLE t (id int8, name text) PARTITION BY RANGE (id)")
    database18.execute(
        "DO $$ BEGIN FOR i IN 0..1799 LOOP EXECUTE format("
        "'CREATE TABLE t_%s PARTITION OF t FOR VALUES FROM (%s) TO (%s)', i, i, i + 1); END LOOP; END $$"
    )
    database18.execute("INSERT INTO t SELECT i, md5(i::text) FROM generate_series(0, 1799) AS i")
    spec = {"consistency": "PerPartition", "partitioning": {"strategy": "Ctid"}}
    assert local_run(tmp_path, database18, spec=spec).run().rows == 1800
    assert local_run(tmp_path / "snapshot", database18).run().rows == 1800


def test_a_value_in_a_servers_error_is_not_repeated(table18, tmp_path):
    with pytest.raises(InvalidQuery, match="InvalidTextRepresentation") as caught:
        local_run(tmp_path, table18, spec={"where": "name::int > 0"}).run()
    assert "name " not in caught.value.message.replace("'name'", "")
    assert everything(tmp_path) == []


def test_files_may_be_smaller_than_chunks(table18, tmp_path):
    spec = {"sink": {"format": {"targetFileBytes": "64Ki", "compression": "none"}}, "verification": "Decoded"}
    manifest = local_run(tmp_path, table18, spec=spec | {"partitioning": {"strategy": "None"}}).run()
    assert len(manifest.chunks) == 1
    assert len(manifest.parts) > 3
    assert rows_in(tmp_path) == rows_of(table18)


def test_unrepresentable_values_become_null_when_declared_and_are_counted(database18, tmp_path):
    database18.execute("CREATE TABLE t (id int8, at timestamptz)")
    database18.execute(
        "INSERT INTO t SELECT i, CASE WHEN i % 3 = 0 THEN 'infinity' ELSE now() END FROM generate_series(1, 9) i"
    )
    manifest = local_run(tmp_path, database18, spec={"onUnrepresentable": "Null", "verification": "Source"}).run()
    [replaced] = manifest.replaced
    assert (replaced.column, replaced.count) == ("at", 3)
    assert sum(at is None for _, at in rows_in(tmp_path)) == 3


def test_the_same_files_come_from_s3(table18, tmp_path, s3_server, bucket):
    from_folder = local_run(tmp_path, table18, spec={"partitioning": SMALL_CHUNKS}).run()
    from_s3 = local_run(tmp_path / "s3", table18, s3=(s3_server, bucket), spec={"partitioning": SMALL_CHUNKS}).run()
    assert [part.xxh3_128 for part in from_s3.parts] == [part.xxh3_128 for part in from_folder.parts]
    keys = {item["Key"] for item in s3_server.client().list_objects_v2(Bucket=bucket)["Contents"]}
    assert keys == {f"default/job/{name}" for name in ("_manifest.json", *(part.name for part in from_s3.parts))}
    assert "Uploads" not in s3_server.client().list_multipart_uploads(Bucket=bucket)


@pytest.mark.parametrize("kind", ["Parquet", "Arrow", "CSV", "JSONL"])
def test_every_format_is_written_and_proven(table18, tmp_path, kind):
    spec = {"sink": {"format": {"type": kind}}, "verification": "Source", "partitioning": SMALL_CHUNKS}
    manifest = local_run(tmp_path, table18, spec=spec).run()
    assert manifest.rows == len(rows_of(table18))
    assert len({file.suffixes[0] for file in published(tmp_path).glob("part-*")}) == 1


# A set that is there already --------------------------------------------------------------------------------------


def test_a_published_set_is_not_touched_unless_replacing_is_declared(table18, tmp_path):
    first = local_run(tmp_path, table18).run()
    files = everything(tmp_path)
    with pytest.raises(SinkExists):
        local_run(tmp_path, table18).run()
    assert everything(tmp_path) == files
    table18.execute("DELETE FROM t WHERE id > 100")
    second = local_run(tmp_path, table18, spec={"sink": {"ifExists": "Replace"}}).run()
    assert second.run_id != first.run_id
    assert rows_in(tmp_path) == rows_of(table18)
    assert len(everything(tmp_path)) == len(second.parts) + 1


def test_replacing_that_fails_leaves_the_old_set(table18, tmp_path, monkeypatch):
    local_run(tmp_path, table18).run()
    files = everything(tmp_path)

    def fail(self, chunk):
        raise SchemaDrift("made to fail")

    monkeypatch.setattr(ChunkWorker, "extract", fail)
    with pytest.raises(SchemaDrift):
        local_run(tmp_path, table18, spec={"sink": {"ifExists": "Replace"}}).run()
    assert everything(tmp_path) == files


# Faults -----------------------------------------------------------------------------------------------------------


def failing_once(monkeypatch, fault, at=3):
    """Let ``fault()`` happen in the middle of reading one chunk."""
    original = ChunkWorker._extract
    done = threading.Event()

    def extract(self, chunk, *arguments, **options):
        if chunk.index == at and not done.is_set():
            done.set()
            fault()
        return original(self, chunk, *arguments, **options)

    monkeypatch.setattr(ChunkWorker, "_extract", extract)
    return done


def terminate(database, what):
    database.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() "
        f"AND application_name LIKE 'extraction/%' AND pid <> pg_backend_pid() AND ({what})"
    )


HOLDER = """xact_start = (SELECT min(xact_start) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name LIKE 'extraction/%')"""
"""Whose snapshot all others read under; it may be looking at something just then."""


def test_reading_sessions_that_die_are_retried(table, tmp_path, monkeypatch):
    progress = Progress()
    original = ChunkWorker._extract
    killed = set()

    def extract(self, chunk, *arguments, **options):
        result = original(self, chunk, *arguments, **options)
        if chunk.index not in killed and len(killed) < 5:
            killed.add(chunk.index)
            raise SourceUnavailable("the session died at the worst moment")
        return result

    monkeypatch.setattr(ChunkWorker, "_extract", extract)
    monkeypatch.setattr(extraction_module, "run_chunks", quick(extraction_module.run_chunks))
    local_run(tmp_path, table, progress=progress, spec={"partitioning": SMALL_CHUNKS}).run()
    assert rows_in(tmp_path) == rows_of(table)
    assert progress.now().retries == 5
    assert progress.now().read_rows >= len(rows_of(table))


def quick(run_chunks):
    """Make retries wait almost nothing."""
    return lambda *arguments, **options: run_chunks(*arguments, **options, first_wait=0.001)


def test_a_lost_holder_fails_the_job_by_default_and_nothing_is_published(table, tmp_path, monkeypatch):
    failing_once(monkeypatch, lambda: terminate(table, HOLDER))
    with pytest.raises(SnapshotLost):
        local_run(tmp_path, table, threads=1, spec={"partitioning": SMALL_CHUNKS}).run()
    assert everything(tmp_path) == []
    wait_for_no_backends(table)


def test_a_lost_holder_restarts_when_declared(table, tmp_path, monkeypatch):
    failing_once(monkeypatch, lambda: terminate(table, HOLDER))
    progress = Progress()
    spec = {"partitioning": SMALL_CHUNKS, "snapshot": {"onLoss": "Restart"}}
    manifest = local_run(tmp_path, table, threads=1, spec=spec, progress=progress).run()
    assert rows_in(tmp_path) == rows_of(table)
    assert manifest.consistency is Consistency.SNAPSHOT
    assert any("Beginning anew (1 of 3)" in message for message in progress.take_messages())


def test_a_lost_holder_degrades_when_declared_and_the_manifest_says_so(table, tmp_path, monkeypatch):
    failing_once(monkeypatch, lambda: terminate(table, HOLDER))
    progress = Progress()
    spec = {"partitioning": SMALL_CHUNKS, "snapshot": {"onLoss": "Degrade"}}
    manifest = local_run(tmp_path, table, threads=1, spec=spec, progress=progress).run()
    assert rows_in(tmp_path) == rows_of(table)
    assert manifest.consistency is Consistency.PER_PARTITION
    assert any("a snapshot for each chunk (3 of" in message for message in progress.take_messages())


def test_a_degraded_job_refuses_a_table_that_was_rewritten(table, tmp_path, monkeypatch):
    def truncate():
        table.execute("SET statement_timeout = '20s'")
        table.execute("TRUNCATE t")

    failing_once(monkeypatch, truncate)
    spec = {"partitioning": SMALL_CHUNKS, "snapshot": {"onLoss": "Degrade"}}
    source = {"limits": {"yieldToDDLAfter": "1s"}}
    with pytest.raises(SchemaDrift, match="rewritten, truncated or replaced"):
        local_run(tmp_path, table, threads=1, spec=spec, source=source).run()
    assert everything(tmp_path) == []


def test_waiting_ddl_is_let_through_and_the_job_fails_by_name(table, tmp_path, monkeypatch):
    failing_once(monkeypatch, lambda: table.execute("ALTER TABLE t ADD COLUMN more int DEFAULT 7"))
    with pytest.raises(SourceInDanger, match=r"to lock public\.t exclusively"):
        local_run(
            tmp_path,
            table,
            threads=1,
            spec={"partitioning": SMALL_CHUNKS},
            source={"limits": {"yieldToDDLAfter": "1s"}},
        ).run()
    assert everything(tmp_path) == []


def test_the_deadline_ends_the_job(table18, tmp_path, monkeypatch):
    failing_once(monkeypatch, lambda: threading.Event().wait(1.5))
    with pytest.raises(DeadlineExceeded, match="activeDeadlineSeconds"):
        local_run(tmp_path, table18, spec={"activeDeadlineSeconds": 1, "partitioning": SMALL_CHUNKS}).run()
    assert [file for file in everything(tmp_path) if "part-" in file] == []


# Stopping and resuming ---------------------------------------------------------------------------------------------


def stopped_at(monkeypatch, run, at):
    failing_once(monkeypatch, run.stop, at)
    with pytest.raises(Interrupted):
        run.run()
    monkeypatch.undo()


def test_a_stop_while_a_session_begins_reads_nothing(table18, tmp_path, monkeypatch):
    run = local_run(tmp_path, table18, spec={"query": "SELECT pg_sleep(600)::text AS s"}, source=ALLOW_SLEEP)
    original = ReadSession.begin

    def begin(self, plan):
        run.stop()
        original(self, plan)

    monkeypatch.setattr(ReadSession, "begin", begin)
    with pytest.raises(Interrupted):
        run.run()  # and not after ten minutes


def test_a_stopped_run_publishes_nothing_and_the_next_one_begins_anew_and_says_so(table, tmp_path, monkeypatch):
    spec = {"partitioning": SMALL_CHUNKS}
    stopped_at(monkeypatch, local_run(tmp_path, table, threads=1, spec=spec), 5)
    assert not published(tmp_path).exists()
    assert [file for file in everything(tmp_path) if "part-" in file] == []
    wait_for_no_backends(table)
    progress = Progress()
    local_run(tmp_path, table, spec=spec, progress=progress).run()
    assert rows_in(tmp_path) == rows_of(table)
    assert any("beginning anew" in message for message in progress.take_messages())
    assert all(file.startswith("default/") for file in everything(tmp_path))


PER_PARTITION = {"consistency": "PerPartition", "partitioning": {"strategy": "Ctid"} | SMALL_CHUNKS}


@pytest.mark.parametrize("store", ["folder", "s3"])
def test_a_stopped_run_under_per_partition_is_resumed(table18, tmp_path, monkeypatch, store, s3_server, bucket):
    s3 = {"s3": (s3_server, bucket)} if store == "s3" else {}
    stopped_at(monkeypatch, local_run(tmp_path, table18, threads=1, spec=PER_PARTITION, **s3), 5)
    progress = Progress()
    extracted = []
    original = ChunkWorker.extract
    monkeypatch.setattr(
        ChunkWorker, "extract", lambda self, chunk: extracted.append(chunk.index) or original(self, chunk)
    )
    manifest = local_run(tmp_path, table18, spec=PER_PARTITION, progress=progress, **s3).run()
    assert min(extracted) == 5
    assert manifest.rows == len(rows_of(table18))
    assert manifest.consistency is Consistency.PER_PARTITION
    assert any("5 of" in message for message in progress.take_messages())
    if store == "folder":
        assert rows_in(tmp_path) == rows_of(table18)
        assert all(file.startswith("default/") for file in everything(tmp_path))


def test_rows_that_came_after_the_plan_are_in_the_open_last_chunk(table18, tmp_path, monkeypatch):
    stopped_at(monkeypatch, local_run(tmp_path, table18, threads=1, spec=PER_PARTITION), 5)
    table18.execute("INSERT INTO t SELECT i, 'late', 0 FROM generate_series(100000, 130000) AS i")
    local_run(tmp_path, table18, spec=PER_PARTITION).run()
    assert rows_in(tmp_path) == rows_of(table18)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_part_in_staging_is_named_and_read_again(table18, tmp_path, monkeypatch, damage):
    stopped_at(monkeypatch, local_run(tmp_path, table18, threads=1, spec=PER_PARTITION), 5)
    [part] = (tmp_path / "volumes").rglob("part-00002-*")
    data = bytearray(part.read_bytes())
    if damage == "remove":
        part.unlink()
    else:
        data[len(data) // 2] ^= 1
        part.write_bytes(data if damage == "flip" else data[:-1])
    progress = Progress()
    local_run(tmp_path, table18, spec=PER_PARTITION, progress=progress).run()
    assert rows_in(tmp_path) == rows_of(table18)
    messages = " ".join(progress.take_messages())
    assert "Chunk 2 is read again" in messages
    assert "4 of" in messages


def test_a_damaged_result_in_staging_is_read_again(table18, tmp_path, monkeypatch):
    stopped_at(monkeypatch, local_run(tmp_path, table18, threads=1, spec=PER_PARTITION), 5)
    [result] = (tmp_path / "volumes").rglob("00001-*.json")
    result.write_text(result.read_text()[:-20])
    progress = Progress()
    local_run(tmp_path, table18, spec=PER_PARTITION, progress=progress).run()
    assert rows_in(tmp_path) == rows_of(table18)
    assert any("isn't a result" in message for message in progress.take_messages())


def test_another_plan_is_not_resumed(table18, tmp_path, monkeypatch):
    stopped_at(monkeypatch, local_run(tmp_path, table18, threads=1, spec=PER_PARTITION), 5)
    progress = Progress()
    local_run(tmp_path, table18, spec=PER_PARTITION | {"columns": ["id"]}, progress=progress).run()
    assert rows_in(tmp_path) == rows_of(table18, "SELECT id FROM t")
    assert any("another plan" in message for message in progress.take_messages())


def test_a_job_that_runs_already_is_refused(table18, tmp_path, monkeypatch):
    second = []

    def run_again():
        with pytest.raises(SinkRefused, match="is running this job already"):
            local_run(tmp_path, table18).run()
        second.append(True)

    failing_once(monkeypatch, run_again, 0)
    local_run(tmp_path, table18).run()
    assert second == [True]
    assert rows_in(tmp_path) == rows_of(table18)


def test_a_plan_extracts_nothing_and_leaves_nothing(table, tmp_path):
    run = local_run(tmp_path, table, spec={"partitioning": SMALL_CHUNKS})
    plan = run.plan()
    assert len(plan.chunks) > 10
    assert run.connections == 3
    assert everything(tmp_path) == []
    wait_for_no_backends(table)
