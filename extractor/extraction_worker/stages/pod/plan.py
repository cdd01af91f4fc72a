"""``plan``: splits the table under the holder's snapshot, and puts the plan into staging."""

import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from extraction_contract.messages import CacheUse, PlanMessage
from extraction_worker.cache.live import tell_plan
from extraction_worker.cache.store import Cache
from extraction_worker.errors import ExtractionError, SinkUnavailable
from extraction_worker.model import Manifest, Plan
from extraction_worker.sink.abc import Sink
from extraction_worker.stages.plan import read_job
from extraction_worker.stages.pod.invocation import Invocation
from extraction_worker.stages.pod.job import PLAN_NAME, JobPod

if TYPE_CHECKING:
    from extraction_worker.stages.reuse import Results

_MAX_REASON = 1024


def run(invocation: Invocation) -> PlanMessage:
    """Plan the attempt; return what the operator is told.

    The kubelet may run an init container again in the same pod, and the Job controller may, rarely, start two pods
    for one. So a plan of this attempt that is in staging already is taken over where this pod's holder keeps its
    snapshot, and left alone otherwise; an attempt that is published already has nothing left to plan.

    Raises
    ------
    SinkUnavailable
        Another pod planned this attempt under a snapshot of its own.
    ExtractionError
        What makes the job impossible; nothing of it is left in staging.
    """
    pod = JobPod.load(invocation)
    sink = pod.sink()
    if (manifest := pod.published(sink)) is not None:
        return _published_message(manifest, "This attempt has published already.")
    plan, cache = pod.staged_plan(sink), pod.cache()
    if plan is None:
        plan = _plan(pod, sink, cache)
        _stage(plan, sink, pod.results(cache), pod.environment.pod_uid)
    elif pod.is_held and plan.identity != pod.holder().snapshot().identity:
        raise SinkUnavailable(f"Another pod planned run {plan.run_id} already, under a snapshot that isn't this pod's.")
    uses = cache.uses() if cache is not None else ()
    if (taken := pod.taken(sink, plan)) is not None:
        origin = taken.manifest.reused
        invocation.log.info("reused", run=origin.run_id if origin is not None else "")
        reason = f"Nothing is read: the source is as it was for the result of {origin.job if origin else 'a job'}."
        message = _published_message(taken.manifest, reason[:_MAX_REASON])
        return message.model_copy(update={"digest": plan.plan_digest(), "caches": uses})
    promised = pod.promised(plan)
    tell_plan(pod.redis, plan.run_id, promised)
    invocation.log.info("planned", chunks=promised.chunks, bundles=promised.bundles, bytes=promised.bytes)
    return _message(plan, promised.bundles, uses)


def _plan(pod: JobPod, sink: Sink, cache: Cache | None) -> Plan:
    sink.probe()
    held = pod.holder().snapshot() if pod.is_held else None
    source, holder = pod.source(cache), pod.holder()
    address = held.address if held is not None else ""
    source.pin(address)

    def make() -> Plan:
        holder.check()
        planned_at = held.taken_at if held is not None else datetime.now(UTC)
        return source.make_plan(
            read_job(pod.resolved.job, pod.resolved.source, planned_at),
            held.identity if held is not None else None,
            run_id=pod.environment.run_id,
            planned_at=planned_at,
            threads=pod.parallelism * pod.environment.pool,
        )

    plan = pod.invocation.patiently(make).model_copy(update={"address": address})
    pod.invocation.stop.check()
    return plan


def _stage(plan: Plan, sink: Sink, results: "Results | None", writer: str) -> None:
    try:
        if results is not None and (taken := results.take(plan, sink, writer=writer)) is not None:
            results.put(sink, taken)
        # The last: who finds it finds what was taken, too.
        sink.put_state(PLAN_NAME, plan.to_json())
    except BaseException:
        # It may be there all the same. Nothing else is ours: after an error of before, staging isn't touched.
        with contextlib.suppress(ExtractionError):
            sink.discard()
        raise


def _message(plan: Plan, bundles: int, caches: tuple[CacheUse, ...] = ()) -> PlanMessage:
    fields = {
        "digest": plan.plan_digest(),
        "chunks": len(plan.chunks),
        "bundles": bundles,
        "estimated_rows": plan.estimated_rows,
        "estimated_bytes": plan.estimated_bytes,
        "strategy": plan.strategy,
        "caches": caches,
    }
    reason = plan.strategy_reason[:_MAX_REASON]
    while True:
        message = PlanMessage.model_validate(fields | {"reason": reason})
        try:
            message.encode()
        except ValueError:
            # Characters beyond ASCII take more than one byte each.
            reason = reason[: len(reason) * 9 // 10]
        else:
            return message


def _published_message(manifest: Manifest, reason: str) -> PlanMessage:
    """Return the message of an attempt that needs no worker: its set is there already."""
    return PlanMessage(
        digest=manifest.plan_digest,
        chunks=len(manifest.chunks),
        bundles=1,
        estimated_rows=manifest.rows,
        estimated_bytes=manifest.bytes,
        strategy="none",
        reason=reason,
    )
