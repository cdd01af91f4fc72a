"""Why an attempt ended without a result, read from what Kubernetes and the pods' last words say."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum, auto

from extraction_contract.exit_codes import EXIT_CODES
from extraction_contract.messages import SNAPSHOT_EXIT_CODES, FailureMessage
from extraction_operator.plan import indexes
from extraction_operator.plan.values import ChildJob, Container, Pod, Role

_EXIT_CODE = re.compile(r"^Container (\S+) for pod (\S+) failed with exit code (\d+) ")
"""The message of a Job that a pod failure policy has failed, as the Job controller's pod_failure_policy.go words it."""

INTERRUPTED = "Interrupted"
"""The reason that a pod gives when it was asked to stop."""

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


def _from_message(found: FailureMessage, role: Role) -> Failure:
    """Return the failure that a pod told."""
    if found.reason in SNAPSHOT_EXIT_CODES.values():
        kind = Kind.SNAPSHOT
    elif found.transient:
        kind = Kind.TRANSIENT
    else:
        kind = Kind.TERMINAL
    return Failure(kind, found.reason or "PodFailed", _where(found, role) + found.message)


def _where(found: FailureMessage, role: Role) -> str:
    """Return the place of a failure, unless its own words begin with it."""
    if found.chunk is not None:
        return "" if f"hunk {found.chunk}" in found.message else f"Chunk {found.chunk}: "
    # A bundle that the lead works is the only one.
    return f"Bundle {found.bundle}: " if found.bundle is not None and role is not Role.LEAD else ""


def of_pod(pod: Pod) -> Failure | None:
    """Return why a pod failed: its own words first, otherwise what Kubernetes knows; None while it hasn't failed."""
    ended = [container for container in pod.containers if container.exit_code is not None]
    # Whoever says it: *hold* has the same words, and may be seen to have ended first.
    planned_nothing = any(container.name == "plan" and container.exit_code for container in ended)
    interrupted = False
    for container in ended:
        message = FailureMessage.of(container.message)
        if message is not None and message.reason == INTERRUPTED:
            interrupted = True
        elif message is not None:
            return replace(_from_message(message, pod.role), planned_nothing=planned_nothing)
    if interrupted or (pod.phase == "Failed" and (pod.disrupted or pod.deleting_since is not None)):
        return Failure(Kind.DISRUPTION, "Disrupted", f"Pod {pod.name} was ended from outside ({_by_whom(pod)}).")
    if pod.phase != "Failed":
        return None
    broken = next((container for container in ended if container.exit_code != 0), None)
    return _silent(pod, broken)


def of_workers(job: ChildJob, pods: Iterable[Pod]) -> Failure | None:
    """Return why a worker Job failed, by the words of its pods; terminal ones first. None while no pod has told."""
    blamed = {index for found in indexes.parse(job.failed_indexes) for index in found}
    # An index that failed the Job before those that were repeated with success, its last pod first.
    mine = [pod for pod in pods if pod.job_uid == job.uid and not pod.disrupted]
    mine.sort(key=lambda pod: (pod.created, pod.uid), reverse=True)
    mine.sort(key=lambda pod: (pod.index not in blamed, pod.index or 0))
    found = [failure for pod in mine if (failure := of_pod(pod)) is not None]
    order = (Kind.SNAPSHOT, Kind.TERMINAL, Kind.TRANSIENT, Kind.DISRUPTION)
    first = min(found, key=lambda failure: order.index(failure.kind), default=None)
    if first is not None and first.reason == OUT_OF_MEMORY:
        # Each repetition of a bundle had halved what it keeps in memory; another attempt would go the same way.
        return replace(first, kind=Kind.TERMINAL)
    return first


def of_job(job: ChildJob) -> Failure:
    """Return why a Job failed, where no pod of it has told."""
    detail = f": {job.ending_message}" if job.ending_message else "."
    if job.ending_reason == "DeadlineExceeded":
        return Failure(Kind.TERMINAL, "DeadlineExceeded", f"Job {job.name} took longer than it may{detail}")
    text = f"Job {job.name} failed{detail}"
    if job.ending_reason != "PodFailurePolicy":
        return Failure(Kind.TRANSIENT, job.ending_reason or "JobFailed", text)
    # A terminal exit code fails the Job by its policy, also where the pod is gone before its words were read: one that
    # was being deleted as its Job was suspended, say.
    told = _EXIT_CODE.match(job.ending_message)
    if told is None or int(told[3]) not in EXIT_CODES:
        return Failure(Kind.TERMINAL, job.ending_reason, text)
    reason, meaning = EXIT_CODES[int(told[3])]
    kind = Kind.SNAPSHOT if reason in SNAPSHOT_EXIT_CODES.values() else Kind.TERMINAL
    return Failure(
        kind, reason,
        f"{meaning} Container {told[1]} of pod {told[2]} ended with exit code {told[3]}, which says so; "
        "the pod was gone before its own words, which say more, were read.",
    )  # fmt: skip


def _by_whom(pod: Pod) -> str:
    return pod.disrupted or ("it was deleted" if pod.deleting_since is not None else "it was asked to stop")


def _silent(pod: Pod, container: Container | None) -> Failure:
    if container is None:
        return Failure(Kind.TRANSIENT, "PodFailed", f"Pod {pod.name} failed before it ran.")
    what = f"container {container.name} of pod {pod.name}"
    if container.ended_reason == "OOMKilled":
        text = f"The {what} was killed for using more memory than its limit. Raise podTemplate.resources.limits.memory."
        return Failure(Kind.TRANSIENT, OUT_OF_MEMORY, text)
    ended = f"exit code {container.exit_code}" + (f", {container.ended_reason}" if container.ended_reason else "")
    return Failure(Kind.TRANSIENT, "PodFailed", f"The {what} ended without a word ({ended}).")
