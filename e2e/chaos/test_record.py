"""What is told of jobs while they run and when they are gone: by the record, by Redis, and by neither for a while."""

import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from e2e.chaos.conftest import ROWS
from e2e.chaos.driver import LARGE, LEFT_SECONDS, SMALL, SPEC, Essence, essence
from e2e.chaos.world import World
from e2e.support.cluster import HOST_NAME, has_condition
from e2e.support.extraction import Extraction
from e2e.support.jobs import Job

RATE = "32Mi"
"""Bytes a second that a job may read: the large table takes more than eight seconds."""


def begin(world: World, bucket: str, name: str, table: str, **spec: Any) -> Job:
    """Apply a job into a folder of its name. The large table is read by two pods, the small one by its lead alone."""
    declared = SPEC | {"parallelism": 2} | spec
    extraction = Extraction(
        world.jobs.namespace, world.source, table, HOST_NAME, world.store, bucket, f"{name}/", declared
    )
    job = Job(world.jobs, extraction, name)
    job.apply_alone()
    return job


def recorded(world: World, job: Job) -> dict[str, Any]:
    """Return what the record shows of a job that ended and was deleted, once it knows that."""
    deadline = time.monotonic() + LEFT_SECONDS
    while not (found := world.history("show", job.name, "--namespace", world.jobs.namespace))["deleted_at"]:
        assert time.monotonic() < deadline, found
    return dict(found)


def test_what_was_read_is_taken_again_and_known_without_the_objects(
    world: World, undisturbed: dict[str, Essence]
) -> None:
    bucket = "again"
    world.store.client().create_bucket(Bucket=bucket)
    world.limit(RATE)
    world.wait_for_source()
    first = begin(world, bucket, "first", SMALL, reuse={})
    read = first.succeed()
    assert "reused" not in read
    second = begin(world, bucket, "second", SMALL, reuse={"maxAge": "10m"})
    taken = second.succeed()
    run = f"{first.uid}-1"
    assert (taken["reused"]["job"], taken["reused"]["run"]) == (f"{world.jobs.namespace}/first", run)
    assert taken["rows"] == read["rows"] == ROWS[SMALL]
    assert essence(world.manifest(bucket, "second/")) == undisturbed[SMALL]
    for job in (first, second):
        job.delete()
    found = recorded(world, second)
    assert (found["phase"], found["rows"], found["reused_run"]) == ("Succeeded", ROWS[SMALL], run)
    listed = world.history("list", "--table", SMALL, "--namespace", world.jobs.namespace, "--phase", "Succeeded")
    assert [job["name"] for job in listed][:2] == ["second", "first"]
    # The totals of pods that are gone, too.
    metrics = world.metrics()
    assert metrics["extraction_records_total", "Parquet"] >= 2 * ROWS[SMALL]
    assert metrics["extraction_cache_lookups_total", "result", "hit"] >= 1
    assert metrics[("extraction_pool_checkouts_total",)] >= 1
    leader = world.leader()
    assert leader is not None
    assert has_condition(leader, "extraction-operator.io/RecordKeepsUp")


def test_a_job_is_watched_until_redis_dies_and_recorded_when_the_record_is_back(
    world: World, undisturbed: dict[str, Essence], tmp_path: Path
) -> None:
    bucket = "watched"
    world.store.client().create_bucket(Bucket=bucket)
    world.limit(RATE)
    world.wait_for_source()
    job = begin(world, bucket, "watched", LARGE)
    with world.watching(job, tmp_path) as watching, ExitStack() as healing:
        healing.callback(watching.kill)
        assert watching.stdout is not None
        # Of Redis: the status has no percentage.
        assert any(" %, " in line for line in watching.stdout), "nothing was shown while pods read"
        deadline = time.monotonic() + LEFT_SECONDS
        while (live := world.live(job)) is None or len(live.pods) < 2 or not live.rows:
            assert time.monotonic() < deadline, live
            time.sleep(0.1)
        # There are some seconds to read yet.
        assert live.rows < ROWS[LARGE]
        assert 0 < live.percentage < 100
        world.redis.kill()
        healing.callback(world.redis.start)
        world.record.server.stop(signal.SIGQUIT)
        healing.callback(world.record.server.start)
        assert job.succeed()["rows"] == ROWS[LARGE]
        shown = watching.stdout.read()
        assert watching.wait(10) == 0, shown
        assert "Redis can't be read" in shown
        job.delete()
    assert essence(world.manifest(bucket, "watched/")) == undisturbed[LARGE]
    found = recorded(world, job)
    assert (found["phase"], found["rows"], found["spec"]["table"]) == ("Succeeded", ROWS[LARGE], LARGE)
    assert [(attempt["outcome"], attempt["bundles"]) for attempt in found["attempts"]] == [("Succeeded", 2)]
    bundles = found["bundles"]
    assert [(bundle["bundle"], bundle["outcome"]) for bundle in bundles] == [(0, "Succeeded"), (1, "Succeeded")]
    assert sum(bundle["rows"] for bundle in bundles) == ROWS[LARGE]
