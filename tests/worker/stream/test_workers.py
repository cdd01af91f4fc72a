"""Threads over chunks: every chunk once, transient errors again, the first terminal one stops the rest."""

import threading
from collections import Counter

import pytest

from extraction_worker.errors import Interrupted, SinkUnavailable, SourceBusy, SourceUnavailable, VerificationFailed
from extraction_worker.model import Chunk, ChunkResult, Verification, WholeRead
from extraction_worker.stream.workers import RETRIES, run_chunks

CHUNKS = [Chunk(index=index, read=WholeRead(), estimated_rows=1, estimated_bytes=1) for index in range(40)]


def result_of(chunk: Chunk) -> ChunkResult:
    return ChunkResult(
        plan_digest="d", worker="w", chunk=chunk.index, rows=0, source_bytes=0, parts=(),
        verified=Verification.NONE, seconds=0,
    )  # fmt: skip


class Run:
    def __init__(self, extract, threads=4):
        self.stopped = threading.Event()
        self.results = []
        self.retries = []
        self.stops = 0
        self.extract, self.threads = extract, threads

    def stop(self):
        self.stops += 1
        self.stopped.set()

    def __call__(self, chunks=CHUNKS):
        run_chunks(
            chunks, self.extract, threads=self.threads, stopped=self.stopped, on_result=self.results.append,
            on_retry=lambda chunk, error: self.retries.append((chunk.index, error)), stop=self.stop, first_wait=0.001,
        )  # fmt: skip


def test_every_chunk_is_extracted_once():
    run = Run(result_of)
    run()
    assert sorted(result.chunk for result in run.results) == list(range(40))
    assert run.stops == 0


def test_no_more_threads_work_than_asked_and_all_of_them_do():
    barrier = threading.Barrier(3, timeout=20)
    running = Counter()

    def extract(chunk):
        running[threading.current_thread().name] += 1
        if chunk.index < 3:
            barrier.wait()  # passes only when three threads are inside at once
        return result_of(chunk)

    run = Run(extract, threads=3)
    run()
    assert len(running) == 3


def test_transient_errors_are_retried_and_said():
    failures = {3: 2, 17: RETRIES}

    def extract(chunk):
        if failures.get(chunk.index, 0) > 0:
            failures[chunk.index] -= 1
            raise SourceUnavailable("away")
        return result_of(chunk)

    run = Run(extract)
    run()
    assert len(run.results) == 40
    assert Counter(index for index, _ in run.retries) == {3: 2, 17: RETRIES}


def test_a_transient_error_that_stays_fails_the_run_by_its_own_name():
    def extract(chunk):
        if chunk.index == 5:
            raise SinkUnavailable("away for good")
        return result_of(chunk)

    run = Run(extract)
    with pytest.raises(SinkUnavailable, match="away for good"):
        run()
    assert run.stops == 1


def test_the_first_terminal_error_stops_the_others_and_is_the_one_told():
    failed = threading.Event()

    def extract(chunk):
        if chunk.index == 2:
            raise VerificationFailed("chunk 2 is wrong")
        if chunk.index < 4:
            assert run.stopped.wait(20)
            failed.set()
            raise Interrupted("stopped")
        return result_of(chunk)

    run = Run(extract)
    with pytest.raises(VerificationFailed, match="chunk 2"):
        run()
    assert failed.is_set()
    assert run.stops == 1


def test_an_unexpected_exception_is_raised_as_it_is():
    run = Run(lambda chunk: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run()


def test_a_stop_from_outside_ends_waiting_retries_and_is_an_interrupt():
    def extract(chunk):
        run.stopped.set()
        raise SourceUnavailable("away")

    run = Run(extract, threads=1)
    with pytest.raises((Interrupted, SourceUnavailable)):
        run()
    assert run.retries == []


def test_a_run_that_is_stopped_before_it_starts_extracts_nothing():
    run = Run(result_of)
    run.stopped.set()
    with pytest.raises(Interrupted):
        run()
    assert run.results == []


def test_a_chunk_that_waits_for_a_connection_waits_as_often_as_it_takes():
    answers = [SourceBusy("full")] * (3 * RETRIES) + [SourceUnavailable("gone")] * RETRIES + [SourceBusy("full"), None]

    def extract(chunk):
        answer = answers.pop(0)
        if answer is not None:
            raise answer
        return result_of(chunk)

    run = Run(extract, threads=1)
    run(CHUNKS[:1])
    assert [result.chunk for result in run.results] == [0]
    assert len(run.retries) == 4 * RETRIES + 1


def test_a_stop_ends_the_waiting_for_a_connection():
    def extract(chunk):
        run.stop()
        raise SourceBusy("full")

    run = Run(extract, threads=1)
    with pytest.raises(SourceBusy):
        run(CHUNKS[:1])
