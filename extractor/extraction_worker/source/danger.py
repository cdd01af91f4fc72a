"""Signs that a source is in trouble, seen from within our own transactions, and what we do about them.

A holder *gives way* where its snapshot or its locks stand in somebody's way for too long; whoever reads *slows down*
where the source has little left to give. A look is a few short statements; each is bounded, and runs in a
subtransaction, because an error of it mustn't end the snapshot. What a role can't see is switched off, and said.

Two things need care in a long transaction: ``pg_stat_activity`` is a picture of its first use until it is cleared,
and ``age()`` counts from the moment at which the transaction first asked. So the age of our snapshot is counted from
the last checkpoint's next transaction id, which is some minutes old at most.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg

_STATEMENT_TIMEOUT = "1s"


@dataclass(frozen=True)
class Protection:
    """When to slow down and when to give way. Times are seconds."""

    slow_at_replication_lag: float = 30.0
    yield_at_replication_lag: float = 300.0
    yield_at_snapshot_age: int = 100_000_000
    """Transactions that the server has begun since."""
    yield_to_index_build_after: float = 60.0
    slow_at_free_connections: int = 3


@dataclass(frozen=True)
class Waiter:
    """A session that waits until our transaction ends."""

    backend: int
    name: str
    """``USER (APPLICATION)``."""


@dataclass(frozen=True)
class Signs:
    """What one look found; None is what isn't known."""

    index_builds: tuple[Waiter, ...] = ()
    """``CREATE INDEX CONCURRENTLY`` and its kin wait for the snapshots of before to end."""
    lag: float | None = None
    """Seconds by which the slowest replica is behind, or this one if it is a replica."""
    replica: str = ""
    """Name of that replica."""
    snapshot_age: int | None = None
    """Transactions since our snapshot."""
    free_connections: int | None = None
    """What others than superusers can still open."""


@dataclass
class Judge:
    """Compares signs with thresholds. Remembers since when somebody waits.

    Parameters
    ----------
    protection
        The thresholds.
    """

    protection: Protection
    _waiting: dict[int, float] = field(default_factory=dict)
    _lagged: int = 0

    def reason_to_slow(self, signs: Signs) -> str:
        """Return why to slow down, a sentence; empty where all is well."""
        limits = self.protection
        if signs.lag is not None and signs.lag >= limits.slow_at_replication_lag:
            return f"Replica {signs.replica or 'of the source'} is {signs.lag:.0f} s behind."
        if signs.free_connections is not None and signs.free_connections < limits.slow_at_free_connections:
            return f"The server has {max(0, signs.free_connections)} connections left for everybody else."
        return ""

    def reason_to_yield(self, signs: Signs, now: float) -> str:
        """Return why to give way, a sentence; empty where all is well.

        Parameters
        ----------
        now
            Seconds of a monotonic clock.
        """
        limits = self.protection
        self._waiting = {waiter.backend: self._waiting.get(waiter.backend, now) for waiter in signs.index_builds}
        for waiter in signs.index_builds:
            waited = now - self._waiting[waiter.backend]
            if waited >= limits.yield_to_index_build_after:
                return (
                    f"Backend {waiter.backend} of {waiter.name} has waited {waited:.0f} s for the snapshot to end "
                    "(CREATE INDEX CONCURRENTLY or the like)"
                )
        if signs.snapshot_age is not None and signs.snapshot_age >= limits.yield_at_snapshot_age:
            return f"The server has begun {signs.snapshot_age:,} transactions since the snapshot: VACUUM waits for it"
        behind = signs.lag is not None and signs.lag >= limits.yield_at_replication_lag
        # Twice in a row: the first report of a replica that comes back is old.
        self._lagged = self._lagged + 1 if behind else 0
        if self._lagged >= 2:
            return f"Replica {signs.replica or 'of the source'} is {signs.lag:.0f} s behind"
        return ""


# Looking ---------------------------------------------------------------------------------------------------------

_INDEX_BUILDS = """
SELECT l.pid, COALESCE(a.usename, '?') || ' (' || COALESCE(a.application_name, '') || ')'
FROM pg_catalog.pg_locks AS l LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'virtualxid' AND NOT l.granted
  AND l.virtualxid IN (SELECT o.virtualxid FROM pg_catalog.pg_locks AS o
                       WHERE o.locktype = 'virtualxid' AND o.granted AND o.pid = pg_catalog.pg_backend_pid())
"""

# A replica's state is hidden from roles without pg_monitor (or pg_read_all_stats); its row isn't.
_LAG_OF_REPLICAS = """
SELECT pg_catalog.count(*), pg_catalog.count(r.state),
       (pg_catalog.array_agg(r.application_name ORDER BY r.replay_lag DESC NULLS LAST))[1],
       pg_catalog.date_part('epoch', pg_catalog.max(r.replay_lag))
FROM pg_catalog.pg_stat_replication AS r
"""

# What came and isn't replayed; a replica whose primary is silent isn't behind.
_OWN_LAG = """
SELECT CASE WHEN pg_catalog.pg_last_wal_receive_lsn() = pg_catalog.pg_last_wal_replay_lsn() THEN 0
            ELSE pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()
                                      - pg_catalog.pg_last_xact_replay_timestamp()) END
"""

_SNAPSHOT_AGE = """
SELECT a.backend_xmin::pg_catalog.text::pg_catalog.int8,
       pg_catalog.split_part((SELECT next_xid FROM pg_catalog.pg_control_checkpoint()), ':', 2)::pg_catalog.int8
FROM pg_catalog.pg_stat_activity AS a WHERE a.pid = pg_catalog.pg_backend_pid()
"""

_FREE_CONNECTIONS = """
SELECT pg_catalog.current_setting('max_connections')::pg_catalog.int8
       - pg_catalog.current_setting('superuser_reserved_connections')::pg_catalog.int8
       - COALESCE(pg_catalog.current_setting('reserved_connections', true)::pg_catalog.int8, 0)
       - (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity AS a
          WHERE a.datid IS NOT NULL AND a.usesysid IS NOT NULL)
"""


class Lookout:
    """Looks for signs from within a transaction of ours.

    Parameters
    ----------
    say
        Told, once each, what can't be seen and why.
    """

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say
        self._off: set[str] = set()

    def look(self, connection: psycopg.Connection[Any], *, holds: bool) -> Signs:
        """Return what can be seen now.

        Parameters
        ----------
        connection
            In a transaction, which goes on whatever happens to a look.
        holds
            Whether it is the transaction that keeps the snapshot.

        Raises
        ------
        psycopg.Error
            The transaction or the connection has ended.
        """
        lag, replica = self._lag(connection)
        free = self._row(connection, "free connections", _FREE_CONNECTIONS)
        signs = Signs(lag=lag, replica=replica, free_connections=int(free[0]) if free else None)
        if not holds:
            return signs
        builds = self._rows(connection, "waiting index builds", _INDEX_BUILDS)
        return Signs(
            index_builds=tuple(Waiter(int(pid), str(name)) for pid, name in builds or ()),
            lag=signs.lag,
            replica=signs.replica,
            snapshot_age=self._snapshot_age(connection),
            free_connections=signs.free_connections,
        )

    def _lag(self, connection: psycopg.Connection[Any]) -> tuple[float | None, str]:
        what = "replication lag"
        recovering = self._row(connection, what, "SELECT pg_catalog.pg_is_in_recovery()")
        if recovering and recovering[0]:
            own = self._row(connection, what, _OWN_LAG)
            return (float(own[0]), "") if own and own[0] is not None else (None, "")
        found = self._row(connection, what, _LAG_OF_REPLICAS)
        if not found:
            return None, ""
        replicas, visible, name, lag = found
        if replicas and not visible:
            self._switch_off(what, "the role isn't a member of pg_monitor")
        return (float(lag), str(name or "")) if lag is not None else (None, "")

    def _snapshot_age(self, connection: psycopg.Connection[Any]) -> int | None:
        found = self._row(connection, "age of the snapshot", _SNAPSHOT_AGE)
        if not found or found[0] is None:
            return None
        age = (int(found[1]) - int(found[0])) % (1 << 32)
        # The last checkpoint may be older than the snapshot.
        return age if age < 1 << 31 else 0

    def _row(self, connection: psycopg.Connection[Any], what: str, query: str) -> tuple[Any, ...] | None:
        rows = self._rows(connection, what, query)
        return rows[0] if rows else None

    def _rows(self, connection: psycopg.Connection[Any], what: str, query: str) -> list[tuple[Any, ...]] | None:
        if what in self._off:
            return None
        connection.execute("SAVEPOINT extraction_look")
        try:
            connection.execute(f"SET LOCAL statement_timeout = '{_STATEMENT_TIMEOUT}'")
            connection.execute("SELECT pg_catalog.pg_stat_clear_snapshot()")
            return connection.execute(query.encode()).fetchall()
        except psycopg.errors.InsufficientPrivilege:
            self._switch_off(what, "the role may not see it")
            return None
        except psycopg.errors.QueryCanceled:
            return None  # a busy server; the next look may be luckier
        finally:
            # The time-out goes with it.
            connection.execute("ROLLBACK TO SAVEPOINT extraction_look")
            connection.execute("RELEASE SAVEPOINT extraction_look")

    def _switch_off(self, what: str, why: str) -> None:
        if what not in self._off:
            self._off.add(what)
            self._say(f"The source isn't watched for {what}: {why}.")


class Pacer:
    """Lets a process that reads slow down while the source is in trouble. Safe for threads.

    Parameters
    ----------
    slow
        Called with True when it is time to slow down, and with False when all is well again.
    say
        Told why.
    every
        Seconds between two looks, over all threads.
    """

    def __init__(
        self,
        protection: Protection,
        slow: Callable[[bool], object],
        say: Callable[[str], object],
        *,
        every: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._judge = Judge(protection)
        self._lookout = Lookout(say)
        self._slow = slow
        self._say = say
        self._every = every
        self._clock = clock
        self._lock = threading.Lock()
        self._next = 0.0
        self._reason = ""

    def look(self, connection: psycopg.Connection[Any]) -> None:
        """Look, unless somebody just did; slow down or go on.

        Raises
        ------
        psycopg.Error
            The transaction or the connection has ended.
        """
        with self._lock:
            if self._clock() < self._next:
                return
            self._next = self._clock() + self._every
            reason = self._judge.reason_to_slow(self._lookout.look(connection, holds=False))
            if bool(reason) != bool(self._reason):
                self._slow(bool(reason))
                self._say(f"{reason} Reading at half speed." if reason else "The source is well: at full speed again.")
            self._reason = reason
