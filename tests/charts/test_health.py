"""Health for Argo CD: the script in a real Lua, on statuses as the planner writes them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from lupa.lua51 import LuaRuntime

from extraction_contract.messages import CheckMessage, CleanMessage, FailureMessage, PublishMessage
from extraction_contract.models import DataSource, ExtractionJob
from extraction_contract.status import PlanStatus
from extraction_operator.plan.job import decide_job
from extraction_operator.plan.settings import Settings
from extraction_operator.plan.source import decide_source
from extraction_operator.plan.values import (
    FINALIZER,
    ChildJob,
    Container,
    Ending,
    Grant,
    ObservedJob,
    ObservedSource,
    Pod,
    Role,
)

SCRIPT = Path(__file__).parents[2] / "charts" / "extraction-operator" / "argocd" / "health.lua"
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SETTINGS = Settings(image="extractor:1")
DIGEST = "0" * 32
API = {"apiVersion": "extraction-operator.io/v1alpha1"}


def health(found: ExtractionJob | DataSource) -> tuple[str, str]:
    """Run the script as Argo CD does: the object, as the API server writes it, is the global ``obj``."""
    lua = LuaRuntime(unpack_returned_tuples=True)
    document = found.model_dump(mode="json", by_alias=True, exclude_none=True)
    lua.globals().obj = lua.table_from(document, recursive=True)
    answer = lua.execute(SCRIPT.read_text())
    return answer["status"], answer["message"]


def job(**spec: Any) -> ExtractionJob:
    declared = {
        "dataSourceRef": {"name": "shop"}, "table": "public.orders",
        "sink": {"format": {"type": "Parquet"}, "s3": {"bucket": "lake"}},
    }  # fmt: skip
    metadata = {"name": "orders", "namespace": "shop", "uid": "11111111-u", "generation": 1, "finalizers": (FINALIZER,)}
    return ExtractionJob.model_validate(API | {"kind": "ExtractionJob", "metadata": metadata, "spec": declared | spec})


def source() -> DataSource:
    connection = {"host": "db", "database": "shop"}
    spec = {"type": "PostgreSQL", "connection": connection, "credentialsSecretRef": {"name": "reader"}}
    metadata = {"name": "shop", "namespace": "shop", "uid": "22222222-u", "generation": 1, "finalizers": (FINALIZER,)}
    return DataSource.model_validate(API | {"kind": "DataSource", "metadata": metadata, "spec": spec})


def check_of(found: DataSource, container: Container, now: datetime = NOW) -> DataSource:
    """Return the source after a check whose container ended like this."""
    child = ChildJob("check", "c-1", Role.CHECK, found.status.checks + 1, 0, NOW, generation=1)
    pod = Pod("check", "p-1", "check", "c-1", Role.CHECK, 1, None, NOW, "Running", containers=(container,))
    status = decide_source(ObservedSource(found, now, jobs=(child,), pods=(pod,)), SETTINGS).status
    return found.model_copy(update={"status": status})


CONNECTED = Container(
    "check", exit_code=0, message=CheckMessage(server_version="18.6", latency_milliseconds=1.0).encode()
)


def refused(reason: str, code: int, *, transient: bool) -> Container:
    message = FailureMessage(reason=reason, exit_code=code, transient=transient, message="It says no.")
    return Container("check", exit_code=code, message=message.encode())


def decided(found: ExtractionJob, **observed: Any) -> ExtractionJob:
    """Return the job with the status that the planner gives it."""
    seen = ObservedJob(
        found, NOW, **{"source": check_of(source(), CONNECTED), "grant": Grant(admitted=True)} | observed
    )
    return found.model_copy(update={"status": decide_job(seen, SETTINGS).status})


def changed(found: ExtractionJob, **spec: Any) -> ExtractionJob:
    return found.model_copy(update={"spec": found.spec.model_copy(update=spec)})


LEAD = ChildJob("orders-lead-1", "l-1", Role.LEAD, 1, 0, NOW, active=1)
WORK = ChildJob("orders-work-1-1", "w-1", Role.WORK, 1, 1, NOW, completions=4, active=1)
LEAD_POD = Pod("lead", "p-1", LEAD.name, LEAD.uid, Role.LEAD, 1, None, NOW, "Running")
PLAN = PlanStatus(digest=DIGEST, chunks=40, bundles=4, estimated_rows=1, estimated_bytes=1, strategy="ctid")


def running(found: ExtractionJob) -> ExtractionJob:
    """Return the job while its workers work."""
    begun = {
        "phase": "Running", "attempt": 1, "workers": 1, "plan": PLAN, "start_time": NOW, "consistency": "Snapshot"
    }  # fmt: skip
    return found.model_copy(update={"status": found.status.model_copy(update=begun)})


def test_a_job_that_nobody_has_looked_at_progresses() -> None:
    assert health(job()) == ("Progressing", "The operator hasn't looked at it yet.")


def test_a_job_that_waits_progresses_and_says_for_what() -> None:
    status, message = health(decided(job(), source=None))
    assert status == "Progressing"
    assert "DataSource shop" in message


def test_a_job_that_plans_or_runs_progresses() -> None:
    begun = decided(job(), jobs=(LEAD,), pods=(LEAD_POD,))
    assert begun.status.phase == "Planning"
    assert health(begun)[0] == "Progressing"
    assert health(decided(running(job()), jobs=(LEAD, WORK), pods=(LEAD_POD,)))[0] == "Progressing"


def test_a_job_that_publishes_progresses_also_when_it_is_to_be_suspended() -> None:
    ended = NOW - timedelta(seconds=SETTINGS.brief)
    done = replace(WORK, active=0, succeeded=4, completed_indexes="0-3", ending=Ending.COMPLETE, ended_at=ended)
    publishing = decided(running(job(suspend=True)), jobs=(LEAD, done), pods=(LEAD_POD,))
    assert publishing.status.phase == "Publishing"
    assert health(publishing)[0] == "Progressing"


def test_a_suspended_job_is_suspended_before_and_after_it_began() -> None:
    waiting = decided(job(suspend=True))
    assert waiting.status.phase == "Pending"
    assert health(waiting)[0] == "Suspended"
    stopped = decided(running(job(suspend=True)), jobs=(LEAD, WORK), pods=(LEAD_POD,))
    assert stopped.status.phase == "Suspended"
    assert health(stopped)[0] == "Suspended"
    # Resumed, and not seen by the operator yet.
    assert health(changed(stopped, suspend=False))[0] == "Progressing"


def test_a_published_job_is_healthy() -> None:
    message = PublishMessage(
        rows=1000, bytes=5, files=2, digest=DIGEST, manifest="s3://lake/orders/_manifest.json", plan_digest=DIGEST,
        consistency="Snapshot", verification="Written",
    ).encode()  # fmt: skip
    pod = replace(LEAD_POD, phase="Succeeded", containers=(Container("publish", exit_code=0, message=message),))
    found = decided(running(job()), jobs=(LEAD,), pods=(pod,))
    assert found.status.phase == "Succeeded"
    assert health(found) == ("Healthy", "1,000 rows in 2 files: s3://lake/orders/_manifest.json")


def planning(found: ExtractionJob) -> ExtractionJob:
    begun = {"phase": "Planning", "attempt": 1, "start_time": NOW, "consistency": "Snapshot"}
    return found.model_copy(update={"status": found.status.model_copy(update=begun)})


def failed() -> ExtractionJob:
    lead = replace(LEAD, active=0, failed=1, ending=Ending.FAILED, ending_reason="BackoffLimitExceeded", ended_at=NOW)
    container = replace(refused("PermissionDenied", 15, transient=False), name="plan")
    pod = replace(LEAD_POD, phase="Failed", containers=(container,))
    return decided(planning(job()), jobs=(lead,), pods=(pod,))


def test_a_failed_job_is_degraded_until_it_is_retried() -> None:
    found = failed()
    assert found.status.phase == "Failed"
    status, message = health(found)
    assert status == "Degraded"
    assert message == "It says no."
    asked = changed(found, retry=1)
    assert health(asked) == ("Progressing", "A retry was asked for.")
    assert health(decided(asked))[0] == "Progressing"


def test_a_cancelled_job_holds_back_what_waits_for_its_data() -> None:
    stopped = replace(LEAD, active=0, suspended=True, suspended_since=NOW)
    clean = ChildJob("orders-clean-1", "c-1", Role.CLEAN, 1, 0, NOW, succeeded=1, ending=Ending.COMPLETE, ended_at=NOW)
    pod = Pod("clean", "p-2", clean.name, clean.uid, Role.CLEAN, 1, None, NOW, "Succeeded", containers=(
        Container("clean", exit_code=0, message=CleanMessage().encode()),
    ))  # fmt: skip
    found = decided(planning(job(cancel=True)), jobs=(stopped, clean), pods=(pod,))
    assert found.status.phase == "Cancelled"
    assert health(found)[0] == "Degraded"


def test_a_source_progresses_until_it_was_checked() -> None:
    assert health(source())[0] == "Progressing"


def test_a_source_that_can_be_read_is_healthy() -> None:
    status, message = health(check_of(source(), CONNECTED))
    assert status == "Healthy"
    assert "PostgreSQL 18.6" in message


def test_a_source_that_was_changed_progresses_until_it_is_checked_again() -> None:
    found = check_of(source(), CONNECTED)
    newer = found.metadata.model_copy(update={"generation": 2})
    assert health(found.model_copy(update={"metadata": newer}))[0] == "Progressing"


@pytest.mark.parametrize(
    ("container", "state"),
    [
        (refused("AuthenticationFailed", 14, transient=False), "Degraded"),
        (refused("SourceUnavailable", 40, transient=True), "Progressing"),
    ],
)
def test_a_source_is_degraded_only_by_what_does_not_pass_by_itself(container: Container, state: str) -> None:
    assert health(check_of(source(), container)) == (state, "It says no.")
