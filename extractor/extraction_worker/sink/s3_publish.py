"""How a set of uploads becomes a published set in S3, and how it is undone, with anybody dying at any point.

S3 changes one object at a time, so the steps are:

1. an *intent* is written: the parts that are about to become visible, and the manifest of the set that they replace;
2. the uploads are completed. A reader who lists the prefix sees parts now; a reader of the manifest doesn't;
3. the manifest is written, on the condition that nobody has written one since this publisher looked: the fence;
4. the *outcome* of the run is settled, once and for all: ``published``;
5. the parts of the old set are deleted.

Who finds the intent of a publisher that died finishes its work or undoes it. Discard settles the same outcome, as
``discarded`` unless the run's manifest is there, *before* it deletes anything. So when a discard meets a publisher
that was believed dead, both know how it ended: a publisher whose run was discarded withdraws its manifest and puts
the old one back, which is still whole, because only ``published`` lets anybody delete it.
"""

import time
from collections.abc import Iterable, Iterator
from typing import Final

from extraction_worker.errors import SinkExists, SinkRefused, SinkUnavailable
from extraction_worker.model import Manifest, Part, Value
from extraction_worker.sink.abc import MANIFEST_NAME
from extraction_worker.sink.digests import corrupted
from extraction_worker.sink.paths import STAGING, nonce
from extraction_worker.sink.published import already_published, as_published, lost_race, parse_manifest, require_ours
from extraction_worker.sink.s3_bucket import Bucket, UploadPart, each, whole_crc32
from extraction_worker.sink.s3_client import Conflict, UploadDiffers, UploadGone

_TRIES: Final = 5
_PUBLISHED: Final = b"published"
_DISCARDED: Final = b"discarded"


class Intent(Value):
    """What one publisher is about to do."""

    parts: tuple[str, ...]
    replaces: Manifest | None = None

    def blocks(self) -> Iterator[bytes]:
        """Yield what :meth:`to_json` returns, in blocks: the manifest may be long."""
        yield Intent(parts=self.parts).to_json().removesuffix(b"}")
        if self.replaces is not None:
            yield b',"replaces":'
            yield from self.replaces.blocks()
        yield b"}"


class Publication:
    """The published set below a prefix, and what one run does to it.

    Parameters
    ----------
    bucket
        Where.
    prefix, staging
        Of the set and of the run's staging, each with a slash at its end.
    uri
        The set's name in messages.
    run_id
        Of the run.
    replace
        Whether a set of ours may be replaced.
    guarded
        Whether the store honours conditional writes.
    """

    def __init__(
        self, bucket: Bucket, prefix: str, staging: str, uri: str, *, run_id: str, replace: bool, guarded: bool
    ) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._uri = uri
        self._run_id = run_id
        self._replace = replace
        self._guarded = guarded
        self._manifest = prefix + MANIFEST_NAME
        self._intents = f"{staging}publish/"
        self._outcome = f"{staging}outcome"

    def current(self) -> tuple[Manifest | None, str | None]:
        """Return the manifest at the prefix and its ETag; raises SinkExists when it isn't one of ours."""
        found = self._bucket.fetch(self._manifest)
        if found is None:
            return None, None
        with found[0] as file:
            return parse_manifest(file, self._uri), found[1]

    def require_free(self) -> None:
        """Refuse a prefix where this run may not publish; raises SinkExists."""
        names = self._names()
        self._require_free(names, self.current()[0])

    def publish(self, manifest: Manifest) -> Manifest:
        """Complete the uploads of ``manifest`` and write it (see :class:`extraction_worker.sink.abc.Sink`)."""
        # In this order: what another publisher of this run completes between two of these is explained by the next.
        names, known = self._names(), self._known()
        current, etag = self.current()
        if current and current.run_id == self._run_id:
            if self._settle(_PUBLISHED) != _PUBLISHED:
                raise self._discarded()
            self._finish(known, current)
            return current
        self._require_free(names, current, also=(name for intent in known for name in intent.parts))
        intent = Intent(parts=tuple(part.name for part in manifest.parts), replaces=current)
        key = f"{self._intents}{nonce()}.json"
        self._bucket.put(key, intent.blocks())
        each(self._complete, manifest.parts)
        written = self._write(as_published(manifest), etag)
        if written.run_id != self._run_id:
            self._delete(_parts([*known, intent]) - _names(written))
            raise lost_race(self._uri, written)
        if not self._stands(written, key):
            self._withdraw(current)
            self._delete(_parts([*known, intent]) - _names(current))
            raise self._discarded()
        self._finish([*known, intent], written)
        return written

    def discard(self) -> None:
        """Undo what publishers of this run began, or finish it if the run's manifest is there.

        Call it when no upload of this run can be completed any more.
        """
        intents = self._known()
        if not intents:
            return
        current = self._ours()
        outcome = self._settle(_PUBLISHED if current and current.run_id == self._run_id else _DISCARDED)
        current = self._ours()
        if outcome == _PUBLISHED:
            if current:
                self._finish(intents, current)
            return
        if current and current.run_id == self._run_id:
            self._withdraw(next((intent.replaces for intent in intents if intent.replaces), None))
            current = self._ours()
        self._delete(_parts(intents) - _names(current))

    def outcome_key(self) -> str:
        """Return the key of the run's outcome, which has to be the last that is deleted of its staging."""
        return self._outcome

    def _names(self) -> list[str]:
        return [key.removeprefix(self._prefix) for key in self._bucket.keys(self._prefix, delimiter="/")]

    def _known(self) -> list[Intent]:
        found = [self._bucket.get(key) for key in self._bucket.keys(self._intents)]
        return [Intent.from_json(one.data) for one in found if one]

    def _ours(self) -> Manifest | None:
        try:
            return self.current()[0]
        except SinkExists:
            return None

    def _require_free(self, names: list[str], current: Manifest | None, *, also: Iterable[str] = ()) -> None:
        if current and not self._replace:
            raise already_published(self._uri, current)
        # The empty name is the marker that consoles make for a "folder".
        require_ours(names, current, self._uri, also=("", f"{STAGING}/", *also))

    def _complete(self, part: Part) -> None:
        """Make a part visible; fine when another publisher of this run did."""
        key, parts = self._prefix + part.name, upload_parts(part)
        try:
            self._bucket.complete(key, part.upload_id or "none", parts)
        except UploadDiffers:
            raise corrupted(part, "the store holds other upload parts") from None
        except UploadGone:
            pass
        self.require_completed(part)

    def require_completed(self, part: Part) -> None:
        """Compare the object that a part's upload became with what was uploaded; raises VerificationFailed."""
        held = self._bucket.head(self._prefix + part.name)
        if held is None:
            raise corrupted(part, "its upload isn't in the store")
        if held.bytes != part.bytes:
            raise corrupted(part, f"{held.bytes} bytes instead of {part.bytes}")
        if held.crc32 and held.crc32.partition("-")[0] not in whole_crc32(part.crc32, upload_parts(part)):
            raise corrupted(part, "the store's checksum differs")

    def _write(self, manifest: Manifest, etag: str | None) -> Manifest:
        """Write the manifest where nothing changed since ``etag``; return the one that is there then."""
        for attempt in range(_TRIES):
            try:
                absent, over = (etag is None, etag) if self._guarded else (False, None)
                self._bucket.put(self._manifest, manifest.blocks(), absent=absent, etag=over)
            except Conflict:
                now, now_etag = self.current()
                # A lost reply: the first attempt succeeded, the second met it. Or a publisher of the same run.
                if now and (now_etag != etag or now.run_id == self._run_id):
                    return now
                time.sleep(0.1 * 2**attempt)
            else:
                return manifest
        raise SinkUnavailable(f"Writing the manifest of {self._uri} met other writes {_TRIES} times.")

    def _settle(self, outcome: bytes) -> bytes:
        """Propose how this run ended; return what was settled first."""
        found = None if self._guarded else self._bucket.get(self._outcome)
        if found is None:
            try:
                self._bucket.put(self._outcome, outcome, absent=self._guarded)
            except Conflict:
                found = self._bucket.get(self._outcome)
        return found.data if found else outcome

    def _stands(self, manifest: Manifest, intent: str) -> bool:
        """Settle that the manifest just written is valid; False when the run was discarded."""
        if self._settle(_PUBLISHED) != _PUBLISHED:
            return False
        if self._bucket.head(intent) is None:
            # A discard came and went. Intents are among the last that it deletes, so what is there now stays.
            self._bucket.delete([self._outcome])
            return _names(manifest) <= set(self._names())
        return True

    def _finish(self, intents: list[Intent], current: Manifest) -> None:
        """Delete what was replaced, and what publishers of this run completed in vain."""
        old = {name for intent in intents for name in _names(intent.replaces)}
        self._delete((old | _parts(intents)) - _names(current))

    def _withdraw(self, replaced: Manifest | None) -> None:
        """Undo the write of this run's manifest, unless somebody wrote another one since."""
        now, etag = self.current()
        if not now or not etag or now.run_id != self._run_id:
            return
        try:
            if replaced:
                self._bucket.put(self._manifest, replaced.blocks(), etag=etag)
            else:
                self._bucket.delete_if(self._manifest, etag)
        except Conflict:
            return

    def _delete(self, names: set[str]) -> None:
        self._bucket.delete(self._prefix + name for name in sorted(names))

    def _discarded(self) -> SinkRefused:
        return SinkRefused(f"Run {self._run_id} was discarded while {self._uri} was being published.")


def upload_parts(part: Part) -> list[UploadPart]:
    """Return the upload parts of a part, as they were uploaded."""
    pairs = [entry.rsplit(":", 1) for entry in part.upload_parts]
    return [UploadPart(number, etag, crc32) for number, (etag, crc32) in enumerate(pairs, 1)]


def _names(manifest: Manifest | None) -> set[str]:
    return {part.name for part in manifest.parts} if manifest else set()


def _parts(intents: list[Intent]) -> set[str]:
    return {name for intent in intents for name in intent.parts}
