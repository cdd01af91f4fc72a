"""Nodes that exist for the API server alone: thousands of pods for tests of scale, run by nobody.

kwok plays their kubelet, with stages of our own (manifests/kwok.yaml): pods end with the termination messages that
their annotations give, and sidecars end after the main containers.
"""

import shutil
import signal
from pathlib import Path
from typing import Any

from e2e.node import build
from e2e.node.api import Api
from e2e.node.faults import init_process
from e2e.node.init import Component
from e2e.node.state import Inside, Layout, Settings

LABEL = "type=kwok"


def start(layout: Layout, settings: Settings, nodes: int) -> None:
    """Start kwok and bring the number of its nodes to `nodes`.

    Only pods that tolerate the taint kwok.x-k8s.io/node get there.
    """
    build.programs(settings.version, build.KWOK)
    stages = layout.node / "config" / "kwok.yaml"
    shutil.copy(Path(__file__).parent / "manifests" / "kwok.yaml", stages)
    Component("kwok", (
        str(Inside.programs / "kwok"), f"--kubeconfig={Inside.pki}/kwok.conf",
        f"--config={Inside.config / stages.name}", f"--manage-nodes-with-label-selector={LABEL}",
        "--node-lease-duration-seconds=40", "--server-address=127.0.0.1:10247",
    )).declare(layout.components)  # fmt: skip
    init_process(layout).send(signal.SIGHUP)
    api = _api(layout, settings)
    present = _names(api)
    wanted = [f"kwok-{number}" for number in range(nodes)]
    for name in sorted(present - set(wanted)):
        api.request("DELETE", f"/api/v1/nodes/{name}")
    for name in wanted:
        if name not in present:
            api.request("POST", "/api/v1/nodes", _node(name))


def stop(layout: Layout, settings: Settings) -> None:
    """Remove kwok's nodes and end kwok."""
    api = _api(layout, settings)
    for name in _names(api):
        api.request("DELETE", f"/api/v1/nodes/{name}")
    (layout.components / "kwok.json").unlink(missing_ok=True)
    init_process(layout).send(signal.SIGHUP)


def _api(layout: Layout, settings: Settings) -> Api:
    return Api(settings.node_address, layout.pki, "admin")


def _names(api: Api) -> set[str]:
    return {node["metadata"]["name"] for node in api.request("GET", f"/api/v1/nodes?labelSelector={LABEL}")["items"]}


def _node(name: str) -> dict[str, Any]:
    resources = {"cpu": "64", "memory": "256Gi", "pods": "1000"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {"kwok.x-k8s.io/node": "fake", "node.alpha.kubernetes.io/ttl": "0"},
            "labels": {"type": "kwok", "kubernetes.io/hostname": name, "kubernetes.io/role": "agent"},
        },
        "spec": {"taints": [{"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}]},
        "status": {"allocatable": resources, "capacity": resources},
    }
