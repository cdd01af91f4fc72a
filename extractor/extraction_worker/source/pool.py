"""The pool of reading sessions of one process: psycopg_pool's, with errors of connecting told at once, in our words.

psycopg_pool connects in threads of its own, and tells those who wait that time is over, not why. So what connecting
raised is kept here, and whoever waits looks for it.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

from extraction_worker.errors import ExtractionError, SourceBusy
from extraction_worker.source.failures import translate
from extraction_worker.source.session import ReadSession, SourceConnection, connect
from extraction_worker.source.settings import SourceSettings

# It logs what we raise. Without any handler Python would print that.
logging.getLogger("psycopg").addHandler(logging.NullHandler())

_LOOK = 0.05
"""Seconds after which a wait for a session looks whether connecting failed."""
_CLOSE_TIMEOUT = 1.0
_CONNECTING = 3
"""How many connect at a time, each in a thread of its own."""


@dataclass
class PoolStatistics:
    """Plain counters of one pool."""

    created: int = 0
    checkouts: int = 0
    evicted: int = 0

    @property
    def reuse(self) -> float:
        """Return the share of checkouts that found a session ready, 0 to 1."""
        return 1 - self.created / self.checkouts if self.checkouts else 0.0


@dataclass(frozen=True)
class PoolSettings:
    """Bounds of a pool. Times are seconds."""

    size: int
    min_idle: int = 0
    acquire_timeout: float = 5.0
    idle_timeout: float = 300.0
    max_lifetime: float = 600.0


class _PooledConnection(SourceConnection):
    """A pooled connection and its session."""

    session: ReadSession

    @classmethod
    def connect(cls, conninfo: str = "", *, owner: "SourcePool | None" = None, **options: Any) -> Self:  # type: ignore[override]
        """Connect: for psycopg_pool, that names the owner, as the owner does; else as psycopg does."""
        return super().connect(conninfo, **options) if owner is None else owner.open_connection(cls)


_Connection = TypeVar("_Connection", bound=_PooledConnection)


class SourcePool:
    """Hands out reading sessions; at most ``size`` exist at a time, and ``min_idle`` of them stay.

    Neither time-out ends a session that is checked out. Usable from several threads.
    """

    def __init__(self, settings: SourceSettings, pool: PoolSettings) -> None:
        self._settings = settings
        self._bounds = pool
        self._changed = threading.Condition()
        self._failure: tuple[float, ExtractionError] | None = None
        """When connecting failed last, and why."""
        self.statistics = PoolStatistics()
        self._pool = ConnectionPool(
            connection_class=_PooledConnection,
            kwargs={"owner": self},
            min_size=min(pool.min_idle, pool.size),
            max_size=pool.size,
            # It looks that often, too.
            max_idle=max(pool.idle_timeout, 1.0),
            max_lifetime=pool.max_lifetime,
            check=self._check,
            # Whoever waits is told, and retries or not. (The pool tries once more by itself.)
            reconnect_timeout=0,
            num_workers=min(pool.size, _CONNECTING),
            open=False,
        )

    def open_idle(self) -> None:
        """Open ``min_idle`` sessions, so that the first chunks find them ready.

        Raises
        ------
        Transient, Terminal
            As :meth:`session`.
        """
        started = time.monotonic()
        self._pool.open()
        with self._changed:
            ended = self._changed.wait_for(
                lambda: self.statistics.created >= self._pool.min_size or self._failed_since(started),
                self._bounds.acquire_timeout,
            )
        self._refuse_failed(started)
        if not ended:
            raise self._busy()
        # They are connected; now until they are handed out.
        self._pool.wait()

    @contextlib.contextmanager
    def session(self) -> Iterator[ReadSession]:
        """Check a session out. It goes back ready when the block ends well, and is closed when it raises.

        It is closed as well when it has read rows so wide that it would keep their memory.

        Raises
        ------
        SourceBusy
            No session became free within ``acquire_timeout``, or the server has none for us.
        Transient, Terminal
            The connection failed, in our words.
        """
        connection = self._check_out()
        self._count(checkouts=1)
        try:
            yield connection.session
        except BaseException:
            self._evict(connection)
            raise
        else:
            if connection.session.bloated:
                self._evict(connection)
        finally:
            self._pool.putconn(connection)

    def dispose(self) -> None:
        """Close every idle session, and the others when they come back. Idempotent."""
        self._pool.close(_CLOSE_TIMEOUT)

    def open_connection(self, kind: type[_Connection]) -> _Connection:
        """Connect, for psycopg_pool; what fails is told to whoever waits."""
        try:
            connection = connect(self._settings, kind=kind)
            connection.session = ReadSession(connection, self._settings)
        except Exception as error:
            failure = translate(error, f"Connecting to {self._settings.host}:{self._settings.port}")
            with self._changed:
                self._failure = (time.monotonic(), failure)
                self._changed.notify_all()
            raise
        self._count(created=1)
        return connection

    def _check_out(self) -> _PooledConnection:
        started = time.monotonic()
        deadline = started + self._bounds.acquire_timeout
        while (left := deadline - time.monotonic()) > 0:
            try:
                self._pool.open()
                return self._pool.getconn(min(left, _LOOK))
            except PoolTimeout:
                self._refuse_failed(started)
            except psycopg.Error as error:  # it was closed
                raise translate(error, "Asking the pool for a session") from None
        raise self._busy()

    def _busy(self) -> SourceBusy:
        return SourceBusy(
            f"None of the {self._bounds.size} pooled sessions became free within {self._bounds.acquire_timeout:g} s."
        )

    def _check(self, connection: _PooledConnection) -> None:
        """Raise unless the session answers."""
        try:
            connection.session.ping()
        except ExtractionError:
            self._evict(connection)
            raise

    def _evict(self, connection: _PooledConnection) -> None:
        """Close a session; psycopg_pool makes another in its place."""
        connection.session.close()
        self._count(evicted=1)

    def _count(self, *, created: int = 0, checkouts: int = 0, evicted: int = 0) -> None:
        with self._changed:
            self.statistics.created += created
            self.statistics.checkouts += checkouts
            self.statistics.evicted += evicted
            self._changed.notify_all()

    def _failed_since(self, moment: float) -> bool:
        return self._failure is not None and self._failure[0] >= moment

    def _refuse_failed(self, since: float) -> None:
        """Raise what connecting raised since a moment."""
        with self._changed:
            if self._failure is not None and self._failed_since(since):
                raise self._failure[1]
