"""Letting DDL through where no holder does it: the sessions that read are ended, and their chunks are read again.

Under ``PerPartition`` nobody has a lock for longer than a chunk takes. That is a moment, unless the source, or its
limits, are slow. So a process looks for who waits only while a chunk of its own has taken longer than anybody may wait;
then by a session of its own, if the budget has one to spare, and for all sessions of the job: one of its processes is
enough.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import psycopg

from extraction_worker.errors import ExtractionError
from extraction_worker.repeated import Repeated
from extraction_worker.source.session import SourceConnection, connect
from extraction_worker.source.settings import SourceSettings
from extraction_worker.source.slots import Claim
from extraction_worker.source.waiters import LockWaiter, make_way, waiting_longer_than

_POLL = 0.25
_KNOCK = 1.0
"""Seconds until somebody who found no slot, or another process that looks, tries again."""
_SINCE_WAITSTART = 140000


@dataclass(frozen=True)
class Yielding:
    """For whom a process gives way, and when.

    Parameters
    ----------
    family
        What the application names of all sessions of the job begin with.
    after
        Seconds that somebody may wait.
    """

    family: str
    after: float


class GivingWay:
    """Looks, in a thread of its own between :meth:`start` and :meth:`stop`, who waits for sessions that read.

    Parameters
    ----------
    oldest
        Returns since when, by ``clock``, the process reads the chunk that it has read for longest; None without any.
    say
        Told when sessions were ended, and why.
    """

    def __init__(
        self,
        settings: SourceSettings,
        yielding: Yielding,
        oldest: Callable[[], float | None],
        say: Callable[[str], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._family = yielding.family
        self._after = yielding.after
        self._oldest = oldest
        self._say = say
        self._clock = clock
        self._looks = Repeated("giving-way", self._look_again, _POLL, at_end=self._close)
        self._connection: SourceConnection | None = None
        self._since: dict[LockWaiter, float] = {}

    def start(self) -> None:
        """Start to look."""
        self._looks.start()

    def stop(self) -> None:
        """End the thread and its session. Idempotent."""
        self._looks.stop()

    def _look_again(self) -> float:
        try:
            return self.look()
        except (ExtractionError, psycopg.Error):
            # Readers have the same trouble, and tell it.
            self._close()
            return _KNOCK

    def look(self) -> float:
        """Look once, if it is time for that; return the seconds until the next look.

        Raises
        ------
        ExtractionError, psycopg.Error
            The server can't be asked.
        """
        begun = self._oldest()
        if begun is None or self._clock() - begun < self._after:
            self._close()
            return _POLL
        if self._connection is None:
            self._connection = connect(self._settings, Claim.SPARE)
            if not self._is_alone(self._connection):
                self._close()
                return _KNOCK
        late = self._late(self._connection)
        if late and make_way(self._connection, [waiter.backend for waiter in late], self._family):
            names = ", ".join(sorted({waiter.relation for waiter in late}))
            self._say(f"Sessions that read were ended, because somebody waited for {names}.")
        return _POLL

    def _is_alone(self, connection: SourceConnection) -> bool:
        """Whether no other process of the run looks."""
        slots = self._settings.slots
        if slots is None:
            return True
        row = connection.execute("SELECT pg_catalog.pg_try_advisory_lock(%s, 0)", [slots.yield_key]).fetchone()
        return row is not None and bool(row[0])

    def _late(self, connection: SourceConnection) -> list[LockWaiter]:
        if connection.info.server_version >= _SINCE_WAITSTART:
            return waiting_longer_than(connection, self._after)
        # An older server doesn't tell since when: somebody may have waited for as long as the chunk is read.
        now = self._clock()
        waiters = waiting_longer_than(connection, None)
        self._since = {waiter: self._since.get(waiter, now) for waiter in waiters}
        return [waiter for waiter, since in self._since.items() if now - since >= self._after]

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        self._since = {}
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()
