"""What the real Kueue does with the Jobs of an ExtractionJob, and what becomes of that."""

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

from e2e.kueue.conftest import RESOURCE, Queue
from e2e.support.api import Object
from e2e.support.cluster import HOST_NAME, Cluster
from e2e.support.extraction import Extraction
from e2e.support.jobs import KIND, Job, condition, sessions
from e2e.support.replica import wait_for
from e2e.support.servers import Postgres, Store
from e2e.support.stand_in import StandIn

# Before any fixture, of which one would build it.
pytestmark = pytest.mark.skipif(not os.environ.get("EXTRACTION_KUEUE"), reason="builds Kueue for minutes: make kueue")

LABEL = "kueue.x-k8s.io/queue-name"
POOL = 2
LEAD = 1 + POOL
"""Connections that a lead requests: it holds the snapshot, and reads where there are no workers."""
MANY, FEW = 150_000, 10_000


@pytest.fixture
def tables(postgres: Postgres) -> Iterator[tuple[str, str]]:
    """A table for several worker pods and one that a lead reads itself."""
    with postgres.connect() as connection:
        for name, rows, width in (("many", MANY, 59), ("few", FEW, 1)):
            connection.execute(
                f"CREATE UNLOGGED TABLE public.queued_{name} AS"
                f" SELECT i AS id, repeat(md5(i::text), {width}) AS word FROM generate_series(1, {rows}) AS i"
            )
            connection.execute(f"ANALYZE public.queued_{name}")
            connection.execute(f"GRANT SELECT ON public.queued_{name} TO reader")
        yield "public.queued_many", "public.queued_few"
        connection.execute("DROP TABLE public.queued_many, public.queued_few")


def queued(queue: Queue, job: Job) -> Job:
    """Apply a job that waits in the queue."""
    document = job.extraction.job
    metadata = document["metadata"] | {"name": job.name, "labels": {LABEL: queue.name}}
    queue.namespace.apply(document | {"metadata": metadata})
    return job


def changed_jobs(stand_in: StandIn, namespace: Cluster) -> set[str]:
    """Return who changed Jobs of a namespace, other than their status: service accounts by name."""
    return {
        request.user.rpartition(":")[2]
        for request in stand_in.audit_log(namespace=namespace.namespace)
        if request.resource == "jobs" and not request.subresource and request.verb in {"update", "patch"}
        if request.user.startswith("system:serviceaccount:") and request.code < 300
    }


def test_jobs_go_one_after_the_other_where_the_quota_holds_one(
    queue: Queue, postgres: Postgres, store: Store, bucket: str, tables: tuple[str, str], stand_in: StandIn
) -> None:
    namespace, few = queue.namespace, tables[1]
    queue.make(connections=LEAD)
    jobs = [
        Job(namespace, Extraction(namespace.namespace, postgres, few, HOST_NAME, store, bucket, name), name)
        for name in ("first", "second")
    ]
    jobs[0].apply_source(pool={"size": POOL})
    with postgres.connect() as somebody, somebody.transaction():
        # Whoever comes first can't get at the table, and keeps its quota.
        somebody.execute(f"LOCK TABLE {few} IN ACCESS EXCLUSIVE MODE")
        queued(queue, jobs[0])
        jobs[0].wait_for_phase("Planning")
        queued(queue, jobs[1])
        assert f"queue {queue.name}" in jobs[1].wait_for_reason("Queued")["message"]
        [first], [second] = (job.jobs("lead") for job in jobs)
        assert (first["spec"]["suspend"], second["spec"]["suspend"]) == (False, True)
        assert queue.workloads("QuotaReserved") == [first["metadata"]["name"]]
        assert (jobs[1].status["phase"], jobs[1].pods("lead")) == ("Pending", [])
        assert {name.split("/")[2] for name in sessions(postgres, namespace.namespace)} <= {"first"}
    for job in jobs:
        assert job.succeed()["rows"] == FEW
    # The operator made and deleted Jobs; only Kueue and the Job controller changed them.
    assert {name for name in changed_jobs(stand_in, namespace) if name.startswith("extraction")} == set()
    assert any(name.startswith("kueue") for name in changed_jobs(stand_in, namespace))


def is_queued_again(found: Object) -> bool:
    """Tell whether the second attempt of a job waits in its queue."""
    status = found.get("status", {})
    return bool(status.get("attempt") == 2 and condition(status, "Ready")["reason"] == "Queued")


@pytest.mark.timeout(400)
def test_workers_get_what_quota_there_is_and_begin_anew_when_it_is_taken(
    queue: Queue, postgres: Postgres, store: Store, bucket: str, tables: tuple[str, str]
) -> None:
    namespace = queue.namespace
    queue.make(connections=LEAD + POOL)
    spec = {"parallelism": 2, "verification": "Written", "snapshot": {"onLoss": "Restart"}}
    extraction = Extraction(namespace.namespace, postgres, tables[0], HOST_NAME, store, bucket, "many")
    job = Job(namespace, replace(extraction, spec=spec), "many")
    job.apply_source(pool={"size": POOL}, limits={"maxConnections": 10, "bytesPerSecond": "16Mi"})
    queued(queue, job)
    job.wait_for_pod("work", seconds=120)
    [work] = job.jobs("work")
    [container] = work["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["requests"][RESOURCE] == str(POOL)
    assert (work["spec"]["parallelism"], work["spec"]["completions"]) == (1, 2), "there is quota for one"
    queue.stop("HoldAndDrain")
    # Its snapshot went with the lead.
    namespace.wait_for(KIND, job.name, is_queued_again, 120)
    wait_for(lambda: queue.workloads("QuotaReserved") == [], "the quota is given back", 30)
    queue.stop("None")
    assert job.succeed(seconds=240)["rows"] == MANY
    assert job.status["consistency"] == "Snapshot"
