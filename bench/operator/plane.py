"""A control plane of our own on loopback, with nodes that run nothing, and operators as processes beside it.

The programs are those that e2e/node builds (``make cluster``, once). kwok plays the kubelet by the stages of the tests,
e2e/node/manifests/kwok.yaml. The flags are those of e2e/node, and bare Jobs run under the same.
"""

import asyncio
import contextlib
import json
import os
import platform
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from e2e.node.commands import GO_GARBAGE
from e2e.support.api_server import ApiServer, api_server

ROOT = Path(__file__).parents[2]
VERSION = "v1.36.3"
PROGRAMS = Path.home() / ".cache" / "extraction-operator-node" / f"{VERSION}-{platform.machine()}"
STAGES = ROOT / "e2e" / "node" / "manifests" / "kwok.yaml"

OPERATOR = "extraction-operator"
_USERS = ("kube-controller-manager", "kube-scheduler", "kwok", OPERATOR)
_RAISED = ("--kube-api-qps=200", "--kube-api-burst=400")
"""Ten times what the controller manager asks for by default, four times the scheduler's."""
_CONTROLLERS = (
    "job-controller", "garbage-collector-controller", "namespace-controller", "node-lifecycle-controller",
    "pod-garbage-collector-controller", "ttl-after-finished-controller",
)  # fmt: skip


@dataclass(frozen=True)
class Plane:
    """A running control plane."""

    api: ApiServer
    folder: Path

    def cpu_seconds(self) -> dict[str, float]:
        """Return the CPU that each program of ours has used until now, the benchmark's own included."""
        own = psutil.Process()
        found = {"benchmark": sum(own.cpu_times()[:2])}
        for child in own.children():
            found[child.name()] = found.get(child.name(), 0.0) + sum(child.cpu_times()[:2])
        return found

    @contextlib.contextmanager
    def operator(self, *arguments: str) -> "Iterator[Operator]":
        """Run an operator, as leader by its Lease as in production; end it in good order."""
        found = Operator(self, arguments)
        try:
            yield found
        finally:
            found.stop()


@contextlib.contextmanager
def plane(*, nodes: int = 20, raised: bool = False) -> Iterator[Plane]:
    """Raise a control plane with so many pretended nodes; end everything and remove what it stored at the end.

    Parameters
    ----------
    raised
        Let the controller manager work on 20 Jobs at a time and, like the scheduler, ask for 200 requests a second.
        Without it both have Kubernetes' defaults: 5 Jobs, 20 and 50 requests a second.
    """
    rates = _RAISED if raised else ()
    with contextlib.ExitStack() as stack:
        api = stack.enter_context(api_server(PROGRAMS, _USERS))
        manager = [
            "kube-controller-manager", f"--kubeconfig={api.kubeconfig('kube-controller-manager')}",
            "--leader-elect=false", f"--controllers={','.join(_CONTROLLERS)}", "--secure-port=0",
            *(("--concurrent-job-syncs=20",) if raised else ()), *rates,
        ]  # fmt: skip
        scheduler = [
            "kube-scheduler", f"--kubeconfig={api.kubeconfig('kube-scheduler')}", "--leader-elect=false",
            "--secure-port=0", *rates,
        ]  # fmt: skip
        kwok = [
            "kwok", f"--kubeconfig={api.kubeconfig('kwok')}", f"--config={STAGES}",
            "--manage-nodes-with-label-selector=type=kwok", "--node-lease-duration-seconds=40",
        ]  # fmt: skip
        for name, *arguments in (manager, scheduler, kwok):
            stack.enter_context(_process(api.folder / f"{name}.log", [PROGRAMS / name, *arguments]))
        for number in range(nodes):
            api.call("POST", "/api/v1/nodes", _node(f"kwok-{number}"))
        _wait_for_nodes(api)
        yield Plane(api, api.folder)


def described(raised: bool) -> str:
    """Return how fast Kubernetes' own programs may be, in words."""
    return "raised" if raised else "Kubernetes' defaults"


class Operator:
    """A running ``extraction-operator``.

    ``began`` is the monotonic time just before its process was made.
    """

    def __init__(self, plane: Plane, arguments: tuple[str, ...] = ()) -> None:
        self.log = plane.folder / f"operator-{time.monotonic_ns()}.log"
        command = [
            Path(sys.executable).with_name("extraction-operator"), "run", "--image=none", "--lease-namespace=default",
            "--metrics-host=127.0.0.1", "--metrics-port=0", f"--kubeconfig={plane.api.kubeconfig(OPERATOR)}",
            # What is measured is the operator, not how many connections a source gives.
            "--max-source-connections=1000000", *arguments,
        ]  # fmt: skip
        # In an image bytecode is there; here it is from the second start on.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        self.began = time.monotonic()
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment | {"HOSTNAME": OPERATOR})
        self.process = psutil.Process(self._process.pid)
        self._port = 0

    def metrics(self) -> dict[str, float]:
        """Return its counters by name, labels summed; none before it serves them."""
        self._port = self._port or self._said_port()
        if not self._port:
            return {}
        url = f"http://127.0.0.1:{self._port}/metrics"
        found: dict[str, float] = {}
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=10) as page:
            for line in page.read().decode().splitlines():
                if matched := re.match(r"extraction_operator_(\w+?)(?:\{[^}]*\})? (\S+)$", line):
                    found[matched[1]] = found.get(matched[1], 0.0) + float(matched[2])
        return found

    async def reconciled(self, least: int = 1, seconds: float = 120) -> float:
        """Wait until so many keys were decided about; return the seconds since its process was made."""
        deadline = time.monotonic() + seconds
        while self.metrics().get("reconcile_seconds_count", 0) < least:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(self.log.read_text()[-2000:])
            # Each look costs the operator a page of its metrics.
            await asyncio.sleep(0.1)
        return time.monotonic() - self.began

    def warnings(self) -> list[str]:
        """Return what it logged as a warning or worse."""
        lines = [line for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if json.loads(line).get("level", "").lower() not in {"info", "debug"}]

    def cpu_seconds(self) -> float:
        """Return the CPU that it has used."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def stop(self) -> None:
        """End it in good order."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _said_port(self) -> int:
        for line in self.log.read_text().splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if entry.get("message") == "Started.":
                    return int(entry["port"])
        return 0


@contextlib.contextmanager
def _process(log: Path, command: list[str | Path]) -> Iterator[None]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=os.environ | GO_GARBAGE)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _node(name: str) -> dict[str, object]:
    resources = {"cpu": "640", "memory": "2560Gi", "pods": "10000"}
    return {
        "apiVersion": "v1", "kind": "Node", "status": {"allocatable": resources, "capacity": resources},
        "metadata": {"name": name, "annotations": {"kwok.x-k8s.io/node": "fake"},
                     "labels": {"type": "kwok", "kubernetes.io/hostname": name}},
    }  # fmt: skip


def _wait_for_nodes(api: ApiServer, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while True:
        nodes = api.call("GET", "/api/v1/nodes")["items"]
        if not any(node["spec"].get("taints") for node in nodes):
            return
        if time.monotonic() > deadline:
            raise TimeoutError("kwok's nodes don't become ready: see the logs of kwok and kube-controller-manager")
        time.sleep(0.2)
