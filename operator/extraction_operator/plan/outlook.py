"""What jobs should have and may have now: found anew only for groups in which something has changed.

Groups have to do with each other by the cap alone, and by a source that moves from one to another. So it is found for
each group what would be fair, and whose share would change, if there were no cap; that holds until something changes in
the group. As long as the cap is large enough, it is what holds under the cap, too:

- If the fair shares of all groups together are within the cap, they are what would be found for all jobs together: no
  step comes to the cap, as no sum on the way is greater than the last one.
- A job gets no more than its fair share. To have that it lacks ``1 + fair * pool - reserved`` connections. If what all
  jobs at work lack is free under the cap, so is what each of them lacks, and only the limit of its group can keep it
  from its fair share.

Otherwise all jobs at work are looked at, which are few under a small cap, and of those that wait the first in line.
"""

from heapq import nsmallest
from itertools import chain, islice
from math import inf
from typing import TypeVar

from extraction_operator.plan.claims import Claim, Order
from extraction_operator.plan.ledger import Entry, Group, Ledger
from extraction_operator.plan.shares import Shares, fair_shares, heads_of

V = TypeVar("V")


class Outlook:
    """Answers from a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._totals: dict[str, int] = {}
        """By group, as all that follow: the connections of its fair shares if there were no cap."""
        self._total = 0
        self._lacks: dict[str, int] = {}
        """What jobs at work would need beyond what they have, to have those shares."""
        self._lack = 0
        self._beginning: dict[str, tuple[Order, ...]] = {}
        """Who waits and should begin, if there were no cap."""
        self._changing: dict[str, tuple[Order, ...]] = {}
        """Jobs at work whose share would change, if there were no cap."""

    def share(self, entry: Entry) -> int:
        """Return how many worker pods a job may have now: its fair share, as far as there is room already."""
        ledger, claim = self._ledger, entry.claim
        fair = self._fair(claim.group).pods.get(claim.job, 1)
        group, every = ledger.group(claim.group).sums, ledger.all
        keeps = min(claim.limit - group.jobs, ledger.cap - every.jobs)
        grows = min(claim.limit - group.wanted, ledger.cap - every.wanted)
        return _within(entry, fair, keeps, grows)

    def changing(self) -> list[Order]:
        """Return the jobs at work whose share would change if they asked, in their order."""
        ledger = self._ledger
        if self._apart() and ledger.all.wanted <= ledger.cap:
            self._settle()
            if ledger.all.wanted + self._lack <= ledger.cap:
                return sorted(chain.from_iterable(self._changing.values()))
        entries = ledger.entries
        return [order for order in ledger.active if self.share(entry := entries[order[2]]) != entry.share]

    def beginning(self, number: int, *, but: str) -> list[Order]:
        """Return the first so many of those that wait and should begin, in their order, but not those of a group."""
        if self._apart():
            groups = (orders[:number] for name, orders in self._beginning.items() if name != but)
            return nsmallest(number, chain.from_iterable(groups))
        entries = self._ledger.entries
        others = (order for order in self._together().beginning if entries[order[2]].claim.group != but)
        return list(islice(others, number))

    # Finding anew ----------------------------------------------------------------------------------------------------

    def _fair(self, name: str) -> Shares:
        return self._alone(self._ledger.group(name)) if self._apart() else self._together()

    def _apart(self) -> bool:
        """Whether groups have nothing to do with each other now."""
        ledger = self._ledger
        for name in ledger.unshared:
            group = ledger.group(name)
            shares = self._alone(group)
            self._total += shares.total - self._totals.get(name, 0)
            _keep(self._totals, name, shares.total)
            _keep(self._beginning, name, shares.beginning)
        ledger.unshared.clear()
        return self._total <= ledger.cap and not ledger.mixed

    def _alone(self, group: Group) -> Shares:
        """Return what would be fair in a group if there were no cap."""
        if group.shares is None:
            heads = heads_of(group.queues.values())
            group.shares = fair_shares(map(self._claim, group.active), heads, self._claim, inf)
        return group.shares

    def _together(self) -> Shares:
        """Return what is fair under the cap."""
        ledger = self._ledger
        if ledger.shares is None:
            at_work, mixed = map(self._claim, ledger.active), ledger.mixed > 0
            ledger.shares = fair_shares(at_work, ledger.heads, self._claim, ledger.cap, mixed=mixed)
        return ledger.shares

    def _settle(self) -> None:
        """Find out whose share would change if there were no cap."""
        ledger = self._ledger
        for name in ledger.unsettled:
            group = ledger.group(name)
            pods, jobs, wanted = self._alone(group).pods, group.sums.jobs, group.sums.wanted
            lack, changing = 0, []
            for order in group.active:
                entry = ledger.entries[order[2]]
                claim, fair = entry.claim, pods[order[2]]
                lack += max(0, 1 + fair * claim.pool - entry.reserved)
                if _within(entry, fair, claim.limit - jobs, claim.limit - wanted) != entry.share:
                    changing.append(order)
            self._lack += lack - self._lacks.get(name, 0)
            _keep(self._lacks, name, lack)
            _keep(self._changing, name, tuple(changing))
        ledger.unsettled.clear()

    def _claim(self, order: Order) -> Claim:
        return self._ledger.entries[order[2]].claim


def _within(entry: Entry, fair: int, keeps: int, grows: int) -> int:
    """Return how many worker pods of its fair share a job may have now.

    Parameters
    ----------
    keeps
        Connections beside its own that no other job has: it shrinks for no check that runs.
    grows
        Those that nothing else has or waits for: it grows into nothing that a check waits for.
    """
    own, pool = entry.reserved, entry.claim.pool
    room = max((grows + own - 1) // pool, min(entry.share, (keeps + own - 1) // pool))
    return max(1, min(fair, room))


def _keep(found: dict[str, V], name: str, value: V) -> None:
    """Remember what was found for a group, unless that is nothing."""
    if value:
        found[name] = value
    else:
        found.pop(name, None)
