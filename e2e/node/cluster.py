"""Clusters: raised, found again, and removed to the last trace."""

import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from string import Template

from e2e.node import build, components, images, kubeconfig, network, pki, requirements
from e2e.node.api import Api
from e2e.node.commands import GO_GARBAGE, run, wait_until
from e2e.node.errors import NodeError
from e2e.node.faults import init_process
from e2e.node.processes import Process
from e2e.node.state import Layout, Settings, alone

NAMESPACES = ("--mount", "--pid", "--net", "--uts", "--ipc", "--propagation", "private", "--mount-proc")


def create(
    name: str, version: str, *, feature_gates: dict[str, bool], runtime_config: dict[str, str], wait: float,
    retain: bool, user_config: Path,
) -> bool:  # fmt: skip
    """Raise a cluster, or reuse the one of that name if it runs; return whether it is new.

    What a crash has left of a cluster of that name is removed first.

    Raises
    ------
    NodeError
        If the machine lacks something, another version runs under the name, or the node does not become ready. Unless
        `retain`, nothing is left then.
    """
    requirements.check()
    layout = Layout(name)
    programs = build.programs(version)
    with alone(name):
        if runs(layout):
            settings = layout.settings
            if settings is None or settings.version != version:
                raise NodeError(f'cluster "{name}" runs another version; delete it first')
            kubeconfig.add(layout, programs / "kubectl", user_config)
            return False
        _remove(layout)
        try:
            with alone():
                settings = Settings(version, network.free_link(), feature_gates, runtime_config)
                layout.root.mkdir(parents=True)
                layout.write_settings(settings)
            _raise(layout, settings, programs, wait)
        except BaseException:
            if not retain:
                _show_logs(layout)
                _remove(layout)
            raise
        kubeconfig.add(layout, programs / "kubectl", user_config)
        return True


def delete(name: str, user_config: Path) -> None:
    """Remove a cluster, whole or half-made; it is no error if there is none."""
    layout = Layout(name)
    with alone(name):
        settings = layout.settings
        _remove(layout)
        if settings:
            kubeconfig.remove(name, build.cached(settings.version) / "kubectl", user_config)


def runs(layout: Layout) -> bool:
    """Tell whether a cluster was raised to the end and still answers."""
    launcher, settings = Process.read(layout.init_file), layout.settings
    if not (layout.ready_file.exists() and settings and launcher and launcher.runs):
        return False
    return Api(settings.node_address, layout.pki, "admin").is_ready()


def running(name: str) -> tuple[Layout, Settings]:
    """Return a cluster that was raised.

    Raises
    ------
    NodeError
        If there is none of that name.
    """
    layout = Layout(name)
    settings = layout.settings
    if settings is None:
        raise NodeError(f'no nodes found for cluster "{name}"')
    return layout, settings


def _raise(layout: Layout, settings: Settings, programs: Path, wait: float) -> None:
    _say(f"Preparing node {layout.node_name} (Kubernetes {settings.version})")
    pki.create(layout, settings)
    declared = components.prepare(layout, settings)
    for component in declared.first:
        component.declare(layout.components)
    network.make_cgroups(layout)

    _say("Starting the control plane")
    _start_init(layout, settings, programs)
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(_load_node_images, layout, programs)
        api = Api(settings.node_address, layout.pki, "admin")
        wait_until(api.is_ready, "the API server gets ready", 90, f"see {layout.logs}")
        for component in declared.then:
            component.declare(layout.components)
        init_process(layout).send(signal.SIGHUP)
        _install_addons(layout, settings, programs)
        loading.result()

    _say("Waiting for the node and DNS")
    wait_until(lambda: _is_ready(api, layout), "the node gets ready", max(wait, 120), f"see {layout.logs}")
    kubectl = (programs / "kubectl", "--kubeconfig", layout.kubeconfig)
    run(*kubectl, "label", "node", layout.node_name, "node-role.kubernetes.io/control-plane=")
    layout.ready_file.touch()


def _install_addons(layout: Layout, settings: Settings, programs: Path) -> None:
    _say("Installing DNS and storage")
    manifest = Template((Path(__file__).parent / "manifests" / "addons.yaml").read_text()).substitute(
        host_name=network.HOST_NAME, host_address=settings.host_address, dns_address=network.DNS_ADDRESS,
        coredns_version=build.COREDNS.version,
    )  # fmt: skip
    run(programs / "kubectl", "--kubeconfig", layout.kubeconfig, "apply", "--filename", "-", stdin=manifest)


def _start_init(layout: Layout, settings: Settings, programs: Path) -> None:
    """Start process 1 of the node; it waits for our word, which comes once it is recorded."""
    command: list[str | Path] = ["unshare", *NAMESPACES, "--fork", "--kill-child=SIGKILL",
               sys.executable, Path(__file__).with_name("kind"), "init", layout.name, programs]  # fmt: skip
    environment = {key: value for key, value in os.environ.items() if key not in {"KUBECONFIG", "LISTEN_FDS"}}
    environment |= GO_GARBAGE
    with layout.init_log.open("ab") as log:
        launcher = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True, env=environment, cwd="/"
        )
    assert launcher.stdin is not None
    Process.of(launcher.pid).write(layout.init_file)
    wait_until(lambda: "started" in layout.init_log.read_text(), "the node's first process starts", 20)
    network.connect(settings, init_process(layout))
    launcher.stdin.write(b"go\n")
    launcher.stdin.close()


def _load_node_images(layout: Layout, programs: Path) -> None:
    archives = images.node_images(programs)
    wait_until(layout.containerd_socket.exists, "containerd starts", 60, f"see {layout.logs / 'containerd.log'}")
    for archive in archives:
        images.load_archive(layout, archive)


def _is_ready(api: Api, layout: Layout) -> bool:
    try:
        node = api.request("GET", f"/api/v1/nodes/{layout.node_name}")
        dns = api.request("GET", "/apis/apps/v1/namespaces/kube-system/deployments/coredns")
    except NodeError:
        return False
    conditions = {entry["type"]: entry["status"] for entry in node["status"].get("conditions", [])}
    return conditions.get("Ready") == "True" and dns["status"].get("readyReplicas", 0) > 0


def _remove(layout: Layout) -> None:
    """Remove all of a cluster that there is, in an order in which a crash leaves enough to go on."""
    if launcher := Process.read(layout.init_file):
        children = launcher.children() if launcher.runs else {}
        launcher.kill()
        # The kernel has ended every process of the node when process 1 is gone.
        for init in children.values():
            init.kill()
    if layout.root.exists():
        network.remove_cgroups(layout)
    if settings := layout.settings:
        network.disconnect(settings)
    if layout.root.exists():
        shutil.rmtree(layout.root)


def _show_logs(layout: Layout) -> None:
    for log in sorted(layout.logs.glob("*.log")):
        if log.name != "audit.log" and (lines := log.read_text(errors="replace").splitlines()):
            print(f"--- {log.name}", *lines[-8:], sep="\n", file=sys.stderr)


def _say(text: str) -> None:
    print(f" • {text}", file=sys.stderr, flush=True)
