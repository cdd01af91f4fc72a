"""The budget of connections that jobs share: who may begin, and with how many worker pods.

A job at work has one connection that holds its snapshot, and those of its worker pods, or, before there are any and in
a job of one pod, those of its lead. It begins only when that least fits beside what the others were promised or still
use; what is left is shared evenly. First come, first served within a group. A ledger in memory: after a start it is
rebuilt from what runs.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from extraction_contract.models import DataSource, ExtractionJob
from extraction_operator.plan.values import ChildJob, Grant, Key, Role

_CALM = timedelta(seconds=30)
"""A job's share doesn't grow twice within this time: each change of pods costs their start."""


@dataclass(frozen=True)
class Claim:
    """What a job wants. ``used`` are the connections that it has or may have now; 0 before it begins."""

    job: Key
    source: Key
    group: str
    limit: int
    active_jobs: int
    pool: int
    parallelism: int
    created: datetime
    used: int = 0

    @property
    def least(self) -> int:
        """The connections without which it can't begin."""
        return 1 + self.pool


@dataclass
class _Entry:
    claim: Claim
    active: bool
    share: int = 1
    changed: datetime | None = None

    @property
    def reserved(self) -> int:
        return max(1 + self.share * self.claim.pool, self.claim.used) if self.active else 0


def claim_of(job: ExtractionJob, source: DataSource, jobs: tuple[ChildJob, ...], now: datetime) -> Claim:
    """Return the claim of a job whose children are ``jobs``."""
    namespace = job.metadata.namespace or ""
    limits = source.spec.limits
    pool = min(source.spec.pool.size, limits.max_connections - 1)
    return Claim(
        job=Key(namespace, job.metadata.name),
        source=Key(namespace, source.metadata.name),
        group=source.budget_group,
        limit=limits.max_connections,
        active_jobs=limits.active_jobs,
        pool=pool,
        # A suspended job keeps room for one pod, so that it can go on.
        parallelism=1 if job.spec.suspend else job.spec.parallelism,
        created=job.metadata.creation_timestamp or now,
        used=_used(jobs, pool),
    )


def _used(jobs: tuple[ChildJob, ...], pool: int) -> int:
    """Return the connections that a job may have now: of its lead, or that and its worker pods."""
    lead = sum(_pods(child) for child in jobs if child.role is Role.LEAD)
    work = sum(_pods(child) for child in jobs if child.role is Role.WORK)
    return 1 + max(work, 1) * pool if lead or work else 0


def _pods(child: ChildJob) -> int:
    """Return how many pods a Job may have."""
    stopped = child.ending is not None or child.deleting or (child.suspended and child.suspended_since is not None)
    return child.terminating + (child.active if stopped else max(child.parallelism, child.active))


class Budget:
    """The ledger of one operator. Not for several threads."""

    def __init__(self) -> None:
        self._entries: dict[Key, _Entry] = {}

    def ask(self, claim: Claim, now: datetime) -> Grant:
        """Return what the job gets now; ask again whenever something of its group has changed.

        A job that has pods is at work, whatever the ledger said: the operator may just have started.
        """
        entry = self._entries.setdefault(claim.job, _Entry(claim, active=False))
        entry.claim = claim
        if not entry.active:
            reason = "" if claim.used else self._refusal(entry)
            if reason:
                return Grant(admitted=False, reason=reason, pool=claim.pool)
            entry.active = True
            entry.share, entry.changed = self._share(entry), now
            return Grant(admitted=True, parallelism=entry.share, pool=claim.pool)
        rested = (entry.changed or now) + _CALM
        share = self._share(entry)
        if share < entry.share or (share > entry.share and now >= rested):
            entry.share, entry.changed = share, now
        later = rested if share > entry.share else None
        return Grant(admitted=True, parallelism=entry.share, pool=claim.pool, again_at=later)

    def release(self, job: Key) -> str | None:
        """Forget a job that has ended, or that doesn't want to begin; return its group if that changes something."""
        entry = self._entries.pop(job, None)
        return entry.claim.group if entry is not None else None

    def waiting(self, source: Key) -> int:
        """Return how many jobs of a source wait."""
        return sum(not entry.active for entry in self._of_source(source))

    def active(self, source: Key) -> int:
        """Return how many jobs of a source have begun and not ended."""
        return sum(entry.active for entry in self._of_source(source))

    def reserved(self, group: str) -> int:
        """Return how many connections are promised or in use in a group."""
        return sum(entry.reserved for entry in self._of_group(group))

    def state(self, group: str) -> object:
        """Return what concerns all members of a group: when it changes, they should ask again."""
        return self.reserved(group), sum(not entry.active for entry in self._of_group(group))

    def members(self, group: str) -> tuple[Key, ...]:
        """Return the jobs of a group, those that came first first."""
        return tuple(entry.claim.job for entry in sorted(self._of_group(group), key=_order))

    def affected(self, group: str, waiting: int) -> tuple[Key, ...]:
        """Return who of a group should ask again: jobs whose share would change, and so many of the next in line."""
        line = sorted(self._of_group(group), key=_order)
        reserved = self.reserved(group)
        # Sources of one group may declare different limits.
        fair = {limit: self._fair_shares(group, limit) for limit in {entry.claim.limit for entry in line}}
        changing = [
            entry for entry in line if entry.active and _share(entry, fair[entry.claim.limit], reserved) != entry.share
        ]  # fmt: skip
        return tuple(entry.claim.job for entry in (*changing, *[entry for entry in line if not entry.active][:waiting]))

    def _of_group(self, group: str) -> list[_Entry]:
        return [entry for entry in self._entries.values() if entry.claim.group == group]

    def _of_source(self, source: Key) -> list[_Entry]:
        return [entry for entry in self._entries.values() if entry.claim.source == source]

    def _in_line(self, group: str) -> list[_Entry]:
        """Return the jobs of a group in their order: those at work, then those that wait.

        Without those that wait for their source's number of jobs: they aren't in the way of jobs of other sources.
        """
        entries = self._of_group(group)
        at_work = Counter(entry.claim.source for entry in entries if entry.active)
        found = [entry for entry in entries if entry.active or at_work[entry.claim.source] < entry.claim.active_jobs]
        return sorted(found, key=_order)

    def _refusal(self, entry: _Entry) -> str:
        """Return why a job can't begin now; empty when it can."""
        claim = entry.claim
        if (active := self.active(claim.source)) >= claim.active_jobs:
            return f"{active} jobs of the source are at work: limits.activeJobs is {claim.active_jobs}."
        waiting = [found for found in self._in_line(claim.group) if not found.active]
        if ahead := waiting.index(entry):
            return f"{ahead} jobs that wait for {claim.group} came first."
        # What shrinking jobs still have counts until it is really gone.
        if self.reserved(claim.group) + claim.least > claim.limit:
            used = self.reserved(claim.group)
            return f"{used} connections to {claim.group} are in use: with {claim.least} more than {claim.limit}."
        return ""

    def _fair_shares(self, group: str, free: int) -> dict[Key, int]:
        """Return how many worker pods each job should have of so many connections, by the count of jobs."""
        # A job that waits gets its share, too, so that those at work make room for it.
        members = [entry.claim for entry in self._in_line(group)]
        shares: dict[Key, int] = {}
        for member in members:
            if member.least <= free:
                shares[member.job], free = 1, free - member.least
        growing = True
        while growing:
            growing = False
            for member in members:
                if 0 < shares.get(member.job, 0) < member.parallelism and member.pool <= free:
                    shares[member.job], free, growing = shares[member.job] + 1, free - member.pool, True
        return shares

    def _share(self, entry: _Entry) -> int:
        """Return how many worker pods the job may have now: its fair share, as far as there is room already."""
        claim = entry.claim
        return _share(entry, self._fair_shares(claim.group, claim.limit), self.reserved(claim.group))


def _share(entry: _Entry, fair: Mapping[Key, int], reserved: int) -> int:
    claim = entry.claim
    others = reserved - entry.reserved
    return max(1, min(fair.get(claim.job, 1), (claim.limit - others - 1) // claim.pool))


def _order(entry: _Entry) -> tuple[bool, datetime, Key]:
    return not entry.active, entry.claim.created, entry.claim.job
