"""ExtractionJobs to their end, against pairs of bare Jobs of which the first triggers the second."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from statistics import median

from bench.operator import audit, objects
from bench.operator.client import BATCH, CORE, Client, Raw, all_of, client, has_condition
from bench.operator.plane import OPERATOR, Operator, Plane, described, plane
from bench.operator.report import Report
from bench.operator.scene import ROLE, Publisher, Scene

_MOST_RATIO = 1.25
_MOST_WRITES = 8
_POLL = 0.02


def run(report: Report, *, jobs: int, sources: int, bundles: int, rounds: int, admitted: int, raised: bool) -> None:
    """Measure both in turn; who begins alternates with the rounds."""
    report.settings |= {
        "jobs": jobs, "sources": sources, "bundles": bundles, "rounds": rounds, "jobs admitted per source": admitted,
        "rates": described(raised),
    }  # fmt: skip
    with plane(raised=raised) as it:
        asyncio.run(_run(it, report, jobs, sources, bundles, rounds, admitted))


class _Progress:
    """Counts the versions of ExtractionJobs that differ from the ones before in nothing but their progress."""

    def __init__(self) -> None:
        self.writes = 0
        self._known: dict[str, Raw] = {}

    def see(self, found: Raw) -> None:
        """Take in a version."""
        status = {name: value for name, value in found.get("status", {}).items() if name != "progress"}
        kept = {"status": status, "finalizers": found["metadata"].get("finalizers")}
        before = self._known.get(name := found["metadata"]["name"])
        self.writes += before == kept
        self._known[name] = kept


async def _run(
    it: Plane, report: Report, jobs: int, sources: int, bundles: int, rounds: int, admitted: int
) -> None:  # fmt: skip
    ours: list[float] = []
    theirs: list[float] = []
    async with client(it.api) as api:
        scenes = [
            await Scene.create(api, f"ours-{number}", sources=sources, jobs=admitted) for number in range(rounds + 1)
        ]
        with it.operator() as operator:
            await operator.reconciled(sources * len(scenes))
            # Once untimed: connections, caches and the garbage collectors' informers warm up.
            warm = min(50, jobs)
            await _extractions(api, scenes[rounds], warm, bundles, _Progress())
            await api.clear(scenes[rounds].namespace)
            await api.namespace("bare")
            await _bare(api, "bare", warm, bundles)
            await api.clear("bare")
            for number in range(rounds):
                turns: list[Callable[[], Awaitable[None]]] = [
                    lambda number=number: _ours(it, api, report, ours, operator, scenes[number], jobs, bundles),  # type: ignore[misc]
                    lambda: _theirs(it, api, report, theirs, jobs, bundles),
                ]
                for turn in turns if number % 2 else reversed(turns):
                    await turn()
            report.details["Warnings of the operator"] = operator.warnings()[:10] or "none"
    spent = [report.details[f"CPU seconds per {what}"]["all"] for what in ("ExtractionJob", "pair of bare Jobs")]
    report.add("CPU of all programs per ExtractionJob / per pair of bare Jobs, last round", spent[0] / spent[1], "×")
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    report.details["Seconds by round"] = {
        "ExtractionJobs": ", ".join(f"{value:.1f}" for value in ours),
        "pairs of bare Jobs": ", ".join(f"{value:.1f}" for value in theirs),
    }
    report.add(f"{jobs} ExtractionJobs / {jobs} pairs of bare Jobs, median of the ratios", median(ratios), "×",
               most=_MOST_RATIO)  # fmt: skip


async def _ours(
    it: Plane, api: Client, report: Report, seconds: list[float], operator: Operator, scene: Scene, jobs: int,
    bundles: int,
) -> None:  # fmt: skip
    cpu, decided = operator.cpu_seconds(), operator.metrics().get("reconcile_seconds_count", 0)
    before = it.cpu_seconds()
    progress = _Progress()
    seconds.append(await _extractions(api, scene, jobs, bundles, progress))
    report.details["CPU seconds per ExtractionJob"] = _per_job(it, before, jobs)
    await asyncio.sleep(3)  # what is written after the last phase: finalizers, deletions, counters of the sources
    used = operator.cpu_seconds() - cpu
    found = [write for write in audit.writes(it) if write.namespace == scene.namespace]
    per_job = audit.per_object(found, jobs)
    if len(seconds) == 1:
        mine = per_job.get(OPERATOR, {})
        objects_written = sum(
            count for what, count in mine.items() if not what.endswith((" events", " datasources/status"))
        )
        told = progress.writes / jobs
        report.add("writes of the operator per job, without Events, progress and counters of sources",
                   objects_written - told, "writes", most=_MOST_WRITES)  # fmt: skip
        report.add("writes of progress per job", told, "writes")
        report.add("status writes of sources per job", mine.get("patch datasources/status", 0), "writes")
        report.add("CPU of the operator per job", 1000 * used / jobs, "ms")
        decided = operator.metrics().get("reconcile_seconds_count", 0) - decided
        report.add("decisions of the operator per job", decided / jobs, "decisions")
        report.add("memory of the operator", operator.process.memory_info().rss / (1 << 20), "MiB")
        report.details["Writes per job by program"] = per_job
    await api.clear(scene.namespace)


async def _theirs(it: Plane, api: Client, report: Report, seconds: list[float], jobs: int, bundles: int) -> None:
    before = it.cpu_seconds()
    seconds.append(await _bare(api, "bare", jobs, bundles))
    report.details["CPU seconds per pair of bare Jobs"] = _per_job(it, before, jobs)
    await api.clear("bare")


def _per_job(it: Plane, before: dict[str, float], jobs: int) -> dict[str, float]:
    """Return the CPU of each program since then, and of all: it depends less than seconds on what else runs."""
    used = {name: round((now - before.get(name, 0.0)) / jobs, 4) for name, now in it.cpu_seconds().items()}
    return used | {"all": round(sum(used.values()), 4)}


async def _extractions(api: Client, scene: Scene, jobs: int, bundles: int, progress: _Progress) -> float:
    """Create jobs; return the seconds until all have succeeded."""
    publisher = Publisher(api, scene.namespace)
    ended: set[str] = set()

    def seen(kind: str, found: Raw) -> None:
        if kind == "MODIFIED":
            progress.see(found)
        phase = found.get("status", {}).get("phase")
        if phase == "Succeeded":
            ended.add(found["metadata"]["name"])
        elif phase in {"Failed", "Cancelled"}:
            raise RuntimeError(f"{found['metadata']['name']}: {found['status']}")

    pods, children = f"{CORE}/namespaces/{scene.namespace}/pods", f"{BATCH}/namespaces/{scene.namespace}/jobs"
    async with (
        api.watching(pods, f"{ROLE}=lead", publisher.pod),
        api.watching(children, f"{ROLE}=work", publisher.job),
        api.watching(scene.jobs, "", seen),
    ):
        began = time.monotonic()
        make = all_of(
            (lambda number=number: api.create(scene.jobs, scene.job(number, bundles=bundles, hold="publish")))  # type: ignore[misc]
            for number in range(jobs)
        )
        await _drive(make, lambda: len(ended) >= jobs, publisher.waiting, publisher.publish)
        return time.monotonic() - began


async def _bare(api: Client, namespace: str, jobs: int, bundles: int) -> float:
    """Create first Jobs, each of which triggers a second; return the seconds until all are complete."""
    path = f"{BATCH}/namespaces/{namespace}/jobs"
    first: list[str] = []
    ended: set[str] = set()
    known: set[str] = set()

    def seen(_: str, found: Raw) -> None:
        labels = found["metadata"]["labels"]
        if has_condition(found, "Failed"):
            raise RuntimeError(f"{found['metadata']['name']}: {found['status']}")
        if has_condition(found, "Complete") and found["metadata"]["name"] not in known:
            known.add(found["metadata"]["name"])
            if labels["step"] == "first":
                first.append(labels["pair"])
            else:
                ended.add(labels["pair"])

    async with api.watching(path, "step", seen):
        began = time.monotonic()
        make = all_of(
            (lambda number=number: api.create(path, objects.bare(namespace, f"pair-{number}", "first", indexes=1)))  # type: ignore[misc]
            for number in range(jobs)
        )
        await _drive(
            make, lambda: len(ended) >= jobs, first,
            lambda name: api.create(path, objects.bare(namespace, name, "second", indexes=bundles)),
        )  # fmt: skip
        return time.monotonic() - began


async def _drive(
    make: Awaitable[None], is_over: Callable[[], bool], waiting: list[str], do: Callable[[str], Awaitable[object]]
) -> None:
    """Make the jobs, and meanwhile do what waits, until all is over."""
    async with asyncio.timeout(1200), asyncio.TaskGroup() as group:
        made = asyncio.ensure_future(make)
        while not is_over():
            while waiting:
                group.create_task(_awaited(do(waiting.pop())))
            if made.done():
                made.result()
            await asyncio.sleep(_POLL)


async def _awaited(work: Awaitable[object]) -> None:
    await work
