"""Why a pod doesn't start, for people who wait for it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from extraction_operator.plan.values import ChildJob, Pod

_CANT_START = frozenset(
    {
        "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError",
        "CreateContainerError", "RunContainerError", "CrashLoopBackOff",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Explanation:
    """Why pods don't start; with ``ask``, children whose events should be looked for, as nothing else tells."""

    text: str = ""
    ask: tuple[str, ...] = ()
    waiting: bool = False
    """Whether a pod hasn't started, or isn't there yet: look again."""


def explain(
    jobs: Iterable[ChildJob], pods: Iterable[Pod], warnings: Mapping[str, str], *, now: datetime, patience: timedelta
) -> Explanation:
    """Explain why the pods of these Jobs don't start, as far as it is known.

    Parameters
    ----------
    patience
        How long a pod, or a Job without one, may take before events are asked for.
    """
    ask: list[str] = []
    waiting = False
    by_job: dict[str, list[Pod]] = {}
    for pod in pods:
        by_job.setdefault(pod.job_uid, []).append(pod)
    for job in jobs:
        if job.ending is not None or job.deleting or job.suspended:
            continue
        mine = by_job.get(job.uid, [])
        for pod in mine:
            if pod.phase == "Pending" and pod.deleting_since is None:
                waiting = True
                text = _of_pod(pod) or warnings.get(pod.name, "")
                if text:
                    return Explanation(f"Pod {pod.name} can't start: {text}", waiting=True)
                if now - pod.created >= patience:
                    ask.append(pod.name)
        # A quota or an admission policy refuses pods: only the Job's events say it.
        if not mine and job.active == 0 and job.succeeded == 0:
            waiting = True
            if text := warnings.get(job.name, ""):
                return Explanation(f"Job {job.name} gets no pods: {text}", waiting=True)
            if now - job.created >= patience:
                ask.append(job.name)
    return Explanation(ask=tuple(ask), waiting=waiting)


def _of_pod(pod: Pod) -> str:
    if pod.unschedulable:
        return pod.unschedulable
    for container in pod.containers:
        if container.waiting_reason in _CANT_START:
            detail = f": {container.waiting_message}" if container.waiting_message else ""
            return f"{container.waiting_reason}{detail}"
    return ""
