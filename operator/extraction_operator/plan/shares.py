"""Who is next in line, and how many worker pods each job should have.

What waits is kept in queues of jobs with the same terms, and only their heads are looked at: whoever waits behind a job
that can't begin costs nothing.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import takewhile

from extraction_operator.plan.claims import Claim, Order, Terms
from extraction_operator.plan.values import Key


@dataclass(eq=False)
class Source:
    """The jobs of a source."""

    active: int = 0
    """How many have begun and not ended."""
    queues: dict[Terms, "Queue"] = field(default_factory=dict)
    """Those that wait: one queue, or some more while its jobs learn of a change."""

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(len(queue.jobs) for queue in self.queues.values())

    @property
    def groups(self) -> int:
        """In how many groups its jobs wait."""
        return len({terms.group for terms in self.queues})

    def ahead(self, order: Order) -> dict[Terms, int]:
        """Return how many jobs are in line before a place, by their terms."""
        heads = heads_of(self.queues.values())
        if len(heads) == 1:
            [(_, queue)] = heads
            number = min(bisect_left(queue.jobs, order), queue.terms.active_jobs - self.active)
            return {queue.terms: number} if number > 0 else {}
        return Counter(queue.terms for _, queue in takewhile(lambda head: head[0] < order, in_line(heads)))


@dataclass(eq=False)
class Queue:
    """Jobs of a source that wait on the same terms."""

    terms: Terms
    source: Source
    able: bool
    """Whether its limit and the cap are enough for a job at all."""
    jobs: list[Order] = field(default_factory=list)
    """Sorted."""


Head = tuple[Order, Queue]
"""The first job of a queue."""


def heads_of(queues: Iterable[Queue]) -> list[Head]:
    """Return the first job of each queue, in their order, but not of those that can never begin."""
    return sorted((queue.jobs[0], queue) for queue in queues if queue.able)


def in_line(heads: Iterable[Head], passed: Container[str] = ()) -> Iterator[Head]:
    """Yield the jobs that could begin if there were connections for them, in their order, each with its queue.

    Without those that wait for their source's number of jobs: they aren't in the way of others.

    Parameters
    ----------
    heads
        Of all queues, in their order.
    passed
        Groups of which no more are wanted; more may be put in while jobs are taken from the line.
    """
    begun: dict[Source, int] = {}
    # What comes next of each queue whose head was taken, and the first one of the heads that were not.
    coming: list[tuple[Order, int, Queue]] = []
    rest = iter(heads)
    place = 0
    while True:
        if place == 0 and (head := next(rest, None)):
            heappush(coming, (head[0], 0, head[1]))
        if not coming:
            return
        order, place, queue = heappop(coming)
        number = begun.get(queue.source, queue.source.active)
        if number < queue.terms.active_jobs and queue.terms.group not in passed:
            begun[queue.source] = number + 1
            yield order, queue
            if place + 1 < len(queue.jobs):
                heappush(coming, (queue.jobs[place + 1], place + 1, queue))


@dataclass(frozen=True)
class Shares:
    """How many worker pods each job should have, by the count of jobs; those that should wait have none."""

    pods: dict[Key, int]
    total: int
    """The connections of all of them."""
    beginning: tuple[Order, ...]
    """Those of them that wait, in their order."""
    blocked: dict[str, Order]
    """By group: the first job that doesn't fit."""
    end: Order | None
    """The first one for which the cap leaves no room; nobody behind it was looked at."""

    def is_behind(self, order: Order, group: str) -> bool:
        """Whether a job that waits there was of no account."""
        blocked = self.blocked.get(group)
        return (blocked is not None and order > blocked) or (self.end is not None and order > self.end)


def fair_shares(
    at_work: Iterable[Claim], heads: Iterable[Head], claim_of: Callable[[Order], Claim], cap: float, *,
    mixed: bool = False,
) -> Shares:  # fmt: skip
    """Return what is fair.

    A job that waits and should begin gets its share, too, so that those at work make room for it.

    Parameters
    ----------
    at_work
        In their order.
    heads
        Of all queues, in their order.
    claim_of
        Finds the claim of a job that waits.
    mixed
        Whether jobs of one source may wait in several groups. Then those whose group is full aren't passed over: they
        count among the jobs of their source.
    """
    members = list(at_work)
    spent = Counter[str]()
    for claim in members:
        spent[claim.group] += claim.least
    total = sum(spent.values())
    beginning: list[Order] = []
    blocked: dict[str, Order] = {}
    end = None
    for order, queue in in_line(heads, () if mixed else blocked):
        terms = queue.terms
        if terms.group in blocked:
            continue
        if spent[terms.group] + terms.least > terms.limit:
            # Whoever is behind it in its group waits, too, even if it would fit.
            blocked[terms.group] = order
            continue
        if total + terms.least > cap:
            end = order
            break
        beginning.append(order)
        members.append(claim_of(order))
        spent[terms.group] += terms.least
        total += terms.least
    pods = dict.fromkeys((claim.job for claim in members), 1)
    # Rounds: a pod for each, as long as somebody wants one and there is room.
    members = [claim for claim in members if claim.parallelism > 1]
    while members:
        growing = []
        for claim in members:
            if claim.pool <= min(claim.limit - spent[claim.group], cap - total):
                pods[claim.job] += 1
                spent[claim.group] += claim.pool
                total += claim.pool
                if pods[claim.job] < claim.parallelism:
                    growing.append(claim)
        members = growing
    return Shares(pods, total, tuple(beginning), blocked, end)
