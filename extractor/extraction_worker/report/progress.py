"""Live counts of a run: written by worker threads, read by whoever shows them."""

import threading
import time
from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    """Where a run is."""

    PLANNING = "Planning"
    RUNNING = "Running"
    PUBLISHING = "Publishing"
    SUCCEEDED = "Succeeded"


@dataclass(frozen=True)
class Snapshot:
    """The counts at one moment. ``read_rows`` may fall when a chunk is read again; ``seconds`` is since the start."""

    phase: Phase
    read_rows: int
    read_bytes: int
    done_chunks: int
    total_chunks: int
    estimated_rows: int
    estimated_bytes: int
    retries: int
    seconds: float

    @property
    def rows_per_second(self) -> float:
        """Rows read in each second so far."""
        return self.read_rows / self.seconds if self.seconds > 0 else 0.0


class Progress:
    """Thread-safe counters. Rows of a chunk that fails are taken back, so that the sum is what will be published."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._running_since: float | None = None
        self._phase = Phase.PLANNING
        self._rows = self._bytes = self._done = self._retries = 0
        self._total = self._estimated_rows = self._estimated_bytes = 0
        self.messages: list[str] = []

    def planned(self, chunks: int, rows: int, size: int) -> None:
        """Take the plan's number of chunks and its estimates of rows and bytes."""
        with self._lock:
            self._total, self._estimated_rows, self._estimated_bytes = chunks, rows, size
            self._rows = self._bytes = self._done = 0
            self._running_since = time.monotonic()

    def phase(self, phase: Phase) -> None:
        """Enter a phase."""
        with self._lock:
            self._phase = phase

    def read(self, rows: int, size: int) -> None:
        """Rows and Arrow bytes were read; negative where a chunk failed."""
        with self._lock:
            self._rows += rows
            self._bytes += size

    def chunk_done(self) -> None:
        """One more chunk has its result."""
        with self._lock:
            self._done += 1

    def retry(self, message: str) -> None:
        """Count a chunk that will be read again, and leave a line that says why."""
        with self._lock:
            self._retries += 1
            self.messages.append(message)

    def say(self, message: str) -> None:
        """Leave a line for people."""
        with self._lock:
            self.messages.append(message)

    def take_messages(self) -> list[str]:
        """Return and forget the lines left so far."""
        with self._lock:
            messages, self.messages = self.messages, []
            return messages

    def now(self) -> Snapshot:
        """Return the counts."""
        with self._lock:
            since = self._running_since or self._started
            return Snapshot(
                self._phase,
                self._rows,
                self._bytes,
                self._done,
                self._total,
                self._estimated_rows,
                self._estimated_bytes,
                self._retries,
                time.monotonic() - since,
            )
