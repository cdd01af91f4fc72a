"""Pods, nodes and operators that die."""

import json
import time

from e2e.operator.conftest import ROWS, Operator
from e2e.operator.test_lifecycle import full_speed, slowly, staging
from e2e.support.cluster import Cluster, Object
from e2e.support.jobs import KIND, Job, sessions
from e2e.support.servers import Postgres, Store
from e2e.support.stand_in import StandIn


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


def test_an_evicted_lead_begins_anew_where_that_is_declared(job: Job, store: Store, bucket: str) -> None:
    job = slowly(job, snapshot={"onLoss": "Restart"})
    job.wait_for_pod("work")
    full_speed(job)
    evict(job.namespace, job.wait_for_pod("lead"))
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


def test_a_silent_node_doesnt_hang_the_job(job: Job, stand_in: StandIn, postgres: Postgres) -> None:
    job = slowly(job, snapshot={"onLoss": "Restart"})
    job.wait_for_pod("work")
    stand_in.silence_kubelet()
    try:
        # Its only node is silent: what runs there counts as lost, and is begun anew once the node is back.
        job.namespace.wait_for(
            KIND, job.name, lambda found: max(found["status"].get(count, 0) for count in ("attempt", "workers")) > 1,
            seconds=240,
        )  # fmt: skip
    finally:
        stand_in.wake_kubelet()
    full_speed(job)
    assert job.succeed(seconds=240)["rows"] == ROWS


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
