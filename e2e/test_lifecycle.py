"""A cluster comes and goes without a trace, whole or half-made. On the stand-in alone: kind's traces are Docker's."""

import contextlib
import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from e2e.node.kubeconfig import add, remove
from e2e.node.processes import Process
from e2e.node.requirements import cgroup_roots
from e2e.node.state import Layout, existing, state_root

KIND = Path(__file__).parent / "node" / "kind"
NAME = "e2e-short"
# Twenty when asked; few on each run.
ROUNDS = int(os.environ.get("LIFECYCLE_ROUNDS", "2"))


@pytest.fixture
def kubeconfig(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    if Path(request.config.option.kind_bin).parent.name != "node":
        pytest.skip("these are tests of the stand-in")
    yield tmp_path / "kubeconfig"
    kind("delete", "cluster", "--name", NAME, "--kubeconfig", str(tmp_path / "kubeconfig"))


def kind(*words: str) -> str:
    return subprocess.run([KIND, *words], stdout=subprocess.PIPE, text=True, check=True, timeout=300).stdout


@dataclass(frozen=True)
class Machine:
    """All that a cluster could leave behind: what is there now that was not before."""

    processes: frozenset[str]
    mounts: frozenset[str]
    links: frozenset[str]
    rules: frozenset[str]
    network_namespaces: frozenset[str]
    cgroups: frozenset[str]
    settings: frozenset[str]
    clusters: frozenset[str]


NODE_PROGRAMS = {
    "containerd", "containerd-shim", "coredns", "etcd", "kube-apiserver", "kube-controller", "kube-proxy",
    "kube-scheduler", "kubelet", "pause", "unshare",
}  # fmt: skip
# Of builders of images, and of tests on file systems of their own; nothing of a node is there.
FOREIGN_MOUNTS = ("/var/lib/containers/", "/var/lib/docker/", tempfile.gettempdir() + "/")
SYSCTLS = ("net/ipv4/ip_forward", "vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
           "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes", "net/netfilter/nf_conntrack_max")  # fmt: skip


def output(*command: str) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def _processes() -> Iterator[str]:
    """Yield the processes that look like a node's, but for those of other clusters and workers, which come and go."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            name, stat = (folder / "comm").read_text().strip(), (folder / "stat").read_text().rsplit(")", 1)[1].split()
            if stat[0] != "Z":
                found[int(folder.name)] = (name, int(stat[1]), stat[19])
    others = {
        launcher.pid for layout in existing() if layout.name != NAME and (launcher := Process.read(layout.init_file))
    }
    if "PYTEST_XDIST_WORKER" in os.environ:
        # They have API servers of their own.
        others |= {pid for pid, (_, parent, _) in found.items() if parent == os.getppid() and pid != os.getpid()}
    for pid, (name, _, start) in found.items():
        ancestor, foreign = pid, False
        while ancestor in found and not foreign:
            foreign = ancestor in others
            ancestor = found[ancestor][1]
        if name in NODE_PROGRAMS and not foreign:
            yield f"{pid} {start} {name}"


def look() -> Machine:
    """Describe this machine, without what others may be doing on it."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return Machine(
        frozenset(_processes()),
        frozenset(mount for line in mounts if not (mount := line.split()[4]).startswith(FOREIGN_MOUNTS)),
        frozenset(line.split(":")[1] for line in output("ip", "-oneline", "link").splitlines()),
        frozenset(line for line in output("iptables-save").splitlines() if not line.startswith(("#", ":"))),
        frozenset(output("ip", "netns", "list").splitlines()),
        frozenset(str(path) for root in cgroup_roots() for path in root.rglob(f"*extraction-node-{NAME}*")),
        frozenset(f"{key} {Path('/proc/sys', key).read_text()}" for key in SYSCTLS if Path("/proc/sys", key).exists()),
        frozenset(entry.name for entry in state_root().glob("*")) - {".locks"},
    )


def assert_as_before(before: Machine) -> None:
    deadline = time.monotonic() + 10
    while True:
        now = look()
        # Processes that others ended meanwhile are no trace.
        if now.processes <= before.processes and replace(now, processes=before.processes) == before:
            return
        # A process that was not recorded yet ends by itself, when it sees that nobody waits for it.
        assert time.monotonic() < deadline, f"{now}\nis not\n{before}"
        time.sleep(0.2)


def test_creating_and_deleting_leaves_the_machine_as_it_was(kubeconfig: Path) -> None:
    before = look()
    for _ in range(ROUNDS):
        kind("create", "cluster", "--name", NAME, "--kubeconfig", str(kubeconfig))
        assert NAME in kind("get", "clusters").split()
        assert kind("get", "nodes", "--name", NAME) == f"{NAME}-control-plane\n"
        assert look() != before
        kind("delete", "cluster", "--name", NAME, "--kubeconfig", str(kubeconfig))
        assert_as_before(before)
        assert "e2e-short" not in kubeconfig.read_text()


def test_create_reuses_what_runs_what_dies_is_replaced_and_delete_finishes_what_another_began(kubeconfig: Path) -> None:
    before = look()
    options = ("--name", NAME, "--kubeconfig", str(kubeconfig))
    kind("create", "cluster", *options)
    record = state_root() / NAME / "init.json"
    first = record.read_text()
    kubeconfig.unlink()
    kind("create", "cluster", *options)
    assert record.read_text() == first
    assert kubeconfig.exists()
    kind("crash", "etcd", "kube-apiserver", "--name", NAME)
    deadline = time.monotonic() + 60
    while "e2e-short" not in kind("get", "clusters") or not _answers(kubeconfig):
        assert time.monotonic() < deadline, "the components did not come back"
        time.sleep(0.5)
    for _ in range(3):
        deleting = subprocess.Popen([KIND, "delete", "cluster", *options])
        with contextlib.suppress(subprocess.TimeoutExpired):
            deleting.wait(0.25)  # most of it is loading Python and ending processes
        deleting.kill()
        deleting.wait()
    kind("delete", "cluster", *options)
    assert_as_before(before)


def _answers(kubeconfig: Path) -> bool:
    kubectl = Path(kind("programs").strip()) / "kubectl"
    command: list[str | Path] = [kubectl, "--kubeconfig", kubeconfig, "--request-timeout=2s", "get", "nodes"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def created_until(kubeconfig: Path, ended: Callable[[str], bool] = lambda _: False, seconds: float = 60) -> None:
    """Create a cluster, but kill the command, and it alone, once it has said something, or after some seconds."""
    command: list[str | Path] = [KIND, "create", "cluster", "--name", NAME, "--kubeconfig", kubeconfig]
    creating = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert creating.stderr is not None
    end = threading.Timer(seconds, creating.kill)
    end.start()
    for line in creating.stderr:
        if ended(line):
            creating.kill()
            break
    creating.communicate(timeout=30)
    end.cancel()


@pytest.mark.parametrize("stage", ["Preparing", "Starting", "Installing", "Waiting"])
def test_a_crash_half_way_is_cleaned_by_the_next_delete(kubeconfig: Path, stage: str) -> None:
    before = look()
    created_until(kubeconfig, lambda line: stage in line)
    kind("delete", "cluster", "--name", NAME, "--kubeconfig", str(kubeconfig))
    assert_as_before(before)


def test_a_crash_at_any_moment_is_cleaned_by_the_next_delete(kubeconfig: Path) -> None:
    before = look()
    for number in range(ROUNDS):
        # Spread over the time that a creation takes; when it ends is the fault, nothing is waited for.
        created_until(kubeconfig, seconds=12 * (number + 0.5) / ROUNDS)
        kind("delete", "cluster", "--name", NAME, "--kubeconfig", str(kubeconfig))
        assert_as_before(before)


def test_a_crash_half_way_is_cleaned_by_the_next_create(kubeconfig: Path) -> None:
    before = look()
    created_until(kubeconfig, lambda line: "Installing" in line)
    kind("create", "cluster", "--name", NAME, "--kubeconfig", str(kubeconfig))
    assert _answers(kubeconfig)
    kind("delete", "cluster", "--name", NAME, "--kubeconfig", str(kubeconfig))
    assert_as_before(before)


def test_a_manifest_that_asks_for_more_than_one_node_is_refused(kubeconfig: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4", "nodes": [{}, {"role": "worker"}]}')
    done = subprocess.run(
        [KIND, "create", "cluster", "--name", NAME, "--config", config], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "one control-plane node" in done.stderr
    assert NAME not in kind("get", "clusters").split()


def test_clusters_that_come_and_go_at_once_keep_each_others_place_in_a_kubeconfig(
    kubeconfig: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EXTRACTION_NODE_STATE", str(tmp_path / "nodes"))
    kubectl = Path(request.config.option.kind_kubectl_bin)
    layouts = [Layout(f"one-{number}") for number in range(6)]
    for layout in layouts:
        layout.root.mkdir(parents=True)
        user = f"kind-{layout.name}"
        layout.kubeconfig.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": user,
            "clusters": [{"name": user, "cluster": {"server": "https://127.0.0.1"}}], "users": [{"name": user}],
            "contexts": [{"name": user, "context": {"cluster": user, "user": user}}],
        }))  # fmt: skip

    def contexts() -> set[str]:
        return set(
            output(str(kubectl), "--kubeconfig", str(kubeconfig), "config", "get-contexts", "--output=name").split()
        )

    with ThreadPoolExecutor(len(layouts)) as executor:
        list(executor.map(lambda layout: add(layout, kubectl, kubeconfig), layouts))
        assert contexts() == {f"kind-{layout.name}" for layout in layouts}
        list(executor.map(lambda layout: remove(layout.name, kubectl, kubeconfig), layouts[1:]))
    assert contexts() == {"kind-one-0"}


def test_without_clusters_the_words_are_those_of_kind(kubeconfig: Path) -> None:
    done = subprocess.run([KIND, "get", "nodes", "--name", NAME], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", f'No kind nodes found for cluster "{NAME}".\n')
    assert kind("version").startswith("kind v")
