"""How a store is reached, and what its answers mean: credentials, TLS, bounded patience, errors of ours."""

import contextlib
import functools
import logging
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Final, cast

from extraction_worker.errors import ExtractionError, SinkFull, SinkRefused, SinkUnavailable

if TYPE_CHECKING:
    from botocore.loaders import Loader
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
        Asked at every request, so that a rotated Secret takes effect without a restart; None is botocore's own chain.
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
    "BadDigest": Altered, "InvalidDigest": Altered, "XAmzContentChecksumMismatch": Altered,
    "XAmzContentSHA256Mismatch": Altered,
}  # fmt: skip


@contextlib.contextmanager
def store_errors(doing: str, key: str, bucket: str, options: S3Options, *expected: type[Reply]) -> Iterator[None]:
    """Turn what botocore raises into errors of the sink, or into the replies that the caller expects.

    Parameters
    ----------
    doing, key
        Begin the message; the key is empty where the bucket itself is meant.
    bucket, options
        What was asked.
    expected
        Replies that are raised as such.

    Raises
    ------
    SinkFull, SinkRefused, SinkUnavailable
        What happened; without a word that the store said, as it may repeat what was sent.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    where = f"{doing} {key} in bucket {bucket!r}" if key else f"{doing} bucket {bucket!r}"
    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        reply = _REPLIES.get(code)
        if reply in expected:
            raise reply from None
        if code == "NoSuchBucket" or (code == "404" and not key):
            hint = "Create it, or correct spec.sink.s3.bucket."
            raise SinkRefused(f"Bucket {bucket!r} isn't there.", hint=hint) from error
        raise _refusal(where, re.sub(r"[^A-Za-z0-9]", "", code)[:64], status) from error
    except BotoCoreError as error:
        raise _failure(where, error, options) from error


def _refusal(where: str, code: str, status: int) -> ExtractionError:
    """Sort what the store answered."""
    message = f"{where}: the store answered {code} (HTTP {status})."
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


@functools.cache
def _loader() -> "Loader":
    """Return what reads the descriptions of services: a tenth of a second for each session that has its own."""
    from botocore.loaders import create_loader

    return create_loader()


def make_client(options: S3Options) -> "S3Client":
    """Return a client that asks for credentials at each request, and never waits for ever."""
    import botocore.session
    from botocore.config import Config
    from botocore.credentials import CredentialProvider, CredentialResolver, Credentials, ReadOnlyCredentials

    for library in ("botocore", "urllib3"):
        # Below this they log headers, and with them session tokens, whoever asks for it.
        logging.getLogger(library).setLevel(logging.INFO)
    session = botocore.session.Session()
    session.register_component("data_loader", _loader())
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
    client = session.create_client(
        "s3",
        endpoint_url=options.endpoint,
        region_name=region,
        verify=os.fspath(options.ca) if options.ca else None,
        config=config,
    )
    return cast("S3Client", client)
