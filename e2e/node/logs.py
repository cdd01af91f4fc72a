"""Logs of a cluster, gathered into a folder for whoever looks at a failure."""

import contextlib
import shutil
from pathlib import Path

from e2e.node.build import cached
from e2e.node.commands import run
from e2e.node.errors import NodeError
from e2e.node.state import Layout, Settings


def export(layout: Layout, settings: Settings, folder: Path) -> None:
    """Copy the logs of the node's components and of its containers; describe its objects and events."""
    node = folder / layout.node_name
    node.mkdir(parents=True, exist_ok=True)
    shutil.copy(layout.init_log, node)
    for log in layout.logs.glob("*.log"):
        shutil.copy(log, node)
    if (layout.logs / "pods").is_dir():
        shutil.copytree(layout.logs / "pods", node / "pods", dirs_exist_ok=True, symlinks=True)
    kubectl = (cached(settings.version) / "kubectl", "--kubeconfig", layout.kubeconfig, "--request-timeout=10s")
    questions = {
        "events.txt": ("get", "events", "--all-namespaces", "--sort-by=.lastTimestamp"),
        "pods.txt": ("get", "pods", "--all-namespaces", "--output=wide"),
        "describe.txt": ("describe", "nodes,pods", "--all-namespaces"),
    }
    for name, question in questions.items():
        # The rest is worth having even if the API server is the one that died.
        with contextlib.suppress(NodeError):
            (folder / name).write_text(run(*kubectl, *question))
