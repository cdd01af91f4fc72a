"""Objects as the API server writes them become values."""

from datetime import UTC, datetime

import pytest

from extraction_contract.models import DataSource, ExtractionJob
from extraction_operator.cluster.parse import (
    UnreadableError,
    as_document,
    is_of_interest,
    of_document,
    owner_uid,
    parse_child,
    parse_own,
    parse_pod,
    trim,
)
from extraction_operator.plan.values import Container, Ending, Role
from support.objects import CREATED, child, condition, data_source, extraction_job, pod

AT = datetime(2026, 11, 22, 6, tzinfo=UTC)


def test_a_job_is_read_without_what_nobody_reads():
    raw = extraction_job()
    raw["metadata"]["annotations"] = {"kubectl.kubernetes.io/last-applied-configuration": "x" * 9999, "team": "a"}
    raw["metadata"]["somethingNew"] = {"of": "a later Kubernetes"}
    document = as_document(trim(raw))
    assert b"managedFields" not in document
    assert len(document) < 500
    assert of_document(document) == trim(raw)
    job = parse_own(ExtractionJob, document)
    assert (job.metadata.uid, job.metadata.annotations) == ("uid-of-orders", {"team": "a"})
    assert job.status.observed_generation == -1


def test_a_source_is_read():
    assert parse_own(DataSource, as_document(trim(data_source(ready=True)))).status.checks == 1


@pytest.mark.parametrize(("model", "raw"), [(ExtractionJob, extraction_job()), (DataSource, data_source())])
def test_what_doesnt_follow_the_contract_is_named_by_its_field_and_not_by_its_value(model, raw):
    raw["spec"]["invention"] = "secret"
    with pytest.raises(UnreadableError) as caught:
        parse_own(model, as_document(raw))
    assert "spec.invention" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_child_is_read():
    raw = child(
        "orders-work-2-3", role="work", attempt=2, number=3,
        spec={
            "parallelism": 4, "completions": 16, "suspend": True,
            "template": {"spec": {"containers": [{"name": "work", "image": "lake/extractor:1.0"}]}},
        },
        status={
            "active": 2, "terminating": 1, "succeeded": 3, "failed": 1, "completedIndexes": "0-2", "failedIndexes": "5",
            "conditions": [condition("Suspended"), condition("Failed", "False")],
        },
    )  # fmt: skip
    found = parse_child(raw)
    assert (found.role, found.attempt, found.number, found.created) == (Role.WORK, 2, 3, AT)
    assert (found.parallelism, found.completions, found.suspended, found.suspended_since) == (4, 16, True, AT)
    assert (found.active, found.terminating, found.succeeded, found.failed) == (2, 1, 3, 1)
    assert found.image == "lake/extractor:1.0"
    assert (found.completed_indexes, found.failed_indexes, found.ending, found.deleting) == ("0-2", "5", None, False)
    assert owner_uid(raw) == "uid-of-orders"


@pytest.mark.parametrize(
    ("conditions", "ending", "at"),
    [
        (["FailureTarget"], Ending.FAILED, CREATED),
        (["Failed"], Ending.FAILED, CREATED),
        (["SuccessCriteriaMet"], Ending.COMPLETE, CREATED),
        (["Complete"], Ending.COMPLETE, CREATED),
        ([], None, None),
    ],
)
def test_the_first_condition_that_knows_how_a_job_ends_counts(conditions, ending, at):
    status = {"conditions": [condition(kind, reason="PodFailurePolicy", message="why") for kind in conditions]}
    found = parse_child(child(status=status))
    assert found.ending is ending
    assert found.ending_reason == ("PodFailurePolicy" if ending else "")
    assert found.ended_at == (AT if at else None)


def test_the_moment_of_failure_is_that_of_the_first_sign():
    status = {"conditions": [condition("FailureTarget", at="2026-11-22T05:00:00Z"), condition("Failed")]}
    assert parse_child(child(status=status)).ended_at == datetime(2026, 11, 22, 5, tzinfo=UTC)


def test_a_job_that_is_being_deleted_says_so():
    assert parse_child(child(deletionTimestamp=CREATED)).deleting


@pytest.mark.parametrize("parse_and_raw", [(parse_child, child()), (parse_pod, pod())], ids=["job", "pod"])
@pytest.mark.parametrize("labels", [{}, {"extraction-operator.io/role": "invented"}])
def test_labels_that_arent_ours_are_refused(parse_and_raw, labels):
    parse, raw = parse_and_raw
    with pytest.raises(UnreadableError):
        parse(raw | {"metadata": raw["metadata"] | {"labels": labels}})


def test_a_pod_is_read():
    status = {
        "initContainerStatuses": [
            {"name": "hold", "restartCount": 1, "state": {"running": {"startedAt": CREATED}}},
            {"name": "plan", "restartCount": 0, "state": {
                "terminated": {"exitCode": 0, "reason": "Completed", "message": "{plan}"}}},
        ],
        "containerStatuses": [
            {"name": "publish", "restartCount": 0, "state": {
                "waiting": {"reason": "ImagePullBackOff", "message": "no"}}},
        ],
        "conditions": [condition("DisruptionTarget", reason="EvictionByEvictionAPI")],
    }  # fmt: skip
    found = parse_pod(pod(status=status))
    assert (found.job, found.job_uid, found.role, found.index) == (
        "orders-lead-1",
        "uid-of-orders-lead-1",
        Role.LEAD,
        None,
    )
    assert (found.phase, found.node, found.disrupted) == ("Running", "node-1", "EvictionByEvictionAPI")
    assert found.containers == (
        Container("hold", running=True, restarts=1),
        Container("plan", exit_code=0, ended_reason="Completed", message="{plan}"),
        Container("publish", waiting_reason="ImagePullBackOff", waiting_message="no"),
    )


def test_the_last_words_of_a_container_that_is_started_again_and_again_are_read():
    state = {
        "name": "work", "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 70, "message": "{failure}"}},
    }  # fmt: skip
    found = parse_pod(pod(status={"containerStatuses": [state]})).containers[0]
    assert (found.exit_code, found.message) == (70, "{failure}")


def test_a_pod_without_a_node_says_why():
    refused = condition("PodScheduled", "False", reason="Unschedulable", message="0/1 nodes are available")
    found = parse_pod(pod(phase="Pending", status={"conditions": [refused]}))
    assert found.unschedulable == "0/1 nodes are available"


def test_an_index_is_read_and_a_pod_without_owner_is_known_by_its_labels():
    raw = pod(role="work", annotations={"batch.kubernetes.io/job-completion-index": "7"}, deletionTimestamp=CREATED)
    raw["metadata"]["labels"]["batch.kubernetes.io/job-name"] = "orders-work-1-1"
    del raw["metadata"]["ownerReferences"]
    found = parse_pod(raw)
    assert (found.index, found.deleting_since, found.job, found.job_uid) == (7, AT, "orders-work-1-1", "")


@pytest.mark.parametrize(
    ("role", "phase", "deleting", "interesting"),
    [
        ("lead", "Running", False, True), ("check", "Succeeded", False, True),
        ("work", "Pending", False, True), ("work", "Failed", False, True), ("work", "Unknown", False, True),
        ("work", "Running", False, False), ("work", "Succeeded", False, False),
        ("work", "Running", True, True),
    ],
)  # fmt: skip
def test_of_workers_only_pods_that_need_a_decision_are_kept(role, phase, deleting, interesting):
    more = {"deletionTimestamp": CREATED} if deleting else {}
    assert is_of_interest(parse_pod(pod(role=role, phase=phase, **more))) is interesting
