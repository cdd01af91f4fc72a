"""The pool of reading sessions of one process: ADBC connections of one handle, under SQLAlchemy's QueuePool.

Making the handle downloads the server's types, a session of it takes milliseconds. The handle is made anew when
the credentials' username changes; a rotated password is read by the next connection.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import adbc_driver_postgresql
from adbc_driver_manager import AdbcDatabase
from sqlalchemy import event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection, QueuePool

from extraction_worker.errors import SourceBusy
from extraction_worker.source.failures import translate
from extraction_worker.source.session import ReadSession
from extraction_worker.source.settings import SourceSettings


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


class SourcePool:
    """Hands out reading sessions; at most ``size`` exist at a time.

    Neither time-out ends a session that is checked out: both are looked at when one is handed out.
    """

    def __init__(self, settings: SourceSettings, pool: PoolSettings) -> None:
        self._settings = settings
        self._bounds = pool
        self._handle: tuple[str, AdbcDatabase] | None = None
        self._handle_lock = threading.Lock()
        self.statistics = PoolStatistics()
        self._pool = QueuePool(
            self._create,  # type: ignore[arg-type]
            pool_size=pool.size,
            max_overflow=0,
            timeout=pool.acquire_timeout,
            recycle=int(pool.max_lifetime),
            use_lifo=True,
            reset_on_return=None,
        )
        event.listen(self._pool, "checkout", self._validate)
        event.listen(self._pool, "checkin", self._returned)

    def open_idle(self) -> None:
        """Open ``min_idle`` sessions, so that the first chunks find them ready.

        Raises
        ------
        Transient, Terminal
            As :meth:`session`.
        """
        with contextlib.ExitStack() as stack:
            for _ in range(min(self._bounds.min_idle, self._bounds.size)):
                stack.enter_context(self.session())

    @contextlib.contextmanager
    def session(self) -> Iterator[ReadSession]:
        """Check a session out. It goes back ready when the block ends well, and is closed when it raises.

        Raises
        ------
        SourceBusy
            No session became free within ``acquire_timeout``, or the server has none for us.
        Transient, Terminal
            The connection failed, in our words.
        """
        try:
            entry = self._pool.connect()
        except PoolTimeoutError:
            raise SourceBusy(
                f"None of the {self._bounds.size} pooled sessions became free within "
                f"{self._bounds.acquire_timeout:g} s."
            ) from None
        except Exception as error:  # noqa: BLE001 - drivers raise many kinds; translate() knows them
            raise translate(error, f"Connecting to {self._settings.host}:{self._settings.port}") from None
        self.statistics.checkouts += 1
        try:
            yield entry.dbapi_connection  # type: ignore[misc]
        except BaseException:
            self.statistics.evicted += 1
            entry.invalidate()
            raise
        finally:
            entry.close()

    def dispose(self) -> None:
        """Close every idle session and the handle."""
        self._pool.dispose()
        with self._handle_lock:
            if self._handle is not None:
                # Sessions still checked out keep the handle alive until they are closed.
                with contextlib.suppress(RuntimeError):
                    self._handle[1].close()
                self._handle = None

    def _create(self) -> ReadSession:
        session = ReadSession(self._database(), self._settings)
        self.statistics.created += 1
        return session

    def _database(self) -> AdbcDatabase:
        with self._handle_lock:
            conninfo = self._settings.conninfo()
            if self._handle is None or self._handle[0] != conninfo:
                self._handle = (conninfo, adbc_driver_postgresql.connect(conninfo))
            return self._handle[1]

    def _validate(self, session: ReadSession, record: ConnectionPoolEntry, _proxy: PoolProxiedConnection) -> None:
        returned = record.info.get("returned")
        if returned is None:
            return
        try:
            if time.monotonic() - returned > self._bounds.idle_timeout:
                raise TimeoutError
            session.ping()
        except Exception as error:
            self.statistics.evicted += 1
            raise DisconnectionError from error

    def _returned(self, _session: ReadSession | None, record: ConnectionPoolEntry) -> None:
        record.info["returned"] = time.monotonic()
