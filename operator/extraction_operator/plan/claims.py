"""What a job wants of the budget of connections, and what it uses of it: from what is declared and observed."""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from extraction_contract.models import DataSource, ExtractionJob
from extraction_contract.source import Window
from extraction_operator.plan.values import ChildJob, Key, Role
from extraction_operator.plan.windows import next_change, open_window

LEAST_FOR_A_JOB = 2
"""Connections: one holds the snapshot, another one plans and reads."""

Order = tuple[int, datetime, Key]
"""By priority, then by age; no two jobs have the same one. Sorts in C, which counts with thousands of jobs."""


class Terms(NamedTuple):
    """What a source says to its jobs: the same to all of them, but while they learn of a change one by one."""

    source: Key
    group: str
    limit: int
    active_jobs: int
    pool: int

    @property
    def least(self) -> int:
        """The connections without which a job can't begin."""
        return 1 + self.pool


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
    priority: int = 0
    working: bool = False
    """Whether it has a worker Job: from then on another share costs pods."""
    changes_at: datetime | None = None
    """When a window opens or closes next: it should ask again then."""

    @property
    def least(self) -> int:
        """The connections without which it can't begin."""
        return 1 + self.pool

    @property
    def terms(self) -> Terms:
        """What its source and its server's limit say."""
        return Terms(self.source, self.group, self.limit, self.active_jobs, self.pool)

    @property
    def order(self) -> Order:
        """Its place among those that wait, and among those at work."""
        return -self.priority, self.created, self.job

    @property
    def wish(self) -> tuple[Terms, Order, int]:
        """What of it decides how much it should have; what it uses doesn't."""
        return self.terms, self.order, self.parallelism


@dataclass(frozen=True)
class CheckClaim:
    """What the check of a source wants: one connection, for some seconds."""

    source: Key
    group: str
    limit: int
    runs: bool = False
    """Whether its pod may have that already."""


def claim_of(job: ExtractionJob, source: DataSource, jobs: tuple[ChildJob, ...], now: datetime, cap: int) -> Claim:
    """Return the claim of a job whose children are ``jobs``.

    Parameters
    ----------
    cap
        The most connections that the operator spends on all servers together.
    """
    namespace = job.metadata.namespace or ""
    limits = source.spec.limits
    # Not by the window: pods that are there keep their pools when another one opens.
    pool = max(1, min(source.spec.pool.size, _enforced(source) - 1, cap - 1))
    window = open_window(limits.windows, now)
    # A suspended job keeps room for one pod, so that it can go on; so does one that works beyond its window.
    alone = job.spec.suspend or (window is None and bool(limits.windows))
    return Claim(
        job=Key(namespace, job.metadata.name),
        source=Key(namespace, source.metadata.name),
        group=source.budget_group,
        limit=_within(window, source),
        active_jobs=limits.active_jobs,
        pool=pool,
        parallelism=1 if alone else job.spec.parallelism,
        created=job.metadata.creation_timestamp or now,
        used=_used(jobs, pool),
        priority=job.spec.priority,
        working=any(child.role is Role.WORK for child in jobs),
        changes_at=next_change(limits.windows, now),
    )


def claim_of_check(source: DataSource, now: datetime, *, runs: bool) -> CheckClaim:
    """Return the claim of a source's check."""
    window = open_window(source.spec.limits.windows, now)
    key = Key(source.metadata.namespace or "", source.metadata.name)
    return CheckClaim(key, source.budget_group, _within(window, source), runs)


def _enforced(source: DataSource) -> int:
    """Return how many sessions the source lets our jobs have: the role may have fewer than is declared."""
    declared, server = source.spec.limits.max_connections, source.status.server
    if server is None or server.role_connection_limit < 0:
        return declared
    return min(declared, server.role_connection_limit)


def _within(window: Window | None, source: DataSource) -> int:
    """Return how many sessions our jobs may have while a window is open, or none is."""
    limit = _enforced(source)
    return limit if window is None or window.max_connections is None else min(limit, window.max_connections)


def _used(jobs: tuple[ChildJob, ...], pool: int) -> int:
    """Return the connections that a job may have now: of its lead, or that and its worker pods."""
    lead = sum(pods_of(child) for child in jobs if child.role is Role.LEAD)
    work = sum(pods_of(child) for child in jobs if child.role is Role.WORK)
    return 1 + max(work, 1) * pool if lead or work else 0


def pods_of(child: ChildJob) -> int:
    """Return how many pods a Job may have. One that waits in a queue may have them at any moment."""
    suspended = child.suspended and child.suspended_since is not None and not child.queue
    stopped = child.ending is not None or child.deleting or suspended
    return child.terminating + (child.active if stopped else max(child.parallelism, child.active))
