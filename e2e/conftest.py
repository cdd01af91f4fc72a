"""The cluster of the tests, its images, and the logs that a failed test leaves."""

import json
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.node.images import busybox
from e2e.support.cluster import EXTRACTOR, HOST_NAME, Cluster
from e2e.support.host import address_towards

HERE = Path(__file__).parent
IMAGES = HERE.parent / "build" / "images"
LOGS = HERE / "logs"


def pytest_configure(config: pytest.Config) -> None:
    """Let pytest-kind use what this machine has, unless told otherwise."""
    if not config.option.kind_bin:
        chosen = subprocess.run([HERE / "kind-bin"], capture_output=True, text=True, check=True)
        config.option.kind_bin = chosen.stdout.strip()
    if not config.option.kind_kubectl_bin:
        config.option.kind_kubectl_bin = _program(config.option.kind_bin, "kubectl")
    config.option.kubeconfig = config.option.kubeconfig or str(HERE.parent / "build" / "e2e" / "kubeconfig")


def _program(kind: str, name: str, *extras: str) -> str:
    """Return a program as the stand-in built it, of the version of its cluster; with the real kind, the machine's."""
    folder = None
    if Path(kind).parent.name == "node":
        built = subprocess.run([kind, "programs", *extras], stdout=subprocess.PIPE, text=True, check=True)
        folder = built.stdout.strip()
    found = shutil.which(name, path=folder)
    if not found:
        raise pytest.UsageError(f"{name} is needed beside kind, and isn't on PATH")
    return found


@pytest.fixture(scope="session")
def _kubeconfig(request: pytest.FixtureRequest) -> Path:
    """Find a cluster that runs already although its kubeconfig is gone; pytest-kind would not."""
    kind, name = request.config.option.kind_bin, request.config.option.cluster_name
    file = Path(request.config.option.kubeconfig).absolute()
    file.parent.mkdir(parents=True, exist_ok=True)
    clusters = subprocess.run([kind, "get", "clusters"], capture_output=True, text=True, check=True).stdout.split()
    if name in clusters:
        # Ours reuses what runs and replaces what a crash has left; the real one refuses what exists.
        verb = ["create", "cluster"] if Path(kind).parent.name == "node" else ["export", "kubeconfig"]
        subprocess.run([kind, *verb, "--name", name, "--kubeconfig", file], check=True)
    return file


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest, _kubeconfig: Path) -> Cluster:
    """The cluster with the images of the tests' own pods, as its administrator uses it."""
    raised = request.getfixturevalue("kind_cluster")
    found = Cluster(raised.name, Path(raised.kind_path), Path(raised.kubectl_path), _kubeconfig)
    busybox(IMAGES / "busybox.tar")
    found.run_kind("load", "image-archive", str(IMAGES / "busybox.tar"))
    if not found.is_stand_in:
        _name_host(found)
    return found


def _name_host(cluster: Cluster) -> None:
    """Teach the DNS of a real kind cluster the name of the host, which the stand-in's knows."""
    dns = cluster.within("kube-system")
    corefile = dns.get("configmap", "coredns")["data"]["Corefile"]
    if HOST_NAME not in corefile:
        block = f"hosts {{\n{host_address_of(cluster)} {HOST_NAME}\nfallthrough\n}}\nforward"
        patch = {"data": {"Corefile": re.sub(r"\bforward\b", block, corefile, count=1)}}
        dns.kubectl("patch", "configmap", "coredns", "--patch", json.dumps(patch))
        dns.kubectl("rollout", "restart", "deployment/coredns")
        dns.kubectl("rollout", "status", "deployment/coredns")


def host_address_of(cluster: Cluster) -> str:
    """Return the address of this machine on the link to the node."""
    node = json.loads(
        cluster.kubectl("get", "nodes", "--selector=node-role.kubernetes.io/control-plane", "--output=json")
    )
    addresses = {entry["type"]: entry["address"] for entry in node["items"][0]["status"]["addresses"]}
    return address_towards(addresses["InternalIP"])


@pytest.fixture(scope="session")
def host_address(cluster: Cluster) -> str:
    """Where a server on this machine listens to be reached from pods, as host.extraction.internal."""
    return host_address_of(cluster)


@pytest.fixture(scope="session")
def helm(cluster: Cluster) -> str:
    """Path of helm, to install charts."""
    return _program(str(cluster.kind), "helm", "helm")


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster with a fresh namespace as default."""
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", name)
    yield cluster.within(name)
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def extractor_image(cluster: Cluster) -> str:
    """Name of the extractor's image, which is loaded."""
    archive = IMAGES / "extractor.tar"
    if not archive.exists():
        pytest.fail(f"{archive} is missing; build it with `make images`")
    cluster.run_kind("load", "image-archive", str(archive))
    return EXTRACTOR


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Keep what the cluster knows about a failure, before the test's namespace goes."""
    report = yield
    found = getattr(item, "funcargs", {}).get("cluster")
    if report.failed and report.when in {"setup", "call"} and isinstance(found, Cluster):
        folder = LOGS / re.sub(r"[^\w.-]+", "_", item.name)
        shutil.rmtree(folder, ignore_errors=True)
        done = subprocess.run(
            [found.kind, "export", "logs", folder, "--name", found.name], capture_output=True, text=True, check=False
        )
        for name, question in {"pods": "pods", "events": "events", "jobs": "jobs"}.items():
            listed = subprocess.run(
                found.command("get", question, "--all-namespaces", "--output=yaml"), capture_output=True, check=False
            )
            (folder / f"{name}.yaml").write_bytes(listed.stdout)
        report.sections.append(("logs of the cluster", f"{folder}\n{done.stderr if done.returncode else ''}"))
    return report
