"""Slots: how the source itself bounds our sessions, whoever starts them and from wherever.

Each session takes a slot as the first thing that it does, and keeps it for its life: a session-level advisory lock
on ``(group key, slot)``, with ``slot < limit``. It works for every role, in read-only transactions and on standbys,
and the server releases it with the session, however that ends. A session that finds none free closes and comes back.

*Several databases.* Advisory locks are scoped to a database, a budget is the server's. But ``pg_locks`` shows the
locks of every database to every role, as one picture of one moment. So a session first takes a slot, then looks
whether somebody has the same one in another database, and gives it back if so: of two that take it at the same time
at least one sees the other, hence never do both keep it.

*No deadlock.* A job's holder keeps its slot while others of the job wait for theirs. So it takes two at once or
none: its own, and one that it *offers* to the sessions of its run, by a lock on ``(run key, slot)`` and by holding
the slot in shared mode only, so that one of them can share it. Whatever others do, a job that began can plan and
read; all other sessions hold nothing while they wait. No more than half as many jobs as there are slots begin.

What is decided is a generator of lock operations (:func:`claim_steps`), so that tests can interleave many of them;
:func:`take_slot` carries them out.
"""

import itertools
import math
import random
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, TypeVar

import psycopg
import xxhash

from extraction_worker.errors import InvalidManifest, SourceBusy

NAMESPACE = "extraction-operator/v1"
"""Before whatever is hashed to a key: other applications lock other keys."""
LEAST_FOR_A_JOB = 2
_TRIES = 4
_FIRST_WAIT, _LONGEST_WAIT = 0.25, 4.0

_Result = TypeVar("_Result")


class Claim(StrEnum):
    """What a session is for."""

    HOLD = "hold"
    """It keeps the job's snapshot: it needs another session beside it, so it takes two slots."""
    WORK = "work"
    """It plans or reads: it may share the slot that its run's holder offers."""
    SPARE = "spare"
    """The job can do without it: it leaves what is offered to those that it can't do without."""


@dataclass(frozen=True)
class SlotBudget:
    """How many sessions may exist at a time, together with whom.

    Parameters
    ----------
    group
        Of sources on one server that share the budget; the same name wherever jobs start.
    limit
        Slots.
    run
        Names one attempt of one job, in every process of it; empty where there is no holder.
    """

    group: str
    limit: int
    run: str = ""

    @property
    def group_key(self) -> int:
        """First key of the locks that are slots; the second one is the slot."""
        return _key("group", self.group)

    @property
    def run_key(self) -> int:
        """First key of the lock that offers a slot to the sessions of this run."""
        return _key("run", self.run)

    @property
    def yield_key(self) -> int:
        """First key of the lock of the process that looks, for all of this run, who waits for its readers."""
        return _key("yield", self.run)

    @property
    def rate_key(self) -> int:
        """First key of the locks by which the sessions of this run divide its bytes a second."""
        return _key("rate", self.run)


def _key(kind: str, name: str) -> int:
    """Return 31 bits of a hash that is the same everywhere: positive, so that ``pg_locks`` shows it as it is."""
    return xxhash.xxh3_64_intdigest(f"{NAMESPACE}/{kind}/{name}".encode()) >> 33


# What is decided -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """What one look at ``pg_locks`` shows, over all databases."""

    me: int
    """Our backend."""
    sessions: Mapping[int, frozenset[int]] = field(default_factory=dict)
    """Backends that have each slot, in whatever mode."""
    offers: Mapping[int, int] = field(default_factory=dict)
    """The slots that holders of our run offer, and their backends."""

    def free(self, limit: int) -> list[int]:
        """Return the slots that nobody has."""
        return [slot for slot in range(limit) if slot not in self.sessions]

    def others(self, slot: int) -> frozenset[int]:
        """Return who has a slot, besides us and besides the holder that offers it to us."""
        return self.sessions.get(slot, frozenset()) - {self.me, self.offers.get(slot, self.me)}


@dataclass(frozen=True)
class Look:
    """Answered by :class:`Seen`."""


@dataclass(frozen=True)
class Try:
    """Take a slot, unless another session of this database has it; answered by whether it was taken."""

    slot: int
    shared: bool = False


@dataclass(frozen=True)
class Release:
    """Give a slot back."""

    slot: int
    shared: bool = False


@dataclass(frozen=True)
class Offer:
    """Let one session of our run share a slot that we have."""

    slot: int


Step = Look | Try | Release | Offer
Steps = Generator[Step, Any, bool]


def claim_steps(limit: int, claim: Claim, pick: Callable[[Sequence[int]], int] = random.choice) -> Steps:
    """Yield lock operations; return whether the session may stay. If not, it has nothing.

    Parameters
    ----------
    pick
        Chooses one of the free slots.
    """
    for _ in range(_TRIES):
        seen: Seen = yield Look()
        if claim is Claim.WORK:
            for slot in seen.offers:
                if not seen.others(slot) and (yield from _taken([slot], shared=True)):
                    return True
        free = seen.free(limit)
        wanted = LEAST_FOR_A_JOB if claim is Claim.HOLD else 1
        if len(free) < wanted:
            return False
        slots: list[int] = []
        while len(slots) < wanted:
            slots.append(pick([slot for slot in free if slot not in slots]))
        if (yield from _taken(slots)):
            for slot in slots[1:]:
                yield Offer(slot)
            return True
    return False


def _taken(slots: list[int], *, shared: bool = False) -> Steps:
    """Take all slots, or none."""
    mine: list[int] = []
    for slot in slots:
        if not (yield Try(slot, shared)):
            break
        mine.append(slot)
    else:
        # Only now: whoever takes one of them in another database from here on sees us.
        seen: Seen = yield Look()
        if not any(seen.others(slot) for slot in slots):
            return True
    for slot in mine:
        yield Release(slot, shared)
    return False


# Carrying it out -------------------------------------------------------------------------------------------------

_LOOK = """
SELECT l.classid::pg_catalog.int8, l.objid::pg_catalog.int8, l.pid, pg_catalog.pg_backend_pid()
FROM (SELECT) AS one LEFT JOIN pg_catalog.pg_locks AS l
  ON l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted
 AND l.classid::pg_catalog.int8 IN ({group}, {run})
"""

# What the server itself lets this role have: a holder that gets a slot must find a connection for its reader, too.
# Superusers are bound by the whole alone.
_ROOM = """
SELECT LEAST(CASE WHEN r.rolconnlimit >= 0 AND NOT r.rolsuper THEN r.rolconnlimit END,
             CASE WHEN d.datconnlimit >= 0 AND NOT r.rolsuper THEN d.datconnlimit END,
             pg_catalog.current_setting('max_connections')::pg_catalog.int4
             - CASE WHEN r.rolsuper THEN 0
                    ELSE pg_catalog.current_setting('superuser_reserved_connections')::pg_catalog.int4
                         + COALESCE(pg_catalog.current_setting('reserved_connections', true)::pg_catalog.int4, 0) END)
FROM pg_catalog.pg_roles AS r, pg_catalog.pg_database AS d
WHERE r.rolname = SESSION_USER AND d.datname = pg_catalog.current_database()
"""

# Every role sees everybody's application_name.
_WHO = """
SELECT a.application_name, pg_catalog.count(*)
FROM pg_catalog.pg_stat_activity AS a
WHERE a.pid IN (SELECT l.pid FROM pg_catalog.pg_locks AS l
                WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.classid::pg_catalog.int8 = {group})
GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 6
"""


def take_slot(connection: psycopg.Connection[Any], budget: SlotBudget, claim: Claim) -> None:
    """Take what a session needs, for as long as it lives.

    Parameters
    ----------
    connection
        In autocommit mode, from its first statement on; the caller closes it after any error.

    Raises
    ------
    SourceBusy
        Every slot is taken; the message names the group, its limit and who has them.
    InvalidManifest
        No job can run under such a limit.
    psycopg.Error
        What the server said.
    """
    if claim is Claim.HOLD and budget.limit < LEAST_FOR_A_JOB:
        raise InvalidManifest(
            f"limits.maxConnections is {budget.limit}: a job needs one connection that holds the snapshot, and "
            "another one that reads.",
            hint=f"Set it to {LEAST_FOR_A_JOB} at least.",
        )
    budget = _as_enforced(connection, budget, claim)
    steps = claim_steps(budget.limit, claim)
    answer: object = None
    try:
        while True:
            answer = _carry_out(connection, budget, steps.send(answer))
    except StopIteration as end:
        if not end.value:
            raise _busy(connection, budget) from None


def _as_enforced(connection: psycopg.Connection[Any], budget: SlotBudget, claim: Claim) -> SlotBudget:
    """Return the budget with no more slots than the server gives connections.

    Otherwise holders could take all that the role may have, and wait for ever for one to read with.
    """
    room = _value(connection, _ROOM)
    if not isinstance(room, int) or room >= budget.limit:
        return budget
    if claim is Claim.HOLD and room < LEAST_FOR_A_JOB:
        raise InvalidManifest(
            f"The server lets this role have {room} connections: a job needs one that holds the snapshot, and another "
            "one that reads.",
            hint=f"Give {LEAST_FOR_A_JOB} at least: CONNECTION LIMIT of the role and the database, max_connections.",
        )
    return replace(budget, limit=room)


def _carry_out(connection: psycopg.Connection[Any], budget: SlotBudget, step: Step) -> object:
    match step:
        case Look():
            return _seen(connection, budget)
        case Try(slot, shared):
            return _value(
                connection, f"SELECT pg_catalog.pg_try_advisory_lock{_mode(shared)}({budget.group_key}, {slot})"
            )
        case Release(slot, shared):
            return _value(
                connection, f"SELECT pg_catalog.pg_advisory_unlock{_mode(shared)}({budget.group_key}, {slot})"
            )
        case Offer(slot):
            # Shared before the other mode goes: nobody can get in between.
            for call in (
                f"pg_try_advisory_lock_shared({budget.group_key}, {slot})",
                f"pg_advisory_unlock({budget.group_key}, {slot})",
                f"pg_try_advisory_lock({budget.run_key}, {slot})",
            ):
                _value(connection, f"SELECT pg_catalog.{call}")
            return None


def _mode(shared: bool) -> str:
    return "_shared" if shared else ""


def _value(connection: psycopg.Connection[Any], query: str) -> object:
    row = connection.execute(query.encode()).fetchone()
    return row[0] if row is not None else None


def _seen(connection: psycopg.Connection[Any], budget: SlotBudget) -> Seen:
    me = 0
    sessions: dict[int, set[int]] = {}
    offers: dict[int, int] = {}
    query = _LOOK.format(group=budget.group_key, run=budget.run_key)
    for key, slot, backend, mine in connection.execute(query.encode()):
        me = mine
        if key == budget.group_key:
            sessions.setdefault(slot, set()).add(backend)
        elif key is not None and budget.run:
            offers[slot] = backend
    return Seen(me, {slot: frozenset(backends) for slot, backends in sessions.items()}, offers)


def _busy(connection: psycopg.Connection[Any], budget: SlotBudget) -> SourceBusy:
    who = connection.execute(_WHO.format(group=budget.group_key).encode()).fetchall()
    names = [f"{name or 'a session without a name'}{f' ×{count}' if count > 1 else ''}" for name, count in who]
    return SourceBusy(
        f"The budget {budget.group} of {budget.limit} connections is used up"
        + (f": by {', '.join(names[:5])}{' and others' if len(names) > 5 else ''}." if names else "."),
        hint="This one waits for its turn; limits.maxConnections is how many there may be.",
    )


# Waiting for a turn ----------------------------------------------------------------------------------------------


def back_off(number: int, draw: Callable[[], float] = random.random) -> float:
    """Return the seconds before the next knock: the first ones soon, none later than a few seconds, with jitter.

    Who has waited for long mustn't fall behind those that just came, so it grows little.
    """
    return min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** min(number, 10)) * (0.5 + draw())


def patiently(
    call: Callable[[], _Result],
    *,
    wait: Callable[[float], object],
    say: Callable[[str], object],
    seconds: float = math.inf,
) -> _Result:
    """Repeat a call as long as its error is SourceBusy: to wait for one's turn is no failure.

    Parameters
    ----------
    wait
        Waits for so many seconds; raises to end the waiting.
    say
        Told once why it waits, and again when that changes.
    seconds
        After so much waiting the error is raised after all.
    """
    told, waited = "", 0.0
    for number in itertools.count():
        try:
            return call()
        except SourceBusy as busy:
            if str(busy) != told:
                told = str(busy)
                say(told)
            if waited >= seconds:
                raise
            pause = back_off(number)
            wait(pause)
            waited += pause
    raise AssertionError("counting doesn't end")
