"""Who is at work and who waits, with the sums over them. Nothing is decided here.

Sums and sorted lists are kept up to date where a job changes, so that no question has to look at all jobs. What
follows from them for a whole group is found by :mod:`extraction_operator.plan.outlook`, which is told here what is out
of date.
"""

from bisect import bisect_left, insort
from dataclasses import dataclass, field
from datetime import datetime

from extraction_operator.plan.claims import Claim, Order, Terms
from extraction_operator.plan.shares import Head, Queue, Shares, Source
from extraction_operator.plan.values import Key


@dataclass(eq=False)
class Entry:
    """A job. It changes in the ledger's methods alone."""

    claim: Claim
    active: bool = False
    """Whether it has begun."""
    share: int = 1
    """Worker pods."""
    changed: datetime | None = None
    """When a worker Job was resized last."""

    @property
    def reserved(self) -> int:
        """Connections that it was promised, or still uses."""
        return max(1 + self.share * self.claim.pool, self.claim.used) if self.active else 0


@dataclass
class Sums:
    """Connections of a group, or of all."""

    jobs: int = 0
    """What jobs were promised, or still use."""
    checks: int = 0
    """Of checks that run: one each."""
    waiting_checks: int = 0

    @property
    def reserved(self) -> int:
        """How many are promised or in use."""
        return self.jobs + self.checks

    @property
    def wanted(self) -> int:
        """How many are as good as gone for jobs: checks that wait come first."""
        return self.jobs + self.checks + self.waiting_checks


@dataclass(eq=False)
class Group:
    """The jobs and the checks that share one limit. Lists are sorted."""

    sums: Sums = field(default_factory=Sums)
    active: list[Order] = field(default_factory=list)
    waiting: list[Order] = field(default_factory=list)
    queues: dict[Terms, Queue] = field(default_factory=dict)
    """Those that wait once more, by their terms."""
    shares: Shares | None = None
    """What would be fair if there were no cap; None when that has to be found anew."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to know of it."""
        return not (self.active or self.waiting or self.sums.checks or self.sums.waiting_checks)


class Ledger:
    """The jobs and sums of one operator.

    Parameters
    ----------
    cap
        The most connections over all groups.
    """

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self.entries: dict[Key, Entry] = {}
        self.all = Sums()
        self.active: list[Order] = []
        """Those at work, of all groups; sorted."""
        self.heads: list[Head] = []
        """Of the queues whose jobs may begin some day; sorted."""
        self.mixed = 0
        """Sources whose jobs wait in several groups: while they learn that their source has another server."""
        self.shares: Shares | None = None
        """What is fair under the cap; None when that has to be found anew."""
        self.unshared: set[str] = set()
        """Groups whose own shares have to be found anew."""
        self.unsettled: set[str] = set()
        """Groups in which others may have to make room, or may grow."""
        self._groups: dict[str, Group] = {}
        self._sources: dict[Key, Source] = {}

    def group(self, name: str) -> Group:
        """Return what is known of a group; of one that isn't known, an empty one."""
        return self._groups.get(name) or Group()

    def source(self, key: Key) -> Source:
        """Return what is known of a source; of one that isn't known, an empty one."""
        return self._sources.get(key) or Source()

    # Changes ---------------------------------------------------------------------------------------------------------

    def claim(self, claim: Claim) -> Entry:
        """Write down what a job wants and uses from now on; a new one waits."""
        entry = self.entries.get(claim.job)
        if entry is None:
            entry = self.entries[claim.job] = Entry(claim)
            self._add(entry)
        elif entry.claim.wish != claim.wish:
            self._remove(entry)
            entry.claim = claim
            self._add(entry)
        else:
            before, entry.claim = entry.reserved, claim
            self._count(entry, entry.reserved - before)
        return entry

    def begin(self, entry: Entry) -> None:
        """Write down that a job that waited is at work."""
        self._remove(entry)
        entry.active = True
        self._add(entry)

    def give(self, entry: Entry, share: int) -> None:
        """Write down how many worker pods a job at work has from now on."""
        if share != entry.share:
            before, entry.share = entry.reserved, share
            self._count(entry, entry.reserved - before)
            self.unsettled.add(entry.claim.group)

    def forget(self, job: Key) -> Entry | None:
        """Take a job out; return it if it was there."""
        entry = self.entries.pop(job, None)
        if entry is not None:
            self._remove(entry)
        return entry

    def count_checks(self, name: str, *, running: int = 0, waiting: int = 0) -> None:
        """Write down that more checks of a group run or wait, or fewer."""
        group = self._groups.setdefault(name, Group())
        for sums in group.sums, self.all:
            sums.checks += running
            sums.waiting_checks += waiting
        self.unsettled.add(name)
        self._tidy(name)

    def _count(self, entry: Entry, more: int) -> None:
        if more:
            name = entry.claim.group
            self._groups[name].sums.jobs += more
            self.all.jobs += more
            self.unsettled.add(name)

    def _add(self, entry: Entry) -> None:
        claim, order = entry.claim, entry.claim.order
        group = self._groups.setdefault(claim.group, Group())
        source = self._sources.setdefault(claim.source, Source())
        if entry.active:
            source.active += 1
            insort(group.active, order)
            insort(self.active, order)
            self._count(entry, entry.reserved)
            self._outdate_all_of(source, claim.group)
        else:
            insort(group.waiting, order)
            queue = group.queues.get(claim.terms) or self._open(claim.terms, group, source)
            before = queue.jobs[:1]
            insort(queue.jobs, order)
            self._move_head(queue, before)
            self._outdate(claim.group, order)

    def _remove(self, entry: Entry) -> None:
        claim, order = entry.claim, entry.claim.order
        group, source = self._groups[claim.group], self._sources[claim.source]
        if entry.active:
            source.active -= 1
            _drop(group.active, order)
            _drop(self.active, order)
            self._count(entry, -entry.reserved)
            self._outdate_all_of(source, claim.group)
        else:
            _drop(group.waiting, order)
            # Before its queue is gone: by that it may matter.
            self._outdate(claim.group, order)
            queue = group.queues[claim.terms]
            before = queue.jobs[:1]
            _drop(queue.jobs, order)
            self._move_head(queue, before)
            if not queue.jobs:
                self._close(queue, group)
        if not source.active and not source.queues:
            del self._sources[claim.source]
        self._tidy(claim.group)

    def _open(self, terms: Terms, group: Group, source: Source) -> Queue:
        queue = Queue(terms, source, able=terms.least <= min(terms.limit, self.cap))
        self.mixed -= source.groups > 1
        group.queues[terms] = source.queues[terms] = queue
        self.mixed += source.groups > 1
        return queue

    def _close(self, queue: Queue, group: Group) -> None:
        source = queue.source
        self.mixed -= source.groups > 1
        del group.queues[queue.terms], source.queues[queue.terms]
        self.mixed += source.groups > 1

    def _move_head(self, queue: Queue, before: list[Order]) -> None:
        after = queue.jobs[:1]
        if queue.able and after != before:
            for order in before:
                del self.heads[bisect_left(self.heads, (order,))]
            for order in after:
                insort(self.heads, (order, queue))

    def _tidy(self, name: str) -> None:
        if self._groups[name].is_empty:
            del self._groups[name]

    # What is out of date ---------------------------------------------------------------------------------------------

    def _outdate(self, name: str, order: Order) -> None:
        """Have shares found anew after somebody came to wait, or waits no longer; unless that can't matter."""
        if self.shares is not None and (self.mixed or not self.shares.is_behind(order, name)):
            self.shares = None
        shares = self._groups[name].shares
        if shares is None or not shares.is_behind(order, name):
            self._outdate_group(name)

    def _outdate_all_of(self, source: Source, name: str) -> None:
        """Have shares found anew after the jobs at work changed; others of the source may wait in other groups."""
        self.shares = None
        for group in {name, *(terms.group for terms in source.queues)}:
            self._outdate_group(group)

    def _outdate_group(self, name: str) -> None:
        self._groups[name].shares = None
        self.unshared.add(name)
        self.unsettled.add(name)


def _drop(orders: list[Order], order: Order) -> None:
    del orders[bisect_left(orders, order)]
