"""Images: of single static programs, made here without any builder, and loading images into the node."""

import hashlib
import io
import json
import os
import platform
import shutil
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from e2e.node.build import COREDNS
from e2e.node.commands import is_layered, run, snapshotter, succeeds
from e2e.node.errors import NodeError
from e2e.node.requirements import BUSYBOX
from e2e.node.state import Layout

GO_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
# Fixed, so that the same program always gives the same image.
EPOCH = "1970-01-01T00:00:00Z"


@dataclass(frozen=True)
class ProgramImage:
    """An image of one static program, with links to it under other names."""

    reference: str
    program: Path
    path: str
    links: tuple[str, ...] = ()
    user: str = ""

    def write(self, archive: Path) -> None:
        """Write the image as an archive of `docker save`, whole or not at all."""
        layer = io.BytesIO()
        with tarfile.open(fileobj=layer, mode="w") as tar:
            _add(tar, "tmp", kind=tarfile.DIRTYPE, mode=0o1777)
            _add(tar, self.path, content=self.program.read_bytes(), mode=0o755)
            for link in self.links:
                _add(tar, link, kind=tarfile.SYMTYPE, target="/" + self.path)
        data = layer.getvalue()
        config = json.dumps({
            "architecture": GO_ARCHITECTURES.get(platform.machine(), platform.machine()), "os": "linux",
            "created": EPOCH, "history": [{"created": EPOCH}],
            "config": {"Env": ["PATH=/bin"], "Entrypoint": ["/" + self.path] if not self.links else None,
                       "Cmd": ["/bin/sh"] if self.links else None, "User": self.user},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(data).hexdigest()]},
        }).encode()  # fmt: skip
        name = hashlib.sha256(config).hexdigest()
        manifest = [{"Config": f"{name}.json", "RepoTags": [self.reference], "Layers": ["layer.tar"]}]
        draft = archive.with_suffix(f".{os.getpid()}.draft")
        with tarfile.open(draft, "w") as tar:
            _add(tar, f"{name}.json", content=config)
            _add(tar, "layer.tar", content=data)
            _add(tar, "manifest.json", content=json.dumps(manifest).encode())
        draft.replace(archive)


def node_images(programs: Path) -> list[Path]:
    """Return archives of the images that each node needs; they are made once."""
    images = [
        ProgramImage("localhost/pause:1", programs / "pause", "pause", user="65535"),
        ProgramImage(f"localhost/coredns:{COREDNS.version}", programs / "coredns", "coredns", user="65532"),
    ]
    archives = []
    for image in images:
        archive = programs / f"{image.path}.tar"
        if not archive.exists():
            image.write(archive)
        archives.append(archive)
    return archives


def busybox(archive: Path) -> None:
    """Write an image of this machine's static busybox, with its whole toolbox under /bin, for pods of tests."""
    links = tuple(f"bin/{name}" for name in run(BUSYBOX, "--list").split() if name != "busybox")
    archive.parent.mkdir(parents=True, exist_ok=True)
    ProgramImage("localhost/busybox:1", BUSYBOX, "bin/busybox", links).write(archive)


def load_archive(layout: Layout, archive: Path) -> None:
    """Load an archive of `docker save` into the node.

    Raises
    ------
    NodeError
        If there is no such file, or it is no archive of images.
    """
    if not archive.is_file():
        raise NodeError(f"{archive}: no such file")
    run("ctr", "--address", layout.containerd_socket, "--namespace", "k8s.io", "images", "import",
        "--snapshotter", snapshotter(layout.root), archive, timeout=300)  # fmt: skip


def load_image(layout: Layout, reference: str) -> None:
    """Load an image from the builder that has it: Docker, Podman or buildah.

    Raises
    ------
    NodeError
        If none of them has the image.
    """
    with tempfile.TemporaryDirectory(prefix="extraction-node-image-") as folder:
        archive = Path(folder) / "image.tar"
        if succeeds("docker", "image", "inspect", reference):
            run("docker", "save", "--output", archive, reference, timeout=300)
        elif succeeds("podman", "image", "exists", reference):
            run("podman", "save", "--format", "docker-archive", "--output", archive, reference, timeout=300)
        elif shutil.which("buildah") and succeeds(*_buildah(), "inspect", "--type", "image", reference):
            run(*_buildah(), "push", reference, f"docker-archive:{archive}:{reference}", timeout=300)
        else:
            raise NodeError(f'image: "{reference}" not present locally; `make images` builds those of this project')
        load_archive(layout, archive)


def _buildah() -> tuple[str, ...]:
    """Return how images/build calls buildah."""
    return ("buildah", "--storage-driver", "vfs" if is_layered(Path("/var/lib")) else "overlay")


def _add(
    tar: tarfile.TarFile, name: str, *, content: bytes = b"", kind: bytes = tarfile.REGTYPE, mode: int = 0o644,
    target: str = "",
) -> None:  # fmt: skip
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.size, entry.linkname = kind, mode, len(content), target
    tar.addfile(entry, io.BytesIO(content))
