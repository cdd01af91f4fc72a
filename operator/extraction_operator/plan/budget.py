"""The budget of connections that jobs share: who may begin, and with how many worker pods.

A job at work has one connection that holds its snapshot, and those of its worker pods, or, before there are any and in
a job of one pod, those of its lead. It begins only when that least fits beside what the others really use; what is left
is shared evenly. First come, first served within a group. A ledger in memory: after a start it is rebuilt from what runs.
"""

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
    used = 0
    for child in jobs:
        if child.role is Role.LEAD and child.ending is None:
            used = max(used, 1 + pool)
        if child.role is Role.WORK:
            pods = child.terminating + (max(child.parallelism, child.active) if child.ending is None else child.active)
            used = max(used, 1 + pods * pool)
    return Claim(
        job=Key(namespace, job.metadata.name),
        source=Key(namespace, source.metadata.name),
        group=source.budget_group,
        limit=limits.max_connections,
        active_jobs=limits.active_jobs,
        pool=pool,
        parallelism=job.spec.parallelism,
        created=job.metadata.creation_timestamp or now,
        used=used,
    )


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
            reason = "" if claim.used else self._refusal(claim)
            if reason:
                return Grant(admitted=False, reason=reason, pool=claim.pool)
            entry.active = True
            entry.share, entry.changed = self._fair_share(claim), now
        else:
            self._adjust(entry, now)
        return Grant(admitted=True, parallelism=entry.share, pool=claim.pool)

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

    def members(self, group: str) -> tuple[Key, ...]:
        """Return the jobs of a group, those that came first first."""
        return tuple(entry.claim.job for entry in sorted(self._of_group(group), key=_order))

    def _of_group(self, group: str) -> list[_Entry]:
        return [entry for entry in self._entries.values() if entry.claim.group == group]

    def _of_source(self, source: Key) -> list[_Entry]:
        return [entry for entry in self._entries.values() if entry.claim.source == source]

    def _refusal(self, claim: Claim) -> str:
        """Return why a job can't begin now; empty when it can."""
        others = [entry for entry in self._of_group(claim.group) if entry.claim.job != claim.job]
        active = self.active(claim.source)
        if active >= claim.active_jobs:
            return f"{active} jobs of the source are at work: limits.activeJobs is {claim.active_jobs}."
        mine = (claim.created, claim.job)
        # Whoever waits for the source's number of jobs isn't in the way of jobs of other sources.
        ahead = [
            entry
            for entry in others
            if not entry.active
            and (entry.claim.created, entry.claim.job) < mine
            and self.active(entry.claim.source) < entry.claim.active_jobs
        ]
        if ahead:
            return f"{len(ahead)} jobs that wait for {claim.group} came first."
        # What shrinking jobs still have counts until it is really gone.
        used = sum(max(entry.claim.used, entry.claim.least) for entry in others if entry.active)
        if used + claim.least > claim.limit:
            return f"{used} connections to {claim.group} are in use: with {claim.least} more than {claim.limit}."
        return ""

    def _fair_share(self, claim: Claim) -> int:
        """Return how many worker pods the job may have now."""
        group = self._of_group(claim.group)
        # A job that waits gets its share, too, so that those at work make room for it.
        members = [
            entry for entry in group if entry.active or self.active(entry.claim.source) < entry.claim.active_jobs
        ]
        free = claim.limit
        wanted = {entry.claim.job: entry.claim for entry in sorted(members, key=_order)}
        shares = dict.fromkeys(wanted, 0)
        for key, member in list(wanted.items()):
            if member.least <= free:
                shares[key], free = 1, free - member.least
            else:
                del wanted[key]
        growing = True
        while growing:
            growing = False
            for key, member in wanted.items():
                if shares[key] < member.parallelism and member.pool <= free:
                    shares[key], free, growing = shares[key] + 1, free - member.pool, True
        return max(1, shares.get(claim.job, 1))

    def _adjust(self, entry: _Entry, now: datetime) -> None:
        share = self._fair_share(entry.claim)
        rests = entry.changed is not None and now < entry.changed + _CALM
        if share < entry.share or (share > entry.share and not rests):
            entry.share, entry.changed = share, now


def _order(entry: _Entry) -> tuple[bool, datetime, Key]:
    return not entry.active, entry.claim.created, entry.claim.job
