"""Where a cluster keeps what: one folder per cluster on the host, and the same files as the node sees them."""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from e2e.node.commands import exclusive
from e2e.node.errors import NodeError

# The name becomes part of file, host and cgroup names; paths of sockets must stay below 108 bytes.
NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,39}")
# No cluster is called this.
_SHARED = ".shared"


@dataclass(frozen=True)
class Settings:
    """What was decided when the cluster was made."""

    version: str
    link: int
    feature_gates: dict[str, bool]
    runtime_config: dict[str, str]

    @property
    def host_address(self) -> str:
        """Address of the host as the node and its pods reach it."""
        return f"10.213.{self.link}.1"

    @property
    def node_address(self) -> str:
        """Address of the node as the host reaches it."""
        return f"10.213.{self.link}.2"

    @property
    def host_link(self) -> str:
        """Name of the host's end of the link to the node."""
        return f"exnode{self.link}"


class Layout:
    """Files of one cluster as the host sees them."""

    def __init__(self, name: str) -> None:
        if not NAME.fullmatch(name):
            raise NodeError(f"{name!r} can't name a cluster; use at most 40 of a-z, 0-9, '.' and '-'")
        self.name = name
        self.root = state_root() / name
        self.settings_file = self.root / "settings.json"
        self.init_file = self.root / "init.json"
        self.ready_file = self.root / "ready"
        self.init_log = self.root / "init.log"
        self.kubeconfig = self.root / "kubeconfig"
        self.var = self.root / "var"
        self.node = self.var / "lib" / "node"
        self.pki = self.node / "pki"
        self.components = self.node / "components"
        self.volumes = self.var / "lib" / "volumes"
        self.logs = self.var / "log"
        self.containerd_socket = self.node / "containerd.sock"

    @property
    def node_name(self) -> str:
        """Name of the node, as kind gives it."""
        return f"{self.name}-control-plane"

    @property
    def cgroup(self) -> str:
        """Cgroup below which the kubelet makes those of the pods."""
        return f"/extraction-node-{self.name}"

    @property
    def settings(self) -> Settings | None:
        """The settings; None when a crash came before them."""
        try:
            return Settings(**json.loads(self.settings_file.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def write_settings(self, settings: Settings) -> None:
        """Record the settings, whole or not at all."""
        draft = self.settings_file.with_suffix(".draft")
        draft.write_text(json.dumps(asdict(settings)))
        draft.replace(self.settings_file)


class Inside:
    """The same files as processes in the node see them: the node has a /var of its own."""

    node = Path("/var/lib/node")
    programs = node / "bin"
    pki = node / "pki"
    config = node / "config"
    components = node / "components"
    volumes = Path("/var/lib/volumes")
    logs = Path("/var/log")
    images = Path("/var/lib/containerd")
    containerd_socket = node / "containerd.sock"


def state_root() -> Path:
    """Return the folder that holds all clusters of this machine."""
    return Path(os.environ.get("EXTRACTION_NODE_STATE") or "/var/lib/extraction-node")


@contextlib.contextmanager
def alone(what: str = _SHARED) -> Iterator[None]:
    """Let one command at a time change the cluster of a name, or what all of this machine share."""
    folder = state_root() / ".locks"
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder / what):
        yield


def existing() -> list[Layout]:
    """Return all clusters of this machine, half-made ones too, ordered by name."""
    root = state_root()
    if not root.is_dir():
        return []
    return [Layout(entry.name) for entry in sorted(root.iterdir()) if entry.is_dir() and NAME.fullmatch(entry.name)]
