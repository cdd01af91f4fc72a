"""Changes through the recorder, as the store tells them, against one transaction for each change.

Told and written at the same time, as in the operator: one process and one connection, so about one core each. What is
told is parsed already, as in the operator, whose watch does that for all of it. What a change costs both in CPU is
counted, too, which depends less than the rate on what else a machine does.
"""

import asyncio
import gc
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.support.history import generate

from bench.record.server import Cpu, data_directory, recorded
from extraction_operator.config import RecordConfig
from extraction_operator.record.recorder import Recorder
from extraction_record.connection import Place

Told = dict[str, Any]
"""What the store tells of a job: a version of it, parsed."""
_BEGIN = datetime(2026, 11, 2, tzinfo=UTC)
_MOST_WAITING = 18_000
"""Rows: fewer than there are jobs, so that no two changes of one meet in the spool and none is saved by coalescing."""
_PHASES = ("", "Pending", "Planning", "Running", "Running", "Running", "Publishing", "Succeeded")


class _Counted:
    def __init__(self) -> None:
        self.flushes = 0
        self.tables: Counter[str] = Counter()

    def record_flushed(self, rows: Mapping[str, int], seconds: float) -> None:  # noqa: ARG002
        """Count."""
        self.flushes += 1
        self.tables.update(rows)

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
        postmaster = Cpu(int((data_directory(connection) / "postmaster.pid").read_text().split()[0]))
        told = [list(_changes(number, changes)) for number in range(jobs)]
        # All jobs go through their phases side by side: a change of each, then the next of each.
        order = [told[number][step] for step in range(changes) for number in range(jobs)]
        # The benchmark's own; the operator does this, too, when it has started.
        gc.freeze()
        cpu, server_cpu = time.process_time(), postmaster.seconds()
        seconds, counted = asyncio.run(_at_once(place, order))
        micros = [(now - then) * 1e6 / len(order) for now, then in
                  ((time.process_time(), cpu), (postmaster.seconds(), server_cpu))]  # fmt: skip
        paced_rate, paced = asyncio.run(_paced(place, _of_others(order), len(order) / seconds * 0.8))
        recorded_jobs = connection.execute(
            "SELECT count(*) FROM extraction.jobs WHERE created_at >= %s AND phase = 'Succeeded'", (_BEGIN,)
        ).fetchone()
        if recorded_jobs is None or recorded_jobs[0] != 2 * jobs or counted.tables["jobs"] != len(order):
            raise RuntimeError(f"{recorded_jobs} of {2 * jobs} jobs were recorded, {counted.tables}")
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
        f"| a flush a second | {paced_rate:,.0f} | {paced.flushes:,} | {len(order) / paced.flushes:,.0f} |",
        f"| one by one | {single_rate:,.0f} | {single.flushes:,} | {len(alone) / single.flushes:,.2f} |",
        "",
        f"× {rate / single_rate:,.1f} changes a second, × {len(order) / counted.flushes:,.0f} fewer transactions.",
        f"CPU µs of a change: {micros[0]:.0f} in the operator, {micros[1]:.0f} in the server.",
    ]
    return lines, {
        "rate": rate, "paced_rate": paced_rate, "single_rate": single_rate, "transactions": counted.flushes,
        "rows": dict(counted.tables), "operator_microseconds": micros[0], "server_microseconds": micros[1],
    }  # fmt: skip


async def _at_once(place: Place, order: list[Told]) -> tuple[float, _Counted]:
    """Write everything as fast as it goes."""
    counted = _Counted()
    recorder = Recorder(RecordConfig(place, "bench", 1 << 30), (), counted)

    async def tell() -> None:
        for at in range(0, len(order), 100):
            while len(recorder.spool) > _MOST_WAITING:
                await asyncio.sleep(0.01)
            for change in order[at : at + 100]:
                recorder.job(change)
            await asyncio.sleep(0)

    begin = time.monotonic()
    telling = asyncio.create_task(tell())
    while not telling.done() or recorder.spool:
        await recorder.flush()
        await asyncio.sleep(0)
    await telling
    seconds = time.monotonic() - begin
    await recorder.close()
    return seconds, counted


async def _paced(place: Place, order: list[Told], rate: float) -> tuple[float, _Counted]:
    """Write at a rate, with the operator's interval; return the rate that it was."""
    counted = _Counted()
    recorder = Recorder(RecordConfig(place, "bench", 1 << 30), (), counted)
    start, at = time.monotonic(), 0

    async def tell() -> None:
        nonlocal at
        while at < len(order):
            due = min(len(order), int((time.monotonic() - start) * rate) + 1)
            for change in order[at:due]:
                recorder.job(change)
            at = due
            await asyncio.sleep(0.005)

    telling = asyncio.create_task(tell())
    while not telling.done() or recorder.spool:
        await asyncio.sleep(1.0)
        await recorder.flush()
    await telling
    seconds = time.monotonic() - start
    await recorder.close()
    return len(order) / seconds, counted


def _of_others(order: list[Told]) -> list[Told]:
    """Return the same changes of other jobs."""
    return [_renamed(change) for change in order]


async def _one_by_one(place: Place, order: list[Told]) -> tuple[float, _Counted]:
    counted = _Counted()
    recorder = Recorder(RecordConfig(place, "bench", 1 << 30), (), counted)
    begin = time.monotonic()
    for change in order:
        recorder.job(change)
        await recorder.flush()
    seconds = time.monotonic() - begin
    await recorder.close()
    return seconds, counted


def _renamed(job: Told) -> Told:
    uid = str(uuid.uuid5(uuid.NAMESPACE_OID, job["metadata"]["uid"]))
    return {**job, "metadata": {**job["metadata"], "uid": uid}}


def _changes(number: int, count: int) -> Iterator[Told]:
    """Yield what the store tells of one job, at each change."""
    uid, created = str(uuid.uuid5(uuid.NAMESPACE_URL, str(number))), _BEGIN + timedelta(seconds=number % 86_400)
    spec = {
        "dataSourceRef": {"name": f"source-{number % 500}"}, "table": f"public.table_{number % 5000}",
        "parallelism": 4, "verification": "Written", "consistency": "Snapshot",
        "partitioning": {"strategy": "Auto", "targetBytes": "64Mi"},
        "sink": {"format": {"type": "Parquet", "compression": "zstd"}, "s3": {"bucket": "lake"}},
    }  # fmt: skip
    for step in range(count):
        phase = _PHASES[min(step * len(_PHASES) // count, len(_PHASES) - 1)] if step < count - 1 else "Succeeded"
        job: dict[str, Any] = {
            "apiVersion": "extraction-operator.io/v1alpha1", "kind": "ExtractionJob",
            "metadata": {
                "name": f"orders-{number}", "namespace": f"team-{number % 20}", "uid": uid, "generation": 1,
                "resourceVersion": str(number * count + step + 1), "creationTimestamp": _time(created),
            },
            "spec": spec,
        }  # fmt: skip
        if phase:
            job["status"] = _status(phase, step, created)
        yield job


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
