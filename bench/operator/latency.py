"""How long after an ExtractionJob its lead Job is there, while jobs are created at a steady rate.

One peer is no operator at all: who created an ExtractionJob creates a Job of one pod upon the answer. That is what the
API server and Kubernetes' own controllers take at this rate on this machine. The other one is the least operator that
could be: it watches, adds a finalizer, creates a Job of one pod, and says nothing of it.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from bench.operator import audit, objects
from bench.operator.audit import Write
from bench.operator.client import BATCH, Client, Raw, client
from bench.operator.plane import Plane, described, plane
from bench.operator.report import Report, quantile
from bench.operator.scene import Scene

_LONGEST = 0.05
_PEER = "no operator: a bare Job upon the answer"
_LEAST = "least operator: watch, finalizer, a bare Job"
_FINALIZER = "bench.extraction-operator.io/least"


def run(report: Report, *, rate: float, seconds: float, sources: int, raised: bool) -> None:
    """Measure; both moments are those of the API server's answers, by its audit log."""
    report.settings |= {
        "creations": round(rate * seconds), "per second": rate, "sources": sources, "rates": described(raised),
    }  # fmt: skip
    with plane(raised=raised) as it:
        asyncio.run(_run(it, report, rate, seconds, sources))


async def _run(it: Plane, report: Report, rate: float, seconds: float, sources: int) -> None:
    async with client(it.api) as api:
        count = round(rate * seconds)
        scenes = {
            # Pods of these run on: what else the API server does is little.
            "leads that go on": (await Scene.create(api, "going-on", sources=sources, jobs=count), "publish"),
            # And these go their whole way in one pod: at this rate the controllers' own writes fill two cores.
            "leads that end at once": (await Scene.create(api, "ending", sources=sources, jobs=count), ""),
        }
        bare = await Scene.create(api, "bare", sources=sources, jobs=count)
        floor = await _measure(report, it, api, bare, rate, count, _PEER)
        least = await Scene.create(api, "least", sources=sources, jobs=count)
        async with _least_operator(api, least):
            await _measure(report, it, api, least, rate, count, _LEAST)
        with it.operator() as operator:
            await operator.reconciled(2 * sources)
            for text, (scene, hold) in scenes.items():
                found = await _measure(report, it, api, scene, rate, count, text, hold)
                report.add(f"p95, {text} ÷ {_PEER}", quantile(found, 0.95) / quantile(floor, 0.95), "×")
            report.details["Warnings of the operator"] = operator.warnings()[:10] or "none"


@contextlib.asynccontextmanager
async def _least_operator(api: Client, scene: Scene) -> AsyncIterator[None]:
    """Do for each ExtractionJob what none can do without, for the length of the block."""
    async with asyncio.TaskGroup() as group:

        async def begin(name: str) -> None:
            await api.merge(f"{scene.jobs}/{name}", {"metadata": {"finalizers": [_FINALIZER]}})
            await _create_bare(api, scene.namespace, name)

        def seen(kind: str, found: Raw) -> None:
            metadata = found["metadata"]
            if kind == "ADDED":
                group.create_task(begin(metadata["name"]))
            elif kind == "MODIFIED" and "deletionTimestamp" in metadata and metadata.get("finalizers"):
                group.create_task(api.merge(f"{scene.jobs}/{metadata['name']}", {"metadata": {"finalizers": None}}))

        async with api.watching(scene.jobs, "", seen):
            yield


async def _create_bare(api: Client, namespace: str, name: str) -> None:
    path = f"{BATCH}/namespaces/{namespace}/jobs"
    await api.create(path, objects.bare(namespace, f"{name}-00000000", "lead-1", indexes=1))


async def _measure(
    report: Report, it: Plane, api: Client, scene: Scene, rate: float, count: int, text: str, hold: str = ""
) -> list[float]:
    """Create jobs at a rate that doesn't wait for answers: a slow server gets no rest by being slow."""

    async def create(number: int) -> None:
        made = await api.create(scene.jobs, scene.job(number, bundles=1, hold=hold))
        if text == _PEER:
            await _create_bare(api, scene.namespace, made["metadata"]["name"])

    before, began = it.cpu_seconds(), time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            group.create_task(create(number))
    async with asyncio.timeout(300):
        while len(found := delays(audit.writes(it), scene.namespace)) < count:
            await asyncio.sleep(1)
    report.details[f"CPU seconds per job, {text}"] = {
        name: round((used - before.get(name, 0.0)) / count, 3) for name, used in it.cpu_seconds().items()
    }
    _judge(report, text, found, most=None if text in {_PEER, _LEAST} else _LONGEST)
    await api.clear(scene.namespace)
    return found


def delays(found: list[Write], namespace: str) -> list[float]:
    """Return the seconds from each ExtractionJob to its first Job."""
    created: dict[str, float] = {}
    leads: dict[str, float] = {}
    for write in found:
        if write.verb != "create" or write.namespace != namespace or write.code >= 300:
            continue
        if write.resource == "extractionjobs":
            created[write.name] = write.answered
        elif write.resource == "jobs":
            # NAME-UID8-lead-1
            leads[write.name.rsplit("-", 3)[0]] = write.answered
    return [leads[name] - moment for name, moment in created.items() if name in leads]


def _judge(report: Report, text: str, found: list[float], *, most: float | None) -> None:
    for share in (0.5, 0.95, 0.99, 1.0):
        limit = most * 1000 if most and share == 0.95 else None
        report.add(f"created → Job, p{share * 100:g}, {text}", quantile(found, share) * 1000, "ms", most=limit)
