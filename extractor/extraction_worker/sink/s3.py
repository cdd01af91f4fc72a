"""A sink in a bucket of S3, or of a store that speaks its protocol.

::

    PREFIX/part-*                        multipart uploads, invisible until publish completes them
    PREFIX/_manifest.json                written last, and conditionally: the fence
    PREFIX/_staging/RUN/state/NAME       documents
    PREFIX/_staging/RUN/uploads/PART     marks a part that this run began, so that its upload can be found and aborted
    PREFIX/_staging/RUN/publish/NONCE    intents of publishers, see :mod:`extraction_worker.sink.s3_publish`
    PREFIX/_staging/RUN/outcome          how the run ended
"""

from collections.abc import Iterator
from typing import Literal

from extraction_worker.errors import SinkRefused
from extraction_worker.model import Manifest, Part
from extraction_worker.sink.digests import corrupted
from extraction_worker.sink.paths import STAGING, RelativePath, nonce
from extraction_worker.sink.published import IfExists
from extraction_worker.sink.s3_bucket import Bucket, each
from extraction_worker.sink.s3_client import Conflict, S3Options, UploadGone
from extraction_worker.sink.s3_publish import Publication, upload_parts
from extraction_worker.sink.s3_upload import UPLOAD_BYTES, UploadStream

PublishGuard = Literal["Conditional", "None"]


class S3Sink:
    """The result of one run in a bucket (see :class:`extraction_worker.sink.abc.Sink`).

    Parameters
    ----------
    bucket, prefix
        Where the published set lies.
    options
        How the store is reached.
    run_id
        Keys staging; a path of one or more segments.
    if_exists
        Whether a set of ours may be replaced.
    publish_guard
        ``None`` for stores without conditional writes: of two publishers at once, the last one wins.
    upload_bytes
        Size of upload parts, 5 MiB at least; a stream holds one in memory.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str,
        options: S3Options,
        *,
        run_id: str,
        if_exists: IfExists,
        publish_guard: PublishGuard = "Conditional",
        upload_bytes: int = UPLOAD_BYTES,
    ) -> None:
        self._prefix = str(RelativePath.parse(prefix, field="spec.sink.s3.prefix")) + "/"
        self._staging = f"{self._prefix}{STAGING}/{RelativePath.parse(run_id, field='run id')}/"
        self._bucket = Bucket(bucket, options, scratch=f"{self._staging}probe/")
        self._guarded = publish_guard == "Conditional"
        self._publication = Publication(
            self._bucket,
            self._prefix,
            self._staging,
            self.uri,
            run_id=run_id,
            replace=if_exists == "Replace",
            guarded=self._guarded,
        )
        self._upload_bytes = upload_bytes

    @property
    def uri(self) -> str:
        """``s3://BUCKET/PREFIX``."""
        return f"s3://{self._bucket.name}/{self._prefix.removesuffix('/')}"

    def probe(self) -> None:
        """Refuse early what publish would refuse late (see :meth:`extraction_worker.sink.abc.Sink.probe`)."""
        self._bucket.require()
        self._publication.require_free()
        probe = f"{self._staging}probe/{nonce()}"
        try:
            if self._guarded:
                self._probe_conditions(probe)
            else:
                self._bucket.put(probe, b"probe")
            upload_id = self._bucket.create_upload(probe)
            try:
                self._bucket.uploaded(probe, upload_id)
                list(self._bucket.uploads(probe))
            finally:
                self._bucket.abort(probe, upload_id)
        finally:
            self._bucket.delete([probe])

    def _probe_conditions(self, probe: str) -> None:
        """Write where a condition forbids it: a store that lets it happen ignores conditions."""
        etag = self._bucket.put(probe, b"first", absent=True)
        for condition in ("If-None-Match", "If-Match"):
            try:
                if condition == "If-None-Match":
                    self._bucket.put(probe, b"second", absent=True)
                else:
                    self._bucket.put(probe, b"second", etag='"00000000000000000000000000000000"')
            except Conflict:
                continue
            raise SinkRefused(
                f"The store of {self.uri} ignores {condition}: two publishers couldn't be kept apart.",
                hint="Use another store, or declare publishGuard: None.",
            )
        self._bucket.put(probe, b"third", etag=etag)

    def open_part(self, name: str) -> UploadStream:
        """Begin the upload of a part of this name."""
        RelativePath.name(name, field="part", error=SinkRefused)
        # Before the upload: one without its mark couldn't be told from another run's.
        self._bucket.put(f"{self._staging}uploads/{name}", b"")
        return UploadStream(self._bucket, self._prefix + name, name, upload_bytes=self._upload_bytes)

    def put_state(self, name: str, data: bytes) -> None:
        """Write a small staging document."""
        self._bucket.put(self._document(name), data)

    def get_state(self, name: str) -> bytes | None:
        """Read a staging document; None when there is none."""
        found = self._bucket.get(self._document(name))
        return found.data if found else None

    def list_state(self, prefix: str) -> Iterator[str]:
        """Yield the names of the staging documents that start with ``prefix``, in order."""
        start = f"{self._staging}state/"
        for key in self._bucket.keys(start + prefix):
            yield key.removeprefix(start)

    def _document(self, name: str) -> str:
        return f"{self._staging}state/{RelativePath.parse(name, field='document', error=SinkRefused)}"

    def check_part(self, part: Part) -> None:
        """Compare what the store says it holds with what was uploaded, part by part: sizes, ETags and CRC-32s.

        The store has computed them from the bytes it got, so nothing is read again.
        """
        try:
            held = self._bucket.uploaded(self._prefix + part.name, part.upload_id or "none")
        except UploadGone:
            # Another publisher of this run may have completed it already.
            self._publication.require_completed(part)
            return
        expected = upload_parts(part)
        if [found.number for found in held] != [one.number for one in expected]:
            raise corrupted(part, f"the store holds {len(held)} upload parts instead of {len(expected)}")
        for one, found in zip(expected, held, strict=True):
            if found.etag != one.etag or (found.crc32 and found.crc32 != one.crc32):
                raise corrupted(part, f"upload part {one.number} has other bytes")
        if (size := sum(found.bytes for found in held)) != part.bytes:
            raise corrupted(part, f"{size} bytes instead of {part.bytes}")

    def published(self) -> Manifest | None:
        """Return the manifest at the prefix, if there is one; raises SinkExists when it isn't one of ours."""
        return self._publication.current()[0]

    def publish(self, manifest: Manifest) -> Manifest:
        """Complete the uploads of ``manifest`` and write it, fenced (see :class:`extraction_worker.sink.abc.Sink`).

        Raises
        ------
        VerificationFailed
            What the store made of an upload isn't what was uploaded.
        SinkExists
            Another run's set is there, or came there meanwhile.
        SinkRefused
            The run was discarded meanwhile.
        """
        return self._publication.publish(manifest)

    def discard(self) -> None:
        """Remove the run's staging. Idempotent; leaves what is published alone.

        Nobody may begin to publish this run after it was discarded.
        """
        marks = f"{self._staging}uploads/"
        ours = {self._prefix + key.removeprefix(marks) for key in self._bucket.keys(marks)}
        mine = [upload for upload in self._bucket.uploads(self._prefix) if upload[0] in ours]
        # After this nothing more becomes visible, and what became is found in the intents.
        each(lambda upload: self._bucket.abort(*upload), mine)
        self._publication.discard()
        outcome = self._publication.outcome_key()
        self._bucket.delete(key for key in list(self._bucket.keys(self._staging)) if key != outcome)
        self._bucket.delete([outcome])
