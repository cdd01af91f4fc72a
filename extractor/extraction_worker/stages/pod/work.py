"""``work``: one bundle of the plan, in a pod of the worker Job."""

import contextlib
import time

from extraction_contract.messages import BundleMessage
from extraction_worker.errors import ExtractionError, VerificationFailed
from extraction_worker.model import Plan
from extraction_worker.sink.abc import Sink
from extraction_worker.stages.bundles import bundle_chunks
from extraction_worker.stages.pod import starts
from extraction_worker.stages.pod.bundle import Worked, bundle_message, work_chunks
from extraction_worker.stages.pod.environment import BundleEnvironment
from extraction_worker.stages.pod.failures import failure_of
from extraction_worker.stages.pod.invocation import Invocation
from extraction_worker.stages.pod.job import JobPod
from extraction_worker.stream.allocation import prepare_allocators


def run(invocation: Invocation) -> BundleMessage:
    """Work the bundle; return what the operator is told.

    Chunks that an earlier pod finished are taken over once their parts are checked.

    Raises
    ------
    VerificationFailed
        The plan in staging isn't the one that this pod was made for.
    Interrupted
        A stop was requested; finished chunks stay in staging.
    ExtractionError
        The first error that wasn't retried, or that outlived its retries.
    """
    started = time.monotonic()
    prepare_allocators()
    pod = JobPod.load(invocation)
    mine = BundleEnvironment.parse(invocation.variables)
    sink = pod.sink()
    plan = pod.require_plan(sink)
    if (digest := plan.plan_digest()) != mine.plan_digest:
        raise VerificationFailed(
            f"The plan in staging has the digest {digest}, but this pod was made for {mine.plan_digest}: "
            "another pod planned this attempt meanwhile."
        )
    worked = _work(pod, plan, mine, sink)
    return bundle_message(mine.bundle, worked, time.monotonic() - started)


def _work(pod: JobPod, plan: Plan, mine: BundleEnvironment, sink: Sink) -> Worked:
    chunks = bundle_chunks(plan, mine.bundle, mine.bundles)
    if not chunks:
        raise VerificationFailed(f"Bundle {mine.bundle} of {mine.bundles} has no chunk: the plan has fewer.")
    uid, log = pod.environment.pod_uid, pod.invocation.log
    killed = starts.begin(sink, mine.bundle, uid)
    memory = pod.memory(killed)
    log.info(
        "begin", bundle=mine.bundle, chunks=len(chunks), threads=memory.threads, batch=memory.batch_bytes, killed=killed
    )
    try:
        worked = work_chunks(pod, plan, chunks, sink, memory, alone=mine.bundles == 1, bundle=mine.bundle)
        starts.finish(sink, mine.bundle, uid)
    except MemoryError:
        # As good as being killed: the next pod shall take less.
        raise
    except BaseException as error:
        with contextlib.suppress(ExtractionError):
            starts.end(sink, mine.bundle, uid, failure_of(error).reason)
        raise
    return worked
