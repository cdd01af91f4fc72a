"""What pods did, added up by attempt from their last words, and counted once: when the attempt ends.

A pod is gone soon after its end, and the operator may be restarted at any time. All pods of an attempt are there until
its end is in the job's status, though, so whoever leads then has seen what each of them said, from a watch or from the
first LIST; and an attempt ends once. Messages that come later still, of an attempt whose end this process has seen,
are counted as they come. So each counts once, whoever leads; what a process had counted and nobody had scraped when it
died is lost with it.
"""

from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import Protocol

from extraction_contract.messages import (
    BundleMessage,
    FailureMessage,
    Message,
    NotAMessage,
    PlanMessage,
    PublishMessage,
    decode,
)
from extraction_contract.models import ExtractionJob
from extraction_contract.status import ConnectionCounts
from extraction_operator.plan.values import Pod

_GONE = 10_000


@dataclass
class Totals:
    """What the pods of an attempt did."""

    source_bytes: int = 0
    retries: int = 0
    pools: Counter[str] = field(default_factory=Counter)
    """By the name of the counter: sessions, checkouts, reuses, waits, evicted, leaks."""
    active: list[int] = field(default_factory=list)
    """The most sessions in use at the same time, of each pod that read."""
    idle: list[int] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    """Bytes, of each pod that read."""
    caches: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By cache and result."""
    snapshot_seconds: list[float] = field(default_factory=list)

    def add(self, message: Message) -> None:
        """Add what a container said."""
        if isinstance(message, PlanMessage):
            for use in message.caches:
                self.caches[use.cache, "hit"] += use.hits
                self.caches[use.cache, "miss"] += use.misses
                self.caches[use.cache, "error"] += use.errors
        if isinstance(message, PublishMessage) and message.snapshot_seconds is not None:
            self.snapshot_seconds.append(message.snapshot_seconds)
        if isinstance(message, FailureMessage):
            self._add_failure(message)
        work = message.work if isinstance(message, PublishMessage) else message
        if isinstance(work, BundleMessage):
            self._add_bundle(work)

    def _add_failure(self, failure: FailureMessage) -> None:
        self.retries += failure.retries
        if failure.connections is not None:
            self._add_connections(failure.connections)

    def _add_bundle(self, bundle: BundleMessage) -> None:
        self.source_bytes += bundle.bytes
        self.retries += bundle.retries
        if bundle.memory:
            self.memory.append(bundle.memory)
        if bundle.sessions:
            self.active.append(bundle.sessions_active)
            self.idle.append(max(0, bundle.sessions - bundle.sessions_evicted - bundle.sessions_active))
        self._add_connections(bundle.connections)

    def _add_connections(self, did: ConnectionCounts) -> None:
        self.pools.update(
            sessions=did.opened, checkouts=did.checkouts, reuses=did.reuses, waits=did.waits, evicted=did.evicted,
            leaks=did.leaks,
        )  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """An attempt that ended."""

    outcome: str
    """Succeeded, Failed, Cancelled or Restarted."""
    reason: str = ""
    """Why it didn't succeed."""
    format: str = ""
    rows: int = 0
    bytes: int = 0
    """Published."""
    seconds: float | None = None
    """From the job's admission to its end; None where it goes on."""


class Observer(Protocol):
    """Who counts; :class:`extraction_operator.observe.metrics.Metrics` in the operator."""

    def attempt_ended(self, ended: Ended) -> None:
        """Count an attempt that ended."""

    def pods_did(self, totals: Totals) -> None:
        """Count what pods did."""


@dataclass
class _Account:
    seen: set[tuple[str, str]] = field(default_factory=set)
    """Containers whose words were added: uid of the pod, name of the container."""
    totals: dict[int, Totals] = field(default_factory=dict)
    """By attempt, of those that haven't ended."""
    ended: int = 0
    """The last attempt whose end was seen."""
    counted: bool = False
    """Whether that was counted by us."""


class Accounts:
    """The accounts of all jobs, by their uid.

    Parameters
    ----------
    observer
        Told only while this replica leads.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._accounts: dict[str, _Account] = {}
        self._gone: OrderedDict[str, None] = OrderedDict()
        """Jobs that are gone: their pods go after them."""
        self.is_leading = False

    def see(self, owner: str, pod: Pod) -> None:
        """Take note of what a pod's containers said."""
        for container in pod.containers:
            if container.exit_code is None or not container.message or owner in self._gone:
                continue
            account = self._accounts.setdefault(owner, _Account())
            said = (pod.uid, container.name)
            if said in account.seen:
                continue
            try:
                message = decode(container.message)
            except NotAMessage:
                continue
            if container.exit_code != 0 and not isinstance(message, FailureMessage):
                # What it did counts for nothing: its work is done again, by a pod that tells of it.
                continue
            account.seen.add(said)
            if pod.attempt > account.ended:
                account.totals.setdefault(pod.attempt, Totals()).add(message)
            elif account.counted and self.is_leading:
                late = Totals()
                late.add(message)
                self._observer.pods_did(late)

    def end(self, owner: str, attempt: int, ended: Ended) -> None:
        """Count an attempt whose end was just stored."""
        account = self._accounts.setdefault(owner, _Account())
        if attempt <= account.ended:
            return
        totals = account.totals.pop(attempt, Totals())
        # Of attempts that ended before this process saw the job.
        account.totals = {number: found for number, found in account.totals.items() if number > attempt}
        account.ended, account.counted = attempt, self.is_leading
        if self.is_leading:
            self._observer.attempt_ended(ended)
            self._observer.pods_did(totals)

    def forget(self, owner: str) -> None:
        """Drop a job that is gone."""
        self._accounts.pop(owner, None)
        self._gone[owner] = None
        if len(self._gone) > _GONE:
            self._gone.popitem(last=False)

    def __len__(self) -> int:
        return len(self._accounts)


def ended_as(job: ExtractionJob) -> Ended:
    """Return how a job with a final phase ended."""
    status, spec = job.status, job.spec
    ready = next((found for found in status.conditions if found.type == "Ready"), None)
    seconds = None
    if status.start_time is not None and status.completion_time is not None:
        seconds = (status.completion_time - status.start_time).total_seconds()
    return Ended(
        outcome=status.phase or "",
        reason=ready.reason if ready is not None and status.phase != "Succeeded" else "",
        format=spec.sink.format.type,
        rows=status.result.rows if status.result is not None else 0,
        bytes=status.result.bytes if status.result is not None else 0,
        seconds=seconds,
    )
