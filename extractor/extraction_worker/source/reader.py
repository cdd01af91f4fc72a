"""Reading a chunk: record batches from a session, watched for silence and held to a rate.

statement_timeout would count the time a slow sink takes, so it can't bound a COPY. Instead a watchdog looks at how
long a read has waited for bytes. A server may compute for an hour before its first row, so silence alone is no
fault: the watchdog asks the server, on another connection, what our backend does, and cancels the read when the
backend is gone, idle, or waits for a client that waits for it.
"""

import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

import psycopg

from extraction_worker.errors import ExtractionError, SourceBusy, SourceStalled
from extraction_worker.repeated import Repeated
from extraction_worker.source.failures import translate
from extraction_worker.source.rate import ByteRate, wire_bytes
from extraction_worker.source.session import ReadSession, connect
from extraction_worker.source.settings import SourceSettings
from extraction_worker.source.slots import Claim

if TYPE_CHECKING:
    import pyarrow as pa


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
