"""Tasks that work on the keys of a queue."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from extraction_operator.queue import KeyQueue

K = TypeVar("K")
log = logging.getLogger(__name__)


class Observer(Protocol):
    """Who is told what happens; :class:`extraction_operator.observe.metrics.Metrics` in the operator."""

    def waited(self, seconds: float) -> None:
        """Take note that a key is taken up so long after it was due."""

    def worked(self, seconds: float, *, failed: bool) -> None:
        """Take note that a key was worked on for so long."""


class Workers(Generic[K]):
    """A bounded number of tasks that take keys and hand them to ``work``.

    Parameters
    ----------
    work
        Works on one key. What it raises is logged, and the key is tried again after its back-off.
    count
        How many keys are worked on at the same time.
    """

    def __init__(
        self, queue: KeyQueue[K], work: Callable[[K], Awaitable[None]], observer: Observer, *, count: int = 16,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._queue = queue
        self._work = work
        self._observer = observer
        self._count = count
        self._clock = clock
        self._changed = asyncio.Event()
        self._stopping = False

    def add(self, key: K, delay: float = 0.0, *, ahead: bool = False) -> None:
        """Have a key worked on, in ``delay`` seconds at the latest; ``ahead`` of others, see :class:`KeyQueue`."""
        self._queue.add(key, self._clock(), delay, ahead=ahead)
        self._changed.set()

    def stop(self) -> None:
        """Take no more keys; :meth:`run` returns when those that are worked on are done."""
        self._stopping = True
        self._changed.set()

    async def run(self) -> None:
        """Work until stopped."""
        running: set[asyncio.Task[None]] = set()

        def ended(task: asyncio.Task[None]) -> None:
            # In this order: who wakes up must see that there is room.
            running.discard(task)
            self._changed.set()

        try:
            while not self._stopping:
                self._changed.clear()
                while len(running) < self._count and (taken := self._queue.take(self._clock())) is not None:
                    self._observer.waited(taken.waited)
                    task = asyncio.create_task(self._one(taken.key))
                    running.add(task)
                    task.add_done_callback(ended)
                await self._wait(full=len(running) >= self._count)
            if running:
                await asyncio.wait(running)
        finally:
            for task in running:
                task.cancel()

    async def _wait(self, *, full: bool) -> None:
        """Wait until a key was added or done, or the next one is due."""
        due = None if full else self._queue.next_due()
        timeout = None if due is None else max(0.0, due - self._clock())
        try:
            async with asyncio.timeout(timeout):
                await self._changed.wait()
        except TimeoutError:
            pass

    async def _one(self, key: K) -> None:
        begin = self._clock()
        failed = True
        try:
            await self._work(key)
            failed = False
        except Exception as error:
            delay = self._queue.failed(key, self._clock())
            log.warning("Will try again.", extra={"key": str(key), "error": describe(error), "delay": round(delay, 3)})
            log.debug("Because of this.", exc_info=error, extra={"key": str(key)})
        except asyncio.CancelledError:
            self._queue.done(key)
            raise
        else:
            self._queue.done(key)
        finally:
            self._observer.worked(self._clock() - begin, failed=failed)


def describe(error: BaseException) -> str:
    """Return type and text of an error; some have no text."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
