"""A job as people look at it, and the exit code that says how it ended."""

from typing import Any, get_args

import pytest

from extraction_contract.models import ExtractionJob
from extraction_contract.schema import structural_schema
from extraction_contract.status import Phase
from extraction_operator.kubectl.exit_codes import CODES
from extraction_operator.kubectl.requests import MOST_RETRIES
from extraction_operator.kubectl.view import FINAL, JobView
from extraction_worker.report.exit_codes import all_errors


def view(status: dict[str, Any], **spec: Any) -> JobView:
    return JobView.of({"metadata": {"name": "orders"}, "spec": spec, "status": status})


def ready(reason: str, message: str = "") -> list[dict[str, str]]:
    return [{"type": "Stalled", "reason": "Other"}, {"type": "Ready", "reason": reason, "message": message}]


def test_exit_codes_are_those_of_local_mode() -> None:
    assert {error.reason: error.exit_code for error in all_errors()} == CODES


@pytest.mark.parametrize(
    ("phase", "reason", "code"),
    [
        ("Succeeded", "Succeeded", 0),
        ("Failed", "AuthenticationFailed", 14),
        ("Failed", "DeadlineExceeded", 29),
        ("Failed", "OutOfMemory", 1),
        ("Failed", "", 1),
        ("Cancelled", "Cancelled", 130),
        ("Running", "Planned", None),
        ("Pending", "SourceNotReady", None),
    ],
)
def test_the_exit_code_says_how_a_job_ended(phase: str, reason: str, code: int | None) -> None:
    assert view({"phase": phase, "conditions": ready(reason)}).exit_code() == code


def test_a_failed_job_that_is_to_be_retried_has_not_ended() -> None:
    status = {"phase": "Failed", "retries": 1, "conditions": ready("SinkFull")}
    assert view(status, retry=2).exit_code() is None
    assert view(status, retry=1).exit_code() == 27


def test_an_object_that_the_operator_has_not_seen_is_pending() -> None:
    found = JobView.of({"metadata": {"name": "orders"}})
    assert (found.phase, found.exit_code(), found.line()) == ("Pending", None, "Pending")


def test_a_line_says_what_is_known() -> None:
    progress = {"summary": "12/40", "chunks": 12, "rows": 1234567, "rowsPerSecond": 50000}
    running = view({"phase": "Running", "progress": progress, "conditions": ready("Planned", "40 chunks.")})
    assert running.line() == "Running (12/40 chunks, 1,234,567 rows, 50,000 rows/s): Planned: 40 chunks."
    assert view({"phase": "Succeeded", "conditions": ready("Succeeded", "5 rows")}).line() == "Succeeded: 5 rows"


def test_final_phases_and_limits_are_those_of_the_contract() -> None:
    assert set(FINAL) < set(get_args(Phase))
    spec = structural_schema(ExtractionJob)["properties"]["spec"]
    assert spec["properties"]["retry"]["maximum"] == MOST_RETRIES
