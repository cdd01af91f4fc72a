"""Threads on a clock of the test's own: one runs at a time, and time passes only while all of them sleep."""

import heapq
import itertools
import threading
from collections.abc import Callable


class Over(BaseException):
    """Raised from a sleep in which the time that was to be looked at is over."""


class VirtualTime:
    """A clock, and threads that sleep by it. Always the one runs whose sleep ends first: no run differs from another.

    Parameters
    ----------
    end
        Seconds after which all threads end.
    """

    def __init__(self, end: float) -> None:
        self.now = 0.0
        self._end = end
        self._numbers = itertools.count()
        self._sleeping: list[tuple[float, int, threading.Event]] = []
        self._done = threading.Event()
        self._error: BaseException | None = None

    def clock(self) -> float:
        """Return the seconds since the beginning."""
        return self.now

    def start(self, run: Callable[[], object], at: float = 0.0) -> None:
        """Have a thread run from some moment on."""
        mine = self._sleeps_until(at)
        threading.Thread(target=self._run, args=(run, mine), daemon=True).start()

    def sleep(self, seconds: float) -> None:
        """Sleep, and let others run meanwhile."""
        mine = self._sleeps_until(self.now + max(0.0, seconds))
        self._wake_next()
        self._await(mine)

    def run(self, seconds: float = 60) -> None:
        """Run until all threads have ended; fail where that takes so many real seconds."""
        self._wake_next()
        assert self._done.wait(seconds), "the threads don't end"
        if self._error is not None:
            raise self._error

    def _sleeps_until(self, moment: float) -> threading.Event:
        mine = threading.Event()
        heapq.heappush(self._sleeping, (moment, next(self._numbers), mine))
        return mine

    def _wake_next(self) -> None:
        if not self._sleeping:
            self._done.set()
            return
        moment, _, event = heapq.heappop(self._sleeping)
        self.now = max(self.now, moment)
        event.set()

    def _await(self, mine: threading.Event) -> None:
        mine.wait()
        if self.now >= self._end or self._error is not None:
            raise Over

    def _run(self, run: Callable[[], object], mine: threading.Event) -> None:
        try:
            self._await(mine)
            run()
        except Over:
            pass
        except BaseException as error:
            # Raised again by whoever runs the clock.
            self._error = error
        self._wake_next()
