"""Where the time of a small job goes on a real cluster: apply → status Succeeded, by stage.

Stages are told apart by what watches send, at the moment in which it arrives here: timestamps in objects have no
fractions of a second. What the kubelet reports comes a little after it happened.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from e2e.support.charts import Helm
from e2e.support.cluster import HOST_NAME, Cluster
from e2e.support.extraction import Extraction
from e2e.support.host import address_towards
from e2e.support.servers import Postgres, postgres_with_tls, s3_store

from bench.operator.client import BATCH, CORE, GROUP, Client, Raw
from bench.operator.plane import PROGRAMS, ROOT
from bench.operator.report import Report
from bench.operator.scene import ROLE
from extraction_operator.cluster.login import log_in

_MOST = 8.0
_ROWS = 10_000
_IMAGES = "localhost/extraction-operator"
_MARKS = (
    "lead Job is there", "its pod is there", "on a node", "hold runs", "plan runs", "plan has ended", "publish runs",
    "publish has ended", "Succeeded",
)  # fmt: skip


def run(report: Report, *, kubeconfig: Path, name: str, rounds: int) -> None:
    """Measure on a cluster of e2e/node that runs, with our images loaded; an operator is installed if there is none."""
    cluster = Cluster(name, ROOT / "e2e" / "node" / "kind", PROGRAMS / "kubectl", kubeconfig.absolute())
    address = next(
        entry["address"] for node in cluster.get_all("nodes", "--selector=node-role.kubernetes.io/control-plane")
        for entry in node["status"]["addresses"] if entry["type"] == "InternalIP"
    )  # fmt: skip
    here = address_towards(address)
    report.settings |= {"rows": _ROWS, "rounds": rounds}
    with (
        _operator(cluster), cluster.fresh_namespace() as namespace, postgres_with_tls(here, HOST_NAME) as postgres,
        s3_store(here) as store,
    ):  # fmt: skip
        _load(postgres)
        store.client().create_bucket(Bucket="stages")
        extraction = Extraction(
            namespace.namespace, postgres, "public.few", HOST_NAME, store, "stages", "few", {"verification": "Written"}
        )
        extraction.apply_secrets(namespace)
        asyncio.run(_run(report, kubeconfig, extraction, rounds))


async def _run(report: Report, kubeconfig: Path, extraction: Extraction, rounds: int) -> None:
    login = await log_in(kubeconfig)
    async with login.session() as session:
        client = Client(session, login.server)
        namespace = extraction.namespace
        source = await _source(client, extraction)
        # The first one, which warms up caches, doesn't count.
        turns = [
            await _turn(client, namespace, extraction.job, f"few-{number}-{secrets.token_hex(2)}")
            for number in range(rounds + 1)
        ]
        counted = turns[1:]
        report.add("apply → Succeeded, median", median(turn["Succeeded"] for turn in counted), "s", most=_MOST)
        report.add("apply → Succeeded, slowest", max(turn["Succeeded"] for turn in counted), "s")
        report.add("DataSource applied → Ready, once, not part of it", source, "s")
        before = "applied"
        for mark in _MARKS:
            spent = median(turn[mark] - turn.get(before, 0.0) for turn in counted)
            report.add(f"{before} → {mark}", spent, "s")
            before = mark
        report.details["Turns"] = {
            str(number): ", ".join(f"{mark} {turn[mark]:.2f}" for mark in _MARKS) for number, turn in enumerate(turns)
        }


async def _source(client: Client, extraction: Extraction) -> float:
    path, ready = f"{GROUP}/namespaces/{extraction.namespace}/datasources", asyncio.Event()

    def seen(_: str, found: Raw) -> None:
        conditions = found.get("status", {}).get("conditions") or ()
        if any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions):
            ready.set()

    async with client.watching(path, "", seen), asyncio.timeout(120):
        began = time.monotonic()
        await client.create(path, extraction.source)
        await ready.wait()
        return time.monotonic() - began


async def _turn(client: Client, namespace: str, job: Raw, name: str) -> dict[str, float]:
    clock = _Clock(name)
    spec = job["spec"]
    spec = spec | {"sink": spec["sink"] | {"s3": spec["sink"]["s3"] | {"prefix": f"{name}/"}}}
    jobs = f"{GROUP}/namespaces/{namespace}/extractionjobs"
    async with (
        client.watching(jobs, "", clock.job), asyncio.timeout(180),
        client.watching(f"{BATCH}/namespaces/{namespace}/jobs", f"{ROLE}=lead", clock.lead),
        client.watching(f"{CORE}/namespaces/{namespace}/pods", f"{ROLE}=lead", clock.pod),
    ):  # fmt: skip
        clock.began = time.monotonic()
        await client.create(jobs, job | {"metadata": {"name": name, "namespace": namespace}, "spec": spec})
        await clock.over.wait()
        # The kubelet's last report may come after the operator has seen the message in the one before.
        await asyncio.sleep(1)
    for mark, following in zip(reversed(_MARKS[:-1]), reversed(_MARKS[1:]), strict=True):
        # A change that was reported together with the next one.
        clock.marks[mark] = min(clock.marks.get(mark, clock.marks[following]), clock.marks[following])
    return clock.marks


@dataclass
class _Clock:
    """Notes when something was seen first."""

    name: str
    began: float = 0.0
    marks: dict[str, float] = field(default_factory=dict)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def mark(self, what: str) -> None:
        self.marks.setdefault(what, time.monotonic() - self.began)

    def job(self, _: str, found: Raw) -> None:
        phase = found.get("status", {}).get("phase")
        if found["metadata"]["name"] == self.name and phase in {"Succeeded", "Failed", "Cancelled"}:
            if phase != "Succeeded":
                raise RuntimeError(f"{self.name}: {found['status']}")
            self.mark("Succeeded")
            self.over.set()

    def lead(self, _: str, found: Raw) -> None:
        if self._is_mine(found):
            self.mark("lead Job is there")

    def pod(self, _: str, found: Raw) -> None:
        if not self._is_mine(found):
            return
        self.mark("its pod is there")
        if found["spec"].get("nodeName"):
            self.mark("on a node")
        status = found.get("status", {})
        for container in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
            state: dict[str, Any] = container["state"]
            if "running" in state or "terminated" in state:
                self.mark(f"{container['name']} runs")
            if "terminated" in state:
                self.mark(f"{container['name']} has ended")

    def _is_mine(self, found: Raw) -> bool:
        return bool(found["metadata"]["labels"].get("extraction-operator.io/job") == self.name)


def _load(postgres: Postgres) -> None:
    with postgres.connect() as connection:
        connection.execute(
            "CREATE TABLE public.few AS SELECT i AS id, md5(i::text) AS word FROM generate_series(1, %s::int) AS i",
            [_ROWS],
        )
        connection.execute("ANALYZE public.few")
        connection.execute("GRANT SELECT ON public.few TO reader")


@contextlib.contextmanager
def _operator(cluster: Cluster) -> Iterator[None]:
    """Use the operator that is installed, or install one for a while: two would get into each other's way."""
    choice = "--selector=app.kubernetes.io/name=extraction-operator"
    if installed := cluster.get_all("deployments", "--all-namespaces", choice):
        if not any(found.get("status", {}).get("availableReplicas") for found in installed):
            where = ", ".join(found["metadata"]["namespace"] for found in installed)
            raise RuntimeError(f"The operator of namespace {where} isn't available: mend or uninstall it first.")
        yield
        return

    def image(name: str) -> dict[str, str]:
        return {"repository": f"{_IMAGES}/{name}", "tag": "dev", "pullPolicy": "Never"}

    values = {"image": image("operator"), "extractor": {"image": image("extractor")}}
    with cluster.fresh_namespace() as namespace:
        helm = Helm(PROGRAMS / "helm", namespace, cluster.kubeconfig.parent / "bench-helm")
        helm.install("stages", ROOT / "charts" / "extraction-operator", values, "--take-ownership")
        try:
            yield
        finally:
            helm.uninstall("stages")
