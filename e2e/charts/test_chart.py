"""The chart on a cluster: installed, upgraded, rolled back and uninstalled while jobs run."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from e2e.charts.conftest import CHART
from e2e.support.api import Object
from e2e.support.charts import Helm
from e2e.support.cluster import HOST_NAME, Cluster
from e2e.support.extraction import Extraction
from e2e.support.jobs import KIND, SOURCE, Job
from e2e.support.servers import Postgres, Store
from extraction_operator.plan.values import FINALIZER

ROWS = 40_000
CRDS = Path(__file__).parents[2] / "crds"
# Another release, or kubectl, may have brought the definitions to this cluster.
TAKE = "--take-ownership"


@pytest.fixture
def values(restricted: Cluster, operator_image: str, extractor_image: str) -> dict[str, Any]:
    """Values for the images of the tests, and for a watch of the test's namespace alone."""

    def image(name: str) -> dict[str, str]:
        repository, _, tag = name.rpartition(":")
        return {"repository": repository, "tag": tag, "pullPolicy": "Never"}

    return {
        "image": image(operator_image), "extractor": {"image": image(extractor_image)},
        "watch": {"namespaces": [restricted.namespace]},
        "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}},
    }  # fmt: skip


@pytest.fixture
def release(helm: Helm) -> Iterator[Helm]:
    """Helm, and at the end no release: an operator that goes with its namespace leaves finalizers behind."""
    yield helm
    for name in helm.releases():
        helm.uninstall(name)


@pytest.fixture
def job(restricted: Cluster, postgres: Postgres, store: Store, bucket: str) -> Iterator[Job]:
    """A job that its source slows down to some seconds, not applied yet."""
    with postgres.connect() as connection:
        connection.execute("DROP TABLE IF EXISTS public.charted")
        connection.execute(
            "CREATE TABLE public.charted AS SELECT id, repeat(md5(id::text), 8) AS word"
            f" FROM generate_series(1, {ROWS}) AS id"
        )
        connection.execute("GRANT SELECT ON public.charted TO reader")
    extraction = Extraction(
        namespace=restricted.namespace, postgres=postgres, table="public.charted", host=HOST_NAME, store=store,
        bucket=bucket, prefix="records", spec={"partitioning": {"targetBytes": "1Mi"}},
    )  # fmt: skip
    yield Job(restricted, extraction)
    with postgres.connect() as connection:
        connection.execute("DROP TABLE IF EXISTS public.charted")


def start(job: Job, name: str) -> Job:
    """Apply a job of this name, which lasts for a while; return it when it is being read."""
    job.apply_source(limits={"bytesPerSecond": "1Mi"})
    changed = replace(job, name=name, extraction=replace(job.extraction, prefix=f"{name}/"))
    changed.apply_alone()
    # One pod is enough for it; it reads now.
    changed.wait_for_phase("Running")
    return changed


def uids(job: Job) -> set[str]:
    return {found["metadata"]["uid"] for role in ("lead", "work") for found in job.jobs(role)}


def operator_pods(cluster: Cluster) -> list[Object]:
    return cluster.get_all("pods", "--selector=app.kubernetes.io/component=operator")


def test_jobs_run_on_through_an_upgrade_and_a_rollback(
    restricted: Cluster, release: Helm, values: dict[str, Any], job: Job
) -> None:
    release.install("ours", CHART, values, TAKE)
    deployment = restricted.get("deployment", "ours-extraction-operator")
    assert deployment["status"]["readyReplicas"] == 2
    before = [pod["metadata"]["name"] for pod in operator_pods(restricted)]

    first = start(job, "upgraded")
    children = uids(first)
    release.upgrade("ours", CHART, values | {"settings": {"logLevel": "debug"}}, TAKE)
    # Helm waits for the new ones alone.
    for name in before:
        restricted.wait_until_gone("pod", name)
    # None was made anew; those of a job that has ended meanwhile are gone.
    assert uids(first) <= children
    assert first.succeed(180)["rows"] == ROWS
    assert first.status["attempt"] == 1

    second = start(job, "rolled-back")
    children = uids(second)
    release("rollback", "ours", "1", "--wait", "--timeout=2m")
    arguments = restricted.get("deployment", "ours-extraction-operator")["spec"]["template"]["spec"]["containers"][0]
    assert "--log-level=info" in arguments["args"]
    assert uids(second) <= children
    assert second.succeed(180)["rows"] == ROWS
    assert second.status["attempt"] == 1


def test_uninstalling_leaves_objects_that_can_be_deleted(
    restricted: Cluster, release: Helm, values: dict[str, Any], job: Job
) -> None:
    release.install("ours", CHART, values, TAKE)
    running = start(job, "left")
    assert FINALIZER in running.found["metadata"]["finalizers"]
    release.uninstall("ours")
    assert release.releases() == {}
    assert operator_pods(restricted) == []
    assert restricted.get_all("jobs", "--selector=app.kubernetes.io/component=release") == []
    # The definitions stay, and so does what people declared.
    assert FINALIZER not in running.found["metadata"].get("finalizers", [])
    for kind, name in ((KIND, "left"), (SOURCE, "shop")):
        restricted.kubectl("delete", kind, name, "--timeout=30s")


def test_an_operator_that_is_installed_again_goes_on_with_what_runs(
    restricted: Cluster, release: Helm, values: dict[str, Any], job: Job
) -> None:
    release.install("ours", CHART, values, TAKE)
    running = start(job, "again")
    release.uninstall("ours")
    release.install("ours", CHART, values, TAKE)
    assert running.succeed(180)["rows"] == ROWS


def test_without_keep_uninstalling_takes_everything_along(
    restricted: Cluster, release: Helm, values: dict[str, Any], job: Job
) -> None:
    try:
        release.install("ours", CHART, values | {"crds": {"keep": False}}, TAKE)
        start(job, "gone")
        release.uninstall("ours")
        for plural in (KIND, SOURCE):
            restricted.wait_until_gone("crd", plural)
    finally:
        # Other tests need them.
        restricted.kubectl("apply", "--server-side", "--filename", str(CRDS))
        for plural in (KIND, SOURCE):
            restricted.kubectl("wait", "--for=condition=Established", f"crd/{plural}", "--timeout=60s")


def test_without_the_hook_nothing_is_released(
    restricted: Cluster, release: Helm, values: dict[str, Any], job: Job
) -> None:
    release.install("ours", CHART, values | {"uninstall": {"releaseFinalizers": False}}, TAKE)
    running = start(job, "held")
    release.uninstall("ours")
    assert FINALIZER in running.found["metadata"]["finalizers"]
    # For the namespace to go.
    for kind, name in ((KIND, "held"), (SOURCE, "shop")):
        restricted.kubectl("patch", kind, name, "--type=merge", "--patch", '{"metadata": {"finalizers": null}}')
