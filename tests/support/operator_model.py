"""A model of the operator's shell around the real planner: a store that lags, writes that fail, restarts, the fence."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

from extraction_operator.cluster.parse import is_of_interest
from extraction_operator.plan.budget import DEFAULT_CAP, Budget
from extraction_operator.plan.claims import Claim, claim_of
from extraction_operator.plan.job import decide_job
from extraction_operator.plan.values import (
    Action,
    AddFinalizer,
    CreateJob,
    DeleteJob,
    Event,
    Grant,
    JobDecision,
    Key,
    LookForWarnings,
    ObservedJob,
    RemoveFinalizer,
    ScaleJob,
)  # fmt: skip
from support.api_model import Change, Conflict, Exists, Kind
from support.api_rules import Refused
from support.cluster_model import Cluster
from support.plan_world import NOW, SETTINGS

FAULTS = ("lost", "refused", "crash")
"""What may become of a write besides being answered: it happens and nobody hears, it doesn't, the operator dies."""
KINDS: tuple[Kind, ...] = ("job", "source", "children", "pods")


class Trouble(Exception):
    """A write had no answer."""


class Crash(Exception):
    """The operator died."""


class Store:
    """What an operator believes."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._known: dict[tuple[Kind, str], Change] = {}
        self._cursors = dict.fromkeys(KINDS, 0)
        self.relist()

    def relist(self) -> None:
        """Compare with a LIST."""
        newest: dict[tuple[Kind, str], Change] = {}
        for change in self._cluster.log:
            newest[change.kind, change.name] = change
        self._known = newest
        self._cursors = dict.fromkeys(KINDS, len(self._cluster.log))

    def merge(self, change: Change) -> bool:
        """Take a version, if it is news."""
        known = self._known.get((change.kind, change.name))
        if known is not None and known.version >= change.version:
            return False
        self._known[change.kind, change.name] = change
        return True

    def follow(self, kind: Kind, number: int, *, lose: bool = False) -> bool:
        """Receive the next events of a kind, or lose them; return whether anything was news."""
        news = False
        while number and self._cursors[kind] < len(self._cluster.log):
            change = self._cluster.log[self._cursors[kind]]
            self._cursors[kind] += 1
            if change.kind == kind:
                number -= 1
                news |= not lose and self.merge(change)
        return news

    def all(self, kind: Kind) -> Iterator[Any]:
        return (c.value for (k, _), c in sorted(self._known.items()) if k == kind and c.value is not None)

    def one(self, kind: Kind) -> Any:
        return next(self.all(kind), None)


class Operator:
    """One replica. ``preconditions``: whether status writes carry the version that was decided about."""

    def __init__(self, cluster: Cluster, *, preconditions: bool) -> None:
        self.cluster = cluster
        self.preconditions = preconditions
        self.leads = True
        self.rivals = 0
        """Connections that other jobs use."""
        self._faults: Iterator[str] = iter(())
        self.restart()

    def restart(self) -> None:
        """Begin without any memory."""
        self.store = Store(self.cluster)
        self.budget = Budget()
        self.awake = True
        self.again: datetime | None = None
        self._offered: tuple[JobDecision, str] | None = None

    def follow(self, kind: Kind, number: int = 1000, *, lose: bool = False) -> None:
        """Receive events; what is news is decided about."""
        self.awake |= self.store.follow(kind, number, lose=lose)

    def relist(self) -> None:
        """Compare with a LIST, and decide again."""
        self.store.relist()
        self.awake = True

    def step(self, faults: Iterable[str] = ()) -> JobDecision | None:
        """Decide once, and carry it out as far as it goes."""
        self._faults, self.awake, self.again = iter(faults), False, None
        seen = self.observe()
        if seen is None:
            return None
        decision = decide_job(seen, SETTINGS)
        assert decision.again_at is None or decision.again_at > self.cluster.now, "a busy loop"
        self.again = decision.again_at
        version = seen.job.metadata.resource_version or ""
        try:
            self._offered = None
            if decision.status == seen.job.status:
                self._tell(decision.events)
            elif decision.urgent:
                self._write_status(decision, version)
            else:
                self._offered = (decision, version)
            for action in decision.actions:
                self._act(action)
        except Trouble:
            self.awake = True
        except Crash:
            self.restart()
        return decision

    def flush(self, faults: Iterable[str] = ()) -> None:
        """Write the status that waits."""
        self._faults = iter(faults)
        if self._offered is not None:
            (decision, version), self._offered = self._offered, None
            try:
                self._write_status(decision, version)
            except Trouble:
                self.awake = True
            except Crash:
                self.restart()

    def observe(self) -> ObservedJob | None:
        """Return what is believed."""
        job, source, now = self.store.one("job"), self.store.one("source"), self.cluster.now
        if job is None:
            self.budget.release(Key("team", "orders"))
            return None
        children = tuple(self.store.all("children"))
        grant = Grant(admitted=False, reason="There is no source.")
        if source is not None:
            if self.rivals:
                limits = (source.budget_group, source.spec.limits.max_connections, 100, 2, 3)
                rival = Claim(Key("team", "rival"), Key("team", "shop"), *limits, created=NOW, used=self.rivals)
                self.budget.ask(rival, now)
            else:
                self.budget.release(Key("team", "rival"))
            grant = self.budget.ask(claim_of(job, source, children, now, DEFAULT_CAP), now)
        pods = tuple(pod for pod in self.store.all("pods") if is_of_interest(pod))
        return ObservedJob(job=job, now=now, source=source, grant=grant, jobs=children, pods=pods)

    # Writing ----------------------------------------------------------------------------------------------------------

    def _write(self, write: Callable[[], Change]) -> None:
        fault = next(self._faults, "")
        if fault == "refused" or not self.leads:
            raise Trouble
        change = write()
        if fault == "lost":
            raise Trouble
        if fault == "crash":
            raise Crash
        self.awake |= self.store.merge(change)

    def _write_status(self, decision: JobDecision, version: str) -> None:
        try:
            self._write(lambda: self.cluster.write_status(decision.status, version if self.preconditions else None))
        except (Conflict, Refused):
            # Decided about an older version: the newer one is on its way.
            raise Trouble from None
        self._tell(decision.events)

    def _tell(self, events: Iterable[Event]) -> None:
        if self.leads:
            self.cluster.told += [event.reason for event in events]

    def _act(self, action: Action) -> None:
        cluster = self.cluster
        match action:
            case CreateJob():
                try:
                    self._write(lambda: cluster.create(action.manifest))
                except Exists:
                    newest = next(c for c in reversed(cluster.log) if (c.kind, c.name) == ("children", action.name))
                    self.awake |= self.store.merge(newest)
            case DeleteJob() | ScaleJob() | AddFinalizer() | RemoveFinalizer():
                with contextlib.suppress(Conflict):
                    self._write(lambda: self._change(action))
            case LookForWarnings():
                pass

    def _change(self, action: Action) -> Change:
        cluster = self.cluster
        if isinstance(action, DeleteJob):
            return cluster.delete(action.name, action.uid)
        if isinstance(action, ScaleJob):
            return cluster.scale(action.name, action.uid, action.parallelism, action.suspend)
        job = self.store.one("job")
        return cluster.set_finalizer(job.metadata.resource_version or "", present=isinstance(action, AddFinalizer))
