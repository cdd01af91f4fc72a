"""Whose logs are shown, and in which order."""

from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner

from extraction_contract.messages import FailureMessage
from extraction_operator.cluster.parse import parse_pod
from extraction_operator.kubectl.commands import main
from extraction_operator.kubectl.logs import sections
from extraction_operator.plan import names

Job = Callable[..., dict[str, Any]]


def ended(name: str, code: int, message: str = "", reason: str = "") -> dict[str, Any]:
    return {"name": name, "restartCount": 0, "state": {"terminated": {
        "exitCode": code, "message": message, "reason": reason or ("Error" if code else "Completed")}}}  # fmt: skip


def running(name: str) -> dict[str, Any]:
    return {"name": name, "restartCount": 0, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}


def waiting(name: str) -> dict[str, Any]:
    return {"name": name, "restartCount": 0, "state": {"waiting": {"reason": "PodInitializing"}}}


def failure(reason: str, *, transient: bool = False, chunk: int | None = 7) -> str:
    return FailureMessage(
        reason=reason,
        exit_code=40 if transient else 15,
        transient=transient,
        message="It says no.",
        bundle=2,
        chunk=chunk,
    ).encode()


def pod(name: str, role: str, phase: str, *containers: dict[str, Any], index: int | None = None,
        init: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:  # fmt: skip
    annotations = {} if index is None else {"batch.kubernetes.io/job-completion-index": str(index)}
    labels = {names.OWNER_UID: "u-1", names.ROLE: role, names.ATTEMPT: "1", names.MANAGED_BY: names.MANAGER}
    owner = {"kind": "Job", "name": f"orders-{role}", "uid": f"j-{role}", "controller": True}
    return {
        "metadata": {
            "name": name, "namespace": "shop", "uid": f"u-{name}", "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": labels, "annotations": annotations, "ownerReferences": [owner],
        },
        "spec": {"nodeName": "here"},
        "status": {"phase": phase, "containerStatuses": list(containers), "initContainerStatuses": list(init)},
    }  # fmt: skip


LEAD = pod("lead", "lead", "Running", running("publish"), init=(running("hold"), ended("plan", 0)))
FINE = pod("work-1", "work", "Succeeded", ended("work", 0), index=1)
AGAIN = pod("work-2a", "work", "Failed", ended("work", 40, failure("SourceBusy", transient=True)), index=2)
WRONG = pod("work-3", "work", "Failed", ended("work", 15, failure("PermissionDenied")), index=3)


def shown(*pods: dict[str, Any], everything: bool = False) -> list[str]:
    return [f"{found.pod}/{found.container}" for found in sections(map(parse_pod, pods), everything=everything)]


def test_what_ended_the_job_is_first_then_what_was_repeated_then_the_lead() -> None:
    assert shown(FINE, LEAD, AGAIN, WRONG) == ["work-3/work", "work-2a/work", "lead/hold", "lead/plan", "lead/publish"]


def test_all_workers_come_last_when_asked_for() -> None:
    assert shown(FINE, LEAD, everything=True) == ["lead/hold", "lead/plan", "lead/publish", "work-1/work"]


def test_a_lead_that_failed_shows_the_container_that_did_first_and_none_twice() -> None:
    lead = pod(
        "lead", "lead", "Failed", waiting("publish"), init=(running("hold"), ended("plan", 15, failure("NotFound")))
    )
    assert shown(lead) == ["lead/plan", "lead/hold"]


def test_a_title_says_what_the_container_said_last() -> None:
    killed = pod("work-4", "work", "Failed", ended("work", 137, reason="OOMKilled"), index=4)
    titles = [found.title for found in sections(map(parse_pod, (WRONG, killed, LEAD)))]
    assert titles == [
        "work-3/work (bundle 3) failed in chunk 7 with PermissionDenied: It says no.",
        "work-4/work (bundle 4) ended with exit code 137, OOMKilled",
        "lead/hold is running",
        "lead/plan ended with exit code 0",
        "lead/publish is running",
    ]


def logs(*options: str) -> str:
    done = CliRunner().invoke(main, ["logs", "orders", *options])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_logs_are_printed_by_kubectl_below_their_titles(kubectl: Any, job: Job) -> None:
    kubectl.answer(job("Failed", "PermissionDenied", "It says no.")).answer({"items": [WRONG, LEAD]})
    for _ in range(3):
        kubectl.answer()
    kubectl.answer(code=1)
    text = logs("--tail=5")
    assert text.startswith("orders Failed: PermissionDenied: It says no.\n\n==> work-3/work (bundle 3) failed")
    assert text.endswith("==> lead/publish is running\n(kubectl can't show it)\n")
    assert kubectl.calls[1][-2] == "--selector=extraction-operator.io/owner-uid=u-1,extraction-operator.io/attempt=1"
    assert kubectl.calls[2] == ["logs", "work-3", "--container=work", "--tail=5"]


def test_another_attempt_can_be_asked_for(kubectl: Any, job: Job) -> None:
    kubectl.answer(job("Running", status={"attempt": 4})).answer({"items": []})
    assert "There are no pods of attempt 2 now." in logs("--attempt=2")
    assert "attempt=2" in kubectl.calls[1][-2]


@pytest.mark.parametrize(
    ("phase", "pods", "says"),
    [
        ("Succeeded", [], "are gone, as those of jobs that succeeded"),
        ("Failed", [], "ttlSecondsAfterFinished"),
        ("Planning", [pod("lead", "lead", "Pending", init=(waiting("hold"),))], "has started yet"),
    ],
)
def test_where_there_is_no_log_it_says_why(kubectl: Any, job: Job, phase: str, pods: list[Any], says: str) -> None:
    kubectl.answer(job(phase)).answer({"items": pods})
    assert says in logs()
