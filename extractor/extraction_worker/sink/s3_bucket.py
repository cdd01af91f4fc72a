"""One bucket, spoken to in the words that the sink needs."""

import base64
import contextlib
import hashlib
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from extraction_worker.errors import SinkUnavailable
from extraction_worker.parallel import in_order
from extraction_worker.sink.paths import nonce
from extraction_worker.sink.s3_client import (
    PARALLEL,
    Altered,
    Conflict,
    Missing,
    Reply,
    S3Options,
    UploadDiffers,
    UploadGone,
    make_client,
    store_errors,
)

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client


_BLOCK: Final = 1 << 20


@dataclass(frozen=True)
class Object:
    """A small object as it was read."""

    data: bytes
    etag: str


@dataclass(frozen=True)
class Stored:
    """An object's size and the checksum that the store keeps of it, where it keeps one."""

    bytes: int
    crc32: str | None
    """Base64 of the whole, or ``BASE64-N`` over the CRCs of N upload parts."""


@dataclass(frozen=True)
class UploadPart:
    """One part of a multipart upload: ``crc32`` are 8 hexadecimal digits, empty where the store names none."""

    number: int
    etag: str
    crc32: str
    bytes: int = -1


class Bucket:
    """A bucket. Safe for threads; the client is made at the first request.

    Parameters
    ----------
    name
        The bucket's.
    options
        How its store is reached.
    scratch
        Begins the keys of probes; nothing stays there.
    """

    def __init__(self, name: str, options: S3Options, *, scratch: str = "") -> None:
        self.name = name
        self._options = options
        self._scratch = scratch
        self._lock = threading.Lock()
        self._made: S3Client | None = None

    @property
    def client(self) -> "S3Client":
        """The client of botocore."""
        with self._lock:
            if self._made is None:
                with self._errors("Preparing", ""):
                    self._made = make_client(self._options)
            return self._made

    def require(self) -> None:
        """Refuse a bucket that isn't there or isn't ours to use.

        Raises
        ------
        SinkRefused
            No such bucket, no permission, or in another region.
        """
        with self._errors("Looking up", ""):
            self.client.head_bucket(Bucket=self.name)

    def get(self, key: str) -> Object | None:
        """Read a small object; None when there is none."""
        try:
            with self._errors("Reading", key, Missing):
                reply = self.client.get_object(Bucket=self.name, Key=key)
                return Object(reply["Body"].read(), reply["ETag"])
        except Missing:
            return None

    def fetch(self, key: str) -> tuple[BinaryIO, str] | None:
        """Read a large object into a temporary file, and return that and its ETag; None when there is none."""
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        try:
            with self._errors("Reading", key, Missing):
                reply = self.client.get_object(Bucket=self.name, Key=key)
                for block in reply["Body"].iter_chunks(_BLOCK):
                    file.write(block)
        except BaseException as error:
            file.close()
            if isinstance(error, Missing):
                return None
            raise
        file.seek(0)
        return file, reply["ETag"]

    def blocks(self, key: str, size: int) -> Iterator[bytes]:
        """Yield the content of an object in blocks; raises Missing."""
        with self._errors("Reading", key, Missing):
            yield from self.client.get_object(Bucket=self.name, Key=key)["Body"].iter_chunks(size)

    def put(self, key: str, data: bytes | Iterable[bytes], *, absent: bool = False, etag: str | None = None) -> str:
        """Write an object, verified by its CRC-32; return its ETag.

        With ``absent`` only where there is none, with ``etag`` only over the object that has it. What comes in blocks
        passes through a temporary file.

        Raises
        ------
        Conflict
            The condition doesn't hold, or another write is under way.
        """
        if isinstance(data, bytes):
            return self._put(key, data, zlib.crc32(data), absent=absent, etag=etag)
        with tempfile.TemporaryFile() as file:
            crc32 = 0
            for block in data:
                crc32 = zlib.crc32(block, crc32)
                file.write(block)
            file.seek(0)
            return self._put(key, file, crc32, absent=absent, etag=etag)

    def _put(self, key: str, body: bytes | BinaryIO, crc32: int, *, absent: bool, etag: str | None) -> str:
        condition: Any = {"IfNoneMatch": "*"} if absent else {"IfMatch": etag} if etag else {}
        try:
            # Over an object that is gone, If-Match answers 404.
            with self._errors("Writing", key, *((Conflict, Missing) if condition else ())):
                reply = self.client.put_object(
                    Bucket=self.name, Key=key, Body=body, ChecksumCRC32=_base64_crc32(crc32), **condition
                )
                return reply["ETag"]
        except Missing:
            raise Conflict from None

    def head(self, key: str) -> Stored | None:
        """Return what the store knows of an object; None when there is none."""
        try:
            with self._errors("Looking up", key, Missing):
                reply = self.client.head_object(Bucket=self.name, Key=key, ChecksumMode="ENABLED")
                return Stored(reply["ContentLength"], reply.get("ChecksumCRC32"))
        except Missing:
            return None

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects one by one: batches aren't understood by every store. Missing is fine."""
        each(self._delete, keys)

    def _delete(self, key: str) -> None:
        with contextlib.suppress(Missing), self._errors("Deleting", key, Missing):
            self.client.delete_object(Bucket=self.name, Key=key)

    def delete_if(self, key: str, etag: str) -> None:
        """Delete an object if it still has this ETag; raises Conflict, also when it is gone."""
        try:
            with self._errors("Deleting", key, Conflict, Missing):
                self.client.delete_object(Bucket=self.name, Key=key, IfMatch=etag)
        except Missing:
            raise Conflict from None

    def keys(self, prefix: str, *, delimiter: str = "") -> Iterator[str]:
        """Yield the keys below a prefix; with a delimiter, what lies deeper appears once as ``NAME/``."""
        with self._errors("Listing", prefix):
            pages = self.client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.name, Prefix=prefix, Delimiter=delimiter):
                yield from (entry["Key"] for entry in page.get("Contents", ()))
                yield from (entry["Prefix"] for entry in page.get("CommonPrefixes", ()))

    # Multipart uploads -----------------------------------------------------------------------------------------------

    def create_upload(self, key: str) -> str:
        """Begin a multipart upload; return its id."""
        with self._errors("Beginning", key):
            reply = self.client.create_multipart_upload(Bucket=self.name, Key=key, ChecksumAlgorithm="CRC32")
            return reply["UploadId"]

    def upload(self, key: str, upload_id: str, number: int, data: bytes | bytearray) -> UploadPart:
        """Send one part; return it when the store has proven that it holds these bytes.

        The store compares the CRC-32 that comes along. One that doesn't (:attr:`checks_crc32`) has to answer with
        the bytes' MD5 as ETag.
        """
        crc32 = zlib.crc32(data)
        body: Any = data  # botocore takes a bytearray as it is; its annotations don't say so
        with self._errors("Uploading", key):
            reply = self.client.upload_part(
                Bucket=self.name, Key=key, UploadId=upload_id, PartNumber=number, Body=body,
                ChecksumCRC32=_base64_crc32(crc32),
            )  # fmt: skip
        etag = reply["ETag"].strip('"')
        if not self.checks_crc32 and etag != hashlib.md5(data, usedforsecurity=False).hexdigest():
            raise SinkUnavailable(
                f"Uploading {key} to bucket {self.name!r}: what the store confirmed isn't what was sent.",
                hint="It ignores CRC-32 checksums, so the ETag of an upload part must be its MD5.",
            )
        return UploadPart(number, etag, f"{crc32:08x}", len(data))

    @cached_property
    def checks_crc32(self) -> bool:
        """Whether the store refuses bytes that contradict the CRC-32 sent with them. Found out by one wrong write."""
        key = f"{self._scratch}checksum-{nonce()}"
        try:
            with self._errors("Probing checksums of", "", Altered):
                self.client.put_object(Bucket=self.name, Key=key, Body=b"probe", ChecksumCRC32=_base64_crc32(0))
        except Altered:
            return True
        self._delete(key)
        return False

    def uploaded(self, key: str, upload_id: str) -> list[UploadPart]:
        """Return the parts of an upload that the store holds, in order; raises UploadGone."""
        with self._errors("Checking", key, UploadGone):
            pages = self.client.get_paginator("list_parts").paginate(Bucket=self.name, Key=key, UploadId=upload_id)
            return [
                UploadPart(
                    number=part["PartNumber"],
                    etag=part["ETag"].strip('"'),
                    crc32=_hex_crc32(part.get("ChecksumCRC32")),
                    bytes=part["Size"],
                )
                for page in pages
                for part in page.get("Parts", ())
            ]

    def complete(self, key: str, upload_id: str, parts: list[UploadPart]) -> None:
        """Make an upload an object; raises UploadGone and UploadDiffers."""
        listed: Any = [
            {"PartNumber": part.number, "ETag": f'"{part.etag}"', "ChecksumCRC32": _base64_crc32(int(part.crc32, 16))}
            for part in parts
        ]
        try:
            with self._errors("Completing", key, UploadGone, UploadDiffers, Altered):
                self.client.complete_multipart_upload(
                    Bucket=self.name, Key=key, UploadId=upload_id, MultipartUpload={"Parts": listed}
                )
        except Altered:
            raise UploadDiffers from None

    def abort(self, key: str, upload_id: str) -> None:
        """Abort an upload; missing is fine."""
        with contextlib.suppress(UploadGone), self._errors("Aborting", key, UploadGone):
            self.client.abort_multipart_upload(Bucket=self.name, Key=key, UploadId=upload_id)

    def uploads(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Yield key and id of each incomplete upload below a prefix."""
        with self._errors("Listing uploads of", prefix):
            for page in self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self.name, Prefix=prefix):
                yield from ((upload["Key"], upload["UploadId"]) for upload in page.get("Uploads", ()))

    def _errors(self, doing: str, key: str, *expected: type[Reply]) -> contextlib.AbstractContextManager[None]:
        return store_errors(doing, key, self.name, self._options, *expected)


def each(function: Callable[[Any], object], values: Iterable[Any]) -> None:
    """Call ``function`` on each value, several at once; the first error ends it, after those under way."""
    for _ in in_order(function, values, PARALLEL, name="store"):
        pass


def _base64_crc32(crc32: int) -> str:
    return base64.b64encode(crc32.to_bytes(4, "big")).decode()


def _hex_crc32(encoded: str | None) -> str:
    return base64.b64decode(encoded).hex() if encoded else ""


def whole_crc32(crc32: str, parts: Iterable[UploadPart]) -> tuple[str, str]:
    """Return the two checksums that a store may keep of a completed upload, in base64.

    That of all bytes ("full object"), and the CRC-32 of the parts' CRC-32s ("composite", to which S3 appends ``-N``):
    https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html
    """
    return (
        _base64_crc32(int(crc32, 16)),
        _base64_crc32(zlib.crc32(b"".join(bytes.fromhex(part.crc32) for part in parts))),
    )
