"""What the operator takes while thousands of jobs are there and nothing happens, and how soon it is back."""

import asyncio
import time

from bench.operator import objects
from bench.operator.client import BATCH, Client, all_of, client
from bench.operator.plane import Operator, Plane, plane
from bench.operator.report import Report
from bench.operator.scene import ROLE, Scene

_MB = 1_000_000
_MOST_MEMORY, _MOST_SECONDS, _MOST_CPU = 200, 5.0, 1.0


def run(report: Report, *, finished: int, running: int, sources: int, restarts: int, idle: float) -> None:
    """Measure an operator that is started among finished and running jobs."""
    report.settings |= {"finished": finished, "running": running, "sources": sources, "restarts": restarts}
    with plane() as it:
        asyncio.run(_run(it, report, finished, running, sources, restarts, idle))


async def _run(
    it: Plane, report: Report, finished: int, running: int, sources: int, restarts: int, idle: float
) -> None:
    keys = finished + running + sources
    async with client(it.api) as api:
        scene = await Scene.create(api, "standing", sources=sources, jobs=running)
        await all_of((lambda number=number: _ended(api, scene, number)) for number in range(finished))  # type: ignore[misc]
        await all_of(
            (lambda number=number: api.create(scene.jobs, scene.job(number, bundles=4, hold="true", prefix="running")))  # type: ignore[misc]
            for number in range(running)
        )
        with it.operator() as first:
            await _wait_for_workers(api, scene, running)
            report.add(f"first start: peak memory while {running} jobs begin", _peak(first), "MB")
        begins, whole = [], []
        for number in range(restarts):
            with it.operator() as operator:
                begins.append(await operator.reconciled())
                whole.append(await operator.reconciled(keys))
                if number == restarts - 1:
                    await _rest(report, operator, idle)
                    report.details["Warnings of the operator"] = operator.warnings()[:10] or "none"
        report.add("restart → first reconciliation", max(begins), "s", most=_MOST_SECONDS)
        report.add("restart → every object decided about", max(whole), "s")
        report.details["Restarts"] = {
            "first": ", ".join(f"{value:.2f}" for value in begins),
            "all": ", ".join(f"{value:.2f}" for value in whole),
        }


async def _ended(api: Client, scene: Scene, number: int) -> None:
    made = await api.create(scene.jobs, scene.job(number, bundles=2, hold="", prefix="finished"))
    name = made["metadata"]["name"]
    await api.merge(f"{scene.jobs}/{name}/status", objects.succeeded(name))


async def _wait_for_workers(api: Client, scene: Scene, running: int) -> None:
    async with asyncio.timeout(600):
        path = f"{BATCH}/namespaces/{scene.namespace}/jobs"
        # The Job controller counts pods only now and then: every Job has written what it will.
        while True:
            found = (await api.call("GET", f"{path}?labelSelector={ROLE}=work"))["items"]
            if len(found) == running and all(job.get("status", {}).get("ready") == 2 for job in found):
                return
            await asyncio.sleep(1)


async def _rest(report: Report, operator: Operator, idle: float) -> None:
    await asyncio.sleep(15)
    report.add("memory at rest", operator.process.memory_info().rss / _MB, "MB", most=_MOST_MEMORY)
    report.add("peak memory since the start", _peak(operator), "MB", most=_MOST_MEMORY)
    cpu, began = operator.cpu_seconds(), time.monotonic()
    await asyncio.sleep(idle)
    used = (operator.cpu_seconds() - cpu) / (time.monotonic() - began)
    report.add(f"CPU at rest, of one core, over {idle:g} s", 100 * used, "%", most=_MOST_CPU)


def _peak(operator: Operator) -> float:
    with open(f"/proc/{operator.process.pid}/status") as status:  # noqa: PTH123 -- a file of the kernel
        line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / _MB
