"""Reading a chunk: record batches from a session, watched for silence and held to a rate.

statement_timeout would count the time a slow sink takes, so it can't bound a COPY. Instead a watchdog looks at how
long a read has waited for bytes. A server may compute for an hour before its first row, so silence alone is no
fault: the watchdog asks the server, on another connection, what our backend does, and cancels the read when the
backend is gone, idle, or waits for a client that waits for it.
"""

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

import psycopg

from extraction_worker.errors import ExtractionError, SourceBusy, SourceStalled
from extraction_worker.repeated import Repeated
from extraction_worker.source.failures import translate
from extraction_worker.source.session import ReadSession, connect
from extraction_worker.source.settings import SourceSettings
from extraction_worker.source.slots import Claim

if TYPE_CHECKING:
    import pyarrow as pa


_LEAST_BATCH = 16 * 1024
_LEAST_BUFFER, _MOST_BUFFER = 64 * 1024, 4 * 1024 * 1024
_LONGEST_REST = 1.0


class BackendState(StrEnum):
    """What the server says about a backend of ours."""

    WORKING = "working"
    STUCK = "stuck"
    UNKNOWN = "unknown"
    UNASKED = "unasked"
    """The budget has no slot from which to ask."""


def ask_server(settings: SourceSettings, backend_pid: int) -> BackendState:
    """Ask the server, on a connection of its own, what a backend does. Never raises."""
    try:
        with connect(settings, Claim.SPARE) as connection:
            row = connection.execute(
                "SELECT state, wait_event FROM pg_catalog.pg_stat_activity WHERE pid = %s", [backend_pid]
            ).fetchone()
    except SourceBusy:
        return BackendState.UNASKED
    except (ExtractionError, psycopg.Error):
        return BackendState.UNKNOWN
    if row is None or row[0] != "active" or row[1] == "ClientWrite":
        return BackendState.STUCK
    return BackendState.WORKING


@dataclass
class _Watched:
    session: ReadSession
    since: float
    waiting: bool = False
    stalled: bool = False
    suspicions: int = 0


@dataclass
class Watchdog:
    """Cancels reads that stopped. One for each process; :meth:`start` and :meth:`stop` frame its thread.

    Parameters
    ----------
    stall_timeout
        Seconds without a batch after which the server is asked.
    ask
        Returns what the server says of a backend pid.
    """

    stall_timeout: float
    ask: Callable[[int], BackendState]
    clock: Callable[[], float] = time.monotonic
    _watched: dict[int, _Watched] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._checks = Repeated("watchdog", self._check_again, self._pause)

    def start(self) -> None:
        """Start looking, several times within each time-out."""
        self._checks.start()

    def stop(self) -> None:
        """End the thread. Idempotent."""
        self._checks.stop()

    def watch(self, session: ReadSession) -> "_Watched":
        """Begin to watch a session's read."""
        watched = _Watched(session, self.clock())
        with self._lock:
            self._watched[id(watched)] = watched
        return watched

    def forget(self, watched: "_Watched") -> None:
        """Stop watching."""
        with self._lock:
            self._watched.pop(id(watched), None)

    def check(self) -> None:
        """Look once at every read; cancel the ones that the server isn't working for."""
        with self._lock:
            waiting = [watched for watched in self._watched.values() if watched.waiting and not watched.stalled]
        for watched in waiting:
            since = watched.since
            if self.clock() - since < self.stall_timeout:
                continue
            state = self.ask(watched.session.backend_pid)
            if watched.since != since or not watched.waiting:
                continue  # bytes came while we asked
            if state is BackendState.UNASKED:
                continue  # asked again soon; meanwhile TCP notices a peer that is gone
            watched.suspicions = 0 if state is BackendState.WORKING else watched.suspicions + 1
            # Twice in a row: a backend is briefly idle or writing between two looks.
            if watched.suspicions >= 2:
                watched.stalled = True
                watched.session.cancel()

    @property
    def _pause(self) -> float:
        return min(self.stall_timeout / 4, 5.0)

    def _check_again(self) -> float:
        self.check()
        return self._pause


class ByteRate:
    """A token bucket: at most ``bytes_per_second`` over any longer time, with a quarter of a second's worth of burst.

    Shared by the threads of a process; each takes what it received and sleeps until that is paid for. While a read
    sleeps nobody takes from its socket, so the server has to wait as soon as the buffers in between are full.

    Parameters
    ----------
    readers
        How many take at the same time: what they have read together before they pay is no more than a burst.
    """

    BURST = 0.25
    """Seconds' worth of bytes that may come at once."""

    def __init__(
        self,
        bytes_per_second: int | None,
        *,
        readers: int = 1,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self._rate = bytes_per_second
        self._readers = readers
        self._clock = clock
        self._ended = threading.Event()
        self._sleep = sleep or self._ended.wait
        self._lock = threading.Lock()
        # When the bucket was, or will be, empty.
        self._paid_until = clock() - self.BURST
        self._halved = False
        self._shares: list[float] = []
        """Of those that read now, where the rate is shared with other processes."""

    @contextmanager
    def sharing(self, share: float) -> Iterator[None]:
        """Have a share of the rate meanwhile, together with the other threads that have one."""
        with self._lock:
            self._shares.append(share)
        try:
            yield
        finally:
            with self._lock:
                self._shares.remove(share)

    def _here(self, rate: int) -> float:
        """Return how much of the rate this process has."""
        return rate * sum(self._shares) if self._shares else rate

    def batch_bytes(self, wanted: int) -> int:
        """Return how large batches may be so that one is no burst by itself."""
        if self._rate is None:
            return wanted
        with self._lock:
            here, readers = self._here(self._rate), len(self._shares) or self._readers
        return min(wanted, max(_LEAST_BATCH, int(here * self.BURST / readers)))

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
        """Account for ``size`` bytes that took ``seconds`` to come; block while the bucket is empty."""
        wait = min(seconds, _LONGEST_REST) if self._halved else 0.0
        if self._rate is not None:
            with self._lock:
                self._paid_until = max(self._paid_until, self._clock() - self.BURST) + size / self._here(self._rate)
                wait = max(wait, self._paid_until - self._clock())
        if wait > 0:
            self._sleep(wait)


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


def read_batches(
    session: ReadSession,
    query: str,
    *,
    batch_bytes: int,
    watchdog: Watchdog,
    rate: ByteRate,
    doing: str,
) -> Generator["pa.RecordBatch"]:
    """Yield the record batches of ``query``; close the iterator to cancel.

    Parameters
    ----------
    batch_bytes
        About how many Arrow bytes a batch has; a batch has one row at least, however wide.
    doing
        What errors begin with, e.g. ``Reading chunk 12``.

    Raises
    ------
    SourceStalled
        The server stopped sending, and isn't working on it.
    Transient, Terminal
        The driver's error in our words.
    """
    watched = watchdog.watch(session)
    if (size := rate.buffer_bytes()) is not None:
        session.bound_buffer(size)
    batches = session.read(query, batch_bytes=rate.batch_bytes(batch_bytes))
    try:
        while True:
            watched.since, watched.waiting = watchdog.clock(), True
            try:
                batch = next(batches, None)
            except Exception as error:  # noqa: BLE001 - drivers raise many kinds; translate() knows them
                if watched.stalled:
                    raise SourceStalled(
                        f"{doing}: nothing came for {watchdog.stall_timeout:g} s, and the server isn't working on it."
                    ) from None
                raise translate(error, doing) from None
            finally:
                watched.waiting = False
            if batch is None:
                return
            rate.take(wire_bytes(batch), watchdog.clock() - watched.since)
            yield batch
    finally:
        watchdog.forget(watched)
        with suppress(Exception):
            batches.close()
