"""A sink in a folder: a volume in the cluster, any directory on a laptop.

::

    ROOT/PATH/                      the published set: part-*, _manifest.json
    ROOT/_staging/RUN/files/NAME    parts, while the run lasts
    ROOT/_staging/RUN/state/NAME    documents
    ROOT/_staging/RUN/set-NONCE/    what one publisher assembles; nobody else writes there

Publishing links each part of the manifest from ``files`` into a set of its own, so that it holds exactly those, and
moves that folder to its place in one step. ``rename(2)`` never replaces a folder that has something in it, so it is
its own fence where nothing may be replaced, on every file system. ``Replace`` needs RENAME_EXCHANGE, which only local
file systems have; there ``flock`` reaches everybody who can mount them, so a lock keeps two publishers apart.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from extraction_worker.errors import SinkRefused
from extraction_worker.model import Manifest, Part
from extraction_worker.sink import tree
from extraction_worker.sink.abc import MANIFEST_NAME
from extraction_worker.sink.digests import BLOCK, Digester, FileDigest, corrupted, require_equal
from extraction_worker.sink.file_stream import FileStream
from extraction_worker.sink.paths import STAGING, RelativePath, nonce
from extraction_worker.sink.published import (
    IfExists,
    already_published,
    as_published,
    lost_race,
    parse_manifest,
    require_ours,
)

_TAKEN: Final = {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}


class FolderSink:
    """The result of one run in a folder (see :class:`extraction_worker.sink.abc.Sink`).

    Parameters
    ----------
    root
        The volume. It must exist; everything stays below it.
    path
        Where the published set lies below ``root``.
    run_id
        Keys staging; a path of one or more segments.
    if_exists
        ``Replace`` needs a file system with RENAME_EXCHANGE (ext4, XFS, Btrfs, tmpfs, overlay; not NFS, not CephFS).
    """

    def __init__(self, root: Path, path: str, *, run_id: str, if_exists: IfExists) -> None:
        self._root = os.fspath(root.absolute())
        self._path = RelativePath.parse(path, field="spec.sink.volume.path")
        self._staging = (STAGING, *RelativePath.parse(run_id, field="run id").segments)
        self._replace = if_exists == "Replace"
        self._where = str(Path(self._root, *self._path.segments))

    @property
    def uri(self) -> str:
        """``file://`` and the absolute path of the published set."""
        return Path(self._where).as_uri()

    def probe(self) -> None:
        """Refuse early what publish would refuse late (see :meth:`extraction_worker.sink.abc.Sink.probe`)."""
        with tree.sink_errors(f"Probing {self._where}"):
            if not Path(self._root).is_dir():
                raise SinkRefused(f"The volume {self._root} isn't there.", hint="Create it, or mount the claim.")
            current = self.published()
            if current and not self._replace:
                raise already_published(self._where, current)
            require_ours(self._occupants(), current, self._where)
            self._require_one_file_system()
            name = f"probe-{nonce()}"
            try:
                with self._run(name, create=True) as folder:
                    self._probe_rename(folder)
            finally:
                self._remove(name)

    def _probe_rename(self, folder: int) -> None:
        """Find out here, not after hours, whether links, durable writes and renames work as publish needs them."""
        with tree.opened(folder, ("old",), create=True) as old, tree.opened(folder, ("new",), create=True) as new:
            tree.write_file(old, "file", b"probe")
            try:
                os.link("file", "file", src_dir_fd=old, dst_dir_fd=new, follow_symlinks=False)
            except OSError as error:
                raise self._unable("hard links", error) from error
        try:
            os.rename("new", "old", src_dir_fd=folder, dst_dir_fd=folder)
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
        else:
            raise self._unable("rename(2) that keeps folders which aren't empty", None)
        if self._replace:
            try:
                tree.exchange(folder, "new", folder, "old")
            except OSError as error:
                what = "atomic exchange of folders, which ifExists: Replace needs"
                raise self._unable(what, error, "ifExists: Fail, ") from error

    def _unable(self, what: str, error: OSError | None, besides: str = "") -> SinkRefused:
        because = f" ({os.strerror(error.errno)})" if error and error.errno else ""
        return SinkRefused(
            f"The file system of {self._root} has no {what}{because}.",
            hint=f"Use {besides}another volume, or an S3 sink.",
        )

    def _require_one_file_system(self) -> None:
        with tree.opened(self._root) as root:
            home = os.fstat(root).st_dev
        for depth in range(1, len(self._path.segments) + 1):
            with contextlib.suppress(FileNotFoundError), tree.opened(self._root, self._path.segments[:depth]) as folder:
                if os.fstat(folder).st_dev != home:
                    message = f"{self._where} is on another file system than its volume {self._root}."
                    raise SinkRefused(message, hint="Name the inner mount as the volume.")

    def open_part(self, name: str) -> FileStream:
        """Start a part of this name in staging."""
        RelativePath.name(name, field="part", error=SinkRefused)
        with tree.sink_errors(f"Creating {name}"), self._run("files", create=True) as folder:
            return FileStream(name, folder)

    def put_state(self, name: str, data: bytes) -> None:
        """Write a small staging document atomically."""
        path = RelativePath.parse(name, field="document", error=SinkRefused)
        temporary = f"{nonce()}.tmp"
        with (
            tree.sink_errors(f"Writing {name}"),
            self._run("tmp", create=True) as start,
            self._run("state", *path.parent, create=True) as end,
        ):
            tree.write_file(start, temporary, data)
            os.rename(temporary, path.last, src_dir_fd=start, dst_dir_fd=end)
            os.fsync(end)

    def get_state(self, name: str) -> bytes | None:
        """Read a staging document; None when there is none."""
        path = RelativePath.parse(name, field="document", error=SinkRefused)
        with tree.sink_errors(f"Reading {name}"):
            try:
                with self._run("state", *path.parent) as folder:
                    return tree.read_file(folder, path.last)
            except FileNotFoundError:
                return None

    def list_state(self, prefix: str) -> Iterator[str]:
        """Yield the names of the staging documents that start with ``prefix``, in order."""
        with tree.sink_errors(f"Listing {prefix}"):
            try:
                with self._run("state") as folder:
                    names = list(_walk(folder, ""))
            except FileNotFoundError:
                names = []
        yield from sorted(name for name in names if name.startswith(prefix))

    def check_part(self, part: Part) -> None:
        """Read the staged part again and compare size, xxh3-128 and CRC-32; raises VerificationFailed.

        The kernel was asked to forget the file once it was on disk, so the bytes come from there. A network file
        system, or a cache in the disk, may still answer from memory.
        """
        with tree.sink_errors(f"Reading {part.name}"):
            try:
                with self._run("files") as folder:
                    held = _digest_file(folder, part.name)
            except FileNotFoundError:
                raise corrupted(part, "it isn't in staging") from None
        require_equal(part, held)

    def published(self) -> Manifest | None:
        """Return the manifest at the path, if there is one; raises SinkExists when it isn't one of ours."""
        with tree.sink_errors(f"Reading {self._where}"):
            try:
                with tree.opened(self._root, self._path.segments) as folder:
                    file = os.fdopen(tree.open_regular(folder, MANIFEST_NAME), "rb")
            except FileNotFoundError:
                return None
            with file:
                return parse_manifest(file, self._where)

    def publish(self, manifest: Manifest) -> Manifest:
        """Move exactly the parts of ``manifest`` into place, fenced (see :class:`extraction_worker.sink.abc.Sink`).

        Raises
        ------
        VerificationFailed
            A part isn't in staging, or has another size.
        SinkExists
            Somebody else's set is there.
        """
        current = self.published()
        if current and current.run_id == manifest.run_id:
            return current
        manifest = as_published(manifest)
        name = f"set-{nonce()}"
        with tree.sink_errors(f"Publishing {self._where}"), self._run(create=True) as run:
            self._assemble(run, name, manifest)
            with tree.opened(self._root, self._path.parent, create=True) as parent:
                if self._replace:
                    published = self._exchange(run, name, parent, manifest)
                else:
                    published = self._move(run, name, parent, manifest)
                os.fsync(parent)
            # The old set, or ours if another publisher of this run was faster; what fails here, discard removes.
            with contextlib.suppress(OSError):
                tree.remove_tree(run, name)
            return published

    def _assemble(self, run: int, name: str, manifest: Manifest) -> None:
        with tree.opened(run, (name,), create=True) as folder, tree.opened(run, ("files",), create=True) as files:
            for part in manifest.parts:
                try:
                    os.link(part.name, part.name, src_dir_fd=files, dst_dir_fd=folder, follow_symlinks=False)
                except FileNotFoundError:
                    raise corrupted(part, "it isn't in staging") from None
                file = tree.open_regular(folder, part.name)
                size = os.fstat(file).st_size
                os.close(file)
                if size != part.bytes:
                    raise corrupted(part, f"{size} bytes instead of {part.bytes}")
            tree.write_file(folder, MANIFEST_NAME, manifest.blocks())

    def _move(self, run: int, name: str, parent: int, manifest: Manifest) -> Manifest:
        try:
            os.rename(name, self._path.last, src_dir_fd=run, dst_dir_fd=parent)
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
        else:
            return manifest
        winner = self.published()
        if winner and winner.run_id == manifest.run_id:
            return winner
        require_ours(self._occupants(), winner, self._where)
        raise lost_race(self._where, winner)

    def _exchange(self, run: int, name: str, parent: int, manifest: Manifest) -> Manifest:
        with tree.opened(self._root) as root, tree.locked(root):
            current = self.published()
            if current is None:
                return self._move(run, name, parent, manifest)
            if current.run_id == manifest.run_id:
                return current
            require_ours(self._occupants(), current, self._where)
            tree.exchange(run, name, parent, self._path.last)
            return manifest

    def discard(self) -> None:
        """Remove the run's staging. Idempotent; leaves what is published alone."""
        with tree.sink_errors(f"Removing staging of {self._where}"):
            self._remove()

    def _occupants(self) -> list[str]:
        try:
            with tree.opened(self._root, self._path.segments) as folder:
                return tree.names(folder)
        except FileNotFoundError:
            return []

    def _run(self, *below: str, create: bool = False) -> contextlib.AbstractContextManager[int]:
        return tree.opened(self._root, (*self._staging, *below), create=create)

    def _remove(self, *below: str) -> None:
        """Remove the run's staging, or a folder in it, and the folders above as far as they are empty."""
        with contextlib.suppress(FileNotFoundError), self._run(*below) as folder:
            for entry in tree.names(folder):
                # A publisher that is still alive must find its set whole or not at all.
                doomed = f"gone-{nonce()}"
                with contextlib.suppress(FileNotFoundError):
                    os.rename(entry, doomed, src_dir_fd=folder, dst_dir_fd=folder)
                    tree.remove_tree(folder, doomed)
        path = (*self._staging, *below)
        for depth in range(len(path), 0, -1):
            try:
                with tree.opened(self._root, path[: depth - 1]) as parent:
                    os.rmdir(path[depth - 1], dir_fd=parent)
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno not in _TAKEN:
                    raise
                break


def _walk(folder: int, prefix: str) -> Iterator[str]:
    for entry in tree.names(folder):
        try:
            with tree.opened(folder, (entry,)) as inner:
                yield from _walk(inner, f"{prefix}{entry}/")
        except NotADirectoryError:
            yield prefix + entry
        except FileNotFoundError:
            continue


def _digest_file(folder: int, name: str) -> FileDigest:
    digester = Digester()
    block = memoryview(bytearray(BLOCK))
    with os.fdopen(tree.open_regular(folder, name), "rb", buffering=0) as stream:
        while count := stream.readinto(block):
            digester.update(block[:count])
    return digester.digest()
