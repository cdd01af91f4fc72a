"""What people do to a job while it runs."""

import json
from dataclasses import replace

import pytest

from e2e.operator.conftest import FEW, ROWS
from e2e.support.cluster import Refused, has_condition
from e2e.support.jobs import KIND, Job, condition, sessions
from e2e.support.servers import Postgres, Store


def slowly(job: Job, *, rate: str = "2Mi", **spec: object) -> Job:
    """Apply the job, under a limit of bytes a second with which it takes long enough to be disturbed."""
    job.apply_source(limits={"maxConnections": 10, "bytesPerSecond": rate})
    changed = replace(job, extraction=replace(job.extraction, spec=job.extraction.spec | spec))
    changed.apply_alone()
    return changed


def full_speed(job: Job) -> None:
    """Let pods that start from now on read as fast as they can."""
    job.apply_source(limits={"maxConnections": 10})


def staging(store: Store, bucket: str) -> list[str]:
    """Return what is in the bucket and in uploads, all but the published set."""
    keys = [entry["Key"] for entry in store.client().list_objects_v2(Bucket=bucket).get("Contents", [])]
    uploads = [entry["Key"] for entry in store.client().list_multipart_uploads(Bucket=bucket).get("Uploads", [])]
    return [key for key in keys if "_staging" in key] + uploads


def test_suspend_pauses_the_workers_and_resuming_goes_on(job: Job, postgres: Postgres) -> None:
    job = slowly(job)
    job.wait_for_pod("work")
    job.patch(suspend=True)
    job.wait_for_phase("Suspended")
    for pod in job.pods("work"):
        job.namespace.wait_until_gone("pod", pod["metadata"]["name"])
    # The lead holds the snapshot.
    assert len(sessions(postgres, job.namespace.namespace)) == 1
    full_speed(job)
    job.patch(suspend=False)
    assert job.succeed()["rows"] == ROWS


def test_parallelism_changes_the_running_job(job: Job) -> None:
    # A bundle is a minute's work, so at this rate there is more than one even for one pod.
    job = slowly(job, rate="512Ki", parallelism=1)
    job.wait_for_pod("work")
    assert job.jobs("work")[0]["spec"]["parallelism"] == 1
    job.patch(parallelism=2)
    job.namespace.wait_for_any(
        "jobs", f"--selector={job.selector('work')}", lambda found: found["status"].get("active") == 2, 60
    )


def test_cancel_ends_the_job_without_a_result(job: Job, postgres: Postgres, store: Store, bucket: str) -> None:
    job = slowly(job)
    job.wait_for_pod("work")
    job.patch(cancel=True)
    status = job.wait_for_phase("Cancelled")
    assert "result" not in status
    assert sessions(postgres, job.namespace.namespace) == []
    assert staging(store, bucket) == []
    assert job.found["metadata"].get("finalizers", []) == []


def test_a_deadline_fails_the_job(job: Job, store: Store, bucket: str) -> None:
    job = slowly(job, activeDeadlineSeconds=15)
    assert job.fail()["reason"] == "DeadlineExceeded"
    assert staging(store, bucket) == []


def test_retry_begins_a_failed_job_anew(small_job: Job, postgres: Postgres) -> None:
    job = replace(small_job, extraction=replace(small_job.extraction, table="public.later")).apply()
    with postgres.connect() as connection:
        connection.execute("DROP TABLE IF EXISTS public.later")
        assert job.fail()["reason"] == "NotFound"
        connection.execute("CREATE TABLE public.later AS SELECT * FROM public.few")
        connection.execute("GRANT SELECT ON public.later TO reader")
        job.patch(retry=1)
        # Until the operator has seen that, it is the phase of the first attempt that is final.
        job.namespace.wait_for(KIND, job.name, lambda found: found["status"]["attempt"] == 2)
        assert job.succeed()["rows"] == FEW
        assert job.status["attempt"] == 2
        connection.execute("DROP TABLE public.later")


def test_deleting_a_running_job_ends_its_sessions_and_cleans_staging(
    job: Job, postgres: Postgres, store: Store, bucket: str
) -> None:
    job = slowly(job)
    job.wait_for_pod("work")
    # Both at once, as `kubectl delete -f` does: the source stays until the job is cleaned up.
    job.namespace.kubectl("delete", f"{KIND}/{job.name}", "datasources.extraction-operator.io/shop", "--wait=false")
    job.namespace.wait_until_gone(KIND, job.name)
    assert sessions(postgres, job.namespace.namespace) == []
    assert staging(store, bucket) == []
    job.namespace.wait_until_gone("datasources.extraction-operator.io", "shop")


def test_deleting_a_namespace_with_a_running_job_doesnt_hang(job: Job, postgres: Postgres) -> None:
    job = slowly(job)
    job.wait_for_pod("work")
    job.namespace.kubectl("delete", "namespace", job.namespace.namespace, "--timeout=120s", timeout=130)


def test_a_job_that_isnt_wanted_yet_waits(small_job: Job) -> None:
    job = small_job.apply(suspend=True)
    job.wait_for_reason("Suspended")
    assert job.jobs("lead") == []
    job.patch(suspend=False)
    assert job.succeed()["rows"] == FEW


def test_a_terminal_phase_cant_be_moved(small_job: Job) -> None:
    job = small_job.apply()
    job.succeed()
    patch = json.dumps({"status": {"phase": "Running"}})
    with pytest.raises(Refused, match="phase is final"):
        job.namespace.kubectl("patch", KIND, job.name, "--subresource=status", "--type=merge", "--patch", patch)
    assert condition(job.status, "Succeeded")["status"] == "True"
    assert has_condition(job.found, "Ready")
