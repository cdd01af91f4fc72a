"""A cluster as the tests use it: kubectl, in the words of the tests."""

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BUSYBOX = "localhost/busybox:1"
EXTRACTOR = "localhost/extraction-operator/extractor:dev"
HOST_NAME = "host.extraction.internal"


class Refused(Exception):
    """kubectl ended with an error; the message is its own."""


@dataclass(frozen=True)
class Cluster:
    """A running cluster."""

    name: str
    kind: Path
    kubectl_path: Path
    kubeconfig: Path
    namespace: str = "default"
    user: str | None = field(default=None)

    @property
    def is_stand_in(self) -> bool:
        """Whether this is the node of e2e/node: some tests look into it, or need what kind hasn't got."""
        return self.kind.parent.name == "node"

    def within(self, namespace: str) -> "Cluster":
        """Return the same cluster with another default namespace."""
        return Cluster(self.name, self.kind, self.kubectl_path, self.kubeconfig, namespace, self.user)

    def acting_as(self, user: str) -> "Cluster":
        """Return the same cluster, where another user asks."""
        return Cluster(self.name, self.kind, self.kubectl_path, self.kubeconfig, self.namespace, user)

    def command(self, *words: str) -> list[str]:
        """Return a kubectl command line."""
        options = ["--kubeconfig", str(self.kubeconfig), "--namespace", self.namespace]
        return [str(self.kubectl_path), *options, *([f"--as={self.user}"] if self.user else []), *words]

    def kubectl(self, *words: str, stdin: str | None = None, timeout: float = 120) -> str:
        """Run kubectl; return what it printed.

        Raises
        ------
        Refused
            If it fails.
        """
        done = subprocess.run(
            self.command(*words), input=stdin, capture_output=True, text=True, timeout=timeout, check=False
        )
        if done.returncode:
            raise Refused(done.stderr.strip() or done.stdout.strip())
        return done.stdout

    def run_kind(self, *words: str) -> str:
        """Run a command of kind on this cluster."""
        command = [str(self.kind), *words, "--name", self.name]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout

    def apply(self, *objects: dict[str, Any]) -> None:
        """Apply objects."""
        listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "--filename", "-", stdin=json.dumps(listed))

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """Return an object."""
        return json.loads(self.kubectl("get", kind, name, "--output=json"))

    def wait(
        self, kind: str, name: str, reached: Callable[[dict[str, Any]], bool], seconds: float = 90
    ) -> dict[str, Any]:
        """Ask for an object until it has reached a state; return it.

        Raises
        ------
        TimeoutError
            Naming the last status seen.
        """
        deadline = time.monotonic() + seconds
        while True:
            found = self.get(kind, name)
            if reached(found):
                return found
            if time.monotonic() > deadline:
                raise TimeoutError(f"{kind} {name} after {seconds} s: {json.dumps(found.get('status', {}))}")
            time.sleep(0.3)

    def run_pod(self, name: str, *command: str, image: str = BUSYBOX, **spec: Any) -> str:
        """Run a pod to its end; return its log. Its phase must become Succeeded."""
        self.apply(pod(name, *command, image=image, **spec))
        ended = self.wait("pod", name, lambda found: found["status"]["phase"] in {"Succeeded", "Failed"})
        log = self.kubectl("logs", name)
        assert ended["status"]["phase"] == "Succeeded", f"{log}\n{json.dumps(ended['status'])}"
        return log

    def start_pod(self, name: str, *command: str, image: str = BUSYBOX, **spec: Any) -> dict[str, Any]:
        """Start a pod and wait until it is ready; return it."""
        self.apply(pod(name, *command, image=image, **spec))
        return self.wait("pod", name, is_ready)


def is_ready(found: dict[str, Any]) -> bool:
    """Tell whether an object has the condition Ready."""
    conditions = found.get("status", {}).get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def pod(
    name: str, *command: str, image: str = BUSYBOX, container: dict[str, Any] | None = None,
    labels: dict[str, str] | None = None, **spec: Any,
) -> dict[str, Any]:  # fmt: skip
    """Return a pod of one container that is never started again."""
    main = {"name": "main", "image": image, "imagePullPolicy": "Never"} | (container or {})
    if command:
        main["command"] = list(command)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name} | (labels or {})},
        "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [main],
            "automountServiceAccountToken": "serviceAccountName" in spec,
        } | spec,
    }  # fmt: skip
