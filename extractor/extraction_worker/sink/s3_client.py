"""One bucket, spoken to in the words that the sink needs, with errors of ours and bounded patience."""

import base64
import contextlib
import hashlib
import os
import re
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING, Any, Final

from extraction_worker.errors import ExtractionError, SinkFull, SinkRefused, SinkUnavailable
from extraction_worker.sink.paths import nonce

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

PARALLEL: Final = 8
"""Requests at once where many small ones are due: completing, checking, deleting."""
_FULL: Final = {"QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage", "507"}
_PASSING: Final = {
    "SlowDown",
    "IncompleteBody",
    "RequestTimeout",
    "OperationAborted",
    "Throttling",
    "TooManyRequestsException",
}


@dataclass(frozen=True)
class S3Credentials:
    """A key pair; neither secret nor token shows in a repr."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class S3Options:
    """How a store is reached.

    Parameters
    ----------
    endpoint
        URL of a store other than AWS's; None is AWS.
    region
        None is what the environment says, or ``us-east-1`` with an endpoint.
    path_style
        Whether the bucket stands in the URL's path in any case. Otherwise it does where the host is an address, and
        is part of the host's name elsewhere.
    ca
        File of the certificates to trust instead of the system's.
    credentials
        Asked at every request, so that a rotated Secret takes effect without a restart; None is boto3's own chain.
    attempts
        Requests at most for one call, the first included; the pauses between them grow to 20 s.
    """

    endpoint: str | None = None
    region: str | None = None
    path_style: bool = False
    ca: PathLike[str] | None = None
    credentials: Callable[[], S3Credentials] | None = field(default=None, repr=False)
    attempts: int = 5


class Reply(Exception):
    """A store's answer that its caller expects and acts on; never leaves this package."""


class Missing(Reply):
    """There is no such object."""


class Conflict(Reply):
    """A conditional write found another state than the one it named."""


class UploadGone(Reply):
    """There is no such multipart upload: completed, aborted, or never made."""


class UploadDiffers(Reply):
    """The upload doesn't hold the parts that were named."""


class Altered(Reply):
    """The bytes contradict the checksum that came with them."""


_REPLIES: Final[dict[str, type[Reply]]] = {
    "NoSuchKey": Missing, "NotFound": Missing, "404": Missing,
    "PreconditionFailed": Conflict, "ConditionalRequestConflict": Conflict, "412": Conflict, "409": Conflict,
    "NoSuchUpload": UploadGone,
    "InvalidPart": UploadDiffers, "InvalidPartOrder": UploadDiffers, "EntityTooSmall": UploadDiffers,
    "BadDigest": Altered, "XAmzContentChecksumMismatch": Altered, "XAmzContentSHA256Mismatch": Altered,
}  # fmt: skip


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
        """The boto3 client."""
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

    def blocks(self, key: str, size: int) -> Iterator[bytes]:
        """Yield the content of an object in blocks; raises Missing."""
        with self._errors("Reading", key, Missing):
            yield from self.client.get_object(Bucket=self.name, Key=key)["Body"].iter_chunks(size)

    def put(self, key: str, data: bytes, *, absent: bool = False, etag: str | None = None) -> str:
        """Write a small object, verified by its CRC-32; return its ETag.

        With ``absent`` only where there is none, with ``etag`` only over the object that has it.

        Raises
        ------
        Conflict
            The condition doesn't hold, or another write is under way.
        """
        condition: Any = {"IfNoneMatch": "*"} if absent else {"IfMatch": etag} if etag else {}
        try:
            # Over an object that is gone, If-Match answers 404.
            with self._errors("Writing", key, *((Conflict, Missing) if condition else ())):
                reply = self.client.put_object(
                    Bucket=self.name, Key=key, Body=data, ChecksumCRC32=_base64_crc32(zlib.crc32(data)), **condition
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

    @contextlib.contextmanager
    def _errors(self, doing: str, key: str, *expected: type[Reply]) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        where = f"{doing} {key} in bucket {self.name!r}" if key else f"{doing} bucket {self.name!r}"
        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            reply = _REPLIES.get(code)
            if reply in expected:
                raise reply from None
            raise _refusal(where, code, status, bucket=self.name, key=key) from error
        except BotoCoreError as error:
            raise _failure(where, error, self._options) from error


def each(function: Callable[[Any], object], values: Iterable[Any]) -> None:
    """Call ``function`` on each value, several at once; the first error ends it, after those under way."""
    with ThreadPoolExecutor(PARALLEL) as pool:
        futures = [pool.submit(function, value) for value in values]
        try:
            for future in futures:
                future.result()
        except BaseException:
            for future in futures:
                future.cancel()
            raise


def _refusal(where: str, code: str, status: int, *, bucket: str, key: str) -> ExtractionError:
    """Sort what the store answered. Its own words stay out: they may repeat what was sent."""
    code = re.sub(r"[^A-Za-z0-9]", "", code)[:64]
    message = f"{where}: the store answered {code} (HTTP {status})."
    if code == "NoSuchBucket" or (code == "404" and not key):
        return SinkRefused(f"Bucket {bucket!r} isn't there.", hint="Create it, or correct spec.sink.s3.bucket.")
    if code in _FULL or status == 507:
        return SinkFull(message, hint="Free space in the store, or raise the quota.")
    if _REPLIES.get(code) is Altered:
        return SinkUnavailable(message, hint="The bytes were altered on their way.")
    if code in _PASSING or status >= 500 or status == 429:
        return SinkUnavailable(message)
    if status in {401, 403}:
        return SinkRefused(message, hint="Check the credentials and what they may do on this bucket.")
    if status in {301, 307, 400}:
        return SinkRefused(message, hint="Check spec.sink.s3.region and endpoint.")
    return SinkRefused(message)


def _failure(where: str, error: Exception, options: S3Options) -> ExtractionError:
    """Sort what kept a request from being answered."""
    from botocore import exceptions as boto

    name = type(error).__name__
    if isinstance(error, boto.SSLError):
        return SinkRefused(f"{where}: TLS failed.", hint="Check the endpoint's certificate and the CA that was given.")
    if isinstance(
        error, boto.ConnectionError | boto.HTTPClientError | boto.IncompleteReadError | boto.ResponseStreamingError
    ):
        # With the bucket in the host's name, stores that don't do that look like a name that doesn't resolve.
        by_host = options.endpoint and not options.path_style and isinstance(error, boto.EndpointConnectionError)
        hint = "If the store isn't Amazon's, it may need forcePathStyle: true." if by_host else ""
        return SinkUnavailable(f"{where}: the store can't be reached ({name}).", hint=hint)
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError | boto.CredentialRetrievalError):
        return SinkRefused(f"{where}: there are no credentials.", hint="Declare spec.sink.s3.credentialsSecretRef.")
    return SinkRefused(f"{where}: the request can't be made ({name}).", hint="Check bucket, endpoint and region.")


def make_client(options: S3Options) -> "S3Client":
    """Return a client that asks for credentials at each request, and never waits for ever."""
    import boto3
    import botocore.session
    from botocore.config import Config
    from botocore.credentials import CredentialProvider, CredentialResolver, Credentials, ReadOnlyCredentials

    session = botocore.session.Session()
    if options.credentials:
        ask = options.credentials

        class Asking(Credentials):
            """Credentials that are asked for at each signature."""

            def get_frozen_credentials(self) -> ReadOnlyCredentials:
                current = ask()
                return ReadOnlyCredentials(current.access_key, current.secret_key, current.session_token)

        class Provider(CredentialProvider):
            METHOD = CANONICAL_NAME = "extraction"

            def load(self) -> Credentials:
                current = ask()
                return Asking(current.access_key, current.secret_key, current.session_token)

        session.register_component("credential_provider", CredentialResolver([Provider()]))
    config = Config(
        connect_timeout=10,
        read_timeout=60,
        tcp_keepalive=True,
        max_pool_connections=4 * PARALLEL,
        retries={"mode": "standard", "total_max_attempts": options.attempts},
        s3={"addressing_style": "path" if options.path_style else "auto"},
        # We send the CRC-32 of everything we write ourselves. The default's trailing checksums, in an encoding of
        # their own, are refused by many stores.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    region = options.region or ("us-east-1" if options.endpoint else None)
    return boto3.Session(botocore_session=session).client(
        "s3",
        endpoint_url=options.endpoint,
        region_name=region,
        verify=os.fspath(options.ca) if options.ca else None,
        config=config,
    )


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
