"""The budget of connections in its plainest form: what :class:`extraction_operator.plan.budget.Budget` has to answer.

Every question is answered from all entries, and nothing is remembered that could be out of date. The operator's keeps
sums and queues instead, as with thousands of jobs each look at all of them is too much.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from extraction_operator.plan.budget import CALM, CHECK_PATIENCE, Used
from extraction_operator.plan.claims import LEAST_FOR_A_JOB, CheckClaim, Claim, Order
from extraction_operator.plan.values import Grant, Key


@dataclass
class _Entry:
    claim: Claim
    active: bool
    share: int = 1
    changed: datetime | None = None
    """When a worker Job was resized last."""

    @property
    def reserved(self) -> int:
        return max(1 + self.share * self.claim.pool, self.claim.used) if self.active else 0

    @property
    def order(self) -> Order:
        return self.claim.order


@dataclass
class _Check:
    claim: CheckClaim
    since: datetime
    runs: bool = False


class PlainBudget:
    """The ledger of one operator."""

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self._entries: dict[Key, _Entry] = {}
        self._checks: dict[Key, _Check] = {}
        """By source."""

    def ask(self, claim: Claim, now: datetime) -> Grant:
        """Return what the job gets now; ask again whenever something of its group has changed.

        A job that has pods is at work, whatever the ledger said: the operator may just have started.
        """
        entry = self._entries.get(claim.job)
        if entry is None:
            entry = self._entries[claim.job] = _Entry(claim, active=False)
        entry.claim = claim
        if not entry.active:
            reason = "" if claim.used else self._refusal(entry)
            if reason:
                return Grant(admitted=False, reason=reason, pool=claim.pool, again_at=claim.changes_at)
            entry.active = True
            entry.share = self._share(entry)
            return self._grant(entry, None)
        share = self._share(entry)
        rested = (entry.changed or now - CALM) + CALM
        calm = claim.working and entry.share <= claim.parallelism and now < rested
        if share != entry.share and not calm:
            entry.share = share
            entry.changed = now if claim.working else entry.changed
        return self._grant(entry, rested if share != entry.share else None)

    def release(self, job: Key) -> str | None:
        """Forget a job that has ended, or that doesn't want to begin; return its group if that changes something."""
        entry = self._entries.pop(job, None)
        if entry is None:
            return None
        return entry.claim.group

    def ask_check(self, claim: CheckClaim, now: datetime) -> Grant:
        """Return whether the check of a source may begin; one that has begun may go on."""
        check = self._checks.setdefault(claim.source, _Check(claim, now))
        check.claim = claim
        if not check.runs:
            patient_until = check.since + CHECK_PATIENCE
            reason = "" if claim.runs or now >= patient_until else self._full(claim)
            if reason:
                return Grant(admitted=False, reason=reason, again_at=patient_until)
            check.runs = True
        return Grant(admitted=True)

    def release_check(self, source: Key) -> str | None:
        """Forget the check of a source; return its group if there was one."""
        check = self._checks.pop(source, None)
        return check.claim.group if check is not None else None

    def waiting_checks(self) -> tuple[Key, ...]:
        """Return the sources whose checks wait."""
        return tuple(source for source, check in self._checks.items() if not check.runs)

    def _full(self, claim: CheckClaim) -> str:
        """Return why there is no connection for a check; empty where there is."""
        if (used := self.reserved(claim.group)) >= claim.limit:
            return f"{used} connections to {claim.group} are in use, of {claim.limit}: the check waits for one."
        if (spent := self.spent) >= self.cap:
            return f"{spent} connections to all sources are in use, of {self.cap}: the check waits for one."
        return ""

    def used(self) -> Used:
        """Return what is given of all sources together."""
        groups = {entry.claim.group: entry.claim.limit for entry in self._entries.values()}
        reserved = {group: self.reserved(group) for group in groups}
        return Used(
            reserved=sum(reserved.values()),
            limit=sum(groups.values()),
            ratio=max((reserved[group] / limit for group, limit in groups.items()), default=0.0),
        )

    def waiting(self, source: Key) -> int:
        """Return how many jobs of a source wait."""
        return sum(not entry.active for entry in self._of_source(source))

    def active(self, source: Key) -> int:
        """Return how many jobs of a source have begun and not ended."""
        return sum(entry.active for entry in self._of_source(source))

    def reserved(self, group: str) -> int:
        """Return how many connections are promised or in use in a group."""
        return sum(entry.reserved for entry in self._of_group(group)) + self._checked(group, runs=True)

    @property
    def spent(self) -> int:
        """How many connections are promised or in use over all groups."""
        return sum(entry.reserved for entry in self._entries.values()) + self._checked(None, runs=True)

    def _checked(self, group: str | None, *, runs: bool) -> int:
        """Return how many checks of a group, or of all, run or wait: a connection each."""
        return sum(check.runs is runs and group in {None, check.claim.group} for check in self._checks.values())

    def state(self, group: str) -> object:
        """Return what concerns all members of a group: when it changes, they should ask again."""
        waiting = [entry.order for entry in self._of_group(group) if not entry.active]
        return self.reserved(group), self._checked(group, runs=False), len(waiting), min(waiting, default=None)

    def members(self, group: str) -> tuple[Key, ...]:
        """Return the jobs of a group, those at work first, then in their order."""
        return tuple(entry.claim.job for entry in _in_order(self._of_group(group)))

    def affected(self, group: str, waiting: int) -> tuple[Key, ...]:
        """Return who should ask again when a group changed: jobs whose share would, and so many of the next in line.

        Where the cap is what others wait for, these are jobs of other groups, too.
        """
        spent, fair = self.spent, self._fair_shares()
        reserved = self._reserved_by_group()
        changing: list[_Entry] = []
        next_ones: list[_Entry] = []
        of_others: list[_Entry] = []
        for entry in _in_order(self._entries.values()):
            mine = entry.claim.group == group
            if entry.active:
                if self._room(entry, fair, reserved[entry.claim.group], spent) != entry.share:
                    changing.append(entry)
            elif mine and len(next_ones) < waiting:
                next_ones.append(entry)
            elif not mine and len(of_others) < waiting and entry.claim.job in fair:
                of_others.append(entry)
        return tuple(entry.claim.job for entry in (*changing, *next_ones, *of_others))

    # Who may begin ---------------------------------------------------------------------------------------------------

    def _refusal(self, entry: _Entry) -> str:
        """Return why a job can't begin now; empty when it can."""
        claim = entry.claim
        if min(claim.limit, self.cap) < claim.least:
            return (
                f"{min(claim.limit, self.cap)} connections to {claim.group} are too few for a job: it needs "
                f"{max(LEAST_FOR_A_JOB, claim.least)}."
            )
        if (active := self.active(claim.source)) >= claim.active_jobs:
            return f"{active} jobs of the source are at work: limits.activeJobs is {claim.active_jobs}."
        # Checks that wait come first.
        reserved, spent = self._reserved_by_group(), self.spent + self._checked(None, runs=False)
        for check in self._checks.values():
            reserved[check.claim.group] += not check.runs
        ahead = [found for found in self._in_line() if not found.active and found.order < entry.order]
        if before := sum(found.claim.group == claim.group for found in ahead):
            return f"{before} jobs that wait for {claim.group} come first."
        # What shrinking jobs still have counts until it is really gone.
        if (used := reserved[claim.group]) + claim.least > claim.limit:
            return f"{used} connections to {claim.group} are in use: with {claim.least} more than {claim.limit}."
        if spent + claim.least > self.cap:
            return f"{spent} connections to all sources are in use: with {claim.least} more than {self.cap}."
        # Who waits for its group alone isn't in the way of other groups.
        for found in ahead:
            least = found.claim.least
            if reserved[found.claim.group] + least <= found.claim.limit and spent + least > self.cap:
                return f"Jobs come first that wait for some of the {self.cap} connections to all sources."
        return ""

    def _in_line(self) -> list[_Entry]:
        """Return the jobs at work, then those that could begin if there were connections for them, in their order.

        Without those that wait for their source's number of jobs, and those that can never begin: they aren't in the
        way of others.
        """
        begun = Counter(entry.claim.source for entry in self._entries.values() if entry.active)
        line = []
        for entry in _in_order(self._entries.values()):
            claim = entry.claim
            if not entry.active:
                if begun[claim.source] >= claim.active_jobs or min(claim.limit, self.cap) < claim.least:
                    continue
                begun[claim.source] += 1
            line.append(entry)
        return line

    # Who gets how much -----------------------------------------------------------------------------------------------

    def _fair_shares(self) -> dict[Key, int]:
        """Return how many worker pods each job should have, by the count of jobs; those that should wait have none.

        A job that waits and should begin gets its share, too, so that those at work make room for it.
        """
        spent, total = Counter[str](), 0
        shares: dict[Key, int] = {}
        members: list[Claim] = []
        blocked: set[str] = set()
        for entry in self._in_line():
            claim = entry.claim
            if not entry.active:
                if claim.group in blocked or spent[claim.group] + claim.least > claim.limit:
                    # Whoever is behind it in its group waits, too, even if it would fit.
                    blocked.add(claim.group)
                    continue
                if total + claim.least > self.cap:
                    break
            shares[claim.job] = 1
            members.append(claim)
            spent[claim.group] += claim.least
            total += claim.least
        # Rounds: a pod for each, as long as somebody wants one and there is room.
        while members:
            growing = []
            for claim in members:
                room = min(claim.limit - spent[claim.group], self.cap - total)
                if shares[claim.job] < claim.parallelism and claim.pool <= room:
                    shares[claim.job] += 1
                    spent[claim.group] += claim.pool
                    total += claim.pool
                    growing.append(claim)
            members = growing
        return shares

    def _share(self, entry: _Entry) -> int:
        """Return how many worker pods the job may have now: its fair share, as far as there is room already."""
        return self._room(entry, self._fair_shares(), self.reserved(entry.claim.group), self.spent)

    def _room(self, entry: _Entry, fair: dict[Key, int], reserved: int, spent: int) -> int:
        claim = entry.claim
        free, free_of_all = claim.limit - reserved + entry.reserved, self.cap - spent + entry.reserved
        # It grows into nothing that a check waits for, and shrinks for none that runs.
        waits, all_wait = self._checked(claim.group, runs=False), self._checked(None, runs=False)
        grows = min(free - waits, free_of_all - all_wait)
        runs, all_run = self._checked(claim.group, runs=True), self._checked(None, runs=True)
        keeps = min(free + runs, free_of_all + all_run)
        room = max((grows - 1) // claim.pool, min(entry.share, (keeps - 1) // claim.pool))
        return max(1, min(fair.get(claim.job, 1), room))

    def _grant(self, entry: _Entry, later: datetime | None) -> Grant:
        moments = [moment for moment in (later, entry.claim.changes_at) if moment is not None]
        return Grant(
            admitted=True, parallelism=entry.share, pool=entry.claim.pool, again_at=min(moments, default=None)
        )  # fmt: skip

    def _reserved_by_group(self) -> Counter[str]:
        found = Counter[str]()
        for entry in self._entries.values():
            found[entry.claim.group] += entry.reserved
        for check in self._checks.values():
            found[check.claim.group] += check.runs
        return found

    def _of_group(self, group: str) -> list[_Entry]:
        return [entry for entry in self._entries.values() if entry.claim.group == group]

    def _of_source(self, source: Key) -> list[_Entry]:
        return [entry for entry in self._entries.values() if entry.claim.source == source]


def _in_order(entries: Iterable[_Entry]) -> list[_Entry]:
    """Return those at work, then those that wait; each by priority, then by age."""
    return sorted(entries, key=lambda entry: (not entry.active, entry.order))
