"""What the operator may not do, tried with its own service account; and what its pods may not."""

import json
import subprocess

import pytest

from e2e.operator.conftest import Operator
from e2e.support.cluster import Cluster, Refused
from e2e.support.jobs import Job

SECRETS = ["secrets", "configmaps", "pods/log", "serviceaccounts/token"]


def account(operator: Operator) -> str:
    """Return the user that the operator's pods are."""
    [deployment] = operator.cluster.get_all("deployments", "--selector=app.kubernetes.io/name=extraction-operator")
    name = deployment["spec"]["template"]["spec"]["serviceAccountName"]
    return f"system:serviceaccount:{operator.cluster.namespace}:{name}"


@pytest.mark.parametrize("verb", ["get", "list", "watch"])
def test_the_operator_reads_no_secret(operator: Operator, small_job: Job, verb: str) -> None:
    small_job.extraction.apply_secrets(small_job.namespace)
    [secret, *_] = small_job.namespace.get_all("secrets")
    us = small_job.namespace.acting_as(account(operator))
    words = {"get": ["get", "secret", secret["metadata"]["name"]], "list": ["get", "secrets"],
             "watch": ["get", "secrets", "--watch", "--request-timeout=5s"]}[verb]  # fmt: skip
    with pytest.raises(Refused, match="forbidden") as refused:
        us.kubectl(*words, "--output=json")
    assert all(value not in str(refused.value) for value in secret["data"].values())


def test_the_operator_has_no_right_that_would_show_one(operator: Operator, small_job: Job) -> None:
    us = account(operator)
    for namespace in (small_job.namespace, operator.cluster):
        for resource in SECRETS:
            for verb in ("get", "list", "watch", "create") if "/" not in resource else ("get", "create"):
                assert may(namespace, us, verb, resource) is False, (namespace.namespace, verb, resource)
        for verb, resource in (("create", "pods/exec"), ("create", "pods/attach"), ("create", "pods"),
                               ("escalate", "roles.rbac.authorization.k8s.io"), ("impersonate", "users")):  # fmt: skip
            assert may(namespace, us, verb, resource) is False, (namespace.namespace, verb, resource)
    # The question is answered as it should be: what it must do, it may.
    assert may(small_job.namespace, us, "create", "jobs.batch") is True


def test_the_pods_of_a_job_have_no_token_and_no_privilege(small_job: Job) -> None:
    small_job.apply()
    lead = small_job.wait_for_pod("lead")
    specs = [lead["spec"], *(job["spec"]["template"]["spec"] for job in small_job.jobs("lead"))]
    small_job.succeed()
    for spec in specs:
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert "serviceAccountToken" not in json.dumps(spec["volumes"])
        assert not any(spec.get(shared) for shared in ("hostNetwork", "hostPID", "hostIPC"))
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True,
            }  # fmt: skip
            assert not any("secretKeyRef" in json.dumps(entry) for entry in container["env"])


def may(namespace: Cluster, user: str, verb: str, resource: str) -> bool:
    """Ask the API server whether a user may."""
    words = [verb, resource]
    if "/" in resource:
        kind, _, part = resource.partition("/")
        words = [verb, kind, f"--subresource={part}"]
    command = namespace.command("auth", "can-i", *words, f"--as={user}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # "no" ends with an error, too, and there may be a warning beside either.
    answer = done.stdout.split()[:1]
    assert answer in (["yes"], ["no"]), done.stderr
    return answer == ["yes"]
