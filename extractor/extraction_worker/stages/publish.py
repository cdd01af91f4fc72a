"""The *publish* stage: every chunk's result is there, every part is what was promised, then one atomic publish."""

import base64
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from extraction_worker.errors import VerificationFailed
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
from extraction_worker.sink.abc import Sink
from extraction_worker.source.types import target_schema
from extraction_worker.stages.work import empty_result

_CHECKERS = 2


def complete_results(plan: Plan, digests: frozenset[str], results: Iterable[ChunkResult]) -> tuple[ChunkResult, ...]:
    """Return the results in the order of the plan's chunks.

    Parameters
    ----------
    digests
        Digests of the plans whose results are good: this plan's, and under ``Degrade`` the one that it continues.

    Raises
    ------
    VerificationFailed
        A chunk has no result or two, or a result belongs to another plan or to no chunk; the chunk is named.
    """
    by_chunk: dict[int, ChunkResult] = {}
    for result in results:
        if result.plan_digest not in digests:
            raise VerificationFailed(f"Chunk {result.chunk}: its result belongs to plan {result.plan_digest}.")
        if result.chunk in by_chunk:
            raise VerificationFailed(f"Chunk {result.chunk} has two results.")
        if any(part.chunk != result.chunk for part in result.parts):
            raise VerificationFailed(f"Chunk {result.chunk}: its result names parts of another chunk.")
        if sum(part.rows for part in result.parts) != result.rows:
            raise VerificationFailed(f"Chunk {result.chunk}: its parts don't have the rows that were read.")
        by_chunk[result.chunk] = result
    missing = [chunk.index for chunk in plan.chunks if chunk.index not in by_chunk]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise VerificationFailed(f"Chunk {missing[0]}{more} has no result.")
    if len(by_chunk) != len(plan.chunks):
        known = {chunk.index for chunk in plan.chunks}
        raise VerificationFailed(f"Chunk {min(set(by_chunk) - known)} has a result, but isn't in the plan.")
    return tuple(by_chunk[chunk.index] for chunk in plan.chunks)


def check_parts(sink: Sink, parts: Iterable[Part]) -> None:
    """Compare every staged part with its digests.

    Raises
    ------
    VerificationFailed
        The first part, in order, that the sink doesn't hold as it was written.
    """
    with ThreadPoolExecutor(_CHECKERS, thread_name_prefix="check") as executor:
        for _ in executor.map(sink.check_part, parts):
            pass


def make_manifest(plan: Plan, job: str, results: tuple[ChunkResult, ...], *, published_at: datetime) -> Manifest:
    """Return the manifest of the results. It still names the uploads that hold the parts: the sink takes them out."""
    parts = tuple(part for result in results for part in result.parts)
    return Manifest(
        program=plan.program,
        run_id=plan.run_id,
        job=job,
        source=plan.source,
        relation=plan.relation,
        query_hash=plan.query_hash,
        consistency=plan.consistency,
        identity=plan.identity,
        plan_digest=plan.plan_digest(),
        planned_at=plan.planned_at,
        published_at=published_at,
        format=plan.format,
        verification=plan.verification,
        proof_sample=plan.proof_sample,
        columns=manifest_columns(plan),
        arrow_schema=base64.b64encode(target_schema(plan.columns).serialize()).decode(),
        replaced=_replaced(results),
        rows=sum(result.rows for result in results),
        bytes=sum(part.bytes for part in parts),
        digest=Manifest.set_digest(parts),
        parts=parts,
        chunks=tuple(
            ManifestChunk(
                chunk=result.chunk,
                rows=result.rows,
                parts=tuple(part.name for part in result.parts),
                columns=result.columns,
                source_proven=any(column.source for column in result.columns),
            )
            for result in results
        ),
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
    results: Iterable[ChunkResult],
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
    complete = complete_results(plan, continues | {plan.plan_digest()}, results)
    if not any(result.parts for result in complete):
        complete = (empty_result(plan, sink, writer), *complete[1:])
    if plan.verification is not Verification.NONE:
        check_parts(sink, (part for result in complete for part in result.parts))
    return sink.publish(make_manifest(plan, job, complete, published_at=datetime.now(UTC)))


def _replaced(results: tuple[ChunkResult, ...]) -> tuple[Replaced, ...]:
    counts: Counter[tuple[str, str]] = Counter()
    for result in results:
        for entry in result.replaced:
            counts[entry.column, entry.kind] += entry.count
    return tuple(Replaced(column=column, kind=kind, count=count) for (column, kind), count in sorted(counts.items()))
