"""The cluster of the tests, its images, and the logs that a failed test leaves."""

import json
import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from e2e.node.commands import GO_GARBAGE
from e2e.node.images import busybox
from e2e.support.charts import Helm
from e2e.support.cluster import HOST_NAME, Cluster
from e2e.support.host import address_towards
from e2e.support.pods import EXTRACTOR, OPERATOR
from e2e.support.servers import Postgres, Store, postgres_with_tls, s3_store
from e2e.support.stand_in import StandIn

if TYPE_CHECKING:
    from e2e.support.scheduling import ByFile

HERE = Path(__file__).parent
IMAGES = HERE.parent / "build" / "images"
LONGEST = ("test_disruption.py", "test_lifecycle.py", "test_failures.py", "test_memory.py", "test_happy.py")
"""Of the operator's tests."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the logs of failed tests go elsewhere."""
    parser.addoption("--failure-logs", type=Path, default=HERE / "logs", help="folder for what failed tests leave")


def pytest_configure(config: pytest.Config) -> None:
    """Let pytest-kind use what this machine has, unless told otherwise; a worker of xdist gets a cluster of its own."""
    # kubectl and helm are started a thousand times, and a fifth of what each of them takes were garbage collections.
    os.environ.update(GO_GARBAGE)
    if not config.option.kind_bin:
        chosen = subprocess.run([HERE / "kind-bin"], capture_output=True, text=True, check=True)
        config.option.kind_bin = chosen.stdout.strip()
    if not config.option.kind_kubectl_bin:
        config.option.kind_kubectl_bin = _program(config.option.kind_bin, "kubectl")
    config.option.kubeconfig = config.option.kubeconfig or str(HERE.parent / "build" / "e2e" / "kubeconfig")
    if worker := getattr(config, "workerinput", None):
        number = int(worker["workerid"].removeprefix("gw")) % worker["workercount"]
        config.option.cluster_name, config.option.kubeconfig = _clusters(config, worker["workercount"])[number]
        # Others may look at what is on this machine; pytest_unconfigure removes it when all are done.
        config.option.keep_cluster = True


def _clusters(config: pytest.Config, workers: int) -> list[tuple[str, str]]:
    """Return name and kubeconfig of each worker's cluster."""
    first = (config.option.cluster_name, config.option.kubeconfig)
    return [first, *((f"{first[0]}-{number}", f"{first[1]}-{number}") for number in range(2, workers + 1))]


def _clusters_of_workers(config: pytest.Config) -> list[tuple[str, str]]:
    """Return the clusters of all workers of xdist, in the process that controls them; elsewhere there are none."""
    controls = config.pluginmanager.hasplugin("dsession")
    return _clusters(config, len(config.option.tx)) if controls else []


def _for_each_worker(config: pytest.Config, work: Callable[[str, str], object]) -> None:
    """Do something to the clusters of all workers, side by side; raise what one of them raised."""
    with ThreadPoolExecutor() as executor:
        list(executor.map(lambda one: work(*one), _clusters_of_workers(config)))


def pytest_sessionstart(session: pytest.Session) -> None:
    """Raise the clusters of all workers before the first test, as some tests look for what clusters leave behind."""
    kind = Path(session.config.option.kind_bin)
    _for_each_worker(session.config, lambda name, kubeconfig: _raise(kind, name, Path(kubeconfig)))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the clusters of the workers."""
    if not config.option.keep_cluster:
        delete = [config.option.kind_bin, "delete", "cluster"]
        _for_each_worker(config, lambda name, kubeconfig: subprocess.run(
            [*delete, "--name", name, "--kubeconfig", kubeconfig], check=True))  # fmt: skip


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> "ByFile | None":
    """Deal the tests out to workers."""
    if config.option.dist != "loadfile":
        return None
    from e2e.support.scheduling import ByFile

    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of the operator last: a worker installs it once, and for them alone.

    Of these the longest come first, so that all workers end at about the same time.
    """

    def place(item: pytest.Item) -> tuple[bool, int]:
        of_operator = item.path.is_relative_to(HERE / "operator")
        name = item.path.name
        return of_operator, LONGEST.index(name) if of_operator and name in LONGEST else len(LONGEST)

    items.sort(key=place)


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
    file = Path(request.config.option.kubeconfig).absolute()
    # pytest-kind touches it.
    file.parent.mkdir(parents=True, exist_ok=True)
    kind, name = Path(request.config.option.kind_bin), request.config.option.cluster_name
    clusters = subprocess.run([kind, "get", "clusters"], capture_output=True, text=True, check=True).stdout.split()
    if name in clusters:
        _raise(kind, name, file)
    return file


def _raise(kind: Path, name: str, kubeconfig: Path) -> None:
    """Raise a cluster, or reuse the one that runs."""
    kubeconfig.parent.mkdir(parents=True, exist_ok=True)
    clusters = subprocess.run([kind, "get", "clusters"], capture_output=True, text=True, check=True).stdout.split()
    # Ours reuses what runs and replaces what a crash has left; the real one refuses what exists.
    new = name not in clusters or kind.parent.name == "node"
    verb = ["create", "cluster"] if new else ["export", "kubeconfig"]
    subprocess.run([kind, *verb, "--name", name, "--kubeconfig", kubeconfig], check=True)


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
    node = cluster.get_all("nodes", "--selector=node-role.kubernetes.io/control-plane")[0]
    addresses = {entry["type"]: entry["address"] for entry in node["status"]["addresses"]}
    return address_towards(addresses["InternalIP"])


@pytest.fixture(scope="session")
def host_address(cluster: Cluster) -> str:
    """Where a server on this machine listens to be reached from pods, as host.extraction.internal."""
    return host_address_of(cluster)


@pytest.fixture
def stand_in(cluster: Cluster) -> StandIn:
    """The node of e2e/node, for what kind doesn't have: faults, pretended nodes, an audit log."""
    if not cluster.is_stand_in:
        pytest.skip("needs the node of e2e/node")
    return StandIn(cluster)


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster with a fresh namespace as default."""
    with cluster.fresh_namespace() as found:
        yield found


@pytest.fixture
def restricted(namespace: Cluster) -> Cluster:
    """The cluster with a fresh namespace as default, which enforces the Pod Security standard "restricted"."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace.merge("namespace", namespace.namespace, {"metadata": {"labels": labels}})
    return namespace


@pytest.fixture(scope="session")
def helm_program(cluster: Cluster) -> Path:
    """Path of helm."""
    return Path(_program(str(cluster.kind), "helm", "helm"))


@pytest.fixture(scope="session")
def kueue_program(cluster: Cluster) -> Path:
    """Path of the manager of Kueue, which is built if need be."""
    return Path(_program(str(cluster.kind), "kueue", "kueue"))


@pytest.fixture
def helm(helm_program: Path, namespace: Cluster, tmp_path: Path) -> Helm:
    """Install charts into the namespace of the test."""
    return Helm(helm_program, namespace, tmp_path / "helm")


@pytest.fixture(scope="session")
def postgres(host_address: str) -> Iterator[Postgres]:
    """A PostgreSQL on this machine that insists on TLS; pods reach it as host.extraction.internal."""
    with postgres_with_tls(host_address, HOST_NAME) as found:
        yield found


@pytest.fixture(scope="session")
def store(host_address: str) -> Iterator[Store]:
    """An S3 store on this machine; pods reach it as host.extraction.internal."""
    with s3_store(host_address) as found:
        yield found


@pytest.fixture
def bucket(store: Store) -> str:
    """A fresh, empty bucket of the store."""
    name = f"bucket-{uuid.uuid4().hex[:8]}"
    store.client().create_bucket(Bucket=name)
    return name


@pytest.fixture(scope="session")
def extractor_image(cluster: Cluster) -> str:
    """Name of the extractor's image, which is loaded."""
    return _loaded(cluster, EXTRACTOR)


@pytest.fixture(scope="session")
def operator_image(cluster: Cluster) -> str:
    """Name of the operator's image, which is loaded."""
    return _loaded(cluster, OPERATOR)


def _loaded(cluster: Cluster, image: str) -> str:
    archive = IMAGES / f"{image.rpartition('/')[2].partition(':')[0]}.tar"
    if not archive.exists():
        pytest.fail(f"{archive} is missing; build it with `make images`")
    cluster.run_kind("load", "image-archive", str(archive))
    return image


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep what the cluster knows about a failure, before the test's namespace goes."""
    report = yield
    found = getattr(item, "funcargs", {}).get("cluster")
    if report.failed and report.when in {"setup", "call"} and isinstance(found, Cluster):
        folder = Path(item.config.option.failure_logs) / re.sub(r"[^\w.-]+", "_", item.name)
        shutil.rmtree(folder, ignore_errors=True)
        done = subprocess.run(
            [found.kind, "export", "logs", folder, "--name", found.name], capture_output=True, text=True, check=False
        )
        for kind in ("pods", "events", "jobs"):
            listed = subprocess.run(
                found.command("get", kind, "--all-namespaces", "--output=yaml"), capture_output=True, check=False
            )
            (folder / f"{kind}.yaml").write_bytes(listed.stdout)
        report.sections.append(("logs of the cluster", f"{folder}\n{done.stderr if done.returncode else ''}"))
    return report
