"""A published set as its readers have it: a manifest's bytes, names of files, and their content."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol
from urllib.parse import unquote, urlsplit

from extraction_worker.errors import InvalidManifest, SinkUnavailable
from extraction_worker.sink import tree
from extraction_worker.sink.abc import MANIFEST_NAME
from extraction_worker.sink.digests import BLOCK, Digester, FileDigest
from extraction_worker.sink.s3_bucket import Bucket
from extraction_worker.sink.s3_client import Missing, S3Credentials, S3Options

_TRIES = 3


@dataclass(frozen=True)
class Content:
    """A file that was read once: the digest of its bytes, and the same bytes to decode, at their start."""

    digest: FileDigest
    file: IO[bytes]


class PublishedSet(Protocol):
    """Where a set lies."""

    @property
    def uri(self) -> str:
        """The folder or prefix."""
        ...

    def manifest(self) -> bytes | None:
        """Return the manifest; None when there is none."""
        ...

    def names(self) -> list[str]:
        """Return the names of all files, without folders below."""
        ...

    def read(self, name: str) -> contextlib.AbstractContextManager[Content | None]:
        """Read a file whole; None when there is none."""
        ...


def open_set(
    location: str,
    *,
    endpoint: str | None = None,
    region: str | None = None,
    ca: Path | None = None,
    credentials: Callable[[], S3Credentials] | None = None,
) -> PublishedSet:
    """Return the set at a folder, ``file://…`` or ``s3://BUCKET/PREFIX``; its manifest's own address does as well.

    Parameters
    ----------
    location
        Where the set is.
    endpoint, region, ca, credentials
        How an S3 store is reached; without credentials by those of the environment.

    Raises
    ------
    InvalidManifest
        ``location`` isn't one of these.
    """
    location = location.removesuffix("/").removesuffix(f"/{MANIFEST_NAME}")
    parts = urlsplit(location)
    if parts.scheme == "s3":
        prefix = location.removeprefix(f"s3://{parts.netloc}").strip("/")
        if not parts.netloc or not prefix:
            raise InvalidManifest(f"{location} has no bucket or no prefix.", hint="Write it as s3://BUCKET/PREFIX.")
        # Every store but Amazon's takes the bucket in the path, and no manifest says which way was declared.
        options = S3Options(
            endpoint=endpoint, region=region, ca=ca, credentials=credentials, path_style=endpoint is not None
        )
        return _BucketSet(Bucket(parts.netloc, options), prefix)
    if parts.scheme == "file":
        return _FolderSet(Path(unquote(parts.path)))
    if "://" in location:
        raise InvalidManifest(f"{location} is neither a folder nor an address of S3.")
    return _FolderSet(Path(location) if location != MANIFEST_NAME else Path())


def folder_set(folder: Path) -> PublishedSet:
    """Return the set in a folder."""
    return _FolderSet(folder)


def bucket_set(bucket: Bucket, prefix: str) -> PublishedSet:
    """Return the set below a prefix, without a slash at its end, of a bucket."""
    return _BucketSet(bucket, prefix)


class _FolderSet:
    def __init__(self, folder: Path) -> None:
        self._folder = os.fspath(folder.absolute())
        self.uri = Path(self._folder).as_uri()

    def manifest(self) -> bytes | None:
        with tree.sink_errors(f"Reading {self.uri}"):
            try:
                with tree.opened(self._folder) as folder:
                    return tree.read_file(folder, MANIFEST_NAME)
            except FileNotFoundError:
                return None

    def names(self) -> list[str]:
        with tree.sink_errors(f"Listing {self.uri}"), tree.opened(self._folder) as folder:
            return tree.names(folder)

    @contextlib.contextmanager
    def read(self, name: str) -> Iterator[Content | None]:
        with tree.sink_errors(f"Reading {name}"):
            try:
                with tree.opened(self._folder) as folder:
                    file = os.fdopen(tree.open_regular(folder, name), "rb")
            except FileNotFoundError:
                yield None
                return
        with file:
            with tree.sink_errors(f"Reading {name}"):
                digester = Digester()
                while block := file.read(BLOCK):
                    digester.update(block)
                file.seek(0)
            yield Content(digester.digest(), file)


class _BucketSet:
    def __init__(self, bucket: Bucket, prefix: str) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/"
        self.uri = f"s3://{bucket.name}/{prefix}"

    def manifest(self) -> bytes | None:
        found = self._bucket.get(self._prefix + MANIFEST_NAME)
        return found.data if found else None

    def names(self) -> list[str]:
        return [key.removeprefix(self._prefix) for key in self._bucket.keys(self._prefix, delimiter="/")]

    @contextlib.contextmanager
    def read(self, name: str) -> Iterator[Content | None]:
        """Fetch a file to a temporary one, so that what is decoded are the bytes that were digested."""
        # Around all of it: a full disk is noticed as late as when the file is closed.
        with (
            tree.sink_errors(f"Fetching {name} to {tempfile.gettempdir()}"),
            tempfile.TemporaryFile(prefix="extraction-verify-") as file,
        ):
            try:
                digest = self._fetch(name, file)
            except Missing:
                yield None
                return
            file.seek(0)
            yield Content(digest, file)

    def _fetch(self, name: str, file: IO[bytes]) -> FileDigest:
        for attempt in range(_TRIES):
            file.seek(0)
            file.truncate()
            digester = Digester()
            try:
                for block in self._bucket.blocks(self._prefix + name, BLOCK):
                    digester.update(block)
                    file.write(block)
            except SinkUnavailable:
                # The body isn't covered by the client's own retries.
                if attempt == _TRIES - 1:
                    raise
            else:
                break
        return digester.digest()
