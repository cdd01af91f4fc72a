"""Changes through the recorder, as the store tells them, against one transaction for each change."""

import asyncio
import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.support.history import generate

from bench.record.server import recorded
from extraction_operator.cluster.parse import as_document
from extraction_operator.config import RecordConfig
from extraction_operator.record.recorder import Recorder
from extraction_record.connection import Place

_BEGIN = datetime(2026, 11, 2, tzinfo=UTC)
_PHASES = ("", "Pending", "Planning", "Running", "Running", "Running", "Publishing", "Succeeded")


class _Counted:
    flushes = 0
    rows = 0

    def record_flushed(self, rows: Mapping[str, int], seconds: float) -> None:  # noqa: ARG002
        """Count."""
        self.flushes += 1
        self.rows += sum(rows.values())

    def record_failed(self, seconds: float) -> None:  # noqa: ARG002
        """End: a benchmark that couldn't write measures nothing."""
        raise RuntimeError("the record couldn't be written")

    def record_lost(self, tables: Iterable[str], reason: str) -> None:  # noqa: ARG002
        """End: a benchmark that lost rows measures nothing."""
        raise RuntimeError(f"rows were lost: {reason}")


def run(*, jobs: int, changes: int, singly: int, history: int) -> tuple[list[str], dict[str, object]]:
    """Measure; return lines for people, and everything."""
    with recorded() as (place, connection):
        generate(connection, jobs=history, sources=1000, months=3, end=datetime(2026, 11, 1, tzinfo=UTC))
        print(f"Generated {history:,} jobs.", flush=True)
        told = [list(_changes(number, changes)) for number in range(jobs)]
        # All jobs go through their phases side by side: a change of each, then the next of each.
        order = [told[number][step] for step in range(changes) for number in range(jobs)]
        seconds, counted, interval_seconds, interval = asyncio.run(_batched(place, order, jobs))
        recorded_jobs = connection.execute(
            "SELECT count(*) FROM extraction.jobs WHERE created_at >= %s AND phase = 'Succeeded'", (_BEGIN,)
        ).fetchone()
        if recorded_jobs is None or recorded_jobs[0] != 2 * jobs:
            raise RuntimeError(f"{recorded_jobs} of {2 * jobs} jobs were recorded")
        some = [list(_changes(jobs + number, changes)) for number in range(-(-singly // changes))]
        alone = [found[step] for step in range(changes) for found in some][:singly]
        single_seconds, single = asyncio.run(_one_by_one(place, alone))
    rate, single_rate = len(order) / seconds, len(alone) / single_seconds
    lines = [
        f"{jobs:,} jobs with {changes} changes each, beside {history:,} recorded ones; fsync is on.",
        "",
        "| | changes/s | transactions | changes a transaction |",
        "|---|--:|--:|--:|",
        f"| full batches | {rate:,.0f} | {counted.flushes:,} | {len(order) / counted.flushes:,.0f} |",
        f"| a flush a second | {interval_seconds:,.0f} | {interval.flushes:,} | {len(order) / interval.flushes:,.0f} |",
        f"| one by one | {single_rate:,.0f} | {single.flushes:,} | {len(alone) / single.flushes:,.2f} |",
        "",
        f"× {rate / single_rate:,.1f} changes a second, × {len(order) / counted.flushes:,.0f} fewer transactions.",
    ]
    return lines, {"rate": rate, "single_rate": single_rate, "transactions": counted.flushes, "rows": counted.rows}


async def _batched(
    place: Place, order: list[tuple[str, str, bytes]], jobs: int
) -> tuple[float, _Counted, float, _Counted]:
    """Write everything in full batches: no two changes of a job meet in the spool, so none is saved by coalescing."""
    counted = _Counted()
    recorder = Recorder(RecordConfig(place, "bench", 1 << 30), (), counted)
    begin = time.monotonic()
    step = min(5_000, jobs)
    for at in range(0, len(order), step):
        for change in order[at : at + step]:
            recorder.job(*change)
        await recorder.flush()
    seconds = time.monotonic() - begin
    await recorder.close()
    # The same changes of other jobs at the rate that was reached, with the operator's interval.
    paced = _Counted()
    recorder = Recorder(RecordConfig(place, "bench", 1 << 30), (), paced)
    other = [(str(uuid.uuid5(uuid.NAMESPACE_OID, uid)), created, document) for uid, created, document in order]
    other = [(uid, created, _renamed(document, uid)) for uid, created, document in other]
    rate = len(order) / seconds * 0.8
    start, at, next_flush = time.monotonic(), 0, 1.0
    while at < len(other):
        due = min(len(other), int((time.monotonic() - start) * rate) + 1)
        for change in other[at:due]:
            recorder.job(*change)
        at = due
        if time.monotonic() - start >= next_flush:
            await recorder.flush()
            next_flush += 1.0
        await asyncio.sleep(0.005)
    await recorder.flush()
    took = time.monotonic() - start
    await recorder.close()
    return seconds, counted, len(other) / took, paced


async def _one_by_one(place: Place, order: list[tuple[str, str, bytes]]) -> tuple[float, _Counted]:
    counted = _Counted()
    recorder = Recorder(RecordConfig(place, "bench", 1 << 30), (), counted)
    begin = time.monotonic()
    for change in order:
        recorder.job(*change)
        await recorder.flush()
    seconds = time.monotonic() - begin
    await recorder.close()
    return seconds, counted


def _renamed(document: bytes, uid: str) -> bytes:
    job = json.loads(document)
    job["metadata"]["uid"] = uid
    return as_document(job)


def _changes(number: int, count: int) -> Iterator[tuple[str, str, bytes]]:
    """Yield what the store tells of one job: its uid, its creation, and its document at each change."""
    uid, created = str(uuid.uuid5(uuid.NAMESPACE_URL, str(number))), _BEGIN + timedelta(seconds=number % 86_400)
    for step in range(count):
        phase = _PHASES[min(step * len(_PHASES) // count, len(_PHASES) - 1)] if step < count - 1 else "Succeeded"
        job: dict[str, Any] = {
            "apiVersion": "extraction-operator.io/v1alpha1", "kind": "ExtractionJob",
            "metadata": {
                "name": f"orders-{number}", "namespace": f"team-{number % 20}", "uid": uid, "generation": 1,
                "resourceVersion": str(number * count + step + 1), "creationTimestamp": _time(created),
            },
            "spec": {
                "dataSourceRef": {"name": f"source-{number % 500}"}, "table": f"public.table_{number % 5000}",
                "parallelism": 4, "verification": "Written", "consistency": "Snapshot",
                "partitioning": {"strategy": "Auto", "targetBytes": "64Mi"},
                "sink": {"format": {"type": "Parquet", "compression": "zstd"}, "s3": {"bucket": "lake"}},
            },
        }  # fmt: skip
        if phase:
            job["status"] = _status(phase, step, created)
        yield uid, _time(created), as_document(job)


def _status(phase: str, step: int, created: datetime) -> dict[str, Any]:
    ready = {
        "type": "Ready", "status": "False", "reason": f"Step{step}", "message": f"What step {step} says of the job.",
        "observedGeneration": 1, "lastTransitionTime": _time(created),
    }  # fmt: skip
    status: dict[str, Any] = {"observedGeneration": 1, "phase": phase, "attempt": 1, "conditions": [ready]}
    if phase not in {"", "Pending"}:
        status |= {"startTime": _time(created + timedelta(seconds=5)), "consistency": "Snapshot"}
    if phase in {"Publishing", "Succeeded"}:
        status["plan"] = {
            "digest": "0" * 32, "chunks": 16, "bundles": 4, "estimatedRows": 10**6, "estimatedBytes": 10**9,
            "strategy": "ctid",
        }  # fmt: skip
    if phase == "Succeeded":
        status |= {
            "completionTime": _time(created + timedelta(seconds=95)),
            "result": {
                "rows": 10**6, "bytes": 10**8, "files": 16, "digest": "1" * 32, "seconds": 90,
                "manifest": "s3://lake/x/_manifest.json", "consistency": "Snapshot", "verification": "Written",
            },
        }  # fmt: skip
    return status


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


__all__ = ["run"]
