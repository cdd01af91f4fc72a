"""The cluster behaves as a kind cluster does: names, services, permissions, limits, storage, kubectl, a lost node."""

import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from e2e.node.network import SERVICE_SUBNET
from e2e.support.api import Object
from e2e.support.cluster import HOST_NAME, Cluster, Refused, has_condition, has_ended, is_ready
from e2e.support.extraction import claim
from e2e.support.host import web_server
from e2e.support.pods import RESTRICTED, pod
from e2e.support.stand_in import ANNOTATION, KWOK, StandIn

ASK_API = """
import ssl, sys, urllib.error, urllib.request
folder = "/var/run/secrets/kubernetes.io/serviceaccount/"
trust = ssl.create_default_context(cafile=folder + "ca.crt")
headers = {"Authorization": "Bearer " + open(folder + "token").read()}
namespace = open(folder + "namespace").read()
for what in sys.argv[1:]:
    url = f"https://kubernetes.default.svc/api/v1/namespaces/{namespace}/{what}"
    try:
        print(what, urllib.request.urlopen(urllib.request.Request(url, headers=headers), context=trust).status)
    except urllib.error.HTTPError as refused:
        print(what, refused.code)
"""

# A new service reaches DNS and the rules of the node a moment after the API server. A connection that was begun before
# may never be answered (on a real kind node it leaves the cluster), so none is waited for long.
FETCH = "for i in 1 2 3 4 5 6 7 8 9; do timeout 2 wget -q -O- http://$1:$2/ && exit; sleep 1; done; exit 1"


def test_pods_resolve_services_and_the_host_and_nothing_outside(namespace: Cluster) -> None:
    log = namespace.run_pod(
        "names", "sh", "-c",
        f"nslookup kubernetes.default.svc.cluster.local; nslookup {HOST_NAME}; nslookup example.invalid || echo none",
    )  # fmt: skip
    assert "Address: 10.96.0.1" in log
    assert f"Name:\t{HOST_NAME}" in log
    assert log.endswith("none\n")


def test_a_service_leads_to_its_pod_by_name_and_by_address(namespace: Cluster) -> None:
    namespace.start_pod("web", "sh", "-c", "echo answer > /tmp/index.html; exec httpd -f -p 8080 -h /tmp")
    namespace.kubectl("expose", "pod", "web", "--port=80", "--target-port=8080")
    address = namespace.get("service", "web")["spec"]["clusterIP"]
    assert namespace.run_pod("by-name", "sh", "-c", FETCH, "-", "web", "80") == "answer\n"
    assert namespace.run_pod("by-address", "sh", "-c", FETCH, "-", address, "80") == "answer\n"


def test_an_address_without_a_service_refuses_at_once(namespace: Cluster, stand_in: StandIn) -> None:
    # What was sent there before a service had it would be lost, and so would all that a connection sends later.
    unused = f"{SERVICE_SUBNET.removesuffix('.0.0/16')}.255.254"
    log = namespace.run_pod("early", "sh", "-c", f"timeout 60 wget -O- http://{unused}/ 2>&1 || true")
    assert "Connection refused" in log


def test_a_service_account_may_do_what_its_role_says_and_no_more(namespace: Cluster, extractor_image: str) -> None:
    namespace.kubectl("create", "serviceaccount", "reader")
    namespace.kubectl("create", "role", "reader", "--verb=list", "--resource=pods")
    namespace.kubectl(
        "create", "rolebinding", "reader", "--role=reader", f"--serviceaccount={namespace.namespace}:reader"
    )
    log = namespace.run_pod(
        "ask", "/opt/extraction/bin/python", "-c", ASK_API, "pods", "secrets",
        image=extractor_image, serviceAccountName="reader",
    )  # fmt: skip
    assert log.split("\n")[:2] == ["pods 200", "secrets 403"]


def test_a_namespace_can_demand_the_restricted_standard(restricted: Cluster) -> None:
    with pytest.raises(Refused, match='violates PodSecurity "restricted'):
        restricted.apply(pod("root", "true"))
    assert "uid=65532" in restricted.run_pod("modest", "id", container={"securityContext": RESTRICTED})


def test_a_container_beyond_its_memory_limit_is_killed(namespace: Cluster) -> None:
    limits = {"resources": {"limits": {"memory": "32Mi"}}}
    namespace.apply(pod("greedy", "sh", "-c", "x=a; while true; do x=$x$x; done", container=limits))
    ended = namespace.wait_for("pod", "greedy", lambda found: found["status"]["phase"] == "Failed")
    terminated = ended["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (terminated["reason"], terminated["exitCode"]) == ("OOMKilled", 137)


def test_kubectl_reads_logs_executes_copies_and_forwards(namespace: Cluster, tmp_path: Path) -> None:
    namespace.start_pod("shell", "sh", "-c", "echo hello; exec httpd -f -p 8080 -h /tmp")
    assert namespace.kubectl("logs", "shell") == "hello\n"
    assert namespace.kubectl("exec", "shell", "--", "cat", "/proc/1/comm") == "httpd\n"
    (tmp_path / "index.html").write_text("copied")
    namespace.kubectl("cp", str(tmp_path / "index.html"), "shell:/tmp/index.html")
    forward = subprocess.Popen(
        namespace.command("port-forward", "pod/shell", ":8080"), stdout=subprocess.PIPE, text=True
    )
    assert forward.stdout is not None
    try:
        port = forward.stdout.readline().split(":")[1].split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:
            assert answer.read() == b"copied"
    finally:
        forward.terminate()
        forward.communicate(timeout=10)


@pytest.mark.parametrize("mode", ["ReadWriteOnce", "ReadWriteMany"])
def test_a_claim_of_the_default_class_gets_a_volume_that_pods_share_in_turn(
    namespace: Cluster, mode: str, cluster: Cluster
) -> None:
    if mode == "ReadWriteMany" and not cluster.is_stand_in:
        pytest.skip("kind's own provisioner serves ReadWriteOnce alone")
    namespace.apply(claim("shelf", mode, "64Mi"))
    mounted: dict[str, Any] = {
        "container": {"volumeMounts": [{"name": "shelf", "mountPath": "/shelf"}]},
        "volumes": [{"name": "shelf", "persistentVolumeClaim": {"claimName": "shelf"}}],
        "securityContext": {"runAsUser": 65532},
    }
    namespace.run_pod("writer", "sh", "-c", "echo kept > /shelf/file", **mounted)
    assert namespace.run_pod("reader", "cat", "/shelf/file", **mounted) == "kept\n"
    volume = namespace.get("persistentvolumeclaim", "shelf")["spec"]["volumeName"]
    namespace.kubectl("delete", "pods", "--all")
    namespace.kubectl("delete", "persistentvolumeclaim", "shelf")
    namespace.wait_until_gone("persistentvolume", volume)


def test_pods_reach_a_server_on_the_host_by_its_name(namespace: Cluster, host_address: str) -> None:
    with web_server(host_address, b"from the host") as port:
        log = namespace.run_pod("visitor", "sh", "-c", FETCH, "-", HOST_NAME, str(port))
    assert log == "from the host"


def test_the_audit_log_tells_who_did_what_with_which_program(namespace: Cluster, stand_in: StandIn) -> None:
    namespace.kubectl("create", "configmap", "witness")
    with pytest.raises(Refused, match="cannot get resource"):
        namespace.acting_as("mallory").kubectl("get", "secret", "none")
    requests = stand_in.audit_log(user_agent="kubectl/", namespace=namespace.namespace)
    told = {(request.verb, request.resource, request.name, request.code) for request in requests}
    assert {("create", "configmaps", "witness", 201), ("get", "secrets", "none", 403)} <= told
    # What the controllers did there, for each namespace has it, is not kubectl's.
    everyone = stand_in.audit_log(namespace=namespace.namespace)
    assert ("create", "kube-root-ca.crt") in {(request.verb, request.name) for request in everyone}
    assert "kube-root-ca.crt" not in {request.name for request in requests}


def test_a_silent_kubelet_loses_the_node_and_brings_it_back(namespace: Cluster, stand_in: StandIn) -> None:
    namespace.start_pod("steady", "sh", "-c", "while true; do date +%s > /tmp/now; sleep 0.2; done")
    with stand_in.silent_kubelet():
        namespace.wait_for("node", stand_in.node_name, lambda found: not is_ready(found))
        assert not is_ready(namespace.wait_for("pod", "steady", lambda found: not is_ready(found)))
    namespace.wait_for("node", stand_in.node_name, is_ready)
    steady = namespace.wait_for("pod", "steady", is_ready)
    assert steady["status"]["containerStatuses"][0]["restartCount"] == 0
    assert abs(time.time() - int(namespace.kubectl("exec", "steady", "--", "cat", "/tmp/now"))) < 30


def test_what_was_asked_while_the_kubelet_was_silent_is_done_when_it_is_back(
    namespace: Cluster, stand_in: StandIn
) -> None:
    with stand_in.silent_kubelet():
        namespace.apply(pod("late", "true"))
        bound = namespace.wait_for("pod", "late", lambda found: has_condition(found, "PodScheduled"))
        assert bound["status"]["phase"] == "Pending"
        assert "containerStatuses" not in bound["status"]
    namespace.wait_for("pod", "late", lambda found: found["status"]["phase"] == "Succeeded")


def pretended_job(annotations: dict[str, str], completions: int = 1, **spec: Any) -> Object:
    """Return a Job of pods for kwok's nodes: a sidecar `hold`, an init container `plan`, a container `publish`."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "pretended"},
        "spec": {
            "completions": completions, "parallelism": completions, "completionMode": "Indexed",
            "template": {
                "metadata": {"labels": {"app": "pretended"}, "annotations": annotations},
                "spec": {
                    "restartPolicy": "Never",
                    "initContainers": [
                        {"name": "hold", "image": "none", "restartPolicy": "Always"},
                        {"name": "plan", "image": "none"},
                    ],
                    "containers": [{"name": "publish", "image": "none"}],
                } | KWOK,
            },
        } | spec,
    }  # fmt: skip


def test_kwok_nodes_run_jobs_of_whose_pods_the_sidecars_end_last(namespace: Cluster, stand_in: StandIn) -> None:
    messages = {f"message.{ANNOTATION}/plan": '{"chunks": 3}', f"message.{ANNOTATION}/publish": "done"}
    with stand_in.kwok_nodes(3):
        namespace.apply(pretended_job(messages | {f"{ANNOTATION}/hold": "true"}))
        namespace.wait_for("job", "pretended", lambda job: job.get("status", {}).get("ready") == 1)
        [found] = namespace.get_all("pods")
        name = found["metadata"]["name"]
        hold, plan = found["status"]["initContainerStatuses"]
        assert "running" in hold["state"]
        assert plan["state"]["terminated"]["message"] == '{"chunks": 3}'
        namespace.kubectl("annotate", "pod", name, f"{ANNOTATION}/hold-")
        ended = namespace.wait_for("job", "pretended", has_ended)
        status = namespace.get("pod", name)["status"]
    assert has_condition(ended, "Complete")
    assert status["containerStatuses"][0]["state"]["terminated"]["message"] == "done"
    hold, plan = status["initContainerStatuses"]
    assert (
        hold["state"]["terminated"]["finishedAt"] >= status["containerStatuses"][0]["state"]["terminated"]["finishedAt"]
    )
    assert plan["state"]["terminated"]["message"] == '{"chunks": 3}'


def test_kwok_nodes_run_many_pods_of_a_job_and_fail_those_that_shall_fail(
    namespace: Cluster, stand_in: StandIn
) -> None:
    lost = {"onExitCodes": {"containerName": "publish", "operator": "In", "values": [22]}, "action": "FailJob"}
    with stand_in.kwok_nodes(3):
        namespace.apply(pretended_job({}, completions=60))
        ended = namespace.wait_for("job", "pretended", has_ended)
        assert (ended["status"]["succeeded"], ended["status"]["completedIndexes"]) == (60, "0-59")
        nodes = {found["spec"]["nodeName"] for found in namespace.get_all("pods")}
        assert nodes == {"kwok-0", "kwok-1", "kwok-2"}
        namespace.kubectl("delete", "job", "pretended")
        code = {f"exit-code.{ANNOTATION}/publish": "22"}
        namespace.apply(pretended_job(code, podFailurePolicy={"rules": [lost]}))
        ended = namespace.wait_for("job", "pretended", has_ended)
    [failed] = [entry for entry in ended["status"]["conditions"] if entry["type"] == "Failed"]
    assert failed["reason"] == "PodFailurePolicy"
