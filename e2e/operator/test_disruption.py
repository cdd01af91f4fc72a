"""Pods, nodes and operators that die."""

import json
import re
import time

from e2e.operator.conftest import ROWS, Operator
from e2e.operator.test_lifecycle import full_speed, slowly, staging
from e2e.support.api import Object
from e2e.support.cluster import Cluster
from e2e.support.jobs import Job, sessions
from e2e.support.servers import Postgres, Store
from e2e.support.stand_in import StandIn
from support.databases import wait_until

NOTICED = 15.0
"""Seconds within which the loss of a snapshot is noticed by operator and workers, on a busy machine."""


def evict(namespace: Cluster, pod: Object) -> None:
    """Evict a pod, as a drain does."""
    name = pod["metadata"]["name"]
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": namespace.namespace}}
    path = f"/api/v1/namespaces/{namespace.namespace}/pods/{name}/eviction"
    namespace.kubectl("create", "--raw", path, "--filename", "-", stdin=json.dumps(body))


def test_an_evicted_worker_doesnt_count(job: Job) -> None:
    job = slowly(job)
    evict(job.namespace, job.wait_for_pod("work"))
    full_speed(job)
    assert job.succeed(seconds=180)["rows"] == ROWS
    assert job.status["attempt"] == 1


def test_an_evicted_lead_is_missed_within_seconds_and_begins_anew_where_that_is_declared(
    job: Job, postgres: Postgres, store: Store, bucket: str
) -> None:
    job = slowly(job, snapshot={"onLoss": "Restart"})
    job.wait_for_pod("work")
    namespace = job.namespace.namespace
    wait_until(lambda: "-work-1-" in str(sessions(postgres, namespace)), 30)
    full_speed(job)
    lead = job.wait_for_pod("lead")
    evict(job.namespace, lead)
    evicted = time.monotonic()
    job.wait_for_reason("SnapshotLost", seconds=NOTICED)
    # Nobody reads on under a snapshot that nobody holds.
    wait_until(lambda: not re.search("-(lead|work)-1-", str(sessions(postgres, namespace))), NOTICED)
    assert time.monotonic() - evicted < NOTICED
    assert job.succeed(seconds=180)["rows"] == ROWS
    assert job.status["attempt"] == 2
    assert staging(store, bucket) == []


def test_an_operator_killed_at_any_moment_goes_on_where_things_stand(job: Job, operator: Operator) -> None:
    job = job.apply()
    for phase in ("Planning", "Running", "Publishing"):
        job.wait_for_phase(phase, "Succeeded", "Failed")
        operator.restart_hard()
    assert job.succeed(seconds=180)["rows"] == ROWS
    assert job.status["attempt"] == 1


def test_a_silent_node_doesnt_hang_the_job(job: Job, stand_in: StandIn) -> None:
    job = slowly(job, rate="1Mi", snapshot={"onLoss": "Restart"})
    job.wait_for_pod("work")
    with stand_in.silent_kubelet():
        # Its pods stay Terminating for as long as it is silent, and are lost all the same.
        job.wait_for_reason("SnapshotLost", seconds=200)
        full_speed(job)
    # There is no other node: cleaning up and beginning anew had to wait for this one.
    assert job.succeed(seconds=200)["rows"] == ROWS
    assert job.status["attempt"] == 2


def test_the_second_replica_takes_over(job: Job, operator: Operator) -> None:
    lease = operator.cluster.get_all("leases.coordination.k8s.io")[0]
    leader = lease["spec"]["holderIdentity"].partition("_")[0]
    operator.cluster.kubectl("delete", "pod", leader, "--grace-period=0", "--force")
    killed = time.monotonic()
    operator.cluster.wait_for(
        "leases.coordination.k8s.io", lease["metadata"]["name"],
        lambda found: found["spec"].get("holderIdentity", "").partition("_")[0] not in {leader, ""}, seconds=30,
    )  # fmt: skip
    assert time.monotonic() - killed < 15
    assert job.apply().succeed()["rows"] == ROWS


def test_no_session_outlives_its_job(job: Job, postgres: Postgres) -> None:
    job = slowly(job)
    job.wait_for_pod("work")
    job.patch(cancel=True)
    job.wait_for_phase("Cancelled")
    assert sessions(postgres, job.namespace.namespace) == []
