"""The user's kubeconfig: a cluster is added to it under the name kind would give, and removed again."""

import contextlib
import os
from pathlib import Path

from e2e.node.commands import run
from e2e.node.errors import NodeError
from e2e.node.state import Layout, alone


def target(explicit: str | None) -> Path:
    """Return the file to change: the given one, else the first of $KUBECONFIG, else ~/.kube/config."""
    listed = [name for name in os.environ.get("KUBECONFIG", "").split(":") if name]
    return Path(explicit or (listed[0] if listed else Path.home() / ".kube" / "config"))


def add(layout: Layout, kubectl: Path, file: Path) -> None:
    """Merge the cluster's administrator into a kubeconfig and make it the current context."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with alone():
        # The file named first wins where both have an entry, so ours comes first.
        merged = run("env", f"KUBECONFIG={layout.kubeconfig}:{file}", kubectl, "config", "view", "--flatten")
        draft = file.with_name(f".{file.name}.{os.getpid()}")
        draft.touch(mode=0o600)
        draft.write_text(merged)
        draft.replace(file)


def remove(name: str, kubectl: Path, file: Path) -> None:
    """Remove the cluster from a kubeconfig, if it is in there."""
    if not file.is_file() or not file.stat().st_size:
        return
    config = (kubectl, "config", "--kubeconfig", file)
    with alone():
        with contextlib.suppress(NodeError):
            if run(*config, "current-context").strip() == f"kind-{name}":
                run(*config, "unset", "current-context")
        for entry in ("delete-context", "delete-cluster", "delete-user"):
            with contextlib.suppress(NodeError):
                run(*config, entry, f"kind-{name}")
