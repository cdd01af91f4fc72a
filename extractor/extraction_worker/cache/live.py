"""Tells how far a pod is: one pipelined write a second, by a thread of its own, which nobody ever waits for."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from extraction_contract.live import (
    EXPIRES_SECONDS,
    JOB_FIELD,
    WRITE_SECONDS,
    PodProgress,
    Promised,
    bundle_field,
    live_key,
)
from extraction_worker.cache.connection import RedisAwayError, RedisConnection


def tell_plan(connection: RedisConnection | None, run_id: str, promised: Promised) -> None:
    """Tell what the plan promises. Never raises."""
    if connection is not None:
        _write(connection, live_key(run_id), {JOB_FIELD: promised.encode()})


@contextlib.contextmanager
def told(
    connection: RedisConnection | None,
    run_id: str,
    bundle: int,
    promised: Promised,
    now: Callable[[], PodProgress],
    seconds: float = WRITE_SECONDS,
) -> Iterator[None]:
    """Tell how far a pod is within the block, again and again, and once more at the end.

    Parameters
    ----------
    promised
        Told again each time: Redis may have been emptied.
    """
    if connection is None:
        yield
        return
    ended = threading.Event()
    key, field, plan = live_key(run_id), bundle_field(bundle), promised.encode()

    def write() -> None:
        _write(connection, key, {JOB_FIELD: plan, field: now().encode()})

    def run() -> None:
        due = time.monotonic() + seconds
        while not ended.wait(max(0.0, due - time.monotonic())):
            write()
            # What a write takes makes the next one no later; who was late doesn't make up for it.
            due = max(due + seconds, time.monotonic())

    thread = threading.Thread(target=run, name="live", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(2 * seconds)
        write()


def _write(connection: RedisConnection, key: str, texts: Mapping[str, str]) -> None:
    def send(client: Any) -> None:
        with client.pipeline(transaction=False) as pipeline:
            pipeline.hset(key, mapping=texts)
            pipeline.expire(key, EXPIRES_SECONDS)
            pipeline.execute()

    with contextlib.suppress(RedisAwayError):
        connection.call(send)
