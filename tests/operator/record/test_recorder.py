"""From what the store tells to rows of a real PostgreSQL, also one that goes away."""

import asyncio
import json
import logging
import signal
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest

from extraction_contract.messages import BundleMessage
from extraction_contract.models import DataSource
from extraction_operator.cluster.kinds import DATA_SOURCE, EXTRACTION_JOB, POD
from extraction_operator.cluster.parse import parse_own
from extraction_operator.config import RecordConfig
from extraction_operator.record.recorder import Recorder
from extraction_operator.record.writer import UnavailableError
from extraction_operator.store import Store
from extraction_record import show
from extraction_record.connection import Place
from extraction_record.history import History
from extraction_record.migrate import upgrade
from extraction_worker.demo.postgres import postgres_server
from support.objects import data_source, pod
from support.record import RESULT, job, observed, place_of, succeeded, uid

NOW = datetime(2026, 11, 22, 7, tzinfo=UTC)
CREATED = "2026-11-22T06:00:00Z"
BUNDLE = BundleMessage(
    bundle=3, chunks=4, rows=500, bytes=32_000, seconds=2.5, sessions=2, checkouts=4, session_reuses=2,
    sessions_evicted=1,
)  # fmt: skip


class Told:
    """What was counted."""

    def __init__(self) -> None:
        self.flushes = 0
        self.failures = 0
        self.rows: dict[str, int] = {}
        self.lost: list[tuple[str, str]] = []

    def record_flushed(self, rows: Mapping[str, int], seconds: float) -> None:
        self.flushes += 1
        for table, count in rows.items():
            self.rows[table] = self.rows.get(table, 0) + count

    def record_failed(self, seconds: float) -> None:
        self.failures += 1

    def record_lost(self, tables: Iterable[str], reason: str) -> None:
        self.lost += [(table, reason) for table in tables]


class Clock:
    """Time that the test decides."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Scene:
    """A store that tells a recorder."""

    def __init__(self, place: Place, *, spool_bytes: int = 10_000_000, namespaces: tuple[str, ...] = ()) -> None:
        self.told, self.clock = Told(), Clock()
        config = RecordConfig(place, "here", spool_bytes)
        self.recorder = Recorder(config, namespaces, self.told, clock=self.clock, now=lambda: NOW)
        self.store = Store(
            on_job=lambda _: None, on_source=lambda _: None, on_child=lambda _: None, on_broken=lambda *_: None,
            recorder=self.recorder,
        )  # fmt: skip
        self.version = 0

    def see(self, name: str = "orders", phase: str = "", **more) -> None:
        """Have the store see a newer version of a job."""
        self.version += 1
        assert self.store.apply(EXTRACTION_JOB, job(name, self.version, phase=phase, **more))

    def see_many(self, count: int) -> None:
        for number in range(count):
            self.see(f"job-{number}")

    def lose(self, name: str = "orders") -> None:
        """Have the store see the end of a job."""
        self.version += 1
        assert self.store.apply(EXTRACTION_JOB, job(name, self.version), deleted=True)

    def see_source(self, name: str = "shop", *, deleted: bool = False, **more) -> None:
        self.version += 1
        raw = data_source(name, self.version, uid=uid(name), **more)
        assert self.store.apply(DATA_SOURCE, raw, deleted=deleted)

    def see_worker(self, code: int = 0, *, deleted: bool = False, name: str = "w", **more) -> None:
        self.version += 1
        ended = {"exitCode": code, "message": BUNDLE.encode(), "startedAt": CREATED, "finishedAt": CREATED}
        raw = pod(
            name, self.version, owner=uid("orders"), role="work", phase="Succeeded", uid=uid(name),
            annotations={"batch.kubernetes.io/job-completion-index": "3"},
            status={"containerStatuses": [{"name": "work", "state": {"terminated": ended}}]}, **more,
        )  # fmt: skip
        assert self.store.apply(POD, raw, deleted=deleted)

    async def flush(self) -> None:
        self.clock.now += 60
        await self.recorder.flush()


def run(scene: Scene, *steps) -> None:
    """Run coroutines in one loop, then close the recorder."""

    async def inner() -> None:
        try:
            for step in steps:
                await step()
        finally:
            await scene.recorder.close()

    asyncio.run(inner())


def test_a_jobs_life_is_recorded_in_one_transaction_a_flush(recorded, record18: Place):
    scene = Scene(record18)
    scene.see_source(ready=True)
    scene.see()
    scene.see(phase="Planning")
    scene.see(phase="Running")
    scene.see_worker()
    scene.see(phase="Succeeded", status=succeeded())
    run(scene, scene.flush)
    assert scene.told.flushes == 1
    assert scene.told.rows == {"data_sources": 1, "jobs": 1, "job_specs": 1, "attempts": 1, "bundles": 1}
    assert recorded.execute(
        "SELECT uid::text, phase, rows, waited_seconds, duration_seconds, rows_per_second, bytes_per_second"
        " FROM extraction.jobs"
    ) == [(uid("orders"), "Succeeded", 1000, 10.0, 60.0, 1000 / 60, 32000 / 60)]
    assert recorded.execute("SELECT spec->'dataSourceRef'->>'name' FROM extraction.job_specs") == [("shop",)]
    assert recorded.execute("SELECT attempt, outcome, chunks FROM extraction.attempts") == [(1, "Succeeded", 8)]
    assert recorded.execute("SELECT bundle, outcome, rows, rows_per_second FROM extraction.bundles") == [
        (3, "Succeeded", 500, 200.0)
    ]
    assert recorded.execute("SELECT name, ready, database FROM extraction.data_sources") == [("shop", True, "shop")]


def test_what_was_done_with_connections_is_shown_of_the_job_and_of_each_bundle(recorded, record18: Place):
    scene = Scene(record18)
    counts = {"opened": 2, "checkouts": 4, "reuses": 2, "waits": 0, "evicted": 1, "leaks": 0}
    scene.see(phase="Running")
    scene.see_worker()
    scene.see(phase="Succeeded", status=succeeded(result=RESULT | {"connections": counts}))
    run(scene, scene.flush)
    with History.open(record18) as history:
        found = history.show("orders", "default")
    assert found is not None
    [bundle] = found.bundles
    for row in (found.job, bundle):
        assert (row["sessions"], row["session_checkouts"], row["session_reuses"]) == (2, 4, 2)
        assert (row["session_waits"], row["sessions_evicted"], row["sessions_leaked"]) == (0, 1, 0)
    shown = list(show.whole(found))
    assert "session_checkouts  4" in shown
    titles, values = shown[-2].split(), shown[-1].split()
    assert dict(zip(titles, values, strict=True)).items() >= {
        "SESSIONS": "2", "CHECKOUTS": "4", "REUSES": "2", "WAITS": "0", "EVICTED": "1", "LEAKED": "0",
    }.items()  # fmt: skip


def everything(recorded) -> list[list[tuple[object, ...]]]:
    """Return all that is recorded, with the time of its writing."""
    tables = ("data_sources", "jobs", "job_specs", "attempts", "bundles")
    return [recorded.execute(f"SELECT * FROM extraction.{table} ORDER BY 1, 2, 3") for table in tables]


def test_replays_and_restarts_write_no_row_twice_nor_anew(recorded, record18: Place):
    first = Scene(record18)
    first.see_source(ready=True)
    first.see(phase="Running", status={"startTime": CREATED})
    first.see_worker()
    first.see(phase="Succeeded", status=succeeded())
    run(first, first.flush)
    there = everything(recorded)
    # The same events again, also older ones, by an operator that knows nothing.
    second = Scene(record18)
    second.see_source(ready=True)
    second.see(phase="Running", status={"startTime": CREATED})
    run(second, second.flush)
    assert everything(recorded) == there
    second.see_worker()
    second.see(phase="Succeeded", status=succeeded())
    run(second, second.flush)
    assert everything(recorded) == there
    assert second.told.rows["jobs"] == 2


def test_a_deleted_job_keeps_its_row(recorded, record18: Place):
    scene = Scene(record18)
    scene.see("done", phase="Succeeded", status=succeeded())
    scene.see("cut", phase="Running")
    scene.see_source()
    scene.lose("done")
    scene.lose("cut")
    scene.see_source(deleted=True)
    run(scene, scene.flush)
    query = "SELECT name, phase, finished_at IS NOT NULL, deleted_at IS NOT NULL FROM extraction.jobs ORDER BY name"
    assert recorded.execute(query) == [("cut", "Deleted", True, True), ("done", "Succeeded", True, True)]
    assert recorded.execute("SELECT count(*) FROM extraction.data_sources WHERE deleted_at IS NULL") == [(0,)]


def test_a_workers_last_words_count_also_when_they_come_with_its_end(recorded, record18: Place):
    scene = Scene(record18)
    scene.see(phase="Running")
    scene.see_worker(deleted=True)
    scene.lose()
    scene.see_worker(name="late", deleted=True)
    # Of no job that anybody knows.
    assert scene.store.apply(POD, pod("stray", 99, owner="uid-of-nobody", role="work"), deleted=True)
    assert scene.store.apply(POD, {"metadata": pod("odd", 100)["metadata"] | {"labels": {}}}, deleted=True)
    run(scene, scene.flush)
    assert recorded.execute("SELECT pod FROM extraction.bundles ORDER BY 1") == [("late",), ("w",)]


def test_what_went_while_nobody_watched_ends(recorded, record18: Place):
    before = Scene(record18)
    for name in ("there", "gone", "done"):
        before.see(name, phase="Running", status={"startTime": CREATED})
    before.see("done", phase="Succeeded", status=succeeded())
    before.see("elsewhere", phase="Running", namespace="other")
    before.see_source("shop")
    before.see_source("old")
    run(before, before.flush)
    after = Scene(record18, namespaces=("default",))
    after.version = 10
    after.see("there", phase="Running", status={"startTime": CREATED})
    after.see_source("shop")

    async def lead() -> None:
        task = asyncio.create_task(after.recorder.lead(after.store, 0.01))
        async with asyncio.timeout(20):
            while recorded.execute("SELECT 1 FROM extraction.jobs WHERE phase = 'Deleted'") == []:
                after.clock.now += 60
                await asyncio.sleep(0.01)
        task.cancel()

    run(after, lead)
    assert recorded.execute("SELECT name, phase FROM extraction.jobs ORDER BY name") == [
        ("done", "Succeeded"), ("elsewhere", "Running"), ("gone", "Deleted"), ("there", "Running"),
    ]  # fmt: skip
    assert recorded.execute("SELECT outcome FROM extraction.attempts WHERE outcome = 'Deleted'") == [("Deleted",)]
    assert recorded.execute("SELECT name FROM extraction.data_sources WHERE deleted_at IS NULL") == [("shop",)]


def test_a_row_that_the_server_refuses_keeps_no_other_away(recorded, record18: Place, caplog):
    scene = Scene(record18)
    scene.see_many(5)
    odd = observed("odd")
    odd["metadata"]["uid"] = "not-a-uuid"
    scene.recorder.job(odd)
    with caplog.at_level(logging.ERROR):
        run(scene, scene.flush)
    assert recorded.execute("SELECT count(*) FROM extraction.jobs") == [(5,)]
    assert sorted(scene.told.lost) == [("job_specs", "Rejected"), ("jobs", "Rejected")]
    assert "not-a-uuid" not in caplog.text
    assert len(scene.recorder.spool) == 0


def while_it_writes(scene: Scene, monkeypatch, act, *, before: bool = False) -> None:
    """Do something while the first transaction is under way: before its rows are sent, or when they are written."""
    write, first = scene.recorder._writer.write, [True]

    async def written(batch) -> None:
        acts = bool(first and first.pop())
        if acts and before:
            act()
        await write(batch)
        if acts and not before:
            act()

    monkeypatch.setattr("extraction_operator.record.recorder._ROWS", 3)
    monkeypatch.setattr(scene.recorder._writer, "write", written)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(("more", "left"), [(0, 0), (1, 2), (10, 2)])
def test_a_flush_writes_what_waited_and_of_what_comes_meanwhile_whole_transactions(
    recorded, record18: Place, monkeypatch, *, more: int, left: int, before: bool
):
    scene = Scene(record18)
    scene.see_many(4)
    while_it_writes(scene, monkeypatch, lambda: [scene.see(f"late-{n}") for n in range(more)], before=before)

    async def flush() -> None:
        assert await scene.recorder.flush()
        assert len(scene.recorder.spool) <= left
        # A row of each job, and one of its spec, the last ones in a transaction that isn't full.
        written = 8 + 2 * more - len(scene.recorder.spool)
        assert (scene.told.flushes, sum(scene.told.rows.values())) == (-(-written // 3), written)
        assert await scene.recorder.flush()

    run(scene, flush)
    assert len(scene.recorder.spool) == 0
    assert recorded.execute("SELECT count(*) FROM extraction.jobs") == [(4 + more,)]
    assert recorded.execute("SELECT count(*) FROM extraction.job_specs") == [(4 + more,)]


@pytest.mark.parametrize("before", [True, False])
def test_what_changes_after_it_was_gathered_is_written_as_it_is_at_last(
    recorded, record18: Place, monkeypatch, *, before: bool
):
    scene = Scene(record18)
    scene.see_many(6)

    def change() -> None:
        for number in range(6):
            scene.see(f"job-{number}", phase="Failed", status={"completionTime": CREATED})

    while_it_writes(scene, monkeypatch, change, before=before)
    run(scene, scene.flush, scene.flush)
    assert len(scene.recorder.spool) == 0
    # The specs and, twice at the most, the jobs: nothing that waits is gathered again.
    assert scene.told.rows["job_specs"] == 6
    assert 6 <= scene.told.rows["jobs"] <= 12
    assert recorded.execute("SELECT DISTINCT phase, count(*) FROM extraction.jobs GROUP BY 1") == [("Failed", 6)]


def test_a_transaction_that_fails_leaves_it_and_all_that_follow_to_the_next_flush(
    recorded, record18: Place, monkeypatch
):
    scene = Scene(record18)
    scene.see_many(6)
    monkeypatch.setattr("extraction_operator.record.recorder._ROWS", 5)
    write, calls = scene.recorder._writer.write, []

    async def fail_second(batch) -> None:
        calls.append(len(batch))
        if len(calls) == 2:
            raise UnavailableError("away")
        await write(batch)

    monkeypatch.setattr(scene.recorder._writer, "write", fail_second)

    async def flush() -> None:
        assert not await scene.recorder.flush()
        assert (len(scene.recorder.spool), scene.recorder.is_up) == (7, False)
        scene.clock.now += 60
        assert await scene.recorder.flush()

    run(scene, flush)
    assert calls == [5, 5, 5, 2]
    assert recorded.execute("SELECT count(*) FROM extraction.jobs") == [(6,)]


def test_two_who_write_at_once_take_turns(recorded, record18: Place):
    scene = Scene(record18)
    scene.see_many(5)

    async def both() -> None:
        await asyncio.gather(scene.flush(), scene.flush(), scene.recorder._end_absent(scene.store))

    run(scene, both)
    assert (scene.told.flushes, scene.told.failures) == (1, 0)
    assert recorded.execute("SELECT count(*) FROM extraction.jobs") == [(5,)]


def test_without_a_schema_everything_waits(recorded, record18: Place, caplog):
    recorded.execute("ALTER SCHEMA extraction RENAME TO away")
    scene = Scene(record18)
    scene.see()

    async def migrated() -> None:
        recorded.execute("ALTER SCHEMA away RENAME TO extraction")

    run(scene, scene.flush, scene.flush, migrated, scene.flush)
    assert "extraction record migrate" in str([record.__dict__ for record in caplog.records])
    assert scene.told.failures == 2
    assert scene.recorder.is_up
    assert recorded.execute("SELECT count(*) FROM extraction.jobs") == [(1,)]


def test_it_pauses_longer_and_longer_while_the_record_is_away(tmp_path: Path):
    scene = Scene(Place("postgresql://127.0.0.1:1/none?sslmode=disable", tmp_path))
    scene.see()

    async def wait() -> None:
        for _ in range(300):
            scene.clock.now += 1
            await scene.recorder.flush()

    run(scene, wait)
    # At 1, 2, 4, 8 and 16 s, then each 10 s.
    assert scene.told.failures == 5 + (300 - 16) // 10
    assert len(scene.recorder.spool) == 2


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory):
    """A server of one's own with a record, to be stopped and started."""
    with postgres_server() as server:
        database = SimpleNamespace(server=server, name="postgres")
        place = place_of(database, tmp_path_factory.mktemp("fragile"))
        upgrade(place)
        yield server, place


def test_while_the_server_is_away_changes_wait_and_nothing_is_lost(fragile):
    server, place = fragile
    scene = Scene(place)
    scene.see("early", phase="Running")

    async def stop() -> None:
        # A crash, with the connection open and a batch about to be sent.
        server.stop(signal.SIGQUIT)
        scene.see("early", phase="Succeeded", status=succeeded())
        scene.see("attempts", phase="Failed", status={"attempt": 1, "completionTime": CREATED})
        scene.see("attempts", phase="Running", status={"attempt": 2, "startTime": CREATED})
        scene.see("attempts", phase="Succeeded", status=succeeded(attempt=2))
        scene.see("brief", phase="Running")
        scene.lose("brief")
        scene.see_many(200)

    async def start() -> None:
        server.start()

    run(scene, scene.flush, stop, scene.flush, scene.flush, start, scene.flush)
    assert scene.told.failures == 2
    assert (scene.told.lost, len(scene.recorder.spool), scene.recorder.is_up) == ([], 0, True)
    with psycopg.connect(server.conninfo()) as connection:
        found = connection.execute("SELECT name, phase FROM extraction.jobs WHERE name !~ 'job-' ORDER BY 1").fetchall()
        assert found == [("attempts", "Succeeded"), ("brief", "Deleted"), ("early", "Succeeded")]
        assert connection.execute("SELECT count(*) FROM extraction.jobs").fetchall() == [(203,)]
        attempts = connection.execute(
            "SELECT attempt, outcome FROM extraction.attempts WHERE job_uid = %s ORDER BY 1", (uid("attempts"),)
        ).fetchall()
        assert attempts == [(1, "Failed"), (2, "Succeeded")]


def test_beyond_the_bound_the_oldest_is_dropped_and_what_is_there_is_told_again(fragile, caplog):
    server, place = fragile
    scene = Scene(place, spool_bytes=100_000)
    scene.recorder._leads = True
    assert scene.recorder.keeping_up.status
    server.stop()
    scene.see("first", phase="Failed", status={"completionTime": CREATED})
    scene.see_many(200)

    async def back() -> None:
        assert scene.told.lost
        assert {reason for _, reason in scene.told.lost} == {"SpoolFull"}
        told = scene.recorder.keeping_up
        assert (told.status, told.reason) == (False, "RecordSpoolFull")
        assert scene.recorder.spool.bytes <= 100_000
        server.start()
        # Meanwhile there is room for all.
        scene.recorder.spool._bound = 10_000_000
        task = asyncio.create_task(scene.recorder.lead(scene.store, 0.01))
        async with asyncio.timeout(20), await psycopg.AsyncConnection.connect(server.conninfo()) as connection:
            query = "SELECT 1 FROM extraction.jobs WHERE name = 'first'"
            while not await (await connection.execute(query)).fetchone():
                scene.clock.now += 60
                await connection.rollback()
                await asyncio.sleep(0.01)
        task.cancel()

    try:
        run(scene, scene.flush, back)
    finally:
        if server._process is None:
            server.start()
    dropped = [record for record in caplog.records if "dropped" in record.message]
    assert len(dropped) == 1, "one line however many rows"
    told = scene.recorder.keeping_up
    assert (told.status, told.reason) == (True, "RecordWrittenAgain")
    assert f" {len(scene.told.lost):,} changes were dropped" in told.message


def test_a_replica_that_doesnt_lead_drops_without_a_word(tmp_path: Path, caplog):
    scene = Scene(Place("postgresql://127.0.0.1:1/none?sslmode=disable", tmp_path), spool_bytes=50_000)
    scene.see_many(200)
    assert scene.told.lost == []
    assert scene.recorder.keeping_up.status
    assert scene.recorder.spool.bytes <= 50_000
    assert caplog.records == []


def test_a_source_that_only_counts_isnt_written_again(record18: Place):
    scene = Scene(record18)
    scene.see_source(ready=True)
    run(scene, scene.flush)
    raw = data_source("shop", 5, uid=uid("shop"), ready=True)
    raw["status"]["activeJobs"] = 7

    scene.recorder.source(parse_own(DataSource, json.dumps(raw).encode()))
    assert len(scene.recorder.spool) == 0


def test_what_cant_be_recorded_keeps_the_store_from_nothing(record18: Place, caplog):
    scene = Scene(record18)
    # One that has ended isn't parsed before somebody asks for it.
    odd = job("odd", 1, phase="Failed")
    odd["spec"]["sink"]["s3"] = {"prefix": "secret-7"}
    assert scene.store.apply(EXTRACTION_JOB, odd)
    assert scene.store.uids() == ([uid("odd")], [])
    assert scene.told.lost == [("jobs", "Unreadable")]
    assert "secret-7" not in str([record.__dict__ for record in caplog.records])
    scene.see("fine")
    run(scene, scene.flush)
    assert scene.told.rows["jobs"] == 1


def test_writing_goes_on_after_an_error_that_nobody_thought_of(recorded, record18: Place, monkeypatch, caplog):
    scene = Scene(record18)
    scene.see()
    write, failures = scene.recorder._writer.write, iter([RuntimeError("odd")])

    async def fail_once(batch) -> None:
        if (error := next(failures, None)) is not None:
            raise error
        await write(batch)

    monkeypatch.setattr(scene.recorder._writer, "write", fail_once)

    async def lead() -> None:
        task = asyncio.create_task(scene.recorder.lead(scene.store, 0.01))
        async with asyncio.timeout(60):
            while not recorded.execute("SELECT 1 FROM extraction.jobs"):
                scene.clock.now += 60
                await asyncio.sleep(0.01)
        task.cancel()

    run(scene, lead)
    assert "The record wasn't written." in caplog.text
