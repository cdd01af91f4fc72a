"""Who waits for an exclusive lock behind sessions of ours, and how those are ended that stand in the way.

The holder sees both: its own lock, which lasts as long as the snapshot, and those of the sessions that read, each of
which lasts as long as a chunk. A slow chunk would make DDL, and the application behind it, wait long after the holder
gave way. Cancelling isn't enough: a session that waits for its client to take data doesn't notice.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import psycopg


@dataclass(frozen=True)
class LockWaiter:
    """A session that waits to lock a relation exclusively."""

    backend: int
    relation: str


# Of all modes, only this one conflicts with the ACCESS SHARE of readers.
_WAITERS = """
SELECT l.pid, l.relation::pg_catalog.regclass::pg_catalog.text, l.relation::pg_catalog.int8
FROM pg_catalog.pg_locks AS l
WHERE NOT l.granted AND l.mode = 'AccessExclusiveLock' AND l.locktype = 'relation'
  AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
"""

_LATE = "AND l.waitstart <= pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => %s)"

_BLOCKERS = """
FROM pg_catalog.unnest(%(waiters)s::pg_catalog.int4[]) AS w(pid)
CROSS JOIN LATERAL pg_catalog.unnest(pg_catalog.pg_blocking_pids(w.pid)) AS b(pid)
JOIN pg_catalog.pg_stat_activity AS a ON a.pid = b.pid
WHERE a.usename = current_user AND a.pid <> pg_catalog.pg_backend_pid()
  AND (a.application_name = %(family)s OR pg_catalog.starts_with(a.application_name, %(family)s || '/'))
"""


@dataclass(frozen=True)
class Waiters:
    """Who waits now.

    ``ours`` wait for what the holder has locked. ``behind`` wait for what only sessions that read have locked: the
    planner locks every index of a table, and a chunk's values may come from its TOAST table.
    """

    ours: frozenset[LockWaiter] = frozenset()
    behind: frozenset[LockWaiter] = frozenset()


def look(connection: psycopg.Connection[Any], locked: Collection[int], family: str) -> Waiters:
    """Return who waits for us.

    Parameters
    ----------
    locked
        Relations that the holder has locked.
    family
        What the application names of all sessions of the job begin with.
    """
    ours: set[LockWaiter] = set()
    others: set[LockWaiter] = set()
    for pid, relation, oid in connection.execute(_WAITERS).fetchall():
        (ours if int(oid) in locked else others).add(LockWaiter(int(pid), str(relation)))
    blocked = _blocked(connection, {waiter.backend for waiter in others}, family) if others else set()
    return Waiters(frozenset(ours), frozenset(waiter for waiter in others if waiter.backend in blocked))


def waiting_longer_than(connection: psycopg.Connection[Any], seconds: float | None) -> list[LockWaiter]:
    """Return who has waited for so long, for whomever (PostgreSQL 14+); with None, all that wait."""
    if seconds is None:
        rows = connection.execute(_WAITERS).fetchall()
    else:
        rows = connection.execute(f"{_WAITERS} {_LATE}", [seconds]).fetchall()
    return [LockWaiter(int(pid), str(relation)) for pid, relation, _ in rows]


def make_way(connection: psycopg.Connection[Any], waiters: Iterable[int], family: str) -> int:
    """End the job's sessions that block these backends; return how many were told to end. Ours isn't among them."""
    _forget_activity(connection)
    row = connection.execute(
        f"SELECT pg_catalog.count(pg_catalog.pg_terminate_backend(a.pid)) {_BLOCKERS}",
        {"waiters": list(waiters), "family": family},
    ).fetchone()
    return int(row[0]) if row else 0


def _blocked(connection: psycopg.Connection[Any], waiters: set[int], family: str) -> set[int]:
    _forget_activity(connection)
    rows = connection.execute(
        f"SELECT DISTINCT w.pid {_BLOCKERS}", {"waiters": list(waiters), "family": family}
    ).fetchall()
    return {int(pid) for (pid,) in rows}


def _forget_activity(connection: psycopg.Connection[Any]) -> None:
    # Within a transaction, pg_stat_activity is a picture of its first use.
    connection.execute("SELECT pg_catalog.pg_stat_clear_snapshot()")
