"""The link between host and node, and the host's cgroups: the only things of a cluster outside its namespaces.

The node can reach the host and nothing beyond: it has no default route, and the host forwards nothing for it.
"""

import contextlib
import ipaddress
import json
import time
from pathlib import Path

from e2e.node.commands import run, succeeds
from e2e.node.errors import NodeError
from e2e.node.processes import Process
from e2e.node.requirements import cgroup_roots
from e2e.node.state import Layout, Settings, existing

POD_SUBNET = "10.244.0.0/16"
SERVICE_SUBNET = "10.96.0.0/16"
DNS_ADDRESS = "10.96.0.10"
HOST_NAME = "host.extraction.internal"


def free_link() -> int:
    """Return the number of a link whose addresses nothing on this machine uses.

    Raises
    ------
    NodeError
        If none of 10.213.0.0/16 is left.
    """
    taken = {layout.settings.link for layout in existing() if layout.settings}
    routes = json.loads(run("ip", "-json", "-4", "route", "show", "table", "all") or "[]")
    used = [ipaddress.ip_network(route["dst"]) for route in routes if route["dst"] not in {"default", "0.0.0.0/0"}]
    for number in range(256):
        network = ipaddress.ip_network(f"10.213.{number}.0/30")
        if number not in taken and not any(network.overlaps(other) for other in used):
            return number
    raise NodeError("no free addresses for a node in 10.213.0.0/16; see `ip route show table all`")


def connect(settings: Settings, node: Process) -> None:
    """Make the link: one end here, the other in the namespace of the node, where `init` configures it."""
    link = settings.host_link
    run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(node.pid))
    run("ip", "address", "add", f"{settings.host_address}/30", "dev", link)
    run("ip", "link", "set", link, "up")


def configure_inside(settings: Settings) -> None:
    """Set up addresses and forwarding within the network namespace of the node."""
    run("ip", "link", "set", "lo", "up")
    run("ip", "address", "add", f"{settings.node_address}/30", "dev", "eth0")
    run("ip", "link", "set", "eth0", "up")
    # What leads nowhere isn't sent at all: the API server calls webhooks at addresses that become those of pods later.
    run("ip", "route", "add", SERVICE_SUBNET, "via", settings.host_address)
    # The address of a service that kube-proxy doesn't know (yet) refuses at once. Were the first packet of a connection
    # lost, its further ones would take the same way, and wait for two minutes although the service is there by now.
    for chain in ("FORWARD", "OUTPUT"):
        run("iptables", "-w", "-A", chain, "-d", SERVICE_SUBNET, "-o", "eth0", "-j", "REJECT")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    # The host knows no way back to pods.
    run("iptables", "-w", "-t", "nat", "-A", "POSTROUTING", "-s", POD_SUBNET, "!", "-d", POD_SUBNET,
        "-o", "eth0", "-j", "MASQUERADE")  # fmt: skip


def disconnect(settings: Settings) -> None:
    """Remove the link, if it is still there."""
    if succeeds("ip", "link", "show", settings.host_link):
        # It also goes by itself when the kernel frees the namespace of the node.
        with contextlib.suppress(NodeError):
            run("ip", "link", "delete", settings.host_link)


def make_cgroups(layout: Layout) -> None:
    """Make the cgroup of the cluster in each hierarchy."""
    for root in cgroup_roots():
        (root / layout.cgroup.lstrip("/")).mkdir(exist_ok=True)


def remove_cgroups(layout: Layout) -> None:
    """Remove the cgroups of the cluster and of its pods; their processes have ended.

    Raises
    ------
    NodeError
        If one is still in use after ten seconds.
    """
    deadline = time.monotonic() + 10
    for root in cgroup_roots():
        top = root / layout.cgroup.lstrip("/")
        while top.exists():
            try:
                for folder in sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True):
                    folder.rmdir()
                top.rmdir()
            except OSError as error:
                if time.monotonic() > deadline:
                    raise NodeError(f"cgroup {error.filename} can't be removed: {error.strerror}") from error
                time.sleep(0.1)
