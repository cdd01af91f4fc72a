"""Publishing in the lead: which results it takes, and when it doesn't publish at all."""

import signal
import time
from pathlib import Path

import pytest

from extraction_contract.messages import FailureMessage
from extraction_worker.errors import SinkUnavailable, SnapshotLost, SourceInDanger, VerificationFailed
from extraction_worker.model import ChunkResult
from extraction_worker.sink.folder import FolderSink
from extraction_worker.stages.pod import collect as collect_module
from extraction_worker.stages.pod.collect import Collector
from extraction_worker.stages.work import ChunkWorker
from support.databases import wait_until
from support.pods import Pods, end, wait_for_error

SPEC = {"partitioning": {"targetBytes": "64Ki"}}
ROWS = 12858


@pytest.fixture
def pods(table, tmp_path):
    return Pods(tmp_path, table, bundles=2, spec=SPEC)


@pytest.fixture
def worked(pods):
    """A job whose workers are done and whose snapshot is held."""
    with pods.held():
        pods.run("plan")
        for index in range(2):
            pods.run("work", f"pod-{index}", **pods.worker(index))
        yield pods


def stored(pods, name) -> ChunkResult:
    return ChunkResult.from_json(pods.sink().get_state(name))


def unpublished(pods) -> bool:
    return pods.published() is None and not any(name.startswith("default/") for name in pods.files())


# Which results ----------------------------------------------------------------------------------------------------


def test_results_of_another_plan_and_other_documents_are_ignored(worked):
    sink, first = worked.sink(), worked.results()[0]
    stale = stored(worked, first).model_copy(update={"plan_digest": "0" * 32, "rows": 7})
    sink.put_state("results/00000-aaa.json", stale.to_json())
    sink.put_state("results/readme.txt", b"no result")
    assert worked.run("publish").rows == ROWS


@pytest.mark.parametrize("damaged", [False, True])
def test_of_two_results_of_a_chunk_a_whole_one_is_taken(worked, damaged):
    # The first bundle again, by a pod that knows nothing of the first one's results.
    names = worked.results()
    sink = worked.sink()
    kept = {name: sink.get_state(name) for name in names}
    root = worked.etc / "volumes" / "lake" / "_staging" / "uid-1"
    for name in names:
        (root / "state" / name).unlink()
    worked.run("work", "a-second", **worked.worker(0))
    for name, data in kept.items():
        sink.put_state(name, data)
    if damaged:
        second = next(name for name in worked.results() if "a-second" in name)
        [part] = stored(worked, second).parts
        path = root / "files" / part.name
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert worked.run("publish").rows == ROWS
    manifest = worked.published()
    assert len(manifest.parts) == len(manifest.chunks)


def test_a_damaged_part_is_never_published_and_its_chunk_named(worked):
    [part] = stored(worked, worked.results()[3]).parts
    path = worked.etc / "volumes" / "lake" / "_staging" / "uid-1" / "files" / part.name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(VerificationFailed, match=f"chunk {part.chunk}"):
        worked.run("publish")
    assert unpublished(worked)


def test_a_result_that_cannot_be_read_is_named_once_nothing_else_is_missing(worked):
    name = worked.results()[2]
    whole = worked.sink().get_state(name)
    collector = Collector(worked.plan(), worked.sink(), 2)
    worked.sink().put_state(name, whole[:-9])
    with pytest.raises(VerificationFailed, match=f"Chunk 2: {name}"):
        collector.look()
    # Its bundle was repeated.
    worked.sink().put_state("results/00002-zzz.json", whole)
    assert collector.look()
    assert sorted(collector.chosen()) == list(range(len(worked.plan().chunks)))


@pytest.mark.parametrize("damaged", [False, True])
def test_a_publisher_doesnt_wait_for_a_result_that_vanished_after_its_bundle_was_finished(worked, damaged):
    name = next(name for name in worked.results() if name.startswith("results/00005-"))
    staged = worked.etc / "volumes" / "lake" / "_staging" / "uid-1" / "state" / name
    staged.write_bytes(b"{}") if damaged else staged.unlink()
    # Another is missing, too, whose bundle isn't finished as far as is known: it may come.
    other = worked.etc / "volumes" / "lake" / "_staging" / "uid-1" / "state" / "ends" / "00001-pod-1.json"
    other.unlink()
    (staged.parent / worked.results()[-1].removeprefix("results/")).unlink()
    now = [0.0]
    collector = Collector(worked.plan(), worked.sink(), 2, clock=lambda: now[0])
    assert not collector.look()
    now[0] = collect_module.SETTLE_SECONDS - 0.1
    assert not collector.look()
    now[0] = collect_module.SETTLE_SECONDS
    what = "isn't one" if damaged else "isn't in staging"
    with pytest.raises(VerificationFailed, match=f"Chunk 5 has no result: pod pod-0 finished bundle 0, but .*{what}"):
        collector.look()


def test_a_missing_chunk_ends_publish_by_its_name_and_nothing_is_published(worked, monkeypatch):
    monkeypatch.setattr(collect_module, "SETTLE_SECONDS", 0.0)
    name = next(name for name in worked.results() if name.startswith("results/00005-"))
    (worked.etc / "volumes" / "lake" / "_staging" / "uid-1" / "state" / name).unlink()
    with pytest.raises(VerificationFailed, match="Chunk 5 has no result"):
        worked.run("publish")
    assert unpublished(worked)


def test_each_result_is_read_once(worked, monkeypatch):
    read = []
    original = collect_module.read_result
    monkeypatch.setattr(collect_module, "read_result", lambda sink, name: read.append(name) or original(sink, name))
    collector = Collector(worked.plan(), worked.sink(), 2)
    assert collector.look()
    assert collector.look()
    assert sorted(read) == worked.results()


def test_a_sink_that_is_away_for_a_moment_is_asked_again(worked, monkeypatch):
    original = FolderSink.list_state
    failures = iter([SinkUnavailable("away")])

    def list_state(self, prefix):
        for error in failures:
            raise error
        return original(self, prefix)

    monkeypatch.setattr(FolderSink, "list_state", list_state)
    assert worked.run("publish").rows == ROWS


# When nothing is published ----------------------------------------------------------------------------------------


def terminate_holder(database):
    database.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() "
        "AND application_name LIKE 'extraction/%/lead' AND state LIKE 'idle in transaction%'"
    )


def test_a_lost_holder_ends_publish_with_its_reason_and_nothing_is_published(pods, table):
    with pods.held() as files:
        pods.run("plan")
        publish = pods.start("publish")
        terminate_holder(table)
        wait_for_error(files)
        assert end(publish) == SnapshotLost.exit_code == 22
    told = pods.last_words("publish")
    assert isinstance(told, FailureMessage)
    assert told.reason == "SnapshotLost"
    assert unpublished(pods)


def test_a_holder_that_is_lost_at_the_end_is_no_proof(worked, table, monkeypatch):
    """All results are there, but whether the tables stayed as they were until the last row isn't certain."""
    original = Collector.chosen

    def chosen(self):
        terminate_holder(table)
        return original(self)

    monkeypatch.setattr(Collector, "chosen", chosen)
    with pytest.raises(SnapshotLost):
        worked.run("publish")
    assert unpublished(worked)


def test_a_restarted_holder_is_a_lost_snapshot(worked):
    with worked.held() as files:
        wait_for_error(files)
        name = worked.results()[0]
        (worked.etc / "volumes" / "lake" / "_staging" / "uid-1" / "state" / name).unlink()
        with pytest.raises(SnapshotLost, match="started again"):
            worked.run("publish")
    assert unpublished(worked)


def test_while_a_small_plan_is_worked_ddl_is_let_through_by_name(table, tmp_path, monkeypatch):
    pods = Pods(tmp_path, table, spec=SPEC, source={"limits": {"yieldToDDLAfter": "1s"}})
    original = ChunkWorker.extract

    def extract(self, chunk):
        if chunk.index == 3:
            table.execute("SET statement_timeout = '20s'")
            table.execute("ALTER TABLE t ADD COLUMN more int DEFAULT 7")
        return original(self, chunk)

    monkeypatch.setattr(ChunkWorker, "extract", extract)
    with pods.held():
        pods.run("plan")
        with pytest.raises(SourceInDanger, match=r"public\.t"):
            pods.run("publish", EXTRACTION_POOL=1)
    assert unpublished(pods)


def test_a_plan_under_another_snapshot_is_not_published(pods):
    with pods.held():
        pods.run("plan")
    with pods.held("second") as files:
        wait_until(lambda: files.read_snapshot() is not None)
        with pytest.raises(SnapshotLost, match="this pod doesn't hold"):
            pods.run("publish", "second")


@pytest.mark.parametrize("bundles", [1, 2])
def test_a_signal_stops_it_in_time_and_nothing_is_published(table, tmp_path, bundles):
    pods = Pods(tmp_path, table, bundles=bundles, spec=SPEC, source={"limits": {"bytesPerSecond": "64Ki"}})
    with pods.held():
        pods.run("plan")
        publish = pods.start("publish")
        if bundles == 1:
            wait_until(pods.results, 60)
        else:
            wait_until(lambda: waits(publish))
        publish.send_signal(signal.SIGTERM)
        asked = time.monotonic()
        assert end(publish) == 130
        assert time.monotonic() - asked < 10  # two, and room for a busy machine
    said = pods.last_words("publish")
    assert (said.reason, said.bundle) == ("Interrupted", 0 if bundles == 1 else None)
    assert unpublished(pods)


def waits(process) -> bool:
    """Whether a process takes signals, and has begun what it does besides."""
    with Path(f"/proc/{process.pid}/status").open() as status:
        caught = next(int(line.split()[1], 16) for line in status if line.startswith("SigCgt"))
    return bool(caught & (1 << (signal.SIGTERM - 1)))
