"""kind's command line, and what this node has beyond it: `kwok`, `silence`, `resume`, `crash`."""

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from e2e.node import build, cluster, config, faults, images, init, kubeconfig, kwok, logs
from e2e.node.errors import NodeError
from e2e.node.state import existing

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]

# The release of kind whose command line this one follows.
KIND_VERSION = "v0.30.0"
UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["init"]:
        init.main(*words[1:])
        return 0
    options = _parser().parse_args(words)
    try:
        options.act(options)
    except NodeError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _create(options: argparse.Namespace) -> None:
    wanted = config.read(options.config)
    name = options.name or wanted.name or _default_name()
    print(f'Creating cluster "{name}" ...', file=sys.stderr)
    new = cluster.create(
        name, _version(options.image or wanted.image), feature_gates=wanted.feature_gates,
        runtime_config=wanted.runtime_config, wait=options.wait, retain=options.retain,
        user_config=kubeconfig.target(options.kubeconfig),
    )  # fmt: skip
    print(f'Set kubectl context to "kind-{name}"' + ("" if new else " (the cluster runs already)"), file=sys.stderr)


def _delete(options: argparse.Namespace) -> None:
    name = options.name or _default_name()
    print(f'Deleting cluster "{name}" ...', file=sys.stderr)
    cluster.delete(name, kubeconfig.target(options.kubeconfig))


def _delete_several(options: argparse.Namespace) -> None:
    names = [layout.name for layout in existing()] if options.all else options.names
    for name in names:
        cluster.delete(name, kubeconfig.target(options.kubeconfig))
    print(f"Deleted clusters: {names}", file=sys.stderr)


def _get_clusters(_: argparse.Namespace) -> None:
    names = [layout.name for layout in existing()]
    print("\n".join(names) if names else "No kind clusters found.", file=sys.stdout if names else sys.stderr)


def _get_nodes(options: argparse.Namespace) -> None:
    name = options.name or _default_name()
    nodes = [layout.node_name for layout in existing() if layout.settings and (options.all or layout.name == name)]
    missing = "No kind nodes found" + ("." if options.all else f' for cluster "{name}".')
    print("\n".join(nodes) if nodes else missing, file=sys.stdout if nodes else sys.stderr)


def _get_kubeconfig(options: argparse.Namespace) -> None:
    layout, _ = cluster.running(options.name or _default_name())
    print(layout.kubeconfig.read_text(), end="")


def _export_kubeconfig(options: argparse.Namespace) -> None:
    layout, settings = cluster.running(options.name or _default_name())
    kubeconfig.add(layout, build.cached(settings.version) / "kubectl", kubeconfig.target(options.kubeconfig))
    print(f'Set kubectl context to "kind-{layout.name}"', file=sys.stderr)


def _export_logs(options: argparse.Namespace) -> None:
    layout, settings = cluster.running(options.name or _default_name())
    folder = Path(options.folder or tempfile.mkdtemp(prefix="kind-logs-"))
    print(f'Exporting logs for cluster "{layout.name}" to:', file=sys.stderr)
    logs.export(layout, settings, folder)
    print(folder)


def _load_image(options: argparse.Namespace) -> None:
    layout, _ = cluster.running(options.name or _default_name())
    for reference in options.images:
        images.load_image(layout, reference)


def _load_archive(options: argparse.Namespace) -> None:
    layout, _ = cluster.running(options.name or _default_name())
    for archive in options.archives:
        images.load_archive(layout, Path(archive))


def _kwok_start(options: argparse.Namespace) -> None:
    kwok.start(*cluster.running(options.name or _default_name()), options.nodes)


def _kwok_stop(options: argparse.Namespace) -> None:
    kwok.stop(*cluster.running(options.name or _default_name()))


def _fault(options: argparse.Namespace) -> None:
    layout, _ = cluster.running(options.name or _default_name())
    for component in options.components:
        options.fault(layout, component)


def _programs(options: argparse.Namespace) -> None:
    print(build.programs(build.DEFAULT_VERSION, *(build.EXTRAS[name] for name in options.extras)))


def _show_version(options: argparse.Namespace) -> None:
    machine = images.GO_ARCHITECTURES.get(os.uname().machine, os.uname().machine)
    text = f"kind {KIND_VERSION} extraction-node {build.DEFAULT_VERSION} linux/{machine}"
    print(KIND_VERSION.removeprefix("v") if options.quiet else text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kind", description=__doc__)
    parser.add_argument("-q", "--quiet", action="store_true")
    parser.add_argument("-v", "--verbosity", default="0")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    create = _group(verbs, "create", "create a cluster")
    command = _command(create, "cluster", _create, "raise a one-node Kubernetes; reuse it if it runs")
    command.add_argument("--image", help="as kindest/node:v1.36.3; the tag is the version of Kubernetes")
    command.add_argument("--config", help="a file of kind's format; - for standard input")
    command.add_argument("--wait", type=_seconds, default=0.0, help="how long to wait for the node, as 60s or 5m")
    command.add_argument("--retain", action="store_true", help="keep what there is when the creation fails")
    command.add_argument("--kubeconfig")

    delete = _group(verbs, "delete", "delete clusters")
    _command(delete, "cluster", _delete, "remove a cluster to the last trace").add_argument("--kubeconfig")
    command = _command(delete, "clusters", _delete_several, "remove several clusters", named=False)
    command.add_argument("names", nargs="*")
    command.add_argument("-A", "--all", action="store_true")
    command.add_argument("--kubeconfig")

    get = _group(verbs, "get", "get clusters, nodes or the kubeconfig")
    _command(get, "clusters", _get_clusters, "list clusters", named=False)
    _command(get, "nodes", _get_nodes, "list nodes").add_argument(
        "-A", "--all-clusters", dest="all", action="store_true"
    )
    command = _command(get, "kubeconfig", _get_kubeconfig, "print the administrator's kubeconfig")
    command.add_argument("--internal", action="store_true", help="the same: the node has one address")

    export = _group(verbs, "export", "export the kubeconfig or logs")
    _command(export, "kubeconfig", _export_kubeconfig, "merge into a kubeconfig").add_argument("--kubeconfig")
    _command(export, "logs", _export_logs, "gather logs in a folder").add_argument("folder", nargs="?")

    load = _group(verbs, "load", "load images into the node")
    command = _command(load, "docker-image", _load_image, "load images that Docker, Podman or buildah has")
    command.add_argument("images", nargs="+", metavar="IMAGE")
    command.add_argument("--nodes", help="accepted; there is one node")
    command = _command(load, "image-archive", _load_archive, "load archives of docker save")
    command.add_argument("archives", nargs="+", metavar="IMAGE.tar")
    command.add_argument("--nodes", help="accepted; there is one node")

    command = verbs.add_parser("version", help="print the version")
    command.add_argument("-q", "--quiet", action="store_true", default=argparse.SUPPRESS)
    command.set_defaults(act=_show_version)
    command = verbs.add_parser("programs", help="build what is missing; print the folder with kubectl and all others")
    command.add_argument("extras", nargs="*", metavar="|".join(build.EXTRAS), choices=[[], *build.EXTRAS])
    command.set_defaults(act=_programs)

    fake = _group(verbs, "kwok", "nodes for tests of scale, which run nothing")
    _command(fake, "start", _kwok_start, "have so many kwok nodes").add_argument("--nodes", type=int, default=10)
    _command(fake, "stop", _kwok_stop, "remove the kwok nodes")

    for name, fault, text in (
        ("silence", lambda layout, component: faults.silence(layout, (component,)), "stop components where they are"),
        ("resume", lambda layout, component: faults.resume(layout, (component,)), "let silenced components go on"),
        ("crash", faults.crash, "end components at once; they start again"),
    ):
        command = _command(verbs, name, _fault, text)
        command.add_argument("components", nargs="*", default=["kubelet"], metavar="COMPONENT")
        command.set_defaults(fault=fault)
    return parser


def _group(verbs: "Verbs", name: str, text: str) -> "Verbs":
    return verbs.add_parser(name, help=text).add_subparsers(required=True, metavar="WHAT")


def _command(
    group: "Verbs", name: str, act: Callable[[argparse.Namespace], None], text: str, *, named: bool = True
) -> argparse.ArgumentParser:
    command = group.add_parser(name, help=text)
    if named:
        command.add_argument("-n", "--name", help="cluster name; default kind, or $KIND_CLUSTER_NAME")
    command.set_defaults(act=act)
    return command


def _default_name() -> str:
    return os.environ.get("KIND_CLUSTER_NAME") or "kind"


def _version(image: str | None) -> str:
    """Take the version of Kubernetes from the tag of a node image."""
    if image is None:
        return build.DEFAULT_VERSION
    return image.split("@")[0].rpartition(":")[2]


def _seconds(text: str) -> float:
    """Read a duration as Go writes it."""
    if not re.fullmatch(r"(\d+(\.\d+)?(ms|s|m|h))+|0", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no duration like 60s or 5m")
    return sum(float(number) * UNITS[unit] for number, _, unit in re.findall(r"(\d+(\.\d+)?)(ms|s|m|h)", text))
