"""Taking the result of an earlier job that read the same, where nothing can have changed since.

A job that declares ``reuse`` leaves behind, in Redis, where its result is. The next one that would read the same
(:func:`content_of`) from a source with the same marker (:mod:`extraction_worker.source.unchanged`) looks there: the
manifest must be the very one, and be of such a reading. Then each file is read and written to the job's own staging,
its bytes compared with the manifest's digests on the way; from there on it is published like any other. What can't be
had like that isn't an error: the job reads its source.

Redis holds a place and digests; it proves nothing. Who can write to it can make a job look at another set, and that
one has to say of itself that it is the result of this reading.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import xxhash
from pydantic import AwareDatetime

from extraction_contract.load import object_key
from extraction_contract.resolve import ResolvedJob
from extraction_worker.cache.store import Cache, Entry, Family
from extraction_worker.errors import ExtractionError, InvalidManifest, VerificationFailed
from extraction_worker.model import Consistency, Manifest, Part, Plan, Reused, Value
from extraction_worker.parallel import in_order
from extraction_worker.sink.abc import PartStream, Sink, part_name
from extraction_worker.sink.digests import BLOCK, FileDigest, require_equal
from extraction_worker.sink.open import open_bucket, volume_root
from extraction_worker.sink.paths import RelativePath
from extraction_worker.sink.published import parse_manifest
from extraction_worker.verify.published import Content, PublishedSet, bucket_set, folder_set

_NAME = "taken.json"
_COPIERS = 4
_CONTENT = {
    "version", "program", "source", "consistency", "relation", "relation_kind", "locks", "pin", "query_hash",
    "from_sql", "where_sql", "columns", "on_unrepresentable", "format", "verification", "proof_sample",
}  # fmt: skip


class KnownResult(Value):
    """Where a result is, and what it is known by."""

    path: str
    """Below the bucket or the volume."""
    manifest: str
    """Fingerprint of the manifest."""
    marker: str
    published_at: AwareDatetime


class Taken(Value):
    """A result that was taken: its parts are in staging, and the manifest is ready to be published."""

    plan_digest: str
    """Of the plan in whose place it stands."""
    manifest: Manifest


class _Unusable(Exception):
    """The set isn't what it should be, or can't be read; the text says why."""


@dataclass(frozen=True)
class Results:
    """Results of before, as one job looks for them.

    Parameters
    ----------
    volumes_dir
        Where a volume CLAIM is the folder ``volumes_dir/CLAIM``.
    say
        Gets a line when a result is taken, and when one that should be there can't be.
    check
        Raises where the job is to stop.
    """

    resolved: ResolvedJob
    cache: Cache
    volumes_dir: Path
    say: Callable[[str], object]
    check: Callable[[], object] = lambda: None

    def remember(self, plan: Plan, manifest: Manifest) -> None:
        """Leave behind where a result is, unless nothing could prove it current, or it was taken itself."""
        if plan.marker is None or plan.consistency is not Consistency.SNAPSHOT or manifest.reused is not None:
            return
        path = self.resolved.job.sink_path
        known = KnownResult(
            path=path, manifest=manifest.fingerprint(), marker=plan.marker, published_at=manifest.published_at
        )
        self.cache.put(self._entry(plan), known)

    def take(self, plan: Plan, sink: Sink, *, writer: str) -> Taken | None:
        """Return the result of an earlier job, its parts copied to staging; None where this job has to read.

        Parameters
        ----------
        writer
            Who we are: the pod's uid, or the local process.

        Raises
        ------
        ExtractionError
            From the sink of this job.
        """
        if plan.marker is None:
            return None
        known = self.cache.find(self._entry(plan))
        if known is None:
            return None
        try:
            published = self._open(known.path)
            manifest = _manifest(published, known, plan)
            parts = self._copy(published, manifest, plan, sink, writer)
        except _Unusable as error:
            self.say(f"The result at {known.path} isn't reused: {error} The source is read.")
            return None
        self.say(f"The result of {manifest.job} is reused: nothing was written to the source since it was read.")
        return Taken(plan_digest=plan.plan_digest(), manifest=self._adopted(manifest, parts, plan))

    @staticmethod
    def put(sink: Sink, taken: Taken) -> None:
        """Write to staging what was taken, for *publish*: :func:`taken_for`."""
        sink.put_state(_NAME, taken.to_json())

    def _entry(self, plan: Plan) -> Entry[KnownResult]:
        reuse, sink = self.resolved.job.spec.reuse, self.resolved.job.spec.sink
        if reuse is None:
            raise AssertionError("a job that doesn't declare reuse has no marker")
        oldest = datetime.now(UTC) - timedelta(seconds=reuse.max_age.total_seconds())

        def is_current(found: KnownResult) -> bool:
            return found.marker == plan.marker and found.published_at >= oldest

        if sink.s3 is not None:
            place: tuple[object, ...] = ("s3", sink.s3.endpoint, sink.s3.region, sink.s3.bucket)
        else:
            place = ("volume", sink.volume.claim_name if sink.volume is not None else "")
        return Entry(Family.RESULT, (*place, content_of(plan)), KnownResult, is_current)

    def _open(self, path: str) -> PublishedSet:
        try:
            safe = RelativePath.parse(path, field="path of a result")
        except InvalidManifest:
            raise _Unusable("that is no place of a result.") from None
        if self.resolved.job.spec.sink.s3 is not None:
            return bucket_set(open_bucket(self.resolved), str(safe))
        return folder_set(volume_root(self.resolved, self.volumes_dir).joinpath(*safe.segments))

    def _copy(
        self, published: PublishedSet, manifest: Manifest, plan: Plan, sink: Sink, writer: str
    ) -> tuple[Part, ...]:
        digest = plan.plan_digest()

        def copy(numbered: tuple[int, Part]) -> Part:
            number, part = numbered
            self.check()
            name = part_name(digest, f"{writer}/reused", part.chunk, number, part.name.partition(".")[2])
            with _content(published, part) as content:
                # Who wrote to staging and failed then is found by discard, like anybody else.
                stream = sink.open_part(name)
                try:
                    return _written(part, content, stream)
                except BaseException:
                    stream.abort()
                    raise

        return tuple(in_order(copy, enumerate(manifest.parts), _COPIERS, name="copy"))

    def _adopted(self, manifest: Manifest, parts: tuple[Part, ...], plan: Plan) -> Manifest:
        names = {old.name: new.name for old, new in zip(manifest.parts, parts, strict=True)}
        chunks = (
            chunk.model_copy(update={"parts": tuple(names[name] for name in chunk.parts)}) for chunk in manifest.chunks
        )
        origin = Reused(
            job=manifest.job, run_id=manifest.run_id, digest=manifest.digest, published_at=manifest.published_at
        )
        return manifest.model_copy(
            update={
                "run_id": plan.run_id, "job": str(object_key(self.resolved.job)), "published_at": datetime.now(UTC),
                "reused": origin, "parts": parts, "chunks": tuple(chunks), "digest": Manifest.set_digest(parts),
            }
        )  # fmt: skip


def content_of(plan: Plan) -> str:
    """Return the digest of all that decides which rows and bytes come out, but for the moment and the chunks."""
    state = xxhash.xxh3_128(plan.model_dump_json(include=_CONTENT, exclude_none=True).encode())
    for leaf in plan.leaves:
        state.update(f"{leaf.oid}/{leaf.relfilenode} ".encode())
    return state.hexdigest()


def taken_for(sink: Sink, plan: Plan) -> Taken | None:
    """Return what was taken in the place of a plan, if anything was.

    Raises
    ------
    VerificationFailed
        What is there can't be read: nobody reads the chunks of the plan in its place.
    """
    data = sink.get_state(_NAME)
    if data is None:
        return None
    try:
        taken = Taken.from_json(data)
    except ValueError:
        raise VerificationFailed(f"{_NAME} in staging isn't a result of this version.") from None
    return taken if taken.plan_digest == plan.plan_digest() else None


def _manifest(published: PublishedSet, known: KnownResult, plan: Plan) -> Manifest:
    from extraction_worker.stages.publish import manifest_columns

    try:
        data = published.manifest()
        if data is None:
            raise _Unusable("its manifest isn't there any more.")
        manifest = parse_manifest(data, published.uri)
    except ExtractionError as error:
        raise _Unusable(str(error)) from None
    if manifest.fingerprint() != known.manifest:
        raise _Unusable("another set is there by now.")
    moment = {"snapshot_id", "lsn"}
    is_same = (
        (manifest.source, manifest.relation, manifest.query_hash, manifest.consistency)
        == (plan.source, plan.relation, plan.query_hash, plan.consistency)
        and (manifest.format, manifest.verification, manifest.proof_sample)
        == (plan.format, plan.verification, plan.proof_sample)
        and manifest.columns == manifest_columns(plan)
        and manifest.identity.model_dump(exclude=moment) == plan.identity.model_dump(exclude=moment)
        and (plan.on_unrepresentable == "Null" or not manifest.replaced)
    )
    if not is_same:
        raise _Unusable("it is the result of another reading.")
    return manifest


@contextmanager
def _content(published: PublishedSet, part: Part) -> Iterator[Content]:
    """Yield a part of a published set, compared with its digests."""
    reading = published.read(part.name)
    try:
        content = reading.__enter__()
        if content is not None:
            require_equal(part, content.digest)
    except ExtractionError as error:
        raise _Unusable(str(error)) from None
    try:
        if content is None:
            raise _Unusable(f"{part.name} isn't there any more.")
        yield content
    finally:
        reading.__exit__(None, None, None)


def _written(part: Part, content: Content, stream: PartStream) -> Part:
    while block := content.file.read(BLOCK):
        stream.write(block)
    staged = stream.close()
    try:
        require_equal(part, FileDigest(staged.bytes, staged.xxh3_128, staged.crc32))
    except VerificationFailed as error:
        # It was written meanwhile.
        raise _Unusable(str(error)) from None
    return part.model_copy(
        update={"name": staged.name, "upload_id": staged.upload_id, "upload_parts": staged.upload_parts}
    )
