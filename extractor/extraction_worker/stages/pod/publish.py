"""``publish``: waits for every chunk's result, or works a small plan itself; then verifies and publishes."""

import contextlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from extraction_contract.messages import BundleMessage, PublishMessage
from extraction_contract.status import ConnectionCounts
from extraction_worker.errors import ExtractionError, SnapshotLost, Transient
from extraction_worker.model import ChunkResult, Manifest, Plan
from extraction_worker.sink.abc import Sink
from extraction_worker.stages.pod.bundle import bundle_message, work_chunks
from extraction_worker.stages.pod.collect import Collector
from extraction_worker.stages.pod.invocation import Invocation
from extraction_worker.stages.pod.job import PLAN_NAME, JobPod, publish_message
from extraction_worker.stages.publish import publish, publish_taken
from extraction_worker.stream.allocation import prepare_allocators

_LEAST_WAIT, _MOST_WAIT = 0.5, 10.0
"""Seconds between two looks into staging; in between, five times what a look takes."""
_LOG_SECONDS = 10.0


def run(invocation: Invocation) -> PublishMessage:
    """Publish the attempt; return what the operator is told.

    Raises
    ------
    Interrupted
        A stop was requested; nothing was published.
    ExtractionError
        Why nothing was published.
    """
    started = time.monotonic()
    prepare_allocators()
    pod = JobPod.load(invocation)
    sink = pod.sink()
    done = _published_before(pod, sink)
    if done is None:
        try:
            done = _publish(pod, sink, started)
        except ExtractionError:
            # Another pod of this Job may have published meanwhile, and removed what was in staging. (A publisher takes
            # nothing away from there before its set can be seen.)
            with contextlib.suppress(ExtractionError):
                done = _published_before(pod, sink)
            if done is None:
                raise
    message = _with_counts(publish_message(done.manifest, sink), done)
    # What stays now is litter, and no reason to fail.
    with contextlib.suppress(ExtractionError):
        sink.discard()
    return message


@dataclass(frozen=True)
class _Done:
    """What is published, and what is counted about the attempt by the pod that did it."""

    manifest: Manifest
    work: BundleMessage | None = None
    held_seconds: float | None = None
    connections: ConnectionCounts | None = None


def _published_before(pod: JobPod, sink: Sink) -> _Done | None:
    """Return the set if this attempt published it already; what a publisher that died had begun is finished."""
    manifest = pod.published(sink)
    return _Done(sink.publish(manifest)) if manifest is not None else None


def _publish(pod: JobPod, sink: Sink, started: float) -> _Done:
    invocation, plan = pod.invocation, _own_plan(pod, sink)
    work, held_seconds = None, None
    bundles = pod.bundles(plan)
    results: Mapping[int, ChunkResult] = {}
    if (taken := pod.taken(sink, plan)) is not None:
        pass
    elif bundles > 1:
        results = _collect(pod, plan, sink, bundles)
    else:
        memory = pod.memory(pod.environment.killed)
        try:
            worked = work_chunks(pod, plan, plan.chunks, sink, memory, alone=True, holder=pod.holder())
        except ExtractionError as error:
            error.bundle = 0
            raise
        results, work = worked.results, bundle_message(0, worked, time.monotonic() - started)
    if pod.is_held:
        # Not before every result is there: the tables must stay as they are until the last row was read.
        held = pod.holder()
        held.release()
        held_seconds = (datetime.now(UTC) - held.snapshot().taken_at).total_seconds()
    connections = _connections(results.values())
    invocation.stop.check()
    if taken is not None:
        manifest = publish_taken(taken.manifest, sink)
    else:
        manifest = publish(plan, pod.name, results, sink, writer=pod.environment.pod_uid)
        if (known := pod.results(pod.cache())) is not None:
            known.remember(plan, manifest)
    invocation.log.info("published", rows=manifest.rows, bytes=manifest.bytes, files=len(manifest.parts))
    return _Done(manifest, work, held_seconds, connections)


def _own_plan(pod: JobPod, sink: Sink) -> Plan:
    plan = pod.require_plan(sink)
    if pod.is_held and plan.identity != pod.holder().snapshot().identity:
        raise SnapshotLost("The plan in staging was made under a snapshot that this pod doesn't hold.")
    return plan


def _connections(results: Iterable[ChunkResult]) -> ConnectionCounts | None:
    """Return what the pools of all that read did; None where nobody counted."""
    total: ConnectionCounts | None = None
    for result in results:
        if result.connections is not None:
            total = (total or ConnectionCounts()) + result.connections
    return total


def _with_counts(message: PublishMessage, done: _Done) -> PublishMessage:
    """Return the message with what is counted about the attempt, unless that is too much for its length."""
    seconds = round(max(done.held_seconds, 0.0), 3) if done.held_seconds is not None else None
    counts = {"work": done.work, "snapshot_seconds": seconds, "connections": done.connections}
    full = message.model_copy(update=counts)
    try:
        full.encode()
    except ValueError:
        return message
    return full


def _collect(pod: JobPod, plan: Plan, sink: Sink, bundles: int) -> Mapping[int, ChunkResult]:
    invocation, holder = pod.invocation, pod.holder()
    collector = Collector(plan, sink, bundles)
    logged = time.monotonic()
    while True:
        started, before = time.monotonic(), collector.done
        try:
            if collector.look():
                return collector.chosen()
            if collector.done == before:
                _require_staged(pod, sink)
        except Transient as error:
            invocation.log.warning("retry", doing="Looking for results", message=str(error))
        holder.check()
        now = time.monotonic()
        if now - logged >= _LOG_SECONDS:
            logged = now
            invocation.log.info("progress", chunks=collector.done, of=len(plan.chunks))
        invocation.stop.wait(min(max(_LEAST_WAIT, 5 * (now - started)), _MOST_WAIT))


def _require_staged(pod: JobPod, sink: Sink) -> None:
    """Raise VerificationFailed when the plan has gone from staging: nothing will come there any more.

    Another pod of this Job has published, or something else has removed what was there.
    """
    # A plan can be large, and a listing can be late: it is read only when the listing doesn't have it.
    if next(iter(sink.list_state(PLAN_NAME)), None) is None:
        pod.require_plan(sink)
