"""The *publish* stage: every chunk's result is there, every part is what was promised, then one atomic publish."""

import base64
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import chain

from extraction_worker.errors import VerificationFailed
from extraction_worker.lines import Writer
from extraction_worker.model import (
    ChunkResult,
    Manifest,
    ManifestChunk,
    ManifestColumn,
    Part,
    Plan,
    Replaced,
    Verification,
)
from extraction_worker.parallel import in_order
from extraction_worker.sink.abc import Sink
from extraction_worker.source.types import target_schema
from extraction_worker.stages.results import without_result
from extraction_worker.stages.work import empty_result

_CHECKERS = 2


def complete_results(plan: Plan, digests: frozenset[str], results: Mapping[int, ChunkResult]) -> Iterator[ChunkResult]:
    """Yield the results in the order of the plan's chunks; nothing before it is certain that every chunk has one.

    Parameters
    ----------
    digests
        Digests of the plans whose results are good: this plan's, and under ``Degrade`` the one that it continues.
    results
        By chunk.

    Raises
    ------
    VerificationFailed
        A chunk has no result, or a result belongs to another plan or to no chunk; the chunk is named.
    """
    missing = [index for index in range(len(plan.chunks)) if index not in results]
    if missing:
        raise VerificationFailed(f"{without_result(missing)}.")
    if len(results) != len(plan.chunks):
        raise VerificationFailed(f"Chunk {max(results)} has a result, but isn't in the plan.")
    return (_good(chunk, results[chunk], digests) for chunk in range(len(plan.chunks)))


def _good(chunk: int, result: ChunkResult, digests: frozenset[str]) -> ChunkResult:
    if result.chunk != chunk:
        raise VerificationFailed(f"Chunk {chunk}: its result is that of chunk {result.chunk}.")
    if result.plan_digest not in digests:
        raise VerificationFailed(f"Chunk {chunk}: its result belongs to plan {result.plan_digest}.")
    if any(part.chunk != chunk for part in result.parts):
        raise VerificationFailed(f"Chunk {chunk}: its result names parts of another chunk.")
    if sum(part.rows for part in result.parts) != result.rows:
        raise VerificationFailed(f"Chunk {chunk}: its parts don't have the rows that were read.")
    return result


def check_parts(sink: Sink, parts: Iterable[Part]) -> None:
    """Compare every staged part with its digests.

    Raises
    ------
    VerificationFailed
        The first part, in order, that the sink doesn't hold as it was written.
    """
    for _ in in_order(sink.check_part, parts, _CHECKERS, name="check"):
        pass


def make_manifest(
    plan: Plan, plan_digest: str, job: str, results: Iterable[ChunkResult], *, published_at: datetime
) -> Manifest:
    """Return the manifest of the results, each of which is looked at once, and kept in a temporary file.

    It still names the uploads that hold the parts: the sink takes them out.
    """
    parts, chunks = Writer(Part), Writer(ManifestChunk)
    replaced: Counter[tuple[str, str]] = Counter()
    rows = size = 0
    for result in results:
        rows += result.rows
        for part in result.parts:
            size += part.bytes
            parts.append(part)
        for entry in result.replaced:
            replaced[entry.column, entry.kind] += entry.count
        chunks.append(
            ManifestChunk(
                chunk=result.chunk,
                rows=result.rows,
                parts=tuple(part.name for part in result.parts),
                columns=result.columns,
                source_proven=any(column.source for column in result.columns),
            )
        )
    return Manifest(
        program=plan.program,
        run_id=plan.run_id,
        job=job,
        source=plan.source,
        relation=plan.relation,
        query_hash=plan.query_hash,
        consistency=plan.consistency,
        identity=plan.identity,
        plan_digest=plan_digest,
        planned_at=plan.planned_at,
        published_at=published_at,
        format=plan.format,
        verification=plan.verification,
        proof_sample=plan.proof_sample,
        columns=manifest_columns(plan),
        arrow_schema=base64.b64encode(target_schema(plan.columns).serialize()).decode(),
        replaced=tuple(
            Replaced(column=column, kind=kind, count=count) for (column, kind), count in sorted(replaced.items())
        ),
        rows=rows,
        bytes=size,
        digest=Manifest.set_digest(parts.lines()),
        parts=parts.lines(),
        chunks=chunks.lines(),
    )


def manifest_columns(plan: Plan) -> tuple[ManifestColumn, ...]:
    """Return a plan's columns as the manifest has them."""
    return tuple(
        ManifestColumn(
            name=column.name,
            source_type=column.type.formatted,
            arrow_type=column.arrow,
            nullable=column.nullable,
            expression=column.expression,
            mask=column.mask,
        )
        for column in plan.columns
    )


def publish_taken(manifest: Manifest, sink: Sink) -> Manifest:
    """Publish a set whose parts were copied to staging (:mod:`stages.reuse`), as :func:`publish` does its own."""
    if manifest.verification is not Verification.NONE:
        check_parts(sink, manifest.parts)
    return sink.publish(manifest)


def publish(
    plan: Plan,
    job: str,
    results: Mapping[int, ChunkResult],
    sink: Sink,
    *,
    writer: str,
    continues: frozenset[str] = frozenset(),
) -> Manifest:
    """Verify everything, then publish it; return the manifest that readers now find.

    Where no chunk has a part, one that has a schema and no row is written first.

    Parameters
    ----------
    job
        ``NAMESPACE/NAME``.
    results
        By chunk. Each is read on its own, so that memory doesn't grow with their number.
    writer
        Who we are: the pod's uid, or the local process.
    continues
        Digests of plans whose results are taken as well, where a job degraded.

    Raises
    ------
    VerificationFailed
        A result is missing or not of this plan, or the sink doesn't hold a part as it was written.
    SinkExists, SinkRefused, SinkUnavailable, SinkFull
        From the sink; nothing of this run is visible then.
    """
    digest = plan.plan_digest()
    manifest = make_manifest(
        plan, digest, job, complete_results(plan, continues | {digest}, results), published_at=datetime.now(UTC)
    )
    if not manifest.parts:
        others = (results[chunk] for chunk in range(1, len(plan.chunks)))
        complete = chain([empty_result(plan, sink, writer)], others)
        manifest = make_manifest(plan, digest, job, complete, published_at=datetime.now(UTC))
    if plan.verification is not Verification.NONE:
        check_parts(sink, manifest.parts)
    return sink.publish(manifest.model_copy(update={"published_at": datetime.now(UTC)}))
