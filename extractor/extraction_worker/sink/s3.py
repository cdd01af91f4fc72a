"""A sink in a bucket of S3, or of a store that speaks its protocol.

::

    PREFIX/part-*                        multipart uploads, invisible until publish completes them
    PREFIX/_manifest.json                written last, and conditionally: the fence
    PREFIX/_staging/RUN/state/NAME       documents
    PREFIX/_staging/RUN/uploads/PART     marks a part that this run began, so that its upload can be found and aborted
    PREFIX/_staging/RUN/publish/NONCE    what one publisher is about to make visible: its intent

S3 can't change two objects at once, so between the first completed part and the manifest a reader who lists the
prefix sees parts without a manifest; a reader of the manifest never does. A publisher that dies there leaves its
intent, and the next publisher or discard finishes or removes what it names.

Discard and a publisher that is believed dead may meet. Discard first takes the intents away and then looks for a
manifest; a publisher first writes the manifest and then looks for its intent. At least one of them sees the other:
discard spares what is published, a publisher without its intent withdraws.
"""

import time
from collections.abc import Iterator
from typing import Final, Literal

from extraction_worker.errors import SinkExists, SinkRefused, SinkUnavailable
from extraction_worker.model import Manifest, Part, Value
from extraction_worker.sink.abc import MANIFEST_NAME
from extraction_worker.sink.digests import corrupted
from extraction_worker.sink.paths import STAGING, RelativePath, nonce
from extraction_worker.sink.published import (
    IfExists,
    already_published,
    as_published,
    lost_race,
    parse_manifest,
    require_ours,
)
from extraction_worker.sink.s3_client import (
    Bucket,
    Conflict,
    S3Options,
    UploadDiffers,
    UploadGone,
    UploadPart,
    each,
    whole_crc32,
)
from extraction_worker.sink.s3_upload import UPLOAD_BYTES, UploadStream

PublishGuard = Literal["Conditional", "None"]
_TRIES: Final = 5


class Intent(Value):
    """Names of parts that a publisher completes, and of those of the set that it replaces."""

    parts: tuple[str, ...]
    replaces: tuple[str, ...] = ()


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
        self._run_id = run_id
        self._replace = if_exists == "Replace"
        self._guarded = publish_guard == "Conditional"
        self._upload_bytes = upload_bytes

    @property
    def uri(self) -> str:
        """``s3://BUCKET/PREFIX``."""
        return f"s3://{self._bucket.name}/{self._prefix.removesuffix('/')}"

    def probe(self) -> None:
        """Refuse early what publish would refuse late (see :meth:`extraction_worker.sink.abc.Sink.probe`)."""
        self._bucket.require()
        self._require_free(self.published())
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
            raise corrupted(part, "its upload isn't in the store") from None
        expected = _upload_parts(part)
        if [found.number for found in held] != [one.number for one in expected]:
            raise corrupted(part, f"the store holds {len(held)} upload parts instead of {len(expected)}")
        for one, found in zip(expected, held, strict=True):
            if found.etag != one.etag or (found.crc32 and found.crc32 != one.crc32):
                raise corrupted(part, f"upload part {one.number} has other bytes")
        if (size := sum(found.bytes for found in held)) != part.bytes:
            raise corrupted(part, f"{size} bytes instead of {part.bytes}")

    def published(self) -> Manifest | None:
        """Return the manifest at the prefix, if there is one; raises SinkExists when it isn't one of ours."""
        return self._current()[0]

    def _current(self) -> tuple[Manifest | None, str | None]:
        found = self._bucket.get(self._prefix + MANIFEST_NAME)
        return (parse_manifest(found.data, self.uri), found.etag) if found else (None, None)

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
        current, etag = self._current()
        if current and current.run_id == manifest.run_id:
            self._sweep(self._intents(), current)
            return current
        known = self._intents()
        self._require_free(current, also=[name for intent in known for name in intent.parts])
        replaces = tuple(part.name for part in current.parts) if current else ()
        intent = Intent(parts=tuple(part.name for part in manifest.parts), replaces=replaces)
        key = f"{self._staging}publish/{nonce()}.json"
        self._bucket.put(key, intent.to_json())
        each(self._complete, manifest.parts)
        written = self._write(as_published(manifest), etag)
        if written.run_id != manifest.run_id:
            self._sweep([*known, intent], written)
            raise lost_race(self.uri, written)
        if self._bucket.head(key) is None:
            self._withdraw(written, current)
            self._sweep([*known, intent], self.published())
            raise SinkRefused(f"Run {manifest.run_id} was discarded while {self.uri} was being published.")
        self._sweep([*known, intent], written)
        return written

    def _require_free(self, current: Manifest | None, *, also: list[str] | None = None) -> None:
        if current and not self._replace:
            raise already_published(self.uri, current)
        names = (key.removeprefix(self._prefix) for key in self._bucket.keys(self._prefix, delimiter="/"))
        # The empty name is the marker that consoles make for a "folder".
        require_ours(names, current, self.uri, also=["", f"{STAGING}/", *(also or [])])

    def _complete(self, part: Part) -> None:
        """Make a part visible; fine when another publisher of this run did."""
        key, parts = self._prefix + part.name, _upload_parts(part)
        try:
            self._bucket.complete(key, part.upload_id or "none", parts)
        except UploadDiffers:
            raise corrupted(part, "the store holds other upload parts") from None
        except UploadGone:
            pass
        held = self._bucket.head(key)
        if held is None:
            raise corrupted(part, "its upload isn't in the store")
        if held.bytes != part.bytes:
            raise corrupted(part, f"{held.bytes} bytes instead of {part.bytes}")
        if held.crc32 and held.crc32.partition("-")[0] not in whole_crc32(part.crc32, parts):
            raise corrupted(part, "the store's checksum differs")

    def _write(self, manifest: Manifest, etag: str | None) -> Manifest:
        """Write the manifest where nothing changed since ``etag``; return the one that is there then."""
        key = self._prefix + MANIFEST_NAME
        for attempt in range(_TRIES):
            try:
                self._bucket.put(
                    key, manifest.to_json(), absent=self._guarded and not etag, etag=etag if self._guarded else None
                )
            except Conflict:
                now, now_etag = self._current()
                # A lost reply: the first attempt succeeded, the second met it. Or a publisher of the same run.
                if now and (now_etag != etag or now.run_id == manifest.run_id):
                    return now
                time.sleep(0.1 * 2**attempt)
            else:
                return manifest
        raise SinkUnavailable(f"Writing the manifest of {self.uri} met other writes {_TRIES} times.")

    def _withdraw(self, manifest: Manifest, replaced: Manifest | None) -> None:
        """Undo the write of the manifest, unless somebody wrote another one since."""
        now, etag = self._current()
        if not now or not etag or now.run_id != manifest.run_id:
            return
        try:
            if replaced:
                self._bucket.put(self._prefix + MANIFEST_NAME, replaced.to_json(), etag=etag)
            else:
                self._bucket.delete_if(self._prefix + MANIFEST_NAME, etag)
        except Conflict:
            return

    def discard(self) -> None:
        """Remove the run's staging. Idempotent; leaves what is published alone.

        Nobody may begin to publish this run after it was discarded.
        """
        intents = f"{self._staging}publish/"
        for key in list(self._bucket.keys(intents)):
            # Kept under another name, so that a second discard can finish what this one begins.
            if found := self._bucket.get(key):
                self._bucket.put(f"{self._staging}discard/{key.removeprefix(intents)}", found.data)
            self._bucket.delete([key])
        try:
            current = self.published()
        except SinkExists:
            current = None
        self._sweep(self._intents("discard"), current)
        marks = f"{self._staging}uploads/"
        ours = {self._prefix + key.removeprefix(marks) for key in self._bucket.keys(marks)}
        each(
            lambda upload: self._bucket.abort(*upload),
            (one for one in self._bucket.uploads(self._prefix) if one[0] in ours),
        )
        self._bucket.delete(list(self._bucket.keys(self._staging)))

    def _intents(self, kind: str = "publish") -> list[Intent]:
        found = [self._bucket.get(key) for key in self._bucket.keys(f"{self._staging}{kind}/")]
        return [Intent.from_json(one.data) for one in found if one]

    def _sweep(self, intents: list[Intent], current: Manifest | None) -> None:
        """Delete what publishers of this run made visible, or replaced, and what the manifest there doesn't list."""
        doomed = {name for intent in intents for name in intent.parts}
        if current:
            # Without a manifest nobody replaced anything.
            doomed.update(name for intent in intents for name in intent.replaces)
            doomed.difference_update(part.name for part in current.parts)
        self._bucket.delete(self._prefix + name for name in sorted(doomed))


def _upload_parts(part: Part) -> list[UploadPart]:
    pairs = [entry.rsplit(":", 1) for entry in part.upload_parts]
    return [UploadPart(number, etag, crc32) for number, (etag, crc32) in enumerate(pairs, 1)]
