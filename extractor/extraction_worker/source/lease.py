"""The snapshot lease: one transaction that locks, then exports a snapshot, and is kept as long as it is read.

A snapshot alone protects no table: TRUNCATE, VACUUM FULL or a rewrite would make its rows vanish without an error.
So ACCESS SHARE comes first, on everything that is read. The lock makes DDL wait, and the application behind it; the
lease gives way when somebody has waited longer than ``yield_to_ddl_after``, and when it gets older than ``max_age``.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg

from extraction_worker.errors import ExtractionError, SnapshotLost, SourceInDanger, SourceUnavailable
from extraction_worker.model import SnapshotIdentity
from extraction_worker.source.danger import Judge, Lookout
from extraction_worker.source.failures import translate
from extraction_worker.source.session import begin, connect, read_identity, storage_sql
from extraction_worker.source.settings import SourceSettings
from extraction_worker.source.slots import Claim


@dataclass(frozen=True)
class LeaseLimits:
    """When the holder gives way. Times are seconds."""

    max_age: float = 6 * 3600.0
    yield_to_ddl_after: float = 5.0
    poll: float = 0.25
    look: float = 3.0
    """Between two looks for other dangers than waiting DDL."""


@dataclass(frozen=True)
class LockTarget:
    """What the lease locks and pins, resolved before and again under the lock.

    ``lockable`` are quoted names for LOCK TABLE (tables and views); ``readable`` those that it refuses (materialised
    views, foreign tables) and that are locked by reading no row of them. ``oids`` are all relations whose waiters are
    watched, ``stored`` the ones whose storage number is compared.
    """

    lockable: tuple[str, ...]
    readable: tuple[str, ...]
    oids: tuple[int, ...]
    stored: tuple[int, ...]


Resolve = Callable[[psycopg.Connection[tuple[Any, ...]]], LockTarget]

# A waiter for any mode that conflicts with ACCESS SHARE waits for us, or behind somebody who does.
_WAITERS = """
SELECT l.pid, l.relation::pg_catalog.regclass::pg_catalog.text
FROM pg_catalog.pg_locks AS l
WHERE NOT l.granted AND l.mode = 'AccessExclusiveLock' AND l.locktype = 'relation'
  AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
  AND l.relation = ANY(%s)
"""


class SnapshotLease:
    """Holds the snapshot in a thread of its own until :meth:`release`.

    Parameters
    ----------
    resolve
        Finds what to lock, within a transaction; called before and after the lock, the two must agree.
    on_lost
        Called once, from the holder's thread, when the lease ends by itself; gets the reason.
    say
        Told what can't be watched, and why.
    """

    def __init__(
        self,
        settings: SourceSettings,
        resolve: Resolve,
        limits: LeaseLimits,
        on_lost: Callable[[ExtractionError], None],
        say: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._lookout = Lookout(say)
        self._judge = Judge(settings.protection)
        self._next_look = 0.0
        self._resolve = resolve
        self._limits = limits
        self._on_lost = on_lost
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._oids: tuple[int, ...] = ()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._acquired_at = 0.0
        self.lost: ExtractionError | None = None

    def acquire(self) -> SnapshotIdentity:
        """Lock, export, and start to watch.

        Raises
        ------
        SourceUnavailable
            The lock wasn't free within the lock time-out, or the tables kept changing under us.
        Transient, Terminal
            What :func:`connect` and the server say.
        """
        self._connection = connect(self._settings, Claim.HOLD)
        try:
            identity = self._export()
        except psycopg.Error as error:
            self.release()
            raise translate(error, "Taking the snapshot") from None
        except BaseException:
            self.release()
            raise
        self._acquired_at = time.monotonic()
        self._thread = threading.Thread(target=self._watch, name="lease", daemon=True)
        self._thread.start()
        return identity

    def finish(self) -> None:
        """End the transaction, proving that the lease was held until now; call it once all is read.

        A session that adopted the snapshot just before the holder was gone could have taken its lock only after a
        TRUNCATE: that the holder still had its own afterwards is what rules this out.

        Raises
        ------
        SnapshotLost, SourceInDanger
            The lease had ended before; what was read under it may lack rows.
        """
        self._stop_watching()
        connection = self._connection
        if self.lost is None:
            self.lost = SnapshotLost("The lease was released.") if connection is None else _commit(connection)
        self._close()
        if self.lost is not None:
            raise self.lost

    def release(self) -> None:
        """End the transaction and the session. Idempotent; never raises."""
        self._stop_watching()
        self._close()

    def _stop_watching(self) -> None:
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=5)

    @property
    def age(self) -> float:
        """Seconds since the snapshot was taken."""
        return time.monotonic() - self._acquired_at

    def _export(self, attempts: int = 5) -> SnapshotIdentity:
        connection = self._connection
        if connection is None:
            raise SnapshotLost("The lease was released.")
        begin(connection, self._settings)
        wanted = self._resolve(connection)
        connection.execute("ROLLBACK")
        for _ in range(attempts):
            begin(connection, self._settings, locks=wanted.lockable)
            row = connection.execute("SELECT pg_catalog.pg_export_snapshot()").fetchone()
            identity = read_identity(connection, str(row[0]) if row else "")
            for table in wanted.readable:
                connection.execute(f"SELECT FROM {table} LIMIT 0")
            found = self._resolve(connection)
            if found == wanted and self._storage_is_the_snapshots(found):
                self._oids = found.oids
                # Only now: an idle holder must outlive any statement's limit.
                connection.execute("SET LOCAL statement_timeout = 0")
                return identity
            connection.execute("ROLLBACK")
            wanted = found
        raise SourceUnavailable("The tables kept changing while they were being locked. Try again later.")

    def _storage_is_the_snapshots(self, target: LockTarget) -> bool:
        """Whether nothing was rewritten between snapshot and lock; only relations locked by reading can differ."""
        if not target.stored or self._connection is None:
            return True
        now = self._connection.execute(storage_sql(target.stored)).fetchone()
        then = self._connection.execute(
            "SELECT oid::pg_catalog.int8, relfilenode::pg_catalog.int8 FROM pg_catalog.pg_class WHERE oid = ANY(%s)",
            [list(target.stored)],
        ).fetchall()
        snapshot = dict(then)
        # 0 in pg_class: a mapped relation (a catalog), whose number isn't kept there.
        return all(
            snapshot.get(oid) in (number, 0) for oid, number in zip(target.stored, now[0] if now else (), strict=True)
        )

    def _watch(self) -> None:
        waiting: dict[tuple[int, str], float] = {}
        while not self._stop.wait(self._limits.poll):
            reason: ExtractionError | None = None
            now = time.monotonic()
            if now - self._acquired_at > self._limits.max_age:
                reason = SourceInDanger(
                    f"The snapshot is older than snapshot.maxAge ({self._limits.max_age:g} s): it keeps the source "
                    "from cleaning up.",
                    hint="Raise maxAge, or make the job smaller or more parallel.",
                )
            else:
                try:
                    waiters = self._waiters()
                    reason = self._danger(now)
                except psycopg.Error as error:
                    text = translate(error, "Holding the snapshot").message
                    reason = SnapshotLost(text)
                else:
                    waiting = {waiter: waiting.get(waiter, now) for waiter in waiters}
                    for (pid, table), since in waiting.items():
                        if now - since >= self._limits.yield_to_ddl_after:
                            reason = SourceInDanger(
                                f"Backend {pid} has waited {now - since:.0f} s to lock {table} exclusively (DDL, "
                                "TRUNCATE or VACUUM FULL): the job gave way.",
                                hint="Run the job again, or raise limits.yieldToDDLAfter.",
                            )
            if reason is not None:
                self.lost = reason
                self._on_lost(reason)
                self._close()
                return

    def _danger(self, now: float) -> SourceInDanger | None:
        if self._connection is None or now < self._next_look:
            return None
        self._next_look = now + self._limits.look
        reason = self._judge.reason_to_yield(self._lookout.look(self._connection, holds=True), now)
        if not reason:
            return None
        return SourceInDanger(
            f"{reason}: the job gave way.", hint="Run the job again later, or change spec.protection of the DataSource."
        )

    def _waiters(self) -> list[tuple[int, str]]:
        if self._connection is None or not self._oids:
            return []
        rows = self._connection.execute(_WAITERS, [list(self._oids)]).fetchall()
        return [(int(pid), str(table)) for pid, table in rows]

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()


def _commit(connection: psycopg.Connection[tuple[Any, ...]]) -> SnapshotLost | None:
    """End the holder's transaction; return why it wasn't there any more."""
    try:
        ended = connection.execute("COMMIT").statusmessage
    except psycopg.Error as error:
        return SnapshotLost(translate(error, "Holding the snapshot").message)
    # What a transaction that failed answers with is ROLLBACK.
    return None if ended == "COMMIT" else SnapshotLost("The holder's transaction had failed.")
