"""A bundle in a worker: repeated where its pod died, refused where its plan isn't the one it was made for."""

import signal
import time

import pytest

from extraction_contract.messages import FailureMessage
from extraction_worker.errors import Interrupted, InvalidManifest, SchemaDrift, VerificationFailed
from extraction_worker.model import ChunkResult
from extraction_worker.stages.pod import starts
from extraction_worker.stages.pod.failures import failure_of
from extraction_worker.stages.settings import shrunk
from extraction_worker.stages.work import ChunkWorker
from extraction_worker.stream.admission import memory_plan
from support.databases import wait_until
from support.pods import Pods, end, events, run

SPEC = {"partitioning": {"targetBytes": "64Ki"}}
SLOW = {"limits": {"bytesPerSecond": "64Ki"}}
ROWS = 12858


@pytest.fixture
def pods(table, tmp_path):
    """A job of two bundles that is planned, and whose snapshot is held."""
    value = Pods(tmp_path, table, bundles=2, spec=SPEC)
    with value.held():
        value.run("plan")
        yield value


def begun(pods, pod, index=0):
    """Run a worker; return its message and what it logged when it began."""
    invocation = pods.invocation("work", pod, **pods.worker(index))
    message = run("work", invocation)
    return message, next(event for event in events(invocation) if event["event"] == "begin")


def staging(pods):
    return pods.etc / "volumes" / "lake" / "_staging" / "uid-1"


def test_a_killed_workers_bundle_is_repeated_with_less_memory_and_without_its_finished_chunks(pods):
    pods.declare(spec=SPEC, source=SLOW)
    victim = pods.start("work", "victim", **pods.worker(0))
    wait_until(pods.results, 60)
    victim.kill()
    end(victim)
    finished = len(pods.results())
    pods.declare(spec=SPEC)
    message, start = begun(pods, "second")
    assert message.reused == finished < message.chunks
    assert (start["killed"], start["threads"]) == (1, 1)
    begun(pods, "other", 1)
    assert pods.run("publish").rows == ROWS


def test_finished_chunks_are_taken_over_after_their_parts_are_checked(pods):
    begun(pods, "first")
    name = pods.results()[2]
    [part] = ChunkResult.from_json(pods.sink().get_state(name)).parts
    path = staging(pods) / "files" / part.name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    invocation = pods.invocation("work", "second", **pods.worker(0))
    message = run("work", invocation)
    assert message.reused == message.chunks - 1
    assert any("Chunk 2 is read again" in event.get("message", "") for event in events(invocation))
    begun(pods, "third", 1)
    assert pods.run("publish").rows == ROWS


def test_a_bundle_that_is_done_opens_no_session(pods):
    first, _ = begun(pods, "first")
    second, _ = begun(pods, "second")
    assert (second.reused, second.sessions, second.checkouts) == (second.chunks, 0, 0)
    assert (second.rows, second.bytes) == (first.rows, first.bytes)
    assert first.sessions >= 1
    assert first.checkouts >= first.chunks


def test_of_a_hundred_chunks_nine_in_ten_find_a_session_that_was_used_before(table, tmp_path):
    table.execute("INSERT INTO t SELECT i, md5(i::text), 1 FROM generate_series(20000, 120000) AS i")
    pods = Pods(tmp_path, table, bundles=1, spec=SPEC)
    with pods.held():
        assert pods.run("plan").chunks >= 100
        message, _ = begun(pods, "worker")
    assert message.checkouts >= message.chunks >= 100
    assert message.session_reuses / message.checkouts > 0.9
    assert message.sessions <= 2
    assert 1 <= message.sessions_active <= 2
    assert (message.sessions_evicted, message.sessions_leaked) == (0, 0)


def test_a_result_that_cannot_be_read_is_read_again_and_a_stale_one_ignored(pods):
    begun(pods, "first")
    sink, (first, second, *_) = pods.sink(), pods.results()
    sink.put_state(first, b"{")
    stale = ChunkResult.from_json(sink.get_state(second)).model_copy(update={"plan_digest": "0" * 32})
    sink.put_state(second, stale.to_json())
    message, _ = begun(pods, "second")
    assert message.reused == message.chunks - 2


def test_another_plan_than_the_one_it_was_made_for_is_refused(pods):
    with pytest.raises(VerificationFailed, match="was made for"):
        pods.run("work", "w", **pods.worker(0, EXTRACTION_PLAN_DIGEST="0" * 32))
    with pytest.raises(VerificationFailed, match="has no chunk"):
        pods.run("work", "w", **pods.worker(9_999, EXTRACTION_BUNDLES=10_000))
    assert pods.results() == []


def test_a_worker_without_a_plan_or_an_index_says_so(table, tmp_path):
    pods = Pods(tmp_path, table)
    with pytest.raises(InvalidManifest, match="JOB_COMPLETION_INDEX"):
        pods.run("work", "w")
    with pytest.raises(VerificationFailed, match="isn't in staging"):
        pods.run("work", "w", JOB_COMPLETION_INDEX=0, EXTRACTION_PLAN_DIGEST="0" * 32)


# Out of memory ----------------------------------------------------------------------------------------------------


def test_only_pods_that_were_killed_shrink_the_next_one(pods, monkeypatch):
    def fail(self, chunk):
        raise SchemaDrift("made to fail")

    with monkeypatch.context() as patch:
        patch.setattr(ChunkWorker, "extract", fail)
        with pytest.raises(SchemaDrift) as caught:
            begun(pods, "failed")
        assert caught.value.chunk is not None

        def exhaust(self, chunk):
            raise MemoryError

        patch.setattr(ChunkWorker, "extract", exhaust)
        with pytest.raises(MemoryError):
            begun(pods, "exhausted")
    starts.begin(pods.sink(), 0, "killed")
    starts.begin(pods.sink(), 1, "killed-elsewhere")
    _, start = begun(pods, "next")
    assert start["killed"] == 2


def test_a_marker_that_cannot_be_read_counts_as_none(pods):
    pods.sink().put_state("starts/00000-x.json", b"{")
    assert starts.begin(pods.sink(), 0, "me") == 0
    assert starts.begin(pods.sink(), 0, "me") == 0


def test_settings_are_halved_down_to_one_thread_and_a_small_batch():
    whole = memory_plan(1 << 30, 4)
    assert shrunk(whole, 0) == whole
    once = shrunk(whole, 1)
    assert (once.threads, once.batch_bytes * 2, once.ordinary_row_bytes * 2) == (
        2, whole.batch_bytes, whole.ordinary_row_bytes,
    )  # fmt: skip
    last = shrunk(whole, 20)
    assert (last.threads, last.batch_bytes, last.wide_row_bytes) == (1, 64 * 1024, whole.wide_row_bytes)


# Signals ----------------------------------------------------------------------------------------------------------


def test_a_signal_stops_it_in_time_and_what_is_finished_stays(pods, table):
    pods.declare(spec=SPEC, source=SLOW)
    worker = pods.start("work", "first", **pods.worker(0))
    wait_until(pods.results, 60)
    worker.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    assert end(worker) == 130
    assert time.monotonic() - asked < 10  # two, and room for a busy machine
    told = pods.last_words("work", "first")
    assert isinstance(told, FailureMessage)
    assert (told.reason, told.bundle) == ("Interrupted", 0)
    assert pods.results()
    wait_until(
        lambda: table.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '%/first'") == [(0,)]
    )


def test_an_error_names_bundle_and_chunk(pods, table):
    table.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE '%/lead'")
    assert end(pods.start("work", "w", **pods.worker(1))) == 22
    told = pods.last_words("work", "w")
    assert (told.reason, told.bundle, told.transient) == ("SnapshotLost", 1, False)
    assert told.chunk is not None


@pytest.mark.parametrize("stopped", [False, True])
def test_an_error_tells_what_was_done_with_connections_until_then(pods, monkeypatch, *, stopped: bool):
    def fail(self, chunk):
        with self.pool.session():
            pass
        if stopped:
            invocation.stop.request("SIGTERM")
        raise SchemaDrift("made to fail")

    monkeypatch.setattr(ChunkWorker, "extract", fail)
    invocation = pods.invocation("work", "failed", **pods.worker(0))
    with pytest.raises(Interrupted if stopped else SchemaDrift) as caught:
        run("work", invocation)
    did = failure_of(caught.value).connections
    assert did is not None
    assert did.checkouts >= did.opened >= 1
