"""Why an attempt ended without a result, read from what Kubernetes and the pods' last words say."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum, auto

from extraction_contract.messages import FailureMessage
from extraction_operator.plan.values import ChildJob, Container, Pod

SNAPSHOT_REASONS = frozenset({"SnapshotLost", "SourceInDanger"})
"""Reasons that ``snapshot.onLoss`` is about."""

OUT_OF_MEMORY = "OutOfMemory"


class Kind(Enum):
    """What a failure asks for."""

    TERMINAL = auto()
    """Somebody has to change something."""
    TRANSIENT = auto()
    """The same may succeed later; counted."""
    DISRUPTION = auto()
    """Nobody's fault: an eviction, a lost node; not counted."""
    SNAPSHOT = auto()
    """The snapshot ended: ``snapshot.onLoss`` decides."""


@dataclass(frozen=True)
class Failure:
    """Why an attempt ended. ``planned_nothing``: it ended by its own planning, which left nothing in staging."""

    kind: Kind
    reason: str
    message: str
    planned_nothing: bool = False


def from_message(found: FailureMessage) -> Failure:
    """Return the failure that a pod told."""
    if found.reason in SNAPSHOT_REASONS:
        kind = Kind.SNAPSHOT
    elif found.transient or found.reason == "Interrupted":
        kind = Kind.TRANSIENT
    else:
        kind = Kind.TERMINAL
    where = f"Bundle {found.bundle}: " if found.bundle is not None and found.chunk is None else ""
    return Failure(kind, found.reason, where + found.message)


def of_pod(pod: Pod) -> Failure | None:
    """Return why a pod failed: its own words first, otherwise what Kubernetes knows; None while it hasn't failed."""
    ended = [container for container in pod.containers if container.exit_code is not None]
    for container in ended:
        message = FailureMessage.of(container.message)
        if message is not None:
            failure = from_message(message)
            interrupted = message.reason == "Interrupted" and pod.disrupted
            if interrupted:
                return _disrupted(pod)
            return Failure(failure.kind, failure.reason, failure.message, container.name == "plan")
    if pod.phase != "Failed":
        return None
    if pod.disrupted:
        return _disrupted(pod)
    broken = next((container for container in ended if container.exit_code != 0), None)
    return _silent(pod, broken)


def of_workers(job: ChildJob, pods: Iterable[Pod]) -> Failure | None:
    """Return why a worker Job failed, by the words of its pods; terminal ones first. None while no pod has told."""
    found = [
        failure
        for pod in sorted(pods, key=lambda pod: (pod.index or 0, pod.created, pod.uid))
        if pod.job_uid == job.uid and not pod.disrupted and (failure := of_pod(pod)) is not None
    ]
    order = (Kind.SNAPSHOT, Kind.TERMINAL, Kind.TRANSIENT, Kind.DISRUPTION)
    first = min(found, key=lambda failure: order.index(failure.kind), default=None)
    if first is not None and first.reason == OUT_OF_MEMORY:
        # Each repetition of a bundle had halved what it keeps in memory; another attempt would go the same way.
        return replace(first, kind=Kind.TERMINAL)
    return first


def of_job(job: ChildJob) -> Failure:
    """Return why a Job failed, where no pod of it has told."""
    detail = f": {job.ending_message}" if job.ending_message else ""
    if job.ending_reason == "DeadlineExceeded":
        return Failure(Kind.TERMINAL, "DeadlineExceeded", f"Job {job.name} took longer than it may{detail}")
    # A terminal exit code fails the Job by its policy, also where the pod is gone before its words were read.
    kind = Kind.TERMINAL if job.ending_reason == "PodFailurePolicy" else Kind.TRANSIENT
    return Failure(kind, job.ending_reason or "JobFailed", f"Job {job.name} failed{detail}")


def _disrupted(pod: Pod) -> Failure:
    return Failure(Kind.DISRUPTION, "Disrupted", f"Pod {pod.name} was ended from outside ({pod.disrupted}).")


def _silent(pod: Pod, container: Container | None) -> Failure:
    if container is None:
        return Failure(Kind.TRANSIENT, "PodFailed", f"Pod {pod.name} failed before it ran.")
    what = f"container {container.name} of pod {pod.name}"
    if container.ended_reason == "OOMKilled":
        text = f"The {what} was killed for using more memory than its limit. Raise podTemplate.resources.limits.memory."
        return Failure(Kind.TRANSIENT, OUT_OF_MEMORY, text)
    ended = f"exit code {container.exit_code}" + (f", {container.ended_reason}" if container.ended_reason else "")
    return Failure(Kind.TRANSIENT, "PodFailed", f"The {what} ended without a word ({ended}).")
