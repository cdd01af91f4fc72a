"""Programs of the node, built once from the Go module proxy into a cache that is keyed by version and architecture.

Each program is put into the cache whole, by a rename: a build that was stopped goes on where it was.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from e2e.node.commands import run
from e2e.node.errors import NodeError

DEFAULT_VERSION = "v1.36.3"
# Earlier ones lack what the operator needs of Jobs.
OLDEST_MINOR = 33


@dataclass(frozen=True)
class Source:
    """A Go module, and which of its packages make which programs."""

    module: str
    version: str
    programs: dict[str, str]


# Debian's etcd is too old to report the progress of watches, which clients of Kubernetes rely on today.
ETCD = Source("go.etcd.io/etcd/server/v3", "v3.6.8", {"etcd": ""})
COREDNS = Source("github.com/coredns/coredns", "v1.12.4", {"coredns": ""})
HELM = Source("helm.sh/helm/v3", "v3.22.0", {"helm": "cmd/helm"})
KWOK = Source("sigs.k8s.io/kwok", "v0.8.0", {"kwok": "cmd/kwok"})
EXTRAS = {"helm": HELM, "kwok": KWOK}


def kubernetes(version: str) -> Source:
    """Return the source of a release of Kubernetes."""
    names = ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl"]
    return Source("k8s.io/kubernetes", version, {name: f"cmd/{name}" for name in names})


def cache_root() -> Path:
    """Return the folder under which built programs and images are kept."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "extraction-operator-node"


def cached(version: str) -> Path:
    """Return the folder of a version's programs, whether they are built or not."""
    return cache_root() / f"{version}-{platform.machine()}"


def programs(version: str = DEFAULT_VERSION, *more: Source) -> Path:
    """Build what is missing of a version's node, and `more`; return the folder that holds all programs.

    Raises
    ------
    NodeError
        If the version is no release of Kubernetes that can be raised here, or a build fails.
    """
    parts = version.removeprefix("v").split(".")
    if not version.startswith("v") or len(parts) != 3 or not all(part.isdigit() for part in parts):
        raise NodeError(f"{version!r} names no release of Kubernetes; give one like {DEFAULT_VERSION}")
    if parts[0] != "1" or int(parts[1]) < OLDEST_MINOR:
        raise NodeError(f"Kubernetes {version} is too old; v1.{OLDEST_MINOR} is the oldest that is supported")
    folder = cached(version)
    folder.mkdir(parents=True, exist_ok=True)
    for source in (kubernetes(version), ETCD, COREDNS, *more):
        _build(source, folder)
    _build_pause(folder)
    return folder


def _build(source: Source, folder: Path) -> None:
    missing = {program: package for program, package in source.programs.items() if not (folder / program).exists()}
    if not missing:
        return
    with tempfile.TemporaryDirectory(prefix="extraction-node-build-") as name:
        work = Path(name)
        _say(f"Reading {source.module} {source.version} from the module proxy")
        _go(work, "mod", "init", "node")
        _go(work, "mod", "edit", f"-require={source.module}@{source.version}")
        if source.module == "k8s.io/kubernetes":
            _go(work, "mod", "edit", *_staging(source.version, work))
        for number, (program, package) in enumerate(missing.items(), 1):
            _say(f"Building {program} {source.version} ({number} of {len(missing)}); once per version")
            start = time.monotonic()
            path = "/".join(filter(None, [source.module, package]))
            _go(work, "build", "-trimpath", "-ldflags", _stamp(source), "-o", str(work / program), path)
            _keep(work / program, folder / program)
            _say(f"Built {program} in {time.monotonic() - start:.0f} s")


def _build_pause(folder: Path) -> None:
    """Build the process that holds a pod's namespaces: it reaps orphans and ends on SIGTERM."""
    if (folder / "pause").exists():
        return
    with tempfile.TemporaryDirectory(prefix="extraction-node-build-") as name:
        shutil.copy(Path(__file__).with_name("pause.go"), name)
        _go(Path(name), "build", "-trimpath", "-ldflags", "-s -w", "-o", "pause", "pause.go")
        _keep(Path(name) / "pause", folder / "pause")


def _staging(version: str, work: Path) -> Iterable[str]:
    """Yield the flags that point Kubernetes' staging modules, which it requires at v0.0.0, at their releases."""
    described = run("go", "mod", "download", "-json", f"k8s.io/kubernetes@{version}", timeout=1800)
    required = json.loads(run("go", "mod", "edit", "-json", json.loads(described)["GoMod"]))["Require"]
    if not required:
        raise NodeError(f"{work}: Kubernetes {version} names no modules")
    for module in required:
        if module["Version"] == "v0.0.0":
            yield f"-replace={module['Path']}={module['Path']}@v0.{version.removeprefix('v1.')}"


def _stamp(source: Source) -> str:
    """Return the linker's flags; `kubectl version` and the API server's /version read what they set."""
    flags = "-s -w"
    if source.module == "k8s.io/kubernetes":
        for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
            minor = source.version.split(".")[1]
            fields = {"gitVersion": source.version, "gitMajor": "1", "gitMinor": minor, "gitTreeState": "clean"}
            flags += "".join(f" -X {package}.{field}={value}" for field, value in fields.items())
    return flags


def _go(folder: Path, *arguments: str) -> None:
    # A build takes all cores for minutes; whoever works on the machine comes first.
    command = ["nice", "-n", "10", "go", *arguments]
    environment = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=mod -buildvcs=false", "GOWORK": "off"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NodeError(f"`go {' '.join(arguments)}` failed:\n" + "\n".join(done.stderr.splitlines()[-20:]))


def _keep(built: Path, kept: Path) -> None:
    """Move a built file into the cache, whole or not at all (the build folder may be on another file system)."""
    draft = kept.with_name(f".{kept.name}.{os.getpid()}")
    shutil.move(built, draft)
    draft.replace(kept)


def _say(text: str) -> None:
    print(f" • {text}", file=sys.stderr, flush=True)
