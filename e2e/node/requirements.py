"""What the machine must have, checked before anything is changed."""

import os
import shutil
from pathlib import Path

from e2e.node.errors import NodeError

# Program → the Debian package that brings it.
PROGRAMS = {
    "conntrack": "conntrack",
    "containerd": "containerd",
    "containerd-shim-runc-v2": "containerd",
    "ctr": "containerd",
    "ip": "iproute2",
    "iptables": "iptables",
    "mount": "mount",
    "openssl": "openssl",
    "runc": "runc",
    "unshare": "util-linux",
}
PLUGINS = ("bridge", "host-local", "loopback", "portmap", "ptp")
BUSYBOX = Path("/bin/busybox")


def check() -> None:
    """Check user, programs and kernel.

    Raises
    ------
    NodeError
        Naming all that is missing, with the command that installs it.
    """
    if os.geteuid() != 0:
        raise NodeError("a node needs namespaces, mounts and cgroups: run this as root (sudo)")
    packages = {package for program, package in PROGRAMS.items() if not shutil.which(program)}
    missing = sorted(program for program in PROGRAMS if not shutil.which(program))
    if not plugin_folder():
        packages.add("containernetworking-plugins")
        missing.append("CNI plugins")
    if not BUSYBOX.exists():
        packages.add("busybox-static")
        missing.append("busybox")
    if missing:
        raise NodeError(f"missing: {', '.join(missing)}\n       apt-get install -y {' '.join(sorted(packages))}")
    if not shutil.which("go"):
        raise NodeError("missing: go, which builds Kubernetes; install it from https://go.dev/doc/install")
    if not _cgroup_controllers() >= {"cpu", "memory", "pids"}:
        raise NodeError("the kernel offers no cgroups for cpu, memory and pids under /sys/fs/cgroup")


def plugin_folder() -> Path | None:
    """Return the folder with the CNI plugins, wherever the distribution put them."""
    for folder in (Path("/usr/lib/cni"), Path("/opt/cni/bin"), Path("/usr/libexec/cni")):
        if all((folder / plugin).exists() for plugin in PLUGINS):
            return folder
    return None


def cgroup_roots() -> list[Path]:
    """Return the roots of all cgroup hierarchies: one under version 2, several under version 1."""
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        return [root]
    # Names like cpu are links to cpu,cpuacct on some machines.
    return sorted({entry.resolve() for entry in root.glob("*") if (entry / "cgroup.procs").exists()})


def _cgroup_controllers() -> set[str]:
    unified = Path("/sys/fs/cgroup/cgroup.controllers")
    if unified.exists():
        return set(unified.read_text().split())
    return {name for root in cgroup_roots() for name in root.name.split(",")}
