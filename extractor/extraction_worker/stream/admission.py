"""Bounded memory: how large batches are, how many threads work, and how wide a row may be.

All that grows with data is one batch in each thread and what the encoder holds of its row group. Rows are read in
batches of ``batch_bytes``; a row wider than ``ordinary_row_bytes`` makes its chunk *wide*: it is then read row by row
while nothing else is read (:class:`Admission`), without column statistics, which would copy it twice more. A row
that needs more than the whole budget even so is refused before the server sends it (``source.width``).
"""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024

PROCESS_BYTES = 110 * MIB
"""What the process takes before the first row: interpreter, Arrow, drivers (measured by bench/memory.py)."""
WIDE_FACTOR = 8
"""Memory per byte of one wide row at the peak: libpq's buffer, Arrow's, the encoder's, the compressor's."""
ORDINARY_FACTOR = 10
"""Memory per byte of a batch at the peak: the batch, the next one being read, its conversion, the row group."""


@dataclass(frozen=True)
class MemoryPlan:
    """What one process may do with its memory. Sizes are bytes.

    ``batch_bytes`` for each read; ``ordinary_row_bytes`` the widest row of a chunk that is read beside others;
    ``wide_row_bytes`` the widest row at all.
    """

    limit: int
    threads: int
    batch_bytes: int
    ordinary_row_bytes: int
    wide_row_bytes: int


def memory_plan(limit: int, threads: int) -> MemoryPlan:
    """Divide ``limit`` bytes among ``threads``; fewer threads where each would get less than a batch of 1 MiB.

    Batches aren't larger than 2 MiB even where memory is plenty: throughput doesn't grow beyond that.
    """
    usable = max(limit - PROCESS_BYTES, 16 * MIB)
    threads = max(1, min(threads, usable // (ORDINARY_FACTOR * MIB)))
    batch = max(MIB // 4, min(2 * MIB, usable // (threads * ORDINARY_FACTOR)))
    # A batch may overshoot by a row; so a row of a batch's size doubles it at the most.
    return MemoryPlan(limit, threads, batch, batch, max(batch, usable // WIDE_FACTOR))


def memory_for_row(row_bytes: int) -> int:
    """Return the least limit under which :func:`memory_plan` lets a row of so many bytes be read alone."""
    return PROCESS_BYTES + row_bytes * WIDE_FACTOR


def memory_limit(cgroup: Path = Path("/sys/fs/cgroup"), meminfo: Path = Path("/proc/meminfo")) -> int:
    """Return the memory this process may use: the cgroup's limit (v2 or v1), else half of what is available now."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            limit = int((cgroup / name).read_text())
            if limit < 1 << 60:  # v1 says "unlimited" by a huge number, v2 by the word max
                return limit
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024 // 2
    return 1024 * MIB


class Admission:
    """Lets ordinary chunks run side by side and a wide one alone. Fair: a waiting wide chunk holds new ones back."""

    def __init__(self, threads: int) -> None:
        self._capacity = threads
        self._used = 0
        self._condition = threading.Condition()
        self._wide_waiting = 0

    @contextlib.contextmanager
    def ordinary(self) -> Iterator[None]:
        """Take one share."""
        with self._condition:
            self._condition.wait_for(lambda: self._used < self._capacity and not self._wide_waiting)
            self._used += 1
        try:
            yield
        finally:
            self._release(1)

    @contextlib.contextmanager
    def wide(self) -> Iterator[None]:
        """Take every share."""
        with self._condition:
            self._wide_waiting += 1
            try:
                self._condition.wait_for(lambda: self._used == 0)
                self._used = self._capacity
            finally:
                self._wide_waiting -= 1
        try:
            yield
        finally:
            self._release(self._capacity)

    def _release(self, shares: int) -> None:
        with self._condition:
            self._used -= shares
            self._condition.notify_all()
