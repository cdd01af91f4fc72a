"""Objects as the API server writes them → values. What the values don't need is dropped here, and so never stored."""

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

import pydantic_core
from pydantic import ValidationError

from extraction_contract.models import DataSource, ExtractionJob
from extraction_operator.plan.names import ATTEMPT, CHECK, GENERATION, NUMBER, OWNER_UID, QUEUE, ROLE
from extraction_operator.plan.values import ChildJob, Container, Ending, Pod, Role

Raw = Mapping[str, Any]
_Own = TypeVar("_Own", ExtractionJob, DataSource)

_METADATA = frozenset(
    {
        "name", "namespace", "labels", "annotations", "uid", "generation", "resourceVersion", "creationTimestamp",
        "deletionTimestamp", "deletionGracePeriodSeconds", "finalizers",
    }
)  # fmt: skip
_INDEX = "batch.kubernetes.io/job-completion-index"
_SCHEDULE = "ExtractionSchedule"
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


class UnreadableError(ValueError):
    """An object isn't what its schema promises: it was stored by another version of the operator."""


def owner_uid(raw: Raw) -> str:
    """Return the uid of the object that a Job or pod of ours works for; empty for those of others."""
    return str((raw["metadata"].get("labels") or {}).get(OWNER_UID, ""))


def trim(raw: Raw) -> dict[str, Any]:
    """Return one of our own objects with those parts of its metadata that are read."""
    metadata = {key: value for key, value in raw["metadata"].items() if key in _METADATA}
    if schedules := [owner for owner in raw["metadata"].get("ownerReferences") or () if owner["kind"] == _SCHEDULE]:
        # Who made it is recorded.
        metadata["ownerReferences"] = [{"uid": owner["uid"], "name": owner["name"]} for owner in schedules]
    if annotations := metadata.get("annotations"):
        metadata["annotations"] = {key: value for key, value in annotations.items() if key != _LAST_APPLIED}
    return {**raw, "metadata": metadata}


def as_document(own: Raw) -> bytes:
    """Return an object that was trimmed as JSON."""
    return pydantic_core.to_json(own)


def of_document(document: bytes) -> dict[str, Any]:
    """Return what :func:`as_document` was given."""
    found: dict[str, Any] = pydantic_core.from_json(document)
    return found


def parse_own(model: type[_Own], document: bytes) -> _Own:
    """Return an object of one of our own kinds.

    Raises
    ------
    UnreadableError
        It doesn't follow the contract; the message names the field, never a value.
    """
    try:
        return model.model_validate_json(document, by_alias=True, by_name=False)
    except ValidationError as error:
        raise UnreadableError(_explain(error)) from None


def parse_child(raw: Raw) -> ChildJob:
    """Return a Job of ours.

    Raises
    ------
    UnreadableError
        Its labels aren't those that the operator sets.
    """
    metadata, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    conditions = {c["type"]: c for c in status.get("conditions") or () if c.get("status") == "True"}
    ending, condition = _ending(conditions)
    try:
        return ChildJob(
            name=metadata["name"],
            uid=metadata["uid"],
            role=Role(labels[ROLE]),
            attempt=int(labels.get(ATTEMPT, 0)),
            number=int(labels.get(NUMBER, 0)),
            created=parse_time(metadata["creationTimestamp"]),
            deleting="deletionTimestamp" in metadata,
            deleting_since=parse_time(metadata["deletionTimestamp"]) if "deletionTimestamp" in metadata else None,
            generation=int(annotations.get(GENERATION, 0)),
            request=annotations.get(CHECK, ""),
            image=_image(spec),
            parallelism=spec.get("parallelism", 1),
            completions=spec.get("completions") or 1,
            suspended=bool(spec.get("suspend")),
            suspended_since=_time_of(conditions.get("Suspended")),
            active=status.get("active", 0),
            terminating=status.get("terminating") or 0,
            succeeded=status.get("succeeded", 0),
            failed=status.get("failed", 0),
            completed_indexes=status.get("completedIndexes", ""),
            failed_indexes=status.get("failedIndexes") or "",
            ending=ending,
            ending_reason=condition.get("reason", ""),
            ending_message=condition.get("message", ""),
            ended_at=_time_of(condition),
            queue=labels.get(QUEUE, ""),
        )
    except (KeyError, ValueError) as error:
        raise UnreadableError(f"Its labels aren't ours: {type(error).__name__} {error}") from None


def _image(spec: Raw) -> str:
    """Return the image that a Job's containers have, which is one in ours; thousands of Jobs share its name."""
    containers = ((spec.get("template") or {}).get("spec") or {}).get("containers")
    return sys.intern(containers[0].get("image") or "") if containers else ""


def parse_pod(raw: Raw) -> Pod:
    """Return a pod of a Job of ours.

    Raises
    ------
    UnreadableError
        Its labels aren't those that the operator sets.
    """
    metadata, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    labels = metadata.get("labels") or {}
    conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
    scheduled, disrupted = conditions.get("PodScheduled", {}), conditions.get("DisruptionTarget", {})
    index = (metadata.get("annotations") or {}).get(_INDEX, labels.get(_INDEX))
    job: Raw = next((owner for owner in metadata.get("ownerReferences") or () if owner.get("controller")), {})
    deleting = metadata.get("deletionTimestamp")
    try:
        return Pod(
            name=metadata["name"],
            uid=metadata["uid"],
            job=job.get("name", labels.get("batch.kubernetes.io/job-name", "")),
            job_uid=job.get("uid", labels.get("batch.kubernetes.io/controller-uid", "")),
            role=Role(labels[ROLE]),
            attempt=int(labels.get(ATTEMPT, 0)),
            index=None if index is None else int(index),
            created=parse_time(metadata["creationTimestamp"]),
            phase=status.get("phase", "Pending"),
            deleting_since=parse_time(deleting) if deleting else None,
            node=spec.get("nodeName", ""),
            unschedulable=scheduled.get("message", "") if scheduled.get("reason") == "Unschedulable" else "",
            disrupted=disrupted.get("reason", "") if disrupted.get("status") == "True" else "",
            containers=tuple(
                _container(container)
                for container in (
                    *(status.get("initContainerStatuses") or ()),
                    *(status.get("containerStatuses") or ()),
                )
            ),
        )
    except (KeyError, ValueError) as error:
        raise UnreadableError(f"Its labels aren't ours: {type(error).__name__} {error}") from None


def is_of_interest(pod: Pod) -> bool:
    """Whether anything could be decided about a pod.

    Of the workers' pods, which may be many, only those that don't start, have failed, or are on their way out: what
    succeeds or runs, the Job counts. (A field selector could keep the others from being sent at all, but none of them
    can name a running pod that is being deleted, and those tell that a node is lost.)
    """
    return pod.role is not Role.WORK or pod.phase not in {"Running", "Succeeded"} or pod.deleting_since is not None


def parse_time(text: str) -> datetime:
    """Return a time of the API server's."""
    return datetime.fromisoformat(text).astimezone(UTC)


def _container(status: Raw) -> Container:
    state = status.get("state") or {}
    waiting, ended = state.get("waiting") or {}, state.get("terminated")
    if ended is None and not state.get("running") and waiting.get("reason") == "CrashLoopBackOff":
        # Between two starts the last words are in the state before this one.
        ended = (status.get("lastState") or {}).get("terminated")
    return Container(
        name=status["name"],
        waiting_reason=waiting.get("reason", ""),
        waiting_message=waiting.get("message", ""),
        running="running" in state,
        exit_code=ended["exitCode"] if ended else None,
        ended_reason=(ended or {}).get("reason", ""),
        message=(ended or {}).get("message", ""),
        restarts=status.get("restartCount", 0),
        started_at=_time(ended, "startedAt"),
        ended_at=_time(ended, "finishedAt"),
    )


def _time(state: Raw | None, field: str) -> datetime | None:
    return parse_time(state[field]) if state and state.get(field) else None


def _ending(conditions: Mapping[str, Raw]) -> tuple[Ending | None, Raw]:
    """Return how a Job ended, by the condition that knows it first."""
    for kind, ending in (
        ("FailureTarget", Ending.FAILED), ("Failed", Ending.FAILED),
        ("SuccessCriteriaMet", Ending.COMPLETE), ("Complete", Ending.COMPLETE),
    ):  # fmt: skip
        if kind in conditions:
            return ending, conditions[kind]
    return None, {}


def _time_of(condition: Raw | None) -> datetime | None:
    return parse_time(condition["lastTransitionTime"]) if condition and "lastTransitionTime" in condition else None


def _explain(error: ValidationError) -> str:
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(str(step) for step in problem['loc'])}: {problem['type']}" for problem in problems[:5])
