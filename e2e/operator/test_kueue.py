"""A job in a queue of Kueue's, without Kueue: the API server suspends its Jobs, and the test gives and takes quota."""

import json
from collections.abc import Iterator

import pytest

from e2e.operator.conftest import ROWS
from e2e.support.api import Object
from e2e.support.cluster import Cluster, Refused
from e2e.support.jobs import Job, sessions
from e2e.support.replica import wait_for
from e2e.support.servers import Postgres

QUEUE = "kueue.x-k8s.io/queue-name"
POLICIES = "admissionregistration.k8s.io/v1"


def suspending(name: str) -> list[Object]:
    """Return what does the part of Kueue's webhook in a namespace: it suspends what is made with the label."""
    rule = {"apiGroups": ["batch"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["jobs"]}
    labelled = f"has(object.metadata.labels) && '{QUEUE}' in object.metadata.labels"
    policy = {
        "apiVersion": POLICIES, "kind": "MutatingAdmissionPolicy", "metadata": {"name": name},
        "spec": {
            "matchConstraints": {"resourceRules": [rule]}, "failurePolicy": "Fail", "reinvocationPolicy": "Never",
            "matchConditions": [{"name": "queued", "expression": labelled}],
            "mutations": [{
                "patchType": "ApplyConfiguration",
                "applyConfiguration": {"expression": "Object{spec: Object.spec{suspend: true}}"},
            }],
        },
    }  # fmt: skip
    binding = {
        "apiVersion": POLICIES, "kind": "MutatingAdmissionPolicyBinding", "metadata": {"name": name},
        "spec": {
            "policyName": name,
            "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}},
        },
    }  # fmt: skip
    return [policy, binding]


@pytest.fixture
def queue(restricted: Cluster) -> Iterator[Cluster]:
    """A namespace in which Jobs with the label wait."""
    name = restricted.namespace
    try:
        restricted.apply(*suspending(name))
    except Refused as refused:
        pytest.skip(f"needs Kubernetes 1.36 or later: {refused}")
    probe = {
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "probe", "labels": {QUEUE: "night"}},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "none", "image": "none"}]}}},
    }  # fmt: skip

    def is_suspended() -> bool:
        made = restricted.kubectl("create", "--dry-run=server", "--output=json", "-f", "-", stdin=json.dumps(probe))
        return bool(json.loads(made)["spec"].get("suspend"))

    try:
        # The API server learns of a policy a moment after it is made.
        wait_for(is_suspended, "the policy takes effect", 20)
        yield restricted
    finally:
        for kind in ("mutatingadmissionpolicybinding", "mutatingadmissionpolicy"):
            restricted.kubectl("delete", kind, name, "--wait=false")


def give(job: Job, role: str, **spec: int) -> None:
    """Do what Kueue does when there is quota."""
    patch = json.dumps({"spec": {"suspend": False} | spec})
    job.namespace.kubectl("patch", "job", "--patch", patch, job.jobs(role)[0]["metadata"]["name"])


def test_a_job_in_a_queue_runs_when_and_as_widely_as_it_may(queue: Cluster, job: Job, postgres: Postgres) -> None:
    job.apply_source(limits={"maxConnections": 10, "bytesPerSecond": "24Mi"})
    document = job.extraction.job
    queue.apply(document | {"metadata": document["metadata"] | {"labels": {QUEUE: "night"}}})
    assert "queue night" in job.wait_for_reason("Queued")["message"]
    [lead] = job.jobs("lead")
    assert lead["metadata"]["labels"][QUEUE] == "night"
    assert (job.status["phase"], job.pods("lead"), sessions(postgres, queue.namespace)) == ("Pending", [], [])
    give(job, "lead")
    job.wait_for_phase("Running")
    job.wait_for_reason("Queued")
    [work] = job.jobs("work")
    assert work["metadata"]["labels"][QUEUE] == "night"
    assert [owner["kind"] for owner in work["metadata"]["ownerReferences"]] == ["ExtractionJob"]
    assert work["metadata"]["annotations"]["kueue.x-k8s.io/job-min-parallelism"] == "1"
    # There is quota for one pod, and the operator doesn't ask for more.
    give(job, "work", parallelism=1)
    job.wait_for_pod("work")
    job.wait_for_reason("Started")
    job.patch(parallelism=2)
    # It is taken back, and given again.
    queue.kubectl("patch", "job", "--patch", '{"spec": {"suspend": true}}', work["metadata"]["name"])
    job.wait_for_reason("Queued")
    [work] = job.jobs("work")
    assert (work["spec"]["parallelism"], work["metadata"]["generation"]) == (1, 3), "only the test has changed it"
    give(job, "work")
    assert job.succeed()["rows"] == ROWS
    for role in ("lead", "work"):
        queue.kubectl("wait", "--for=delete", "jobs", f"--selector={job.selector(role)}", "--timeout=60s")
