"""The logs of a job, what failed first."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from extraction_contract.messages import FailureMessage
from extraction_operator.cluster.parse import parse_pod
from extraction_operator.kubectl.program import Kubectl
from extraction_operator.kubectl.view import JobView
from extraction_operator.plan.failures import Kind, of_pod
from extraction_operator.plan.names import ATTEMPT, OWNER_UID
from extraction_operator.plan.values import Container, Pod, Role

_ORDER = (Kind.SNAPSHOT, Kind.TERMINAL, Kind.TRANSIENT, Kind.DISRUPTION)
"""Of failures: that which ended the attempt before those that were repeated."""
_STEPS = ("hold", "plan", "publish", "work", "clean")


@dataclass(frozen=True)
class Section:
    """The log of one container, and what is known about it."""

    pod: str
    container: str
    title: str


def sections(pods: Iterable[Pod], *, everything: bool = False) -> list[Section]:
    """Return which logs to show, in this order: what failed, the lead, and with ``everything`` all others."""
    known = sorted(pods, key=lambda pod: (pod.role is not Role.LEAD, pod.index or 0, pod.created, pod.name))
    failed = [(pod, failure) for pod in known if (failure := of_pod(pod)) is not None]
    failed.sort(key=lambda found: _ORDER.index(found[1].kind))
    chosen = [(pod, container) for pod, _ in failed for container in _started(pod) if container.exit_code]
    rest = [pod for pod in known if everything or pod.role is Role.LEAD]
    chosen += [(pod, container) for pod in rest for container in _started(pod)]
    return [_section(pod, container) for pod, container in dict.fromkeys(chosen)]


def show_logs(kubectl: Kubectl, name: str, *, attempt: int | None, everything: bool, tail: int) -> Iterator[str]:
    """Print the logs of an attempt by kubectl; yield the lines to print between them.

    Raises
    ------
    KubectlFailed
        The job isn't there, or pods may not be listed.
    """
    job = JobView.of(kubectl.get(name))
    number = job.attempt if attempt is None else attempt
    yield f"{name} {job.line()}"
    pods = [parse_pod(raw) for raw in kubectl.pods(f"{OWNER_UID}={job.uid},{ATTEMPT}={number}")]
    found = sections(pods, everything=everything)
    for section in found:
        yield f"\n==> {section.title}"
        if not kubectl.show_logs(section.pod, section.container, tail):
            yield "(kubectl can't show it)"
    if not found:
        yield _nothing(job, number, pods)


def _nothing(job: JobView, attempt: int, pods: list[Pod]) -> str:
    if pods:
        return f"No container of attempt {attempt} has started yet."
    if job.phase == "Succeeded":
        return f"The pods of attempt {attempt} are gone, as those of jobs that succeeded are at once."
    if job.is_final:
        return f"The pods of attempt {attempt} are gone; spec.ttlSecondsAfterFinished says how long they stay."
    return f"There are no pods of attempt {attempt} now."


def _started(pod: Pod) -> list[Container]:
    started = [found for found in pod.containers if found.running or found.exit_code is not None]
    return sorted(started, key=lambda found: _STEPS.index(found.name) if found.name in _STEPS else len(_STEPS))


def _section(pod: Pod, container: Container) -> Section:
    where = f"{pod.name}/{container.name}" + (f" (bundle {pod.index})" if pod.index is not None else "")
    failure = FailureMessage.of(container.message)
    if failure is not None:
        chunk = f" in chunk {failure.chunk}" if failure.chunk is not None else ""
        ended = f"failed{chunk} with {failure.reason}: {failure.message}"
    elif container.exit_code is None:
        ended = "is running"
    else:
        why = f", {container.ended_reason}" if container.ended_reason and container.exit_code else ""
        ended = f"ended with exit code {container.exit_code}{why}"
    return Section(pod.name, container.name, f"{where} {ended}")
