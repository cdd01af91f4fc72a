"""A part being written to S3: a multipart upload that stays incomplete, and so invisible, until it is published."""

import contextlib
from typing import Final

from extraction_worker.errors import ExtractionError, SinkRefused
from extraction_worker.sink.abc import StagedPart
from extraction_worker.sink.digests import Digester
from extraction_worker.sink.s3_bucket import Bucket, UploadPart

UPLOAD_BYTES: Final = 8 << 20
"""Of an upload part, and of the one buffer that a stream has."""
GROWS_AFTER: Final = 2_500
MOST_PARTS: Final = 10_000
"""S3's limit. With twice the size after :data:`GROWS_AFTER` parts, a file may have 137 GiB."""


class UploadStream:
    """A part in the store's staging (see :class:`extraction_worker.sink.abc.PartStream`).

    Uploads in the writing thread: a slow store slows the source, and one buffer is all that a stream holds. After
    any error it can't be closed any more, only aborted.

    Parameters
    ----------
    bucket, key
        Where the file will be.
    name
        The part's.
    upload_bytes
        Size of the upload parts.
    """

    def __init__(self, bucket: Bucket, key: str, name: str, *, upload_bytes: int = UPLOAD_BYTES) -> None:
        self._bucket = bucket
        self._key = key
        self._name = name
        self._upload_bytes = upload_bytes
        self._buffer = bytearray()
        self._digester = Digester()
        self._parts: list[UploadPart] = []
        self._open = True
        self._upload_id = bucket.create_upload(key)

    def write(self, data: bytes | memoryview) -> int:
        """Take the next bytes; uploads when the buffer is full. Raises SinkFull, SinkRefused, SinkUnavailable."""
        view = memoryview(data).cast("B")
        taken = 0
        while taken < view.nbytes:
            room = self._size - len(self._buffer)
            self._buffer += view[taken : taken + room]
            taken += room
            if len(self._buffer) >= self._size:
                self._upload()
        return view.nbytes

    def tell(self) -> int:
        """Return the number of bytes taken so far."""
        return self._digester.bytes + len(self._buffer)

    def close(self) -> StagedPart:
        """Upload the rest (an empty file is one empty upload part) and return the digests."""
        if self._buffer or not self._parts:
            self._upload()
        self._require_open()
        self._open = False
        held = self._digester.digest()
        parts = tuple(f"{part.etag}:{part.crc32}" for part in self._parts)
        return StagedPart(self._name, held.bytes, held.xxh3_128, held.crc32, self._upload_id, parts)

    def abort(self) -> None:
        """Abort the upload, closed or not. Idempotent; never raises: what is left, discard removes."""
        self._open = False
        self._buffer = bytearray()
        with contextlib.suppress(ExtractionError):
            self._bucket.abort(self._key, self._upload_id)

    @property
    def _size(self) -> int:
        return self._upload_bytes * (2 if len(self._parts) >= GROWS_AFTER else 1)

    def _upload(self) -> None:
        self._require_open()
        if len(self._parts) == MOST_PARTS:
            raise SinkRefused(
                f"{self._name} is larger than {MOST_PARTS} upload parts.",
                hint="Declare smaller files (spec.sink.format.targetFileBytes).",
            )
        self._open = False
        data, self._buffer = self._buffer, bytearray()
        self._digester.update(data)
        self._parts.append(self._bucket.upload(self._key, self._upload_id, len(self._parts) + 1, data))
        self._open = True

    def _require_open(self) -> None:
        if not self._open:
            raise SinkRefused(f"{self._name} was closed, aborted or failed before.")
