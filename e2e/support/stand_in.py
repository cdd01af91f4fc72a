"""What the node of e2e/node can do beyond kind: faults, pretended nodes, a look at the audit log."""

import contextlib
import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from e2e.node.state import Layout
from e2e.support.cluster import Cluster, Refused
from e2e.support.lines import audit_lines

KWOK = {
    "nodeSelector": {"type": "kwok"},
    "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists"}],
}
"""The fields of a pod that bring it onto one of kwok's nodes."""

ANNOTATION = "e2e.extraction-operator.io"
"""What kwok's pods read of their annotations, see e2e/node/manifests/kwok.yaml."""


@dataclass(frozen=True)
class Request:
    """A line of the audit log: a request that the API server has answered."""

    user: str
    user_agent: str
    verb: str
    group: str
    resource: str
    subresource: str
    namespace: str
    name: str
    code: int

    @classmethod
    def of(cls, line: dict[str, Any]) -> "Request":
        """Read a line."""
        target = line.get("objectRef", {})
        return cls(
            line["user"].get("username", ""), line.get("userAgent", ""), line["verb"], target.get("apiGroup", ""),
            target.get("resource", ""), target.get("subresource", ""), target.get("namespace", ""),
            target.get("name", ""), line.get("responseStatus", {}).get("code", 0),
        )  # fmt: skip


@dataclass(frozen=True)
class StandIn:
    """The node of a cluster that e2e/node/kind has raised."""

    cluster: Cluster

    @property
    def node_name(self) -> str:
        """Name of the real node."""
        return f"{self.cluster.name}-control-plane"

    def silence_kubelet(self) -> None:
        """Stop the kubelet where it is: after 20 seconds its node is lost to the cluster, yet its containers go on."""
        self.cluster.run_kind("silence")

    def wake_kubelet(self) -> None:
        """Let the kubelet go on; it is no error if it does."""
        self.cluster.run_kind("resume")

    @contextlib.contextmanager
    def silent_kubelet(self) -> Iterator[None]:
        """Keep the kubelet silent for a while."""
        self.silence_kubelet()
        try:
            yield
        finally:
            self.wake_kubelet()

    def crash(self, *components: str) -> None:
        """End components, e.g. kube-apiserver, at once; they start again after a second."""
        self.cluster.run_kind("crash", *components)

    @contextlib.contextmanager
    def kwok_nodes(self, count: int) -> Iterator[None]:
        """Have so many nodes that run nothing; pods get there by :data:`KWOK`."""
        self.cluster.run_kind("kwok", "start", "--nodes", str(count))
        try:
            yield
        finally:
            self.cluster.run_kind("kwok", "stop")

    def audit_log(self, *, user_agent: str = "", namespace: str = "") -> list[Request]:
        """Return what was asked of the API server until now, in its order.

        The reads of the components themselves are left out, see ``AUDIT_POLICY`` in e2e/node/components.py.

        Parameters
        ----------
        user_agent
            Only requests by programs whose user agent begins with this.
        namespace
            Only requests for objects of this namespace.
        """
        # A line is written after its request was answered; when ours is there, those before it are.
        mark = f"mark-{uuid.uuid4().hex}"
        with contextlib.suppress(Refused):
            self.cluster.kubectl("get", "configmap", mark)
        logs = Layout(self.cluster.name).logs
        deadline = time.monotonic() + 30
        lines = audit_lines(logs)
        while not any(mark in line for line in lines):
            if time.monotonic() > deadline:
                raise TimeoutError("the API server writes no audit log")
            time.sleep(0.05)
            lines = audit_lines(logs)
        requests = (Request.of(json.loads(line)) for line in lines if mark not in line)
        return [
            request for request in requests
            if request.user_agent.startswith(user_agent) and namespace in {"", request.namespace}
        ]  # fmt: skip
