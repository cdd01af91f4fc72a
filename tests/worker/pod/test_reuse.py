"""A result that is taken in the pods of a job: told by each, published by the last, and no worker is needed."""

import pytest

from extraction_worker.errors import VerificationFailed
from support.pods import Pods

SPEC = {"partitioning": {"targetBytes": "64Ki"}, "reuse": {"maxAge": "10m"}}


@pytest.fixture
def pods(table, tmp_path, redis) -> Pods:
    """The pods of a job whose bundles are three, and Redis is mounted."""
    pods = Pods(tmp_path, table, bundles=3, spec=SPEC)
    redis.url_file(pods.etc / "redis")
    return pods


def first_job(pods: Pods):
    """Run a job into the default place; return what *publish* told."""
    with pods.held():
        pods.run("plan")
        for index in range(3):
            pods.run("work", f"pod-{index}", **pods.worker(index))
        return pods.run("publish")


def next_job(pods: Pods, run_id: str = "uid2-1") -> None:
    """Go on with another job, into another place of the same volume."""
    pods.run_id = run_id
    pods.declare(spec=SPEC | {"sink": {"volume": {"claimName": "lake", "path": run_id}}})


def test_the_second_job_needs_one_pod_and_tells_whose_result_it_took(pods):
    first = first_job(pods)
    origin = pods.published()
    assert first.reused is None
    next_job(pods)
    with pods.held("lead2"):
        planned = pods.run("plan", "lead2")
        assert (planned.bundles, planned.chunks) == (1, len(origin.chunks))
        assert planned.digest == pods.plan().plan_digest()
        assert "default/job" in planned.reason
        [use] = [use for use in planned.caches if use.cache == "result"]
        assert (use.hits, use.misses) == (1, 0)
        # The kubelet may run an init container again.
        assert pods.run("plan", "lead2").bundles == 1
        told = pods.run("publish", "lead2")
    assert (told.rows, told.bytes, told.files) == (first.rows, first.bytes, first.files)
    assert (told.reused.run, told.reused.job) == ("uid-1", "default/job")
    assert told.reused.published_at == origin.published_at
    assert told.snapshot_seconds is not None
    assert len(told.encode()) < 2000
    assert pods.published().reused.run_id == "uid-1"
    assert {name.split("/")[0] for name in pods.files()} == {"default", "uid2-1"}


def test_a_taken_result_that_cannot_be_read_is_no_reason_to_wait_for_workers(pods):
    first_job(pods)
    next_job(pods)
    with pods.held("lead2"):
        assert pods.run("plan", "lead2").bundles == 1
        (pods.etc / "volumes" / "lake" / "_staging" / "uid2-1" / "state" / "taken.json").write_text("{}")
        with pytest.raises(VerificationFailed, match=r"taken\.json"):
            pods.run("publish", "lead2")


def test_a_plan_of_another_moment_has_no_part_in_what_was_taken(pods, table):
    """A pod died after it had copied, and the next one finds a source that has changed."""
    first_job(pods)
    next_job(pods)
    with pods.held("lead2"):
        pods.run("plan", "lead2")
    # Its plan never got there.
    (pods.etc / "volumes" / "lake" / "_staging" / "uid2-1" / "state" / "plan.json").unlink()
    table.execute("DELETE FROM t WHERE id > 100")
    with pods.held("lead3"):
        assert pods.run("plan", "lead3").bundles == 3
        for index in range(3):
            pods.run("work", f"new-{index}", **pods.worker(index))
        told = pods.run("publish", "lead3")
    assert told.reused is None
    assert told.rows == table.execute("SELECT count(*) FROM t")[0][0]
