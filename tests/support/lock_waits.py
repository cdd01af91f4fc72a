"""How long an application's statements wait behind an extraction, as the server sees it."""

import threading
import time
from dataclasses import dataclass
from typing import Self

import psycopg

_WAITS = """
SELECT l.pid, l.waitstart::text, date_part('epoch', clock_timestamp() - l.waitstart), pg_blocking_pids(l.pid),
       starts_with(a.application_name, 'extraction/'), a.query
FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE NOT l.granted AND l.waitstart IS NOT NULL AND a.datname = current_database()
"""
_OURS = "SELECT pid FROM pg_stat_activity WHERE starts_with(application_name, 'extraction/')"
_EVERY = 0.05
_LOOK = 0.02
"""Seconds that a look may take before the machine counts as late."""


@dataclass(frozen=True)
class Wait:
    """A statement that waited for a lock, behind sessions of ours. Times are seconds of the server's clock."""

    statement: str
    waited: float
    late: float
    """For how long of it the machine had no time: by that much looks were later than they were due."""


class LockWaits:
    """Looks at the locks of a database, again and again, from a thread and a session of its own (PostgreSQL 14+).

    A statement counts for as long as a session of ours stands in front of it, directly or in front of others for which
    it waits. What it waits afterwards, while the application's own statements run, is not for us. On a machine that
    has no time for a while, nobody can give way in time, and the looks are late by as much.
    """

    def __init__(self, database) -> None:
        self._connection = psycopg.connect(database.conninfo, autocommit=True)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lock-waits", daemon=True)
        self._late = 0.0
        self._begun: dict[tuple[int, str], float] = {}
        """How late all looks together had been before a wait was first seen."""
        self._found: dict[tuple[int, str], Wait] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)
        self._connection.close()

    @property
    def waits(self) -> list[Wait]:
        """What was seen, the longest first."""
        return sorted(self._found.values(), key=lambda wait: wait.waited, reverse=True)

    def longer_than(self, seconds: float) -> list[Wait]:
        """Return the waits that were longer, without what the machine was late."""
        return [wait for wait in self.waits if wait.waited - wait.late > seconds]

    def _run(self) -> None:
        looked = time.monotonic()
        while not self._stop.wait(_EVERY):
            before, now = self._late, time.monotonic()
            self._late += max(0.0, now - looked - _EVERY - _LOOK)
            looked = now
            self._look(before)

    def _look(self, before: float) -> None:
        ours = {pid for (pid,) in self._connection.execute(_OURS).fetchall()}
        rows = self._connection.execute(_WAITS).fetchall()
        behind = _behind(ours, {pid: set(blockers) for pid, _, _, blockers, _, _ in rows})
        for pid, since, waited, _, is_ours, statement in rows:
            if is_ours or pid not in behind:
                continue
            begun = self._begun.setdefault((pid, since), before)
            self._found[pid, since] = Wait(statement, waited, self._late - begun)


def _behind(ours: set[int], blockers: dict[int, set[int]]) -> set[int]:
    """Return who waits for sessions of ours, directly or behind others."""
    found: set[int] = set()
    while more := {pid for pid, ahead in blockers.items() if ahead & (ours | found)} - found:
        found |= more
    return found
