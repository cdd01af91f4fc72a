"""The pool of reading sessions of one process: psycopg_pool's, with errors of connecting told at once, in our words.

psycopg_pool connects in threads of its own, and tells those who wait that time is over, not why. So what connecting
raised is kept here, and whoever waits looks for it.
"""

import contextlib
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

from extraction_contract.status import ConnectionCounts
from extraction_worker.errors import ExtractionError, SourceBusy
from extraction_worker.source.failures import translate
from extraction_worker.source.session import ReadSession, SourceConnection, connect
from extraction_worker.source.settings import SourceSettings

# It logs what we raise. Without any handler Python would print that.
logging.getLogger("psycopg").addHandler(logging.NullHandler())

_LOOK = 0.05
"""Seconds after which a wait for a session looks whether connecting failed."""
_CLOSE_TIMEOUT = 1.0
_STACK_FRAMES = 8
_LOG = logging.getLogger(__name__)
_CONNECTING = 3
"""How many connect at a time, each in a thread of its own."""


@dataclass
class PoolStatistics:
    """Plain counters of one pool."""

    created: int = 0
    checkouts: int = 0
    reused: int = 0
    """Checkouts that got a session which had been used before."""
    waits: int = 0
    """Checkouts that found no session ready."""
    evicted: int = 0
    leaks: int = 0
    """Sessions that were taken and neither read nor given back for long."""
    active: int = 0
    """Checked out now."""
    most_active: int = 0

    @property
    def reuse(self) -> float:
        """Return the share of checkouts that got a session which had been used before, 0 to 1."""
        return self.reused / self.checkouts if self.checkouts else 0.0


@dataclass(frozen=True)
class PoolSettings:
    """Bounds of a pool. Times are seconds."""

    size: int
    min_idle: int = 0
    acquire_timeout: float = 5.0
    idle_timeout: float = 300.0
    max_lifetime: float = 600.0
    leak_after: float = 60.0
    """A session that is taken and does nothing for so long isn't going to come back."""


class _PooledConnection(SourceConnection):
    """A pooled connection and its session."""

    session: ReadSession
    owner: "SourcePool | None" = None
    used = False
    """Whether it has been checked out before."""

    @classmethod
    def connect(cls, conninfo: str = "", *, owner: "SourcePool | None" = None, **options: Any) -> Self:  # type: ignore[override]
        """Connect: for psycopg_pool, that names the owner, as the owner does; else as psycopg does."""
        return super().connect(conninfo, **options) if owner is None else owner.open_connection(cls)

    def close(self) -> None:
        """Close it, and tell its owner."""
        super().close()
        if self.owner is not None:
            self.owner.forget(self)


@dataclass
class _Checkout:
    """A session that somebody has."""

    since: float
    stack: traceback.StackSummary
    told: bool = False


_Connection = TypeVar("_Connection", bound=_PooledConnection)


class SourcePool:
    """Hands out reading sessions; at most ``size`` exist at a time, and ``min_idle`` of them stay.

    Neither time-out ends a session that is checked out. Usable from several threads.

    Parameters
    ----------
    on_leak
        Told of a session that was taken and never came back, with the stack that took it; None logs it.
    """

    def __init__(
        self, settings: SourceSettings, pool: PoolSettings, on_leak: Callable[[str], object] | None = None
    ) -> None:
        self._settings = settings
        self._bounds = pool
        self._on_leak = on_leak or _LOG.warning
        self._changed = threading.Condition()
        self._open: set[_PooledConnection] = set()
        self._out: dict[_PooledConnection, _Checkout] = {}
        self._most = pool.size
        self._disposed = threading.Event()
        self._leak_finder: threading.Thread | None = None
        self._failure: tuple[float, ExtractionError] | None = None
        """When connecting failed last, and why."""
        self.statistics = PoolStatistics()
        self._told = ConnectionCounts()
        """What was told until now."""
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

        It is closed as well when it has read rows so wide that it would keep their memory, and when it ran users' SQL.

        Raises
        ------
        SourceBusy
            No session became free within ``acquire_timeout``, or the server has none for us.
        Transient, Terminal
            The connection failed, in our words.
        """
        ready = self._pool.get_stats().get("pool_available", 0) > 0
        connection = self._check_out()
        self._take(connection, waited=not ready)
        try:
            yield connection.session
        except BaseException:
            self._evict(connection)
            raise
        else:
            if connection.session.bloated or self._are_too_many:
                self._evict(connection)
            elif connection.session.ran_user_sql:
                connection.session.close()
        finally:
            with self._changed:
                self._out.pop(connection, None)
                self.statistics.active -= 1
            self._pool.putconn(connection)

    def did(self) -> ConnectionCounts:
        """Return what it did so far."""
        with self._changed:
            counts = self.statistics
            return ConnectionCounts(
                opened=counts.created, checkouts=counts.checkouts, reuses=counts.reused, waits=counts.waits,
                evicted=counts.evicted, leaks=counts.leaks,
            )  # fmt: skip

    def did_since(self) -> ConnectionCounts:
        """Return what it did since this was asked last."""
        with self._changed:
            now = self.did()
            told, self._told = self._told, now
        return now - told

    def bound(self, most: int) -> None:
        """Have at most so many sessions, one at least and ``size`` at most: others are closed when they come back."""
        self._most = max(1, min(most, self._bounds.size))

    def dispose(self) -> None:
        """Close every idle session, and the others when they come back. Idempotent."""
        self._disposed.set()
        self._pool.close(_CLOSE_TIMEOUT)

    def find_leaks(self) -> None:
        """Tell of sessions that are taken, and did nothing for ``leak_after``; of each once."""
        now = time.monotonic()
        with self._changed:
            leaks = [
                checkout
                for connection, checkout in self._out.items()
                if not checkout.told
                and not connection.session.at_work
                and now - max(checkout.since, connection.session.idle_since) >= self._bounds.leak_after
            ]
            for checkout in leaks:
                checkout.told = True
            self.statistics.leaks += len(leaks)
        for checkout in leaks:
            places = "; ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in checkout.stack)
            self._on_leak(
                f"A session was taken {now - checkout.since:.0f} s ago and neither reads nor comes back."
                f" Taken by: {places}."
            )

    def forget(self, connection: "_PooledConnection") -> None:
        """Take a connection off the books: it is closed."""
        with self._changed:
            self._open.discard(connection)

    def open_connection(self, kind: type[_Connection]) -> _Connection:
        """Connect, for psycopg_pool; what fails is told to whoever waits."""
        try:
            if len(self._open) >= self._most < self._bounds.size:
                raise SourceBusy("The source is in trouble: fewer sessions read than could.")
            connection = connect(self._settings, kind=kind)
            connection.session, connection.owner = ReadSession(connection, self._settings), self
            with self._changed:
                self._open.add(connection)
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

    @property
    def _are_too_many(self) -> bool:
        return len(self._open) > self._most

    def _take(self, connection: _PooledConnection, *, waited: bool) -> None:
        # Two frames are ours and contextlib's.
        stack = traceback.StackSummary.extract(
            traceback.walk_stack(sys._getframe(3)), limit=_STACK_FRAMES, lookup_lines=False
        )
        with self._changed:
            counts = self.statistics
            counts.checkouts += 1
            counts.waits += waited
            counts.reused += connection.used
            counts.active += 1
            counts.most_active = max(counts.most_active, counts.active)
            connection.used = True
            self._out[connection] = _Checkout(time.monotonic(), stack)
            if self._leak_finder is None:
                self._leak_finder = threading.Thread(target=self._watch_leaks, name="leaks", daemon=True)
                self._leak_finder.start()

    def _watch_leaks(self) -> None:
        while not self._disposed.wait(max(self._bounds.leak_after / 4, 1.0)):
            self.find_leaks()

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

    def _count(self, *, created: int = 0, evicted: int = 0) -> None:
        with self._changed:
            self.statistics.created += created
            self.statistics.evicted += evicted
            self._changed.notify_all()

    def _failed_since(self, moment: float) -> bool:
        return self._failure is not None and self._failure[0] >= moment

    def _refuse_failed(self, since: float) -> None:
        """Raise what connecting raised since a moment."""
        with self._changed:
            if self._failure is not None and self._failed_since(since):
                raise self._failure[1]
