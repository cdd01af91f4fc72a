"""`kubectl extraction`, by the real kubectl on a real API server. No operator runs: the tests write the status."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from e2e.support.api_server import ApiServer, Object

ROOT = "/apis/extraction-operator.io/v1alpha1"
Plugin = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def namespace(api: ApiServer) -> str:
    return api.namespace()


@pytest.fixture
def path(api: ApiServer, namespace: str) -> str:
    """Path of a job."""
    jobs = f"{ROOT}/namespaces/{namespace}/extractionjobs"
    spec = {
        "dataSourceRef": {"name": "shop"}, "table": "public.orders",
        "sink": {"format": {"type": "Parquet"}, "volume": {"claimName": "lake"}},
    }  # fmt: skip
    head = {"apiVersion": "extraction-operator.io/v1alpha1", "kind": "ExtractionJob", "metadata": {"name": "orders"}}
    api.call("POST", jobs, head | {"spec": spec})
    return f"{jobs}/orders"


@pytest.fixture
def environment(api: ApiServer) -> dict[str, str]:
    """Where the plugin is found, as `kubectl extraction` finds it."""
    kubectl = programs(api)
    return os.environ | {
        "PATH": os.pathsep.join([str(kubectl.parent), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "KUBECONFIG": str(api.kubeconfig()),
    }


def programs(api: ApiServer) -> Path:
    """Return kubectl, which is beside the API server's program."""
    server = Path(str(api.process.args[0]))  # type: ignore[index]
    return server.with_name("kubectl")


@pytest.fixture
def plugin(environment: dict[str, str], namespace: str) -> Plugin:
    """Call the plugin through kubectl."""

    def call(*words: str) -> "subprocess.CompletedProcess[str]":
        command = ["kubectl", "extraction", *words, "-n", namespace]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    return call


@contextmanager
def watching(environment: dict[str, str], namespace: str) -> "Iterator[subprocess.Popen[str]]":
    command = ["extraction", "watch", "orders", "-n", namespace]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def report(api: ApiServer, path: str, phase: str, reason: str = "", **status: Any) -> Object:
    """Write a status as the operator would."""
    moment = "2026-01-01T00:00:00Z"
    condition = {
        "type": "Ready",
        "status": "False",
        "reason": reason,
        "message": "A message.",
        "lastTransitionTime": moment,
    }
    conditions = [condition] if reason else []
    return api.merge(f"{path}/status", {"status": {"phase": phase, "attempt": 1, "conditions": conditions} | status})


def spec(api: ApiServer, path: str) -> dict[str, Any]:
    found: dict[str, Any] = api.call("GET", path)["spec"]
    return found


def test_a_job_is_suspended_resumed_and_cancelled(api: ApiServer, path: str, plugin: Plugin) -> None:
    assert plugin("suspend", "orders").returncode == 0
    assert spec(api, path)["suspend"] is True
    assert "already" in plugin("suspend", "exj/orders").stdout
    assert plugin("resume", "orders").returncode == 0
    assert spec(api, path)["suspend"] is False
    assert plugin("cancel", "orders").returncode == 0
    assert spec(api, path)["cancel"] is True
    refused = plugin("suspend", "orders")
    assert (refused.returncode, "can't be taken back" in refused.stderr) == (1, True)


def test_a_failed_job_is_retried_and_another_one_is_not(api: ApiServer, path: str, plugin: Plugin) -> None:
    report(api, path, "Running")
    assert "only a job that Failed" in plugin("retry", "orders").stderr
    assert spec(api, path)["retry"] == 0
    report(api, path, "Failed", "SinkFull")
    assert "attempt 2" in plugin("retry", "orders").stdout
    assert "already" in plugin("retry", "orders").stdout
    assert spec(api, path)["retry"] == 1


def test_a_job_is_followed_to_its_end(api: ApiServer, path: str, environment: dict[str, str], namespace: str) -> None:
    with watching(environment, namespace) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "orders Pending\n"
        plan = {
            "digest": "0" * 32, "chunks": 40, "bundles": 4, "estimatedRows": 1, "estimatedBytes": 1, "strategy": "ctid"
        }  # fmt: skip
        report(api, path, "Running", "Planned", plan=plan, progress={"summary": "12/40", "chunks": 12, "rows": 1200})
        assert process.stderr.readline() == "orders Running (12/40 chunks, 1,200 rows): Planned: A message.\n"
        report(api, path, "Failed", "PermissionDenied")
        assert process.stderr.readline().startswith("orders Failed (12/40 chunks, 1,200 rows): PermissionDenied")
        assert process.wait(20) == 15


def test_a_job_that_is_deleted_ends_the_watching(
    api: ApiServer, path: str, environment: dict[str, str], namespace: str
) -> None:
    with watching(environment, namespace) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "orders Pending\n"
        api.call("DELETE", path)
        assert process.wait(20) == 1
        assert "orders was deleted." in process.stderr.read()


def test_a_job_that_has_ended_is_told_at_once(api: ApiServer, path: str, plugin: Plugin) -> None:
    report(api, path, "Succeeded", "Succeeded")
    assert plugin("watch", "orders").returncode == 0


def test_what_is_not_there_or_not_allowed_is_said_by_kubectl(plugin: Plugin, path: str) -> None:
    missing = plugin("watch", "nothing")
    assert missing.returncode == 1
    assert 'extractionjobs.extraction-operator.io "nothing" not found' in missing.stderr
    assert "context" in plugin("cancel", "orders", "--context=none").stderr


def test_logs_name_the_container_that_failed(api: ApiServer, path: str, plugin: Plugin, namespace: str) -> None:
    from extraction_contract.messages import FailureMessage
    from extraction_operator.plan import names

    report(api, path, "Failed", "PermissionDenied")
    uid = api.call("GET", path)["metadata"]["uid"]
    labels = {names.OWNER_UID: uid, names.ATTEMPT: "1", names.ROLE: "work", names.MANAGED_BY: names.MANAGER}
    message = FailureMessage(reason="PermissionDenied", exit_code=15, message="reader may not.", bundle=0, chunk=3)
    ended = {"exitCode": 15, "message": message.encode(), "reason": "Error"}
    pods = f"/api/v1/namespaces/{namespace}/pods"
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "work", "uid": "j-1", "controller": True}
    api.call("POST", pods, {
        "metadata": {"name": "work-0", "labels": labels, "ownerReferences": [owner]},
        "spec": {"containers": [{"name": "work", "image": "x"}], "nodeName": "nowhere"},
    })  # fmt: skip
    state = {
        "name": "work",
        "image": "x",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": {"terminated": ended},
    }
    api.merge(f"{pods}/work-0/status", {"status": {"phase": "Failed", "containerStatuses": [state]}})
    told = plugin("logs", "orders").stdout
    assert told.startswith("orders Failed: PermissionDenied: A message.\n")
    assert "==> work-0/work failed in chunk 3 with PermissionDenied: reader may not." in told
    # There is no node to ask.
    assert "(kubectl can't show it)" in told


def test_two_people_who_retry_at_once_begin_one_attempt(api: ApiServer, path: str, environment: dict[str, str],
                                                        namespace: str) -> None:  # fmt: skip
    report(api, path, "Failed", "SinkFull")
    command = ["kubectl", "extraction", "retry", "orders", "-n", namespace]
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate(timeout=60)[0] for process in both]
    assert spec(api, path)["retry"] == 1, json.dumps(told)
