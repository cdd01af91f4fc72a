"""The snapshot lease: one transaction that locks, then exports a snapshot, and is kept as long as it is read.

A snapshot alone protects no table: TRUNCATE, VACUUM FULL or a rewrite would make its rows vanish without an error.
So ACCESS SHARE comes first, on everything that is read. The lock makes DDL wait, and the application behind it; the
lease gives way when somebody has waited longer than ``yield_to_ddl_after``, and when it gets older than ``max_age``.
To give way to DDL is to end the sessions that read, too: each has the same locks until the end of its chunk.

Nobody watches while the locks are being taken. So who waits for one of them, and has others already, lets go of all
after a moment and begins again: others may wait for those.
"""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import psycopg

from extraction_worker.errors import (
    ExtractionError,
    SchemaDrift,
    SnapshotLost,
    SourceInDanger,
    SourceUnavailable,
)
from extraction_worker.model import SnapshotIdentity
from extraction_worker.source.danger import Judge, Lookout
from extraction_worker.source.failures import translate
from extraction_worker.source.session import SourceConnection, begin, connect, read_identity, storage_sql
from extraction_worker.source.settings import SourceSettings
from extraction_worker.source.slots import Claim
from extraction_worker.source.waiters import LockWaiter, Waiters, look, make_way


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
    watched, ``stored`` the ones whose storage number is compared. ``closed`` is whether rows are read from these
    alone: otherwise a partition that is attached meanwhile, which no lock of a reader prevents, would be read, too.
    """

    lockable: tuple[str, ...]
    readable: tuple[str, ...]
    oids: tuple[int, ...]
    stored: tuple[int, ...]
    closed: bool = False


Resolve = Callable[[psycopg.Connection[tuple[Any, ...]]], LockTarget]

# ATTACH PARTITION and INHERIT wait for no reader, and who reads the parent afterwards reads the new table's rows of
# before. The function sees catalogs as they are now, pg_class is read under the snapshot: a table that wasn't there yet
# has no row that the snapshot shows.
_ATTACHED_PARTITIONS = """
SELECT DISTINCT c.relnamespace::pg_catalog.regnamespace::pg_catalog.text || '.' || pg_catalog.quote_ident(c.relname)
FROM pg_catalog.unnest(%(oids)s::pg_catalog.oid[]) AS u(oid)
CROSS JOIN LATERAL pg_catalog.pg_partition_tree(u.oid) AS t
JOIN pg_catalog.pg_class AS c ON c.oid = t.relid
WHERE t.relid <> ALL(%(oids)s::pg_catalog.oid[]) LIMIT 3
"""
# Of plain inheritance no function tells what is there now: this is for after the transaction.
_ATTACHED_CHILDREN = """
SELECT DISTINCT c.relnamespace::pg_catalog.regnamespace::pg_catalog.text || '.' || pg_catalog.quote_ident(c.relname)
FROM pg_catalog.pg_inherits AS i
JOIN pg_catalog.pg_class AS p ON p.oid = i.inhparent AND p.relkind = 'r'
JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid
WHERE i.inhparent = ANY(%(oids)s::pg_catalog.oid[]) AND i.inhrelid <> ALL(%(oids)s::pg_catalog.oid[]) LIMIT 3
"""

# "1s", "100ms" or "1min" is an interval, too.
_DEADLOCK_TIMEOUT = """
SELECT pg_catalog.date_part('epoch', pg_catalog.current_setting('deadlock_timeout')::pg_catalog.interval)
"""
_BETWEEN_LOCKINGS = 0.2
"""Seconds in which those who waited for what we had locked get it."""
_MAKING_WAY_SECONDS = 3.0
"""For how long sessions that still stand in the way are looked for, once the holder gave way."""


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
    family
        What the application names of all sessions of the job begin with; by default, that of the settings.
    """

    def __init__(
        self,
        settings: SourceSettings,
        resolve: Resolve,
        limits: LeaseLimits,
        on_lost: Callable[[ExtractionError], None],
        say: Callable[[str], object] = lambda _: None,
        family: str = "",
    ) -> None:
        self._settings = settings
        self._say = say
        self._family = family or settings.application_name
        self._lookout = Lookout(say)
        self._judge = Judge(settings.protection)
        self._next_look = 0.0
        self._resolve = resolve
        self._limits = limits
        self._on_lost = on_lost
        self._connection: SourceConnection | None = None
        self._target: LockTarget | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._acquired_at = 0.0
        self.address = ""
        """Where sessions that adopt the snapshot reach its server; empty where only the name leads there."""
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
        if not self._connection.behind_pooler:
            # Who declares a pooler may not be let in beside it.
            self.address = identity.server_address
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
        SchemaDrift
            A table was attached to what was read, by which rows may have come that the snapshot's table didn't have.
        """
        self._stop_watching()
        if self.lost is None:
            self.lost = self._end()
        self._close()
        if self.lost is not None:
            raise self.lost

    def _end(self) -> ExtractionError | None:
        connection = self._connection
        if connection is None:
            return SnapshotLost("The lease was released.")
        try:
            attached = self._attached(_ATTACHED_PARTITIONS)
            # What a transaction that failed answers with is ROLLBACK.
            if connection.execute("COMMIT").statusmessage != "COMMIT":
                return SnapshotLost("The holder's transaction had failed.")
            return attached or self._attached(_ATTACHED_CHILDREN)
        except psycopg.Error as error:
            return SnapshotLost(translate(error, "Holding the snapshot").message)

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
        settings = replace(self._settings, lock_timeout=self._lock_timeout(connection, wanted))
        connection.execute("ROLLBACK")
        deadline = time.monotonic() + self._settings.lock_timeout
        while attempts:
            try:
                identity = self._lock_and_export(connection, settings, wanted)
            except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled):
                if time.monotonic() >= deadline:
                    raise
                connection.execute("ROLLBACK")
                self._stop.wait(_BETWEEN_LOCKINGS)
                continue
            found = self._resolve(connection)
            if found == wanted and self._storage_is_the_snapshots(found):
                self._target = found
                # Only now: an idle holder must outlive any statement's limit.
                connection.execute("SET LOCAL statement_timeout = 0")
                return identity
            connection.execute("ROLLBACK")
            wanted = found
            attempts -= 1
        raise SourceUnavailable("The tables kept changing while they were being locked. Try again later.")

    def _lock_timeout(self, connection: SourceConnection, wanted: LockTarget) -> float:
        """Return for how many seconds to wait for locks at a time.

        Of two sessions that wait for each other, the server ends the one that is there when it has waited for
        ``deadlock_timeout``. Who has locks and lets go of all before that much time has passed is never the reason.
        """
        if len(wanted.oids) < 2:
            return self._settings.lock_timeout
        row = connection.execute(_DEADLOCK_TIMEOUT).fetchone()
        deadlock = float(row[0]) if row else 1.0
        return max(0.05, min(self._settings.lock_timeout, self._limits.yield_to_ddl_after, 0.7 * deadlock))

    def _lock_and_export(
        self, connection: SourceConnection, settings: SourceSettings, wanted: LockTarget
    ) -> SnapshotIdentity:
        begin(connection, settings, locks=wanted.lockable)
        row = connection.execute("SELECT pg_catalog.pg_export_snapshot()").fetchone()
        identity = read_identity(connection, str(row[0]) if row else "")
        for table in wanted.readable:
            connection.execute(f"SELECT FROM {table} LIMIT 0")
        return identity

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
        since: dict[LockWaiter, float] = {}
        late: set[LockWaiter] = set()
        while not self._stop.wait(self._pause(since[waiter] for waiter in since.keys() - late)):
            reason: ExtractionError | None = None
            late = set()
            now = time.monotonic()
            if now - self._acquired_at > self._limits.max_age:
                reason = SourceInDanger(
                    f"The snapshot is older than snapshot.maxAge ({self._limits.max_age:g} s): it keeps the source "
                    "from cleaning up.",
                    hint="Raise maxAge, or make the job smaller or more parallel.",
                )
            else:
                try:
                    found = self._waiters()
                    since = {waiter: since.get(waiter, now) for waiter in found.ours | found.behind}
                    late = {waiter for waiter, then in since.items() if now - then >= self._limits.yield_to_ddl_after}
                    # Who waits comes first: looking for other dangers takes a while on a server that is busy.
                    reason = self._in_the_way(late & found.ours, now, since)
                    if reason is None and late:
                        self._let_through(late)
                    reason = reason or self._danger(now)
                except psycopg.Error as error:
                    reason = SnapshotLost(translate(error, "Holding the snapshot").message)
            if reason is not None:
                self._give_way(reason, late)
                return

    def _pause(self, waiting: Iterable[float]) -> float:
        """Return the seconds until the next look: as soon as one who has waited since then has waited long enough."""
        due = min(waiting, default=math.inf) + self._limits.yield_to_ddl_after - time.monotonic()
        return min(self._limits.poll, max(due, 0.01))

    def _in_the_way(
        self, late: set[LockWaiter], now: float, since: Mapping[LockWaiter, float]
    ) -> SourceInDanger | None:
        for waiter in sorted(late, key=lambda waiter: since[waiter]):
            return SourceInDanger(
                f"Backend {waiter.backend} has waited {now - since[waiter]:.0f} s to lock {waiter.relation} "
                "exclusively (DDL, TRUNCATE or VACUUM FULL): the job gave way.",
                hint="Run the job again, or raise limits.yieldToDDLAfter.",
            )
        return None

    def _let_through(self, late: set[LockWaiter]) -> None:
        """End sessions that block somebody who doesn't wait for the holder; their chunks are read again."""
        connection = self._connection
        if connection is not None and make_way(connection, [waiter.backend for waiter in late], self._family):
            names = ", ".join(sorted({waiter.relation for waiter in late}))
            self._say(f"Sessions that read were ended, because somebody waited for {names}.")

    def _give_way(self, reason: ExtractionError, late: set[LockWaiter]) -> None:
        self.lost = reason
        connection = self._connection
        with contextlib.suppress(psycopg.Error):
            if connection is not None:
                connection.execute("ROLLBACK")
        self._on_lost(reason)
        with contextlib.suppress(psycopg.Error):
            deadline = time.monotonic() + _MAKING_WAY_SECONDS
            # Again, because a session may have adopted the snapshot just before.
            while connection is not None and late and make_way(connection, [w.backend for w in late], self._family):
                if time.monotonic() > deadline or self._stop.wait(self._limits.poll):
                    break
        self._close()

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

    def _waiters(self) -> Waiters:
        if self._connection is None or self._target is None:
            return Waiters()
        return look(self._connection, self._target.oids, self._family)

    def _attached(self, query: str) -> SchemaDrift | None:
        """Return an error if something was attached to what was read since it was locked, where that was read, too."""
        connection, target = self._connection, self._target
        if connection is None or target is None or target.closed:
            return None
        found = connection.execute(query, {"oids": list(target.oids)}).fetchall()
        if not found:
            return None
        return SchemaDrift(
            f"{', '.join(str(name) for (name,) in found)} became part of what the job reads while it was read.",
            hint="Run the job again. Of a table, unlike of a view or a query, only what was planned is read.",
        )

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()
