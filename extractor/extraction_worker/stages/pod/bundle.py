"""The chunks of one bundle, worked in this pod."""

import resource
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from extraction_contract.live import PodProgress
from extraction_contract.messages import BundleMessage
from extraction_worker.cache.live import told
from extraction_worker.errors import ExtractionError
from extraction_worker.model import Chunk, ChunkResult, Plan
from extraction_worker.report.progress import Progress
from extraction_worker.sink.abc import Sink
from extraction_worker.stages.extraction import Extraction
from extraction_worker.stages.pod.invocation import Invocation
from extraction_worker.stages.pod.job import JobPod
from extraction_worker.stages.pod.lead import Holder
from extraction_worker.stages.pod.log import logged
from extraction_worker.stages.results import finished_results, put_result
from extraction_worker.stream.admission import MemoryPlan

if TYPE_CHECKING:
    from extraction_worker.source.pool import PoolStatistics, SourcePool


@dataclass(frozen=True)
class Worked:
    """A bundle that is done."""

    results: Mapping[int, ChunkResult]
    reused: int = 0
    """Chunks whose result was in staging already."""
    retries: int = 0
    pool: "PoolStatistics | None" = None
    """None where no session was needed."""


def work_chunks(
    pod: JobPod,
    plan: Plan,
    chunks: Sequence[Chunk],
    sink: Sink,
    memory: MemoryPlan,
    *,
    alone: bool,
    bundle: int = 0,
    holder: Holder | None = None,
) -> Worked:
    """Extract consecutive chunks; return when each has its result in staging.

    A stop that is requested, or the loss of the snapshot in the lead, ends it within two seconds.

    Parameters
    ----------
    alone
        Whether no other pod reads for the job.
    bundle
        The chunks' index in the worker Job; the lead works bundle 0 of one.
    holder
        Of the snapshot, in the lead: what it tells is the reason where it lost it.

    Raises
    ------
    Interrupted
        A stop was requested.
    ExtractionError
        The first error that wasn't retried, or that outlived its retries; results so far are in staging.
    """
    invocation = pod.invocation
    progress = Progress()
    with logged(progress, invocation.log):
        finished = finished_results(sink, plan, chunks, progress.say)
        reused = len(finished)
        if reused == len(chunks):
            return Worked(finished, reused)

        def on_result(result: ChunkResult) -> None:
            put_result(sink, result)
            finished.put(result)

        source = pod.source()
        source.pin(plan.address)
        limit = pod.resolved.source.spec.limits.bytes_per_second
        pool = source.open_pool(memory.threads, progress.say)
        try:
            extraction = Extraction(
                plan,
                sink,
                pool,
                source.settings,
                memory,
                worker=pod.environment.pod_uid,
                bytes_per_second=int(limit) if limit is not None else None,
                alone=alone,
                bundle=bundle,
                progress=progress,
                masks=source.masks(plan),
                yielding=source.yielding(plan),
            )
            watched = holder.watched(extraction.stop) if holder is not None else nullcontext()
            now = _live(pod.environment.pod_name, progress)
            live = told(pod.redis, plan.run_id, bundle, pod.promised(plan), now)
            with invocation.stop.calling(extraction.stop), watched, live:
                extraction.run(chunks, finished, on_result)
        except ExtractionError as error:
            raise _told(error, invocation, holder, pool, progress) from None
        finally:
            pool.dispose()
        return Worked(finished, reused, progress.now().retries, pool.statistics)


def _told(
    error: ExtractionError, invocation: Invocation, holder: Holder | None, pool: "SourcePool", progress: Progress
) -> ExtractionError:
    """Return what an error is told as: what ended it comes first; with what was done until then."""
    try:
        invocation.stop.check()
        told = holder.explain(error) if holder is not None else error
    except ExtractionError as stopped:
        told = stopped
    told.retries, told.connections = progress.now().retries, pool.did()
    return told


def bundle_message(bundle: int, worked: Worked, seconds: float) -> BundleMessage:
    """Return what the operator is told of a bundle that is done."""
    counts = worked.pool
    rows, size = _totals(worked.results.values())
    return BundleMessage(
        bundle=bundle,
        chunks=len(worked.results),
        reused=worked.reused,
        rows=rows,
        bytes=size,
        seconds=round(seconds, 3),
        retries=worked.retries,
        sessions=counts.created if counts else 0,
        checkouts=counts.checkouts if counts else 0,
        session_reuses=counts.reused if counts else 0,
        session_waits=counts.waits if counts else 0,
        sessions_active=counts.most_active if counts else 0,
        sessions_evicted=counts.evicted if counts else 0,
        sessions_leaked=counts.leaks if counts else 0,
        memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def _totals(results: Iterable[ChunkResult]) -> tuple[int, int]:
    """Return the rows of results, and the bytes that the source sent for them."""
    rows = size = 0
    for result in results:
        rows, size = rows + result.rows, size + result.source_bytes
    return rows, size


def _live(pod: str, progress: Progress) -> Callable[[], PodProgress]:
    def now() -> PodProgress:
        counts = progress.now()
        return PodProgress(
            pod=pod,
            rows=counts.read_rows,
            bytes=counts.read_bytes,
            chunks=counts.done_chunks,
            of=counts.total_chunks,
            rate=round(counts.rows_per_second, 1),
            at=round(time.time(), 3),
        )

    return now
