"""A model of the API server that an ExtractionJob lives in, with the staging of its runs.

Objects are the planner's own values. Every write makes a new version in a log, which stores follow, and is checked for
what must never be.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import count
from typing import Any, Literal

from extraction_contract.messages import (
    PlanMessage,
    PublishMessage,
)  # fmt: skip
from extraction_contract.models import DataSource, ExtractionJob
from extraction_contract.status import ExtractionJobStatus
from extraction_operator.plan.facts import FINAL
from extraction_operator.plan.names import ATTEMPT, NUMBER, QUEUE, ROLE
from extraction_operator.plan.values import FINALIZER, ChildJob, Pod, Role
from support.api_rules import check_status, check_transition
from support.plan_world import NOW, make_job, make_source

Kind = Literal["job", "source", "children", "pods"]


class Conflict(Exception):
    """A precondition doesn't hold, or the object is gone."""


class Exists(Exception):
    """An object of this name is there."""


@dataclass(frozen=True)
class Change:
    """One version of an object; None is its end."""

    version: int
    kind: Kind
    name: str
    value: Any


@dataclass
class Staging:
    """What runs leave until they publish or are cleaned."""

    plans: dict[int, PlanMessage] = field(default_factory=dict)
    """By attempt."""
    results: dict[int, set[int]] = field(default_factory=dict)
    """Bundles by attempt."""
    published: dict[int, PublishMessage] = field(default_factory=dict)

    def discard(self, attempt: int) -> None:
        self.plans.pop(attempt, None)
        self.results.pop(attempt, None)

    @property
    def left(self) -> set[int]:
        """Attempts of which something is left."""
        return {*self.plans, *(attempt for attempt, found in self.results.items() if found)}


class ApiServer:
    """The objects of one ExtractionJob. Invariants are checked at every write that could break one."""

    def __init__(self, queue: str = "", **spec: Any) -> None:
        self.now: datetime = NOW
        self.log: list[Change] = []
        self.objects: dict[Kind, dict[str, Any]] = {"job": {}, "source": {}, "children": {}, "pods": {}}
        self.staging = Staging()
        self.told: list[str] = []
        """Reasons of all Events."""
        self.silent: set[str] = set()
        """Nodes."""
        self.counted: dict[str, dict[str, int]] = {}
        """Of worker Jobs, by uid: failures by index."""
        self.resting: set[str] = set()
        """Worker Jobs of which no index is started now: one backs off."""
        self.owned_by_lead: set[str] = set()
        """Worker Jobs that go with their lead, by uid; others with the ExtractionJob."""
        self._numbers = count(1)
        self.put("source", "shop", make_source())
        self.put("job", "orders", make_job(metadata={"labels": {QUEUE: queue}} if queue else None, **spec))

    # API server -----------------------------------------------------------------------------------------------------

    @property
    def job(self) -> ExtractionJob | None:
        found: ExtractionJob | None = self.objects["job"].get("orders")
        return found

    @property
    def source(self) -> DataSource | None:
        found: DataSource | None = self.objects["source"].get("shop")
        return found

    @property
    def children(self) -> dict[str, ChildJob]:
        return self.objects["children"]

    @property
    def pods(self) -> dict[str, Pod]:
        return self.objects["pods"]

    def put(self, kind: Kind, name: str, value: Any) -> Change:
        """Store a version."""
        version = len(self.log) + 1
        if kind == "job":
            value = value.model_copy(
                update={"metadata": value.metadata.model_copy(update={"resource_version": str(version)})}
            )
        if value is None:
            self.objects[kind].pop(name, None)
        else:
            self.objects[kind][name] = value
        self.log.append(Change(version, kind, name, value))
        return self.log[-1]

    def drop(self, kind: Kind, name: str) -> Change:
        """Remove an object."""
        self.objects[kind].pop(name, None)
        self.log.append(Change(len(self.log) + 1, kind, name, None))
        return self.log[-1]

    def write_status(self, status: ExtractionJobStatus, version: str | None) -> Change:
        """Store a status; ``version`` is a precondition, where there is one."""
        job = self.job
        if job is None or (version is not None and job.metadata.resource_version != version):
            raise Conflict
        old = job.status
        if any("may be left" in condition.message for condition in status.conditions):
            self.told.append("StagingLeft")
        check_transition(old, status)
        check_status(status)
        if old.phase in FINAL and status.phase != old.phase:
            assert old.phase == "Failed", "a final phase moved"
            assert status.attempt == old.attempt + 1
        if status.phase == "Succeeded" and old.phase != "Succeeded":
            published = self.staging.published.get(status.attempt)
            assert published is not None, "nothing was published"
            assert status.result is not None
            assert status.result.model_dump(exclude={"seconds"}) == published.model_dump(
                exclude={"plan_digest", "work", "snapshot_seconds"}
            )
        return self.put("job", "orders", job.model_copy(update={"status": status}))

    def set_finalizer(self, version: str, *, present: bool) -> Change:
        """Put the finalizer on this version of the job, or take it off."""
        job = self.job
        if job is None or job.metadata.resource_version != version:
            raise Conflict
        if not present:
            self.check_nothing_is_left()
        metadata = job.metadata.model_copy(update={"finalizers": (FINALIZER,) if present else ()})
        change = self.put("job", "orders", job.model_copy(update={"metadata": metadata}))
        return self.drop("job", "orders") if metadata.deletion_timestamp is not None and not present else change

    def create(self, manifest: Mapping[str, Any]) -> Change:
        """Create a Job."""
        name, labels, spec = manifest["metadata"]["name"], manifest["metadata"]["labels"], manifest["spec"]
        if name in self.children:
            raise Exists
        role, attempt, number = Role(labels[ROLE]), int(labels[ATTEMPT]), int(labels.get(NUMBER, 0))
        job = self.job
        if job is not None and role is not Role.CLEAN:
            assert FINALIZER in job.metadata.finalizers, "a child without the finalizer"
            assert attempt <= max(1, job.status.attempt), "the attempt isn't stored"
        if role is Role.WORK:
            assert job is not None
            assert job.status.plan is not None, "the plan isn't stored"
            rivals = [
                c.name for c in self.children.values() if c.role is role and not c.deleting and c.attempt == attempt
            ]
            assert not rivals, "two worker Jobs of one attempt"
        uid = f"uid-{next(self._numbers)}"
        made = ChildJob(
            name, uid, role, attempt, number, created=self.now, parallelism=spec.get("parallelism", 1),
            completions=spec.get("completions", 1), suspended=spec.get("suspend", bool(labels.get(QUEUE))),
            queue=labels.get(QUEUE, ""),
        )  # fmt: skip
        if [owner["kind"] for owner in manifest["metadata"].get("ownerReferences", ())] == ["Job"]:
            self.owned_by_lead.add(uid)
        return self.put("children", name, made)

    def delete(self, name: str, uid: str | None = None) -> Change:
        """Delete a Job after its pods (Foreground)."""
        found = self.children.get(name)
        if found is None or uid not in {None, found.uid}:
            raise Conflict
        return self.put(
            "children", name, replace(found, deleting=True, deleting_since=found.deleting_since or self.now)
        )

    def scale(self, name: str, uid: str, parallelism: int | None, suspend: bool | None) -> Change:
        """Change a Job."""
        found = self.children.get(name)
        if found is None or found.uid != uid:
            raise Conflict
        assert not found.queue, "the operator changes what is Kueue's"
        changes = {"parallelism": parallelism, "suspended": suspend}
        return self.put("children", name, replace(found, **{k: v for k, v in changes.items() if v is not None}))

    def set_quota(self, name: str, *, given: bool) -> None:
        """Do what Kueue does with a Job in a queue: let it run, or suspend it."""
        found = self.children.get(name)
        waits = found is not None and found.queue and found.ending is None and not found.deleting
        if waits and found.suspended == given:
            self.put("children", name, replace(found, suspended=not given))

    def change_spec(self, **fields: Any) -> None:
        """Have a user change the spec."""
        if (job := self.job) is not None:
            metadata = job.metadata.model_copy(update={"generation": job.metadata.generation + 1})
            spec = job.spec.model_copy(update=fields)
            self.put("job", "orders", job.model_copy(update={"spec": spec, "metadata": metadata}))

    def delete_job(self) -> None:
        """Have a user delete the ExtractionJob."""
        job = self.job
        if job is None or job.metadata.deletion_timestamp is not None:
            return
        if not job.metadata.finalizers:
            self.drop("job", "orders")
            return
        update = {"deletion_timestamp": self.now, "generation": job.metadata.generation + 1}
        self.put("job", "orders", job.model_copy(update={"metadata": job.metadata.model_copy(update=update)}))

    def check_nothing_is_left(self) -> None:
        """Check what must be true once the finalizer goes."""
        if "StagingLeft" in self.told:
            return
        assert not self.staging.left, "staging is left"
        assert not [pod.name for pod in self.live_pods()], "pods are left"

    def check_somebody_cleans_after(self, pod: Pod) -> None:
        """Check that what a pod is about to leave is going to be cleaned."""
        if pod.role is not Role.CLEAN and pod.attempt not in self.staging.published and "StagingLeft" not in self.told:
            assert self.job is not None, "a pod works for a job that is gone"
            assert FINALIZER in self.job.metadata.finalizers, "a pod works without the finalizer"
            assert self.job.status.attempt <= pod.attempt, "a pod works for an attempt that was left"

    def live_pods(self, attempt: int | None = None) -> list[Pod]:
        """Return the pods of leads and workers that may still do something."""
        return [
            pod for pod in self.pods.values()
            if pod.role in {Role.LEAD, Role.WORK} and pod.phase in {"Pending", "Running"}
            and pod.node not in self.silent and attempt in {None, pod.attempt}
            # Words that were said are the end; what remains of such a pod only ends itself.
            and not any(found.exit_code not in {None, 0} for found in pod.containers)
            # Nor does a published run take anything into staging.
            and pod.attempt not in self.staging.published
        ]  # fmt: skip
