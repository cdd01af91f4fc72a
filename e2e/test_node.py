"""The cluster behaves as a kind cluster does: names, services, permissions, limits, storage, kubectl, a lost node."""

import json
import subprocess
import time
import urllib.request

import pytest
from e2e.support.cluster import HOST_NAME, Cluster, Refused, is_ready, pod
from e2e.support.host import web_server

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

# A new service reaches DNS and the rules of the node a moment after the API server.
FETCH = "for i in 1 2 3 4 5 6 7 8 9; do wget -q -O- http://$1:$2/ && exit; sleep 1; done; exit 1"


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


def test_a_namespace_can_demand_the_restricted_standard(namespace: Cluster) -> None:
    namespace.kubectl("label", "namespace", namespace.namespace, "pod-security.kubernetes.io/enforce=restricted")
    with pytest.raises(Refused, match='violates PodSecurity "restricted'):
        namespace.apply(pod("root", "true"))
    restricted = {
        "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True,
        "runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip
    assert "uid=65532" in namespace.run_pod("modest", "id", container={"securityContext": restricted})


def test_a_container_beyond_its_memory_limit_is_killed(namespace: Cluster) -> None:
    limits = {"resources": {"limits": {"memory": "32Mi"}}}
    namespace.apply(pod("greedy", "sh", "-c", "x=a; while true; do x=$x$x; done", container=limits))
    ended = namespace.wait("pod", "greedy", lambda found: found["status"]["phase"] == "Failed")
    terminated = ended["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (terminated["reason"], terminated["exitCode"]) == ("OOMKilled", 137)


def test_kubectl_reads_logs_executes_copies_and_forwards(namespace: Cluster, tmp_path) -> None:
    namespace.start_pod("shell", "sh", "-c", "echo hello; exec httpd -f -p 8080 -h /tmp")
    assert namespace.kubectl("logs", "shell") == "hello\n"
    assert namespace.kubectl("exec", "shell", "--", "cat", "/proc/1/comm") == "httpd\n"
    (tmp_path / "index.html").write_text("copied")
    namespace.kubectl("cp", str(tmp_path / "index.html"), "shell:/tmp/index.html")
    forward = subprocess.Popen(
        namespace.command("port-forward", "pod/shell", ":8080"), stdout=subprocess.PIPE, text=True
    )
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
    namespace.apply(claim("shelf", mode))
    mounted = {
        "container": {"volumeMounts": [{"name": "shelf", "mountPath": "/shelf"}]},
        "volumes": [{"name": "shelf", "persistentVolumeClaim": {"claimName": "shelf"}}],
        "securityContext": {"runAsUser": 65532},
    }
    namespace.run_pod("writer", "sh", "-c", "echo kept > /shelf/file", **mounted)
    assert namespace.run_pod("reader", "cat", "/shelf/file", **mounted) == "kept\n"
    volume = namespace.get("persistentvolumeclaim", "shelf")["spec"]["volumeName"]
    namespace.kubectl("delete", "pods", "--all")
    namespace.kubectl("delete", "persistentvolumeclaim", "shelf")
    namespace.kubectl("wait", "--for=delete", f"persistentvolume/{volume}", "--timeout=60s")


def claim(name: str, mode: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {"accessModes": [mode], "resources": {"requests": {"storage": "64Mi"}}},
    }


def test_pods_reach_a_server_on_the_host_by_its_name(namespace: Cluster, host_address: str) -> None:
    with web_server(host_address, b"from the host") as port:
        log = namespace.run_pod("visitor", "sh", "-c", FETCH, "-", HOST_NAME, str(port))
    assert log == "from the host"


def test_the_audit_log_tells_who_did_what(namespace: Cluster, cluster: Cluster) -> None:
    if not cluster.is_stand_in:
        pytest.skip("a kind cluster has no audit log unless it is configured")
    from e2e.node.state import Layout

    namespace.kubectl("create", "configmap", "witness")
    with pytest.raises(Refused, match="cannot get resource"):
        namespace.acting_as("mallory").kubectl("get", "secret", "none")
    lines = [json.loads(line) for line in (Layout(cluster.name).logs / "audit.log").read_text().splitlines()]
    told = {
        (line["verb"], line["objectRef"]["resource"], line["responseStatus"]["code"])
        for line in lines
        if line.get("objectRef", {}).get("namespace") == namespace.namespace
    }
    assert {("create", "configmaps", 201), ("get", "secrets", 403)} <= told


def test_a_silent_kubelet_loses_the_node_and_brings_it_back(namespace: Cluster, cluster: Cluster) -> None:
    if not cluster.is_stand_in:
        pytest.skip("needs the processes of the node")
    node = f"{cluster.name}-control-plane"
    namespace.start_pod("steady", "sh", "-c", "while true; do date +%s > /tmp/now; sleep 0.2; done")
    cluster.run_kind("silence")
    try:
        namespace.wait("node", node, lambda found: not is_ready(found))
        assert not is_ready(namespace.wait("pod", "steady", lambda found: not is_ready(found)))
    finally:
        cluster.run_kind("resume")
    namespace.wait("node", node, is_ready)
    steady = namespace.wait("pod", "steady", is_ready)
    assert steady["status"]["containerStatuses"][0]["restartCount"] == 0
    assert abs(time.time() - int(namespace.kubectl("exec", "steady", "--", "cat", "/tmp/now"))) < 30


def test_kwok_nodes_run_jobs_of_whose_pods_the_sidecars_end_last(namespace: Cluster, cluster: Cluster) -> None:
    if not cluster.is_stand_in:
        pytest.skip("kwok is started by the stand-in")
    prefix = "e2e.extraction-operator.io"
    cluster.run_kind("kwok", "start", "--nodes", "3")
    try:
        namespace.apply(
            {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "metadata": {"name": "pretended"},
                "spec": {
                    "completions": 1,
                    "template": {
                        "metadata": {
                            "labels": {"app": "pretended"},
                            "annotations": {
                                f"message.{prefix}/plan": '{"chunks": 3}', f"message.{prefix}/publish": "done",
                                f"{prefix}/hold": "true",
                            },
                        },
                        "spec": {
                            "restartPolicy": "Never",
                            "nodeSelector": {"type": "kwok"},
                            "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists"}],
                            "initContainers": [
                                {"name": "hold", "image": "none", "restartPolicy": "Always"},
                                {"name": "plan", "image": "none"},
                            ],
                            "containers": [{"name": "publish", "image": "none"}],
                        },
                    },
                },
            }
        )  # fmt: skip
        namespace.kubectl("wait", "--for=jsonpath={.status.ready}=1", "job/pretended", "--timeout=60s")
        [found] = json.loads(namespace.kubectl("get", "pods", "--output=json"))["items"]
        hold, plan = found["status"]["initContainerStatuses"]
        assert "running" in hold["state"]
        assert plan["state"]["terminated"]["message"] == '{"chunks": 3}'
        namespace.kubectl("annotate", "pod", found["metadata"]["name"], f"{prefix}/hold-")
        namespace.kubectl("wait", "--for=condition=Complete", "job/pretended", "--timeout=60s")
        status = namespace.get("pod", found["metadata"]["name"])["status"]
        assert status["containerStatuses"][0]["state"]["terminated"]["message"] == "done"
        hold, plan = status["initContainerStatuses"]
        ended = hold["state"]["terminated"]["finishedAt"]
        assert ended >= status["containerStatuses"][0]["state"]["terminated"]["finishedAt"]
        assert plan["state"]["terminated"]["message"] == '{"chunks": 3}'
    finally:
        cluster.run_kind("kwok", "stop")
