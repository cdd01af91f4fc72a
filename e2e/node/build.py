"""Programs of the node, built once from the Go module proxy into a cache that is keyed by version and architecture.

Each program is put into the cache whole, by a rename, and Go keeps the packages that it has compiled: a build that was
stopped goes on where it was. One process builds at a time; others that need the same wait for it.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e.node.commands import exclusive, run
from e2e.node.errors import NodeError

DEFAULT_VERSION = "v1.36.3"
KUBERNETES = "k8s.io/kubernetes"
# Earlier ones lack what the operator needs of Jobs.
OLDEST_MINOR = 33
# Compiling takes longer than all that these programs do. Nobody debugs them: data for debuggers, which the linker would
# drop, costs a tenth of it. Inlining costs a fifth, and is worth that in Go's own library alone.
QUICK = ("-gcflags=all=-dwarf=false -l", "-gcflags=std=-dwarf=false")
# A compiler lives for a second or two; it collects garbage only where a package is very large.
NO_GARBAGE = {"GOGC": "off", "GOMEMLIMIT": "3GiB"}


@dataclass(frozen=True)
class Source:
    """A Go module, and which of its packages, or of our files with a main package, make which programs.

    All but Kubernetes itself are built with the versions of libraries that its default version has: what they share,
    which is most of them, is compiled once.
    """

    module: str
    version: str
    programs: dict[str, str]


# Debian's etcd is too old to report the progress of watches, which clients of Kubernetes rely on today.
ETCD = Source("go.etcd.io/etcd/server/v3", "v3.6.8", {"etcd": ""})
# coredns.go: its own main package brings the clients of all clouds along.
COREDNS = Source("github.com/coredns/coredns", "v1.12.4", {"coredns": "coredns.go"})
HELM = Source("helm.sh/helm/v3", "v3.22.0", {"helm": "cmd/helm"})
KWOK = Source("sigs.k8s.io/kwok", "v0.8.0", {"kwok": "cmd/kwok"})
KUEUE = Source("sigs.k8s.io/kueue", "v0.19.2", {"kueue": "cmd/kueue"})
EXTRAS = {"helm": HELM, "kwok": KWOK, "kueue": KUEUE}


def kubernetes(version: str) -> Source:
    """Return the source of a release of Kubernetes."""
    names = ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl"]
    return Source(KUBERNETES, version, {name: f"cmd/{name}" for name in names})


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
    _once(folder, source.programs, lambda missing: _build_missing(source, missing, folder))


def _once(folder: Path, names: Collection[str], build: Callable[[Sequence[str]], object]) -> None:
    """Build what is missing of a folder's programs; where somebody else does just that, wait until it is there."""

    def missing() -> Sequence[str]:
        return [name for name in names if not (folder / name).exists()]

    if missing():
        with exclusive(folder / ".lock", lambda: _say(f"Waiting for whoever builds in {folder} already")):
            if left := missing():
                build(left)


def _build_missing(source: Source, missing: Sequence[str], folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="extraction-node-build-") as name:
        work = Path(name)
        _say(f"Reading {source.module} {source.version} from the module proxy")
        _go(work, "mod", "init", "node")
        _go(work, "mod", "edit", f"-require={source.module}@{source.version}")
        if source.module == KUBERNETES:
            _go(work, "mod", "edit", *_staging(source.version))
        else:
            _go(work, "mod", "edit", *_shared(source))
        _say(f"Building {', '.join(missing)} {source.version}; once per version")
        start = time.monotonic()
        (work / "built").mkdir()
        # Without -trimpath: with it, a package is compiled anew for each main module that asks for another version of
        # it, although all of these are replaced by one.
        _go(work, "build", *QUICK, "-ldflags", _stamp(source), "-o", *_targets(source, missing, work))
        for program in missing:
            _keep(work / "built" / program, folder / program)
        _say(f"Built {', '.join(missing)} in {time.monotonic() - start:.0f} s")


def _targets(source: Source, missing: Sequence[str], work: Path) -> Iterable[str]:
    """Yield the output of a build and the packages to build."""
    if len(missing) > 1:
        # Each is named for the last element of its path.
        yield f"{work / 'built'}{os.sep}"
    else:
        yield str(work / "built" / missing[0])
    for package in (source.programs[program] for program in missing):
        if package.endswith(".go"):
            shutil.copy(Path(__file__).with_name(package), work)
            yield "."
        else:
            yield "/".join(filter(None, [source.module, package]))


def _build_pause(folder: Path) -> None:
    """Build the process that holds a pod's namespaces: it reaps orphans and ends on SIGTERM."""
    _once(folder, ["pause"], lambda _: _build_missing_pause(folder))


def _build_missing_pause(folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="extraction-node-build-") as name:
        shutil.copy(Path(__file__).with_name("pause.go"), name)
        _go(Path(name), "build", "-trimpath", "-ldflags", "-s -w", "-o", "pause", "pause.go")
        _keep(Path(name) / "pause", folder / "pause")


def _staging(version: str) -> Iterable[str]:
    """Yield the flags that point Kubernetes' staging modules, which it requires at v0.0.0, at their releases."""
    for path, required in _required(version).items():
        if required == "v0.0.0":
            yield f"-replace={path}={path}@{_staged(version)}"


def _shared(source: Source) -> Iterable[str]:
    """Yield the flags that bring the versions of libraries to those of Kubernetes."""
    yield f"-replace={KUBERNETES}={KUBERNETES}@{DEFAULT_VERSION}"
    for path, required in _required(DEFAULT_VERSION).items():
        if path != source.module:
            yield f"-replace={path}={path}@{_staged(DEFAULT_VERSION) if required == 'v0.0.0' else required}"


def _staged(version: str) -> str:
    """Return the version of the staging modules of a release of Kubernetes."""
    return f"v0.{version.removeprefix('v1.')}"


def module_folder(source: Source) -> Path:
    """Return the folder with the files of a module, which is read-only; the module proxy brings it once."""
    return Path(_described(source.module, source.version)["Dir"])


def _described(module: str, version: str) -> dict[str, str]:
    """Return what Go says of a module, which it downloads if need be."""
    found: dict[str, str] = json.loads(run("go", "mod", "download", "-json", f"{module}@{version}", timeout=1800))
    return found


def _required(version: str) -> dict[str, str]:
    """Return the modules that a release of Kubernetes requires, with their versions."""
    required = json.loads(run("go", "mod", "edit", "-json", _described(KUBERNETES, version)["GoMod"]))["Require"]
    if not required:
        raise NodeError(f"Kubernetes {version} names no modules")
    return {module["Path"]: module["Version"] for module in required}


def _stamp(source: Source) -> str:
    """Return the linker's flags; `kubectl version` and the API server's /version read what they set."""
    flags = "-s -w"
    if source.module == KUBERNETES:
        for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
            minor = source.version.split(".")[1]
            fields = {"gitVersion": source.version, "gitMajor": "1", "gitMinor": minor, "gitTreeState": "clean"}
            flags += "".join(f" -X {package}.{field}={value}" for field, value in fields.items())
    return flags


def _go(folder: Path, *arguments: str) -> None:
    # A build takes all cores for minutes; whoever works on the machine comes first.
    command = ["nice", "-n", "10", "go", *arguments]
    environment = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=mod -buildvcs=false", "GOWORK": "off"} | NO_GARBAGE
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
