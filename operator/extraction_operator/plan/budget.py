"""The budget of connections that jobs share: who may begin, and with how many worker pods.

A job at work has one connection that holds its snapshot, and those of its worker pods, or, before there are any and in
a job of one pod, those of its lead. It begins only when that least fits beside what the others were promised or still
use, within its group's limit and within the cap over all groups. What is left is shared evenly. Those of higher
priority begin first, then those that came first. A ledger in memory: after a start it is rebuilt from what runs.

The check of a source takes a connection for some seconds. It begins when one is free, and before jobs that would
begin or grow; no pod of a job is ended for it. Where none gets free for a while it begins all the same, and waits for
its slot at the server, where connections are free for moments while pods come and go.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from extraction_operator.plan.claims import LEAST_FOR_A_JOB, CheckClaim, Claim
from extraction_operator.plan.ledger import Entry, Ledger
from extraction_operator.plan.outlook import Outlook
from extraction_operator.plan.values import Grant, Key

DEFAULT_CAP = 100
"""Connections over all servers."""
CALM = timedelta(seconds=30)
"""A worker Job isn't resized twice within this time: each change of pods costs their start."""
CHECK_PATIENCE = timedelta(seconds=30)
"""For so long a check waits for a connection that nobody was promised."""


@dataclass
class _Check:
    group: str
    since: datetime
    runs: bool = False


@dataclass(frozen=True)
class Used:
    """Connections of the sources that jobs use, and the largest share of a source's that is reserved."""

    reserved: int
    limit: int
    ratio: float


class Budget:
    """The ledger of one operator. Not for several threads.

    Parameters
    ----------
    cap
        The most connections over all groups.
    """

    def __init__(self, cap: int = DEFAULT_CAP) -> None:
        self.cap = cap
        self._ledger = Ledger(cap)
        self._outlook = Outlook(self._ledger)
        self._checks: dict[Key, _Check] = {}
        """By source."""
        self._waiting_checks: dict[Key, None] = {}
        """In the order in which they came."""

    def ask(self, claim: Claim, now: datetime) -> Grant:
        """Return what the job gets now; ask again whenever something of its group has changed.

        A job that has pods is at work, whatever the ledger said: the operator may just have started.
        """
        entry = self._ledger.claim(claim)
        if not entry.active:
            reason = "" if claim.used else self._refusal(claim)
            if reason:
                return Grant(admitted=False, reason=reason, pool=claim.pool, again_at=claim.changes_at)
            self._ledger.begin(entry)
            self._ledger.give(entry, self._outlook.share(entry))
            return _grant(entry, None)
        share = self._outlook.share(entry)
        rested = (entry.changed or now - CALM) + CALM
        calm = claim.working and entry.share <= claim.parallelism and now < rested
        if share != entry.share and not calm:
            self._ledger.give(entry, share)
            entry.changed = now if claim.working else entry.changed
        return _grant(entry, rested if share != entry.share else None)

    def release(self, job: Key) -> str | None:
        """Forget a job that has ended, or that doesn't want to begin; return its group if that changes something."""
        entry = self._ledger.forget(job)
        return entry.claim.group if entry is not None else None

    def ask_check(self, claim: CheckClaim, now: datetime) -> Grant:
        """Return whether the check of a source may begin; one that has begun may go on."""
        check = self._checks.get(claim.source)
        if check is None:
            check = self._checks[claim.source] = _Check(claim.group, now)
            self._waiting_checks[claim.source] = None
            self._count(check, 1)
        elif check.group != claim.group:
            self._count(check, -1)
            check.group = claim.group
            self._count(check, 1)
        if not check.runs:
            patient_until = check.since + CHECK_PATIENCE
            reason = "" if claim.runs or now >= patient_until else self._full(claim)
            if reason:
                return Grant(admitted=False, reason=reason, again_at=patient_until)
            self._count(check, -1)
            check.runs = True
            self._count(check, 1)
            del self._waiting_checks[claim.source]
        return Grant(admitted=True)

    def release_check(self, source: Key) -> str | None:
        """Forget the check of a source; return its group if there was one."""
        check = self._checks.pop(source, None)
        if check is None:
            return None
        self._waiting_checks.pop(source, None)
        self._count(check, -1)
        return check.group

    def waiting_checks(self) -> tuple[Key, ...]:
        """Return the sources whose checks wait."""
        return tuple(self._waiting_checks)

    def _count(self, check: _Check, more: int) -> None:
        self._ledger.count_checks(check.group, running=more if check.runs else 0, waiting=0 if check.runs else more)

    def _full(self, claim: CheckClaim) -> str:
        """Return why there is no connection for a check; empty where there is."""
        if (used := self.reserved(claim.group)) >= claim.limit:
            return f"{used} connections to {claim.group} are in use, of {claim.limit}: the check waits for one."
        if (spent := self.spent) >= self.cap:
            return f"{spent} connections to all sources are in use, of {self.cap}: the check waits for one."
        return ""

    def used(self) -> Used:
        """Return what is given of all sources together."""
        groups = {entry.claim.group: entry.claim.limit for entry in self._ledger.entries.values()}
        reserved = {group: self.reserved(group) for group in groups}
        return Used(
            reserved=sum(reserved.values()),
            limit=sum(groups.values()),
            ratio=max((reserved[group] / limit for group, limit in groups.items()), default=0.0),
        )

    def waiting(self, source: Key) -> int:
        """Return how many jobs of a source wait."""
        return self._ledger.source(source).waiting

    def active(self, source: Key) -> int:
        """Return how many jobs of a source have begun and not ended."""
        return self._ledger.source(source).active

    def reserved(self, group: str) -> int:
        """Return how many connections are promised or in use in a group."""
        return self._ledger.group(group).sums.reserved

    @property
    def spent(self) -> int:
        """How many connections are promised or in use over all groups."""
        return self._ledger.all.reserved

    def state(self, group: str) -> object:
        """Return what concerns all members of a group: when it changes, they should ask again."""
        found = self._ledger.group(group)
        sums, waiting = found.sums, found.waiting
        return sums.reserved, sums.waiting_checks, len(waiting), waiting[0] if waiting else None

    def members(self, group: str) -> tuple[Key, ...]:
        """Return the jobs of a group, those at work first, then in their order."""
        found = self._ledger.group(group)
        return tuple(job for _, _, job in (*found.active, *found.waiting))

    def affected(self, group: str, waiting: int) -> tuple[Key, ...]:
        """Return who should ask again when a group changed: jobs whose share would, and so many of the next in line.

        Where the cap is what others wait for, these are jobs of other groups, too.
        """
        changing = self._outlook.changing()
        next_ones = self._ledger.group(group).waiting[:waiting]
        of_others = self._outlook.beginning(waiting, but=group)
        return tuple(job for _, _, job in (*changing, *next_ones, *of_others))

    def _refusal(self, claim: Claim) -> str:
        """Return why a job can't begin now; empty when it can."""
        ledger, terms, order = self._ledger, claim.terms, claim.order
        group = ledger.group(terms.group)
        if min(terms.limit, self.cap) < terms.least:
            return (
                f"{min(terms.limit, self.cap)} connections to {terms.group} are too few for a job: it needs "
                f"{max(LEAST_FOR_A_JOB, terms.least)}."
            )
        if (active := self.active(terms.source)) >= terms.active_jobs:
            return f"{active} jobs of the source are at work: limits.activeJobs is {terms.active_jobs}."
        ahead = [source.ahead(order) for source in {queue.source for queue in group.queues.values()}]
        if before := sum(number for found in ahead for of, number in found.items() if of.group == terms.group):
            return f"{before} jobs that wait for {terms.group} come first."
        # What shrinking jobs still have counts until it is really gone. Checks that wait come first.
        if (used := group.sums.wanted) + terms.least > terms.limit:
            return f"{used} connections to {terms.group} are in use: with {terms.least} more than {terms.limit}."
        if (spent := ledger.all.wanted) + terms.least > self.cap:
            return f"{spent} connections to all sources are in use: with {terms.least} more than {self.cap}."
        # Who waits for its group alone isn't in the way of other groups.
        for first, queue in ledger.heads:
            if first > order:
                break
            other = queue.terms
            if spent + other.least <= self.cap:
                continue
            if ledger.group(other.group).sums.wanted + other.least > other.limit:
                continue
            if other in queue.source.ahead(order):
                return f"Jobs come first that wait for some of the {self.cap} connections to all sources."
        return ""


def _grant(entry: Entry, later: datetime | None) -> Grant:
    moments = [moment for moment in (later, entry.claim.changes_at) if moment is not None]
    return Grant(
        admitted=True, parallelism=entry.share, pool=entry.claim.pool, again_at=min(moments, default=None)
    )  # fmt: skip
