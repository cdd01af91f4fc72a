"""Shares: how the processes of one job, in whatever pods, divide the bytes a second that the job may read.

Nobody knows how many pods there are: they come and go, and the operator changes their number. So the source tells:
each process has its *part* of the rate as a session-level advisory lock on ``(key of the run, code of the part)``,
which the others see in ``pg_locks`` and which goes with the session, however that ends. One at a time changes its
part, and takes no more than what is left: parts never add up to more than the whole.

A session that reads can't look meanwhile, and a chunk may take a minute. So while a process uses its part up, one of
its sessions, the *keeper*, reads nothing: it looks twice a second, takes what others leave and gives what they lack.
One session less reads as much then. A process that doesn't use its part up reads with all of them.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol, cast

from extraction_worker.errors import Interrupted
from extraction_worker.source.rate import ByteRate
from extraction_worker.source.session import ReadSession
from extraction_worker.source.slots import SlotBudget

UNITS = 1_000_000
"""Of the whole rate."""
_TURN = (1 << 31) - 1
"""Second key of the lock under which one session at a time changes its part."""
_LOOK = 0.5
"""Seconds between two looks; longer where there are many, so that the source isn't asked more often for it."""
_MANY = 8
_PAUSE = 0.05
"""Seconds between two looks at what the other threads of the process do."""
_NOTHING_YET = 0.2
"""Seconds between two looks of who has no part yet."""
_PATIENCE = 0.6
"""When for so many seconds nobody had to wait for the rate, the keeper reads, too."""
_LATELY = 5.0
"""Seconds over which is judged whether a process uses its part up."""
_MOSTLY = 0.8
_AGAIN = 1.0
"""Seconds after which a session that may be the keeper's is asked for again, if there is something to look for."""

Decide = Callable[[Sequence["Part"]], "Part"]
"""From the parts of all others to one's own."""


@dataclass(frozen=True)
class Part:
    """What a process tells the others."""

    weight: int
    """How much it gets where all want more, against the weights of the others; 1 to 15."""
    units: int = 0
    """What it may read, of :data:`UNITS`. Nothing before it has found anything left."""
    wants: bool = True
    """Whether it uses that up."""

    @property
    def code(self) -> int:
        """Return the second key of the lock that says so."""
        return self.weight << 21 | self.units << 1 | self.wants

    @classmethod
    def of(cls, code: int) -> "Part":
        """Return what a lock says."""
        return cls(code >> 21, code >> 1 & (1 << 20) - 1, bool(code & 1))


def weight_of(bundle: int) -> int:
    """Return the weight of the pod that works a bundle.

    Pods begin together and have as much to do. With equal parts they would end together, too, and nobody would read
    until others have started.
    """
    return 8 + bundle * 5 % 8


def units_for(mine: Part, others: Sequence[Part], used: int) -> int:
    """Return how many units a process should have.

    All that want more share evenly, by their weights, what those have left over that don't. Of those each keeps what it
    has until somebody wants more, and then a little more than it uses. Who has nothing yet waits for half of what it
    should have, at the least.

    Parameters
    ----------
    used
        What it has used lately.
    """
    free = UNITS - sum(other.units for other in others)
    wanting = [other for other in others if other.wants]
    if mine.wants:
        shared = UNITS - sum(other.units for other in others if not other.wants)
        wanted = shared * mine.weight // (mine.weight + sum(other.weight for other in wanting))
    elif wanting:
        # An eighth of an even share: to have next to nothing is to wait for ever.
        least = UNITS // (8 * (1 + len(others)))
        wanted = min(mine.units, max(used * 3 // 2, least))
    else:
        wanted = mine.units
    units = min(wanted, free)
    return units if mine.units or 2 * units >= wanted else 0


class Board(Protocol):
    """Where processes tell each other of their parts; each speaks with a session of its own."""

    def others(self, session: ReadSession) -> Sequence[Part]:
        """Return the parts of all others."""

    def show(self, session: ReadSession, part: Part) -> None:
        """Begin to take part, with nothing."""

    def change(self, session: ReadSession, part: Part, decide: Decide) -> Part | None:
        """Exchange one's part for another one while nobody else does; None where somebody else just does that."""


_OTHERS = """
SELECT COALESCE(pg_catalog.array_agg(l.objid::pg_catalog.int8), '{{}}'::pg_catalog.int8[])
FROM pg_catalog.pg_locks AS l
WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted AND l.classid::pg_catalog.int8 = {key}
  AND l.objid::pg_catalog.int8 <> {turn} AND l.pid <> pg_catalog.pg_backend_pid()
  AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database())
"""
# In this database alone, as all sessions of a job are.


class LockBoard:
    """The board that the source is.

    Parameters
    ----------
    budget
        Names the run.
    """

    def __init__(self, budget: SlotBudget) -> None:
        self._key = budget.rate_key

    def others(self, session: ReadSession) -> Sequence[Part]:
        """Return the parts of all others.

        Raises
        ------
        Transient, Terminal
            The connection has ended; so it is below.
        """
        [codes] = session.row(_OTHERS.format(key=self._key, turn=_TURN))
        return [Part.of(code) for code in cast("list[int]", codes)]

    def show(self, session: ReadSession, part: Part) -> None:
        """Begin to take part, with nothing."""
        session.row(f"SELECT {self._take(part)}")

    def change(self, session: ReadSession, part: Part, decide: Decide) -> Part | None:
        """Exchange one's part for another one while nobody else does; None where somebody else just does that."""
        if session.row(f"SELECT pg_catalog.pg_try_advisory_lock({self._key}, {_TURN})") != (True,):
            return None
        new = decide(self.others(session))
        calls = [f"pg_catalog.pg_advisory_unlock({self._key}, {_TURN})"]
        if new != part:
            calls = [self._take(new), f"pg_catalog.pg_advisory_unlock_shared({self._key}, {part.code})", *calls]
        session.row(f"SELECT {', '.join(calls)}")
        return new

    def _take(self, part: Part) -> str:
        # Shared: others may have the same.
        return f"pg_catalog.pg_try_advisory_lock_shared({self._key}, {part.code})"


class RateShare:
    """The part that this process has of a rate, and its sessions: who reads takes one of them from here.

    Parameters
    ----------
    rate
        Of this process; its share is changed from here.
    weight
        :func:`weight_of` what it works.
    sessions
        Checks a session out.
    lanes
        How many there are.
    """

    def __init__(
        self,
        board: Board,
        rate: ByteRate,
        weight: int,
        sessions: Callable[[], AbstractContextManager[ReadSession]],
        lanes: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._board = board
        self._rate = rate
        self._sessions = sessions
        self._lanes = lanes
        self._clock = clock
        self._lock = threading.Lock()
        self._reading = self._waiting = 0
        self._keeps = False
        """Whether one lane is the keeper's."""
        self._failure: Exception | None = None
        self._keeper: ReadSession | None = None
        """The session that has the lock, whoever uses it now."""
        self._nothing = self._part = Part(weight)
        rate.share = 0.0
        self._next_look = self._looked = 0.0
        self._contended = False
        """Whether somebody else wants more than he has."""
        self._taken: deque[tuple[float, float]] = deque()
        """When it looked, and what had been taken by then: of the last seconds, and one from before them."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self.keep, args=(self._pause,), name="keeper", daemon=True)

    def start(self) -> None:
        """Have the process take part from now on, in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Take no part any more; the lock goes with its session."""
        self._ended.set()
        self._thread.join(timeout=5)

    def _pause(self, seconds: float) -> None:
        if self._ended.wait(seconds):
            raise Interrupted("Stopped.")

    # Those that read -----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def session(self, wait: Callable[[float], object]) -> Iterator[ReadSession]:
        """Check a session out for a chunk, once the process has its part and the keeper can do without that session.

        Parameters
        ----------
        wait
            Waits for so many seconds; raises to end the waiting.

        Raises
        ------
        Transient, Terminal
            Why there is none, or why the process has no part.
        """
        with contextlib.ExitStack() as lane:
            with self._waits():
                while not self._takes_lane():
                    wait(_PAUSE)
                lane.callback(self._leave_lane)
                session = lane.enter_context(self._sessions())
            yield session

    @contextlib.contextmanager
    def _waits(self) -> Iterator[None]:
        with self._lock:
            self._waiting += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1

    def _takes_lane(self) -> bool:
        with self._lock:
            if not self._part.units and self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            if not self._part.units or self._reading >= self._lanes - self._keeps:
                return False
            self._reading += 1
            return True

    def _leave_lane(self) -> None:
        with self._lock:
            self._reading -= 1

    # The keeper ----------------------------------------------------------------------------------------------------

    def keep(self, wait: Callable[[float], object]) -> None:
        """Have the process take part, until ``wait`` raises Interrupted.

        Parameters
        ----------
        wait
            Waits for so many seconds.
        """
        with contextlib.suppress(Interrupted):
            while True:
                self._keep_once(wait)
                wait(_AGAIN)
                while not self._has_to_look():
                    wait(_AGAIN)

    def _keep_once(self, wait: Callable[[float], object]) -> None:
        self._keeps = True
        try:
            while not self._has_lane():
                wait(_PAUSE)
            with self._sessions() as session:
                # The session is as good as before.
                interrupted = self._held(session, wait)
            self._failure = None
            if interrupted is not None:
                raise interrupted
        except Interrupted:
            raise
        except Exception as error:  # noqa: BLE001 - those that read tell of it, where they can't do without
            self._failure = error
        finally:
            self._keeps = False

    def _has_lane(self) -> bool:
        with self._lock:
            return self._reading < self._lanes

    def _has_to_look(self) -> bool:
        keeper = self._keeper
        if keeper is None or keeper.is_closed or not self._part.units:
            return True
        return self._rate.unhindered < _PATIENCE or self._clock() - self._looked >= _LATELY

    def _held(self, session: ReadSession, wait: Callable[[float], object]) -> Interrupted | None:
        """Hold; return what ended that from outside, if anything did."""
        try:
            self._hold(session, wait)
        except Interrupted as interrupted:
            return interrupted
        return None

    def _hold(self, session: ReadSession, wait: Callable[[float], object]) -> None:
        """Look, as long as that is worth more than what the session could read."""
        if self._keeper is None or self._keeper.is_closed:
            # Its lock went with it. What others read meanwhile is read at the former rate.
            self._part, self._next_look = self._nothing, self._clock()
            self._board.show(session, self._part)
            self._keeper = session
        if self._keeper is not session:
            return
        while True:
            if self._clock() >= self._next_look:
                self._look(session, self._clock())
            if self._part.units and (self._lanes == 1 or self._can_read_more()):
                return
            wait(_PAUSE)

    def _can_read_more(self) -> bool:
        """Whether another session would read more. Where others want more, they get first what was left until now."""
        if not self._waiting or self._rate.unhindered < _PATIENCE:
            return False
        return not self._contended or not self._part.wants

    def _look(self, session: ReadSession, now: float) -> None:
        self._looked, before = now, self._part.units
        self._taken.append((now, self._rate.taken))
        while len(self._taken) > 1 and self._taken[1][0] <= now - _LATELY:
            self._taken.popleft()
        used = self._used(now)
        # Until that is known it is as it was.
        wants = self._part.wants if used is None else used >= _MOSTLY * self._part.units
        mine = replace(self._part, wants=wants)

        def decide(others: Sequence[Part]) -> Part:
            # When the keeper reads, too, it is more by one session's.
            return replace(mine, units=units_for(mine, others, (used or 0) * self._lanes // max(1, self._lanes - 1)))

        others = self._board.others(session)
        self._contended = any(other.wants for other in others)
        changed: Part | None = self._part
        if decide(others) != self._part:
            changed = self._board.change(session, self._part, decide)
            self._part = changed or self._part
        if changed is None or not changed.units:
            # Another one's turn, or nothing is left: others give some of theirs with their next looks.
            self._next_look = now + _NOTHING_YET
            return
        self._rate.share = changed.units / UNITS
        if changed.units > before:
            # Of what it had before it can't have used more.
            self._taken = deque([(now, self._rate.taken)])
        self._next_look = now + _LOOK * max(1.0, (1 + len(others)) / _MANY)

    def _used(self, now: float) -> int | None:
        """Return what the process has used lately; None where it hasn't had its part for so long."""
        then, taken = self._taken[0]
        if not self._part.units or now - then < _LATELY:
            return None
        return int(UNITS * (self._taken[-1][1] - taken) / (now - then))
