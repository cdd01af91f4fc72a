"""Shares: how the sessions of one job, in whatever pods, divide the bytes a second that the job may read.

Nobody knows how many pods there are: they come and go, and the operator changes their number. So the source tells: each
session that reads takes a *share* for one transaction, by an advisory lock on ``(key of the run, units)`` that others
see in ``pg_locks`` and that goes with the transaction, however that ends. Shares never add up to more than the whole.
Who finds too little left waits, and by waiting is counted: the others take less with their next chunk.
"""

from collections.abc import Callable

from extraction_worker.source.session import ReadSession
from extraction_worker.source.slots import SlotBudget

UNITS = 1_000_000
"""Of the whole."""
_TURN = (1 << 31) - 1
"""Second key of the lock under which one session at a time looks and takes."""
_PAUSE = 0.1

# A session is there with 0 units before it has any; in this database alone, as all sessions of a job are.
_LOOK = """
SELECT COALESCE(pg_catalog.sum(s.units) FILTER (WHERE s.pid <> pg_catalog.pg_backend_pid()), 0)::pg_catalog.int8,
       pg_catalog.count(*),
       pg_catalog.count(*) FILTER (WHERE s.units = 0 AND s.pid <> pg_catalog.pg_backend_pid())
FROM (SELECT l.pid, pg_catalog.max(l.objid::pg_catalog.int8) AS units FROM pg_catalog.pg_locks AS l
      WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted AND l.classid::pg_catalog.int8 = {key}
        AND l.objid::pg_catalog.int8 <= {units}
        AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database())
      GROUP BY l.pid) AS s
"""


def take_share(session: ReadSession, budget: SlotBudget, wait: Callable[[float], object]) -> float:
    """Return the share of the job's rate that this session has until its transaction ends, above 0 and at most 1.

    Parameters
    ----------
    session
        In a transaction.
    wait
        Waits for so many seconds; raises to end the waiting.

    Raises
    ------
    Transient, Terminal
        The transaction or the connection has ended.
    """
    key = budget.rate_key
    session.row(f"SELECT pg_catalog.pg_try_advisory_xact_lock_shared({key}, 0)")
    while True:
        if session.row(f"SELECT pg_catalog.pg_try_advisory_lock({key}, {_TURN})") == (True,):
            found = session.row(_LOOK.format(key=key, units=UNITS))
            others, sessions, waiting = (int(str(number)) for number in found)
            units = fair_units(others, sessions, waiting)
            take = f"pg_catalog.pg_try_advisory_xact_lock_shared({key}, {units})"
            session.row(f"SELECT {take}, pg_catalog.pg_advisory_unlock({key}, {_TURN})")
            if units:
                return units / UNITS
        wait(_PAUSE)


def fair_units(others: int, sessions: int, waiting: int) -> int:
    """Return how many units a session takes: an even share, or what is left if that is half of one; else 0.

    Where others have less than that, and nobody waits, it takes half of what would be unused besides: so the rate is
    used, and shares become even as chunks end.

    Parameters
    ----------
    others
        Units that others have.
    sessions
        How many read or wait, this one with them.
    waiting
        How many others have none yet.
    """
    fair, free = UNITS // sessions, UNITS - others
    if free > fair and not waiting:
        return fair + (free - fair) // 2
    return min(fair, free) if 2 * free >= fair else 0
