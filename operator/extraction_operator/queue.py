"""Keys to work on: each once, with its delay and its back-off. Pure: the time is an argument. ``workers`` runs it."""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K")


@dataclass(frozen=True)
class Backoff:
    """Exponential with full jitter: a delay is anything between zero and ``base · 2ⁿ``, at most ``limit`` seconds.

    Full jitter spreads those that failed together best, see
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """

    base: float = 0.1
    limit: float = 60.0

    def delay(self, failures: int, fraction: float) -> float:
        """Return the delay after so many failures in a row, from 1; ``fraction`` is random, of [0, 1)."""
        return fraction * min(self.limit, self.base * 2.0 ** min(failures - 1, 62))


@dataclass(frozen=True)
class Taken(Generic[K]):
    """A key that is to be worked on now, and how long it waited since it was due."""

    key: K
    waited: float


class KeyQueue(Generic[K]):
    """Keys that wait, are due, or are worked on.

    A key is there at most once, and isn't given out while it is worked on: what is added meanwhile is due again when it
    is done. Of several times, the earliest counts: work is never late because something else wanted it later.
    """

    def __init__(self, backoff: Backoff = Backoff(), fraction: Callable[[], float] = random.random) -> None:
        self._backoff = backoff
        self._fraction = fraction
        self._due: dict[K, float] = {}
        """When each key is due."""
        self._ahead: set[K] = set()
        """Keys that are taken before others that are due."""
        self._lanes: tuple[list[tuple[float, int, K]], ...] = ([], [])
        """When each key is due, in order, those ahead apart; with entries that were replaced, which are skipped."""
        self._count = 0
        self._working: dict[K, float] = {}
        """Since when each key is worked on."""
        self._failures: dict[K, int] = {}
        self.retries = 0
        """How often a key failed, ever."""

    def add(self, key: K, now: float, delay: float = 0.0, *, ahead: bool = False) -> None:
        """Have a key worked on in ``delay`` seconds, or earlier if it is due earlier.

        Parameters
        ----------
        ahead
            Until it was worked on with success, it is taken before others that are due.
        """
        due = now + max(delay, 0.0)
        known = self._due.get(key)
        moved = ahead and key not in self._ahead
        if ahead:
            self._ahead.add(key)
        if known is not None and known <= due:
            if not moved:
                return
            due = known
        self._due[key] = due
        if key not in self._working:
            self._push(key, due)

    def take(self, now: float) -> Taken[K] | None:
        """Give out the key that is due for longest, of those ahead if there is one; None while none is."""
        for lane in self._lanes:
            while lane and lane[0][0] <= now:
                due, _, key = heapq.heappop(lane)
                if self._due.get(key) == due and key not in self._working:
                    del self._due[key]
                    self._working[key] = now
                    return Taken(key, now - due)
        return None

    def done(self, key: K) -> None:
        """Take note that a key was worked on with success."""
        self._failures.pop(key, None)
        self._ahead.discard(key)
        self._release(key)

    def failed(self, key: K, now: float) -> float:
        """Take note that working on a key failed; return the seconds after which it is tried again.

        What was added meanwhile waits, too: it would fail like this.
        """
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        self.retries += 1
        delay = self._backoff.delay(failures, self._fraction())
        self._due[key] = now + delay
        self._release(key)
        return delay

    def forget(self, key: K) -> None:
        """Drop a key that waits, and its failures."""
        self._failures.pop(key, None)
        self._ahead.discard(key)
        self._due.pop(key, None)

    def next_due(self) -> float | None:
        """Return when the next key is due; None when none waits."""
        for lane in self._lanes:
            while lane and (self._due.get(lane[0][2]) != lane[0][0] or lane[0][2] in self._working):
                heapq.heappop(lane)
        return min((lane[0][0] for lane in self._lanes if lane), default=None)

    def depth(self, now: float) -> int:
        """Return how many keys are due, and not worked on."""
        return sum(1 for key, due in self._due.items() if due <= now and key not in self._working)

    def waiting(self) -> int:
        """Return how many keys are due now or later."""
        return len(self._due)

    def oldest(self, now: float) -> float:
        """Return for how many seconds the oldest key has been due."""
        due = self.next_due()
        return 0.0 if due is None else max(0.0, now - due)

    def longest_work(self, now: float) -> float:
        """Return for how many seconds the key that takes longest is being worked on."""
        return max((now - since for since in self._working.values()), default=0.0)

    def __contains__(self, key: K) -> bool:
        return key in self._due or key in self._working

    def _release(self, key: K) -> None:
        del self._working[key]
        due = self._due.get(key)
        if due is not None:
            self._push(key, due)

    def _push(self, key: K, due: float) -> None:
        self._count += 1
        heapq.heappush(self._lanes[key not in self._ahead], (due, self._count, key))
