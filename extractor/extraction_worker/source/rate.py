"""How many bytes a second a process reads: a token bucket for its threads, of all of a job's rate or of a part."""

import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

_LEAST_BATCH = 16 * 1024
_LEAST_BUFFER, _MOST_BUFFER = 64 * 1024, 4 * 1024 * 1024
_LONGEST_REST = 1.0
_SLICE = 0.25
"""Seconds after which who sleeps looks again: the process may have another part of the rate by then."""
_NOTHING = 1e-6
"""Seconds that aren't worth a sleep."""


class ByteRate:
    """A token bucket: at most ``bytes_per_second`` over any longer time.

    Shared by the threads of a process; each takes what it received and sleeps until that is paid for, those that
    received it first before the others. While a read sleeps nobody takes from its socket, so the server has to wait as
    soon as the buffers in between are full. What wasn't read of the last moments may be read later: the end of one
    chunk and the beginning of the next cost nothing of the rate.

    Parameters
    ----------
    readers
        How many take at the same time: what they have read together before they pay is no more than a burst.
    sleep
        Waits for so many seconds; may return sooner.
    """

    BURST = 0.25
    """Seconds' worth of bytes that may come before they are paid for."""
    CREDIT = 0.5
    """Seconds' worth of bytes that weren't read and may be read later, at once."""

    def __init__(
        self,
        bytes_per_second: int | None,
        *,
        readers: int = 1,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self._rate = bytes_per_second
        self.readers = readers
        self._clock = clock
        self._ended = threading.Event()
        self._sleep = sleep or self._ended.wait
        self._lock = threading.Lock()
        self._share = 1.0
        self._taken = 0
        self._allowed = 0.0
        """How many bytes could be paid for until :attr:`_at`."""
        self._at = self._waited_at = clock()
        self._halved = False

    @property
    def share(self) -> float:
        """The part of the rate that this process has, 0 to 1: with none of it, who takes waits until it has some."""
        return self._share

    @share.setter
    def share(self, share: float) -> None:
        with self._lock:
            self._earn()
            if share > self._share:
                self._waited_at = self._at
            self._share = share

    @property
    def taken(self) -> float:
        """What was received in all, in seconds of the whole rate."""
        return self._taken / self._rate if self._rate else 0.0

    @property
    def unhindered(self) -> float:
        """For how many seconds of the present share nobody had to wait: more could have been read than was."""
        return self._clock() - self._waited_at

    def batch_bytes(self, wanted: int) -> int:
        """Return how large batches may be so that one is no burst by itself."""
        if self._rate is None:
            return wanted
        return min(wanted, max(_LEAST_BATCH, int(self._here * self.BURST / self.readers)))

    def buffer_bytes(self) -> int | None:
        """Return how many bytes a connection may hold that came and weren't read; None for any number.

        The server has sent them by then, so what they are together is to be small against the rate, too.
        """
        return None if self._rate is None else max(_LEAST_BUFFER, self.batch_bytes(_MOST_BUFFER) // 2)

    def halve(self, halved: bool) -> None:
        """Rest after each batch for as long as it took to come, or stop doing so."""
        self._halved = halved

    def stop(self) -> None:
        """Wake who sleeps, and let nobody sleep again."""
        self._ended.set()

    def take(self, size: int, seconds: float = 0.0) -> None:
        """Account for ``size`` bytes that took ``seconds`` to come; block until they are paid for."""
        rests_until = self._clock() + (min(seconds, _LONGEST_REST) if self._halved else 0.0)
        with self._lock:
            self._earn()
            self._taken += size
            mine = self._taken
        while (wait := max(self._due(mine), rests_until - self._clock())) > _NOTHING and not self._ended.is_set():
            self._sleep(min(wait, _SLICE))
            self._waited_at = self._clock()

    @property
    def _here(self) -> float:
        """Bytes a second of this process."""
        return (self._rate or 0) * self._share

    def _earn(self) -> None:
        """Allow what came with the time since."""
        now = self._clock()
        more, self._at = (now - self._at) * self._here, now
        self._allowed = min(self._allowed + more, self._taken + self.CREDIT * self._here)

    def _due(self, mine: int) -> float:
        """Return the seconds until so many bytes of all are paid for."""
        with self._lock:
            if self._rate is None:
                return 0.0
            self._earn()
            owed, here = mine - self._allowed, self._here
        return 0.0 if owed <= 0 else owed / here if here else math.inf


def wire_bytes(batch: "pa.RecordBatch") -> int:
    """Return about how many bytes a batch had as the server sent it.

    COPY's binary format has 2 bytes before each row and 4 before each value; Arrow has as much for the offsets of
    values of any length, but nothing for those of a fixed one.
    """
    size = batch.nbytes + 2 * batch.num_rows
    for column in batch.columns:
        with suppress(ValueError):  # of a type without a fixed length
            size += 4 * batch.num_rows - column.null_count * column.type.bit_width // 8
    return int(size)
