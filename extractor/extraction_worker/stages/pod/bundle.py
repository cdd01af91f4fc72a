"""The chunks of one bundle, worked in this pod."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from extraction_worker.errors import ExtractionError
from extraction_worker.model import Chunk, ChunkResult, Plan
from extraction_worker.report.progress import Progress
from extraction_worker.sink.abc import Sink
from extraction_worker.stages.extraction import Extraction
from extraction_worker.stages.pod.job import JobPod
from extraction_worker.stages.pod.lead import Holder
from extraction_worker.stages.pod.log import logged
from extraction_worker.stages.results import finished_results, put_result
from extraction_worker.stream.admission import MemoryPlan

if TYPE_CHECKING:
    from extraction_worker.source.pool import PoolStatistics


@dataclass(frozen=True)
class Worked:
    """A bundle that is done."""

    results: tuple[ChunkResult, ...]
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
    holder: Holder | None = None,
) -> Worked:
    """Extract consecutive chunks; return when each has its result in staging.

    A stop that is requested, or the loss of the snapshot in the lead, ends it within two seconds.

    Parameters
    ----------
    alone
        Whether no other pod reads for the job.
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
            return Worked(tuple(finished.values()), reused)
        results = dict(finished)

        def on_result(result: ChunkResult) -> None:
            put_result(sink, result)
            results[result.chunk] = result

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
                progress=progress,
                masks=source.masks(plan),
            )
            watched = holder.watched(extraction.stop) if holder is not None else nullcontext()
            with invocation.stop.calling(extraction.stop), watched:
                extraction.run(chunks, finished, on_result)
        except ExtractionError as error:
            invocation.stop.check()
            raise holder.explain(error) if holder is not None else error from None
        finally:
            pool.dispose()
        return Worked(tuple(results.values()), reused, progress.now().retries, pool.statistics)
