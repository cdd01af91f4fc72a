"""What was observed, as rows."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from extraction_contract.messages import BundleMessage, FailureMessage, PlanMessage, PublishMessage
from extraction_contract.models import DataSource
from extraction_contract.status import ConnectionCounts
from extraction_operator.cluster.parse import parse_pod
from extraction_operator.plan.values import Pod
from extraction_operator.record.rows import AnyRow, Marked, job_rows, pod_rows, source_rows
from support.objects import condition, data_source, pod
from support.record import COMPLETED, STARTED, job, observed, succeeded, uid

SEEN = datetime(2026, 11, 22, 7, tzinfo=UTC)
BUNDLE = BundleMessage(
    bundle=3, chunks=4, reused=1, rows=500, bytes=32_000, seconds=2.5, retries=2, sessions=2, checkouts=9,
    session_reuses=7, session_waits=1, sessions_evicted=1, sessions_leaked=3,
)  # fmt: skip
SESSIONS = (
    "sessions", "session_checkouts", "session_reuses", "session_waits", "sessions_evicted", "sessions_leaked",
)  # fmt: skip
FAILED = FailureMessage(reason="OutOfMemory", exit_code=21, message="Pod x needs more.\0", bundle=3)


class Values(dict):
    """The values of a row; a column that has none is null."""

    def __missing__(self, _: str) -> None:
        return None


def rows(table: str, found: list[AnyRow]) -> list[dict]:
    return [Values(row.make() if isinstance(row, Marked) else row.values) for row in found if row.table.name == table]


def of_job(**more) -> list[AnyRow]:
    gone = more.pop("gone", False)
    return list(job_rows(observed(**more), cluster="here", seen=lambda: SEEN, gone=gone))


def test_a_new_job_is_pending_and_has_no_attempt():
    found = of_job(version=17)
    assert [row.table.name for row in found] == ["jobs", "job_specs"]
    (row,) = rows("jobs", found)
    assert found[0].version == 17
    assert (row["uid"], row["cluster"], row["namespace"], row["name"]) == (uid("orders"), "here", "default", "orders")
    assert (row["source"], row["table_name"], row["phase"], row["attempt"]) == ("shop", "public.orders", "Pending", 0)
    assert (row["sink"], row["format"], row["verification"]) == ("s3://lake/default/orders", "Parquet", "Written")
    assert (row["started_at"], row["finished_at"], row["deleted_at"]) == (None, None, None)


def test_a_job_that_succeeded_has_its_result_and_so_has_its_attempt():
    found = of_job(phase="Succeeded", status=succeeded())
    (row,), (attempt,) = rows("jobs", found), rows("attempts", found)
    assert (row["phase"], row["started_at"], row["finished_at"]) == ("Succeeded", STARTED, COMPLETED)
    assert (row["rows"], row["bytes"], row["files"], row["consistency"]) == (1000, 32000, 8, "Snapshot")
    assert (attempt["attempt"], attempt["outcome"], attempt["finished_at"]) == (1, "Succeeded", COMPLETED)
    assert (attempt["chunks"], attempt["bundles"], attempt["strategy"], attempt["rows"]) == (8, 2, "ctid", 1000)
    assert "reason" not in attempt


def test_a_job_that_took_a_result_names_the_run():
    reused = {"job": "default/first", "run": f"{uid('first')}-1", "publishedAt": COMPLETED}
    status = succeeded()
    status["result"] = status["result"] | {"reused": reused}
    (row,) = rows("jobs", of_job(phase="Succeeded", status=status))
    assert row["reused_run"] == f"{uid('first')}-1"
    assert rows("jobs", of_job(phase="Succeeded", status=succeeded()))[0]["reused_run"] is None


def test_a_job_that_read_has_what_its_pods_did_with_connections():
    counts = {"opened": 8, "checkouts": 100, "reuses": 92, "waits": 3, "evicted": 1, "leaks": 2}
    status = succeeded()
    status["result"] = status["result"] | {"connections": counts}
    (row,) = rows("jobs", of_job(phase="Succeeded", status=status))
    assert tuple(row[name] for name in SESSIONS) == (8, 100, 92, 3, 1, 2)
    (row,) = rows("jobs", of_job(phase="Succeeded", status=succeeded()))
    assert {row[name] for name in SESSIONS} == {None}


def test_a_job_that_failed_says_why():
    ready = condition("Ready", "False", reason="AuthenticationFailed", message="No\0.", observedGeneration="1")
    found = of_job(phase="Failed", status={"completionTime": COMPLETED, "conditions": [ready]})
    (row,), (attempt,) = rows("jobs", found), rows("attempts", found)
    assert (row["reason"], row["message"]) == ("AuthenticationFailed", "No.")
    assert (attempt["outcome"], attempt["reason"]) == ("Failed", "AuthenticationFailed")


def test_an_attempt_that_is_followed_by_another_failed():
    ready = condition("Ready", "False", reason="SnapshotLost", message="Gone. Attempt 2 follows.")
    status = {"attempt": 2, "nextAttemptTime": COMPLETED, "conditions": [ready]}
    (attempt,) = rows("attempts", of_job(phase="Pending", status=status))
    assert (attempt["attempt"], attempt["outcome"], attempt["reason"]) == (1, "Failed", "SnapshotLost")
    assert attempt["finished_at"] == SEEN
    # Also where nobody saw it, or people asked for a retry.
    for phase in ("Pending", "Running"):
        first = rows("attempts", of_job(phase=phase, status={"attempt": 2}))[0]
        assert (first["attempt"], first["outcome"], "finished_at" in first) == (1, "Failed", False)


def test_a_job_that_is_deleted_before_its_end_ended_then():
    found = of_job(phase="Running", status={"startTime": STARTED}, gone=True)
    (row,), (attempt,) = rows("jobs", found), rows("attempts", found)
    assert (row["phase"], row["finished_at"], row["deleted_at"]) == ("Deleted", SEEN, SEEN)
    assert attempt["outcome"] == "Deleted"
    (row,) = rows("jobs", of_job(phase="Succeeded", status=succeeded(), gone=True))
    assert (row["phase"], row["finished_at"], row["deleted_at"]) == ("Succeeded", COMPLETED, SEEN)


def test_a_job_of_a_schedule_names_it():
    owners = [
        {
            "kind": "ExtractionSchedule",
            "name": "nightly",
            "uid": uid("nightly"),
            "apiVersion": "v1",
            "controller": True,
        },
        {"kind": "Application", "name": "other", "uid": uid("other"), "apiVersion": "v1"},
    ]
    found = of_job(ownerReferences=owners)
    assert rows("jobs", found)[0]["schedule_uid"] == uid("nightly")
    (schedule,) = rows("schedules", found)
    assert (schedule["uid"], schedule["name"], schedule["namespace"]) == (uid("nightly"), "nightly", "default")


@pytest.mark.parametrize(
    ("sink", "shown"),
    [
        ({"s3": {"bucket": "lake", "prefix": "orders"}}, "s3://lake/orders"),
        ({"volume": {"claimName": "lake"}}, "volume:lake/default/orders"),
        ({"volume": {"claimName": "lake", "path": "x/y"}}, "volume:lake/x/y"),
    ],
)
def test_the_sink_is_one_word(sink: dict, shown: str):

    raw = job()
    raw["spec"] |= {"sink": sink}
    (row,) = rows("jobs", list(job_rows(raw, cluster="c", seen=lambda: SEEN)))
    assert (row["sink"], row["format"]) == (shown, "Parquet")


def test_a_version_that_is_no_number_counts_as_the_first():
    assert next(job_rows(observed(version="abc"), cluster="c", seen=lambda: SEEN)).version == 0


def test_a_source_is_recorded_with_what_its_check_found():
    raw = data_source(ready=True, version=9, uid=uid("shop"))
    raw["status"]["server"] = {"version": "18.6", "latencyMilliseconds": 3, "tls": "TLSv1.3"}
    (row,) = source_rows(DataSource.model_validate_json(_json(raw)), cluster="here", seen=SEEN)
    assert (row.version, row.key) == (9, (uid("shop"),))
    assert {
        "type": "PostgreSQL", "host": "db", "port": 5432, "database": "shop", "budget_group": "db:5432", "ready": True,
        "reason": "Connected", "server_version": "18.6", "tls": "TLSv1.3", "latency_milliseconds": 3,
        "deleted_at": None,
    }.items() <= row.values.items()  # fmt: skip
    assert "credentialsSecretRef" not in row.values["spec"]
    (unchecked,) = source_rows(
        DataSource.model_validate_json(_json(data_source())), cluster="here", seen=SEEN, gone=True
    )
    assert (unchecked.values["ready"], unchecked.values["deleted_at"]) == (None, SEEN)


def _json(raw: dict) -> bytes:

    return json.dumps(raw)


def worker(code: int | None, message: str = "", *, reason: str = "Completed", **more) -> Pod:
    """Return a worker pod whose container ended, or runs."""
    ended = {
        "exitCode": code, "reason": reason, "message": message,
        "startedAt": "2026-11-22T06:00:20Z", "finishedAt": "2026-11-22T06:00:30Z",
    }  # fmt: skip
    state = {"running": {}} if code is None else {"terminated": ended}
    raw = pod(
        "orders-work-1-1-3-x", role="work", phase="Succeeded" if code == 0 else "Failed", uid=uid("pod"),
        annotations={"batch.kubernetes.io/job-completion-index": "3"},
        status={"containerStatuses": [{"name": "work", "state": state}]},
    )  # fmt: skip
    return replace(parse_pod(raw), **more)


def of_pod(found: Pod) -> list[dict]:
    return [dict(row.values) for row in pod_rows(found, uid("orders"), "2026-11-22T06:00:00Z")]


def test_a_worker_that_ended_is_a_bundle():
    (row,) = of_pod(worker(0, BUNDLE.encode()))
    assert (row["bundle"], row["outcome"], row["rows"], row["bytes"], row["seconds"]) == (
        3,
        "Succeeded",
        500,
        32000,
        2.5,
    )
    assert (row["reused_chunks"], row["retries"]) == (1, 2)
    assert tuple(row[name] for name in SESSIONS) == (2, 9, 7, 1, 1, 3)
    assert (row["finished_at"] - row["started_at"]).total_seconds() == 10
    (row,) = of_pod(worker(21, FAILED.encode()))
    assert (row["outcome"], row["exit_code"], row["reason"], row["message"]) == (
        "Failed", 21, "OutOfMemory", "Pod x needs more.",
    )  # fmt: skip
    assert (row["retries"], "sessions" in row) == (0, False)
    did = ConnectionCounts(opened=2, checkouts=9, reuses=7, waits=1, evicted=1, leaks=3)
    (row,) = of_pod(worker(21, FAILED.model_copy(update={"retries": 4, "connections": did}).encode()))
    assert (row["reason"], row["retries"], *(row[name] for name in SESSIONS)) == ("OutOfMemory", 4, 2, 9, 7, 1, 1, 3)
    (row,) = of_pod(worker(137, reason="OOMKilled"))
    assert (row["exit_code"], row["reason"]) == (137, "OOMKilled")
    (row,) = of_pod(worker(143, disrupted="EvictionByEvictionAPI"))
    assert row["reason"] == "EvictionByEvictionAPI"
    assert of_pod(worker(None)) == []


def test_a_lead_tells_of_its_attempt():
    lead = parse_pod(pod(uid=uid("lead"), status={"phase": "Pending"}))
    (row,) = of_pod(lead)
    assert (row["attempt"], row["started_at"].isoformat()) == (1, "2026-11-22T06:00:00+00:00")
    assert "planned_at" not in row
    ended = {"exitCode": 0, "finishedAt": "2026-11-22T06:00:20Z", "message": "not ours"}
    failed = {"exitCode": 21, "message": FAILED.model_copy(update={"bundle": None}).encode()}
    raw = pod(
        uid=uid("lead"),
        status={
            "initContainerStatuses": [{"name": "plan", "state": {"terminated": ended}}],
            "containerStatuses": [{"name": "publish", "state": {"terminated": failed}}],
        },
    )
    (row,) = of_pod(parse_pod(raw))
    assert row["planned_at"].isoformat() == "2026-11-22T06:00:20+00:00"
    assert (row["reason"], row["node"]) == ("OutOfMemory", "node-1")


def test_a_lead_that_read_the_plan_itself_is_a_bundle_too():
    said = PublishMessage(
        rows=500, bytes=9, files=1, digest="0" * 32, manifest="s3://lake/x", plan_digest="0" * 32,
        consistency="Snapshot", verification="Written", work=BUNDLE.model_copy(update={"bundle": 0}),
    )  # fmt: skip
    ended = {"exitCode": 0, "finishedAt": "2026-11-22T06:00:20Z", "message": said.encode()}
    raw = pod(uid=uid("lead"), status={"containerStatuses": [{"name": "publish", "state": {"terminated": ended}}]})
    _, row = of_pod(parse_pod(raw))
    assert (row["bundle"], row["rows"], row["sessions"], row["session_reuses"]) == (0, 500, 2, 7)
    assert (row["outcome"], row["pod"]) == ("Succeeded", parse_pod(raw).name)


def failed_lead(code: int, message: str = "", *, reason: str = "Error", bundles: int = 1) -> Pod:
    """Return a lead whose publisher failed after it had planned."""
    planned = PlanMessage(
        digest="0" * 32, chunks=3, bundles=bundles, estimated_rows=9, estimated_bytes=99, strategy="ctid", reason="x"
    )  # fmt: skip
    plan = {"exitCode": 0, "finishedAt": "2026-11-22T06:00:20Z", "message": planned.encode()}
    ended = {"exitCode": code, "reason": reason, "message": message, "finishedAt": "2026-11-22T06:00:30Z"}
    raw = pod(
        uid=uid("lead"),
        status={
            "initContainerStatuses": [{"name": "plan", "state": {"terminated": plan}}],
            "containerStatuses": [{"name": "publish", "state": {"terminated": ended}}],
        },
    )
    return parse_pod(raw)


def test_a_lead_that_fails_with_its_only_bundle_is_a_failed_bundle():
    did = ConnectionCounts(opened=2, checkouts=9, reuses=7, waits=1, evicted=1, leaks=3)
    failed = FAILED.model_copy(update={"bundle": 0, "retries": 4, "connections": did})
    _, row = of_pod(failed_lead(21, failed.encode()))
    assert (row["bundle"], row["outcome"], row["exit_code"], row["reason"]) == (0, "Failed", 21, "OutOfMemory")
    assert (row["retries"], *(row[name] for name in SESSIONS)) == (4, 2, 9, 7, 1, 1, 3)
    _, row = of_pod(failed_lead(137, reason="OOMKilled"))
    assert (row["bundle"], row["outcome"], row["reason"]) == (0, "Failed", "OOMKilled")


def test_a_lead_that_fails_otherwise_is_no_bundle():
    publishing = FAILED.model_copy(update={"bundle": None})
    assert len(of_pod(failed_lead(21, publishing.encode()))) == 1
    assert len(of_pod(failed_lead(137, reason="OOMKilled", bundles=2))) == 1


def test_pods_of_other_roles_tell_nothing():
    assert of_pod(parse_pod(pod(role="clean"))) == []
