"""What may be asked of a job in which phase."""

import pytest

from extraction_operator.kubectl.requests import MOST_RETRIES, Ask, Refused, cancel, resume, retry, suspend
from extraction_operator.kubectl.view import JobView

GOING_ON = ("Pending", "Planning", "Running", "Suspended", "Publishing")


def view(phase: str = "Running", *, retries: int = 0, deleting: bool = False, **spec: object) -> JobView:
    metadata = {"name": "orders", "uid": "u-1"} | ({"deletionTimestamp": "2026-01-01T00:00:00Z"} if deleting else {})
    return JobView.of(
        {"metadata": metadata, "spec": spec, "status": {"phase": phase, "attempt": 3, "retries": retries}}
    )


@pytest.mark.parametrize("phase", GOING_ON)
def test_a_job_that_goes_on_can_be_cancelled_suspended_and_resumed(phase: str) -> None:
    assert cancel(view(phase)).change == {"cancel": True}
    assert suspend(view(phase)).change == {"suspend": True}
    assert resume(view(phase, suspend=True)).change == {"suspend": False}


@pytest.mark.parametrize("phase", ["Succeeded", "Failed", "Cancelled"])
@pytest.mark.parametrize("ask", [cancel, suspend, resume])
def test_a_job_that_has_ended_is_left_as_it_is(phase: str, ask: Ask) -> None:
    with pytest.raises(Refused, match=f"orders is {phase}: there is nothing"):
        ask(view(phase, suspend=ask is resume))


@pytest.mark.parametrize(
    ("ask", "spec", "says"),
    [
        (cancel, {"cancel": True}, "is being cancelled"),
        (suspend, {"suspend": True}, "suspended already"),
        (resume, {}, "isn't suspended"),
    ],
)
def test_what_is_so_already_is_said_and_not_asked_again(ask: Ask, spec: dict[str, object], says: str) -> None:
    request = ask(view(**spec))
    assert request.change is None
    assert says in request.says


def test_a_job_that_is_being_cancelled_is_neither_suspended_nor_resumed() -> None:
    for ask in (suspend, resume):
        with pytest.raises(Refused, match="can't be taken back"):
            ask(view(cancel=True))


def test_a_cancelled_job_is_said_to_be_so() -> None:
    assert cancel(view("Cancelled", cancel=True)).says == "is cancelled."


@pytest.mark.parametrize("ask", [cancel, suspend, resume, retry])
def test_a_job_that_is_being_deleted_is_left_alone(ask: Ask) -> None:
    with pytest.raises(Refused, match="being deleted"):
        ask(view("Failed", deleting=True))


def test_a_failed_job_is_retried_once_for_each_time_it_is_asked_for() -> None:
    assert retry(view("Failed", retry=2, retries=2)).change == {"retry": 3}
    # The operator hasn't begun the attempt that was asked for; another request would be another attempt.
    again = retry(view("Failed", retry=3, retries=2))
    assert again.change is None
    assert "already" in again.says


def test_a_retry_of_a_suspended_job_says_what_it_waits_for() -> None:
    assert "resume" in retry(view("Failed", suspend=True)).says


def test_a_failed_job_that_is_to_be_retried_can_be_suspended_and_cancelled() -> None:
    waiting = view("Failed", retry=1)
    assert suspend(waiting).change == {"suspend": True}
    assert cancel(waiting).change == {"cancel": True}


@pytest.mark.parametrize(
    ("phase", "why"), [("Succeeded", "published"), ("Cancelled", "final"), ("Running", "only a job that Failed")]
)
def test_what_did_not_fail_is_not_retried(phase: str, why: str) -> None:
    with pytest.raises(Refused, match=why):
        retry(view(phase))


def test_a_retry_that_the_api_server_would_refuse_is_refused_with_a_way_out() -> None:
    for spec in ({"cancel": True}, {"retry": MOST_RETRIES}):
        with pytest.raises(Refused, match="another ExtractionJob"):
            retry(view("Failed", retries=MOST_RETRIES, **spec))
