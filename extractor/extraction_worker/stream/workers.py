"""Threads over the queue of chunks: each takes the next chunk, retries what may pass, and stops at what may not."""

import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

import tenacity

from extraction_worker.errors import ExtractionError, Interrupted, SourceBusy, Transient
from extraction_worker.model import Chunk, ChunkResult

RETRIES = 4


def run_chunks(
    chunks: Sequence[Chunk],
    extract: Callable[[Chunk], ChunkResult],
    *,
    threads: int,
    stopped: threading.Event,
    on_result: Callable[[ChunkResult], None],
    on_retry: Callable[[Chunk, ExtractionError], None],
    stop: Callable[[], None],
    first_wait: float = 0.5,
) -> None:
    """Extract every chunk; return when each has its result.

    Parameters
    ----------
    stopped
        Set when somebody asked to stop; waits between retries end then.
    on_result, on_retry
        Called from the worker threads.
    stop
        Called once at the first error that isn't retried: it must make running extractions end soon.
    first_wait
        Seconds before the first retry; later ones wait twice as long each, with jitter, up to 30 s.

    Raises
    ------
    ExtractionError
        The first error that wasn't retried, or that outlived its retries; Interrupted when stopped from outside.
        SourceBusy never does: whoever has to wait for a connection waits, until it is stopped.
    """
    queue: SimpleQueue[Chunk] = SimpleQueue()
    for chunk in chunks:
        queue.put(chunk)
    failures: list[BaseException] = []
    lock = threading.Lock()

    def fail(error: BaseException) -> None:
        with lock:
            failures.append(error)
            first = len(failures) == 1
        if first:
            stop()

    def attempt(chunk: Chunk) -> ChunkResult:
        def before_sleep(state: tenacity.RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            if isinstance(error, ExtractionError):
                on_retry(chunk, error)

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Transient) & tenacity.retry_if_not_exception_type(SourceBusy),
            stop=tenacity.stop_after_attempt(RETRIES + 1) | tenacity.stop_when_event_set(stopped),
            wait=tenacity.wait_exponential_jitter(multiplier=first_wait, max=30, jitter=first_wait),
            sleep=tenacity.sleep_using_event(stopped),
            before_sleep=before_sleep,
            reraise=True,
        )
        waiting = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(SourceBusy),
            stop=tenacity.stop_when_event_set(stopped),
            # Not longer and longer: who has waited for long mustn't fall behind those that just came.
            wait=tenacity.wait_random(first_wait, 8 * first_wait),
            sleep=tenacity.sleep_using_event(stopped),
            before_sleep=before_sleep,
            reraise=True,
        )
        result: ChunkResult = waiting(retrying, extract, chunk)
        return result

    def work() -> None:
        while not stopped.is_set():
            try:
                chunk = queue.get_nowait()
            except Empty:
                return
            try:
                on_result(attempt(chunk))
            except BaseException as error:  # noqa: BLE001 - it is raised again by the caller's thread
                fail(error)
                return

    workers = [
        threading.Thread(target=work, name=f"worker-{number}", daemon=True)
        for number in range(max(1, min(threads, len(chunks))))
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        # In slices, so that the main thread still takes signals.
        while worker.is_alive():
            worker.join(0.2)
    if failures:
        # What a stop made of the others is no cause.
        raise next((error for error in failures if not isinstance(error, Interrupted)), failures[0])
    if stopped.is_set():
        raise Interrupted("Stopped.")
