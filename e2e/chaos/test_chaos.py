"""Whatever dies, hangs or comes back, and whenever: the same set is published, or nothing; and nothing is left.

``EXTRACTION_CHAOS_SECONDS`` asks for a longer storm than ``make e2e`` has (``make chaos``), and for a report.
"""

import os
from pathlib import Path
from typing import Any

import pytest

from e2e.chaos.driver import LARGE, SETTLE_SECONDS, SPEC, Chaos, Essence, essence
from e2e.chaos.world import World
from e2e.support.cluster import HOST_NAME
from e2e.support.extraction import Extraction
from e2e.support.jobs import Job
from support.faults import Report

IS_LONG = "EXTRACTION_CHAOS_SECONDS" in os.environ
SECONDS = float(os.environ.get("EXTRACTION_CHAOS_SECONDS", "12"))
STRIKES = int(os.environ.get("EXTRACTION_CHAOS_STRIKES", "8"))
SEED = int(os.environ.get("EXTRACTION_CHAOS_SEED", "10"))
REPORTS = Path(__file__).parents[2] / "build" / "chaos"
WIDTH = 4 if IS_LONG else 2
"""Jobs at the same time."""
LONGEST = 40.0 if IS_LONG else 6.0
"""Seconds that a fault may last. A silent node is lost after 20."""


@pytest.mark.timeout(SECONDS + SETTLE_SECONDS + 600)
def test_every_job_ends_with_the_same_set_or_none_and_leaves_nothing(
    world: World, undisturbed: dict[str, Essence]
) -> None:
    bucket = f"chaos-{SEED}"
    world.store.client().create_bucket(Bucket=bucket)
    chaos = Chaos(world, undisturbed, bucket, SEED, width=WIDTH)
    report = Report("Chaos in a cluster")
    try:
        storm = chaos.run(STRIKES, SECONDS, longest=LONGEST)
        report.faults = storm.happened
    finally:
        report.runs = chaos.runs
        if IS_LONG:
            report.write(REPORTS, "cluster")
    print(f"{len(storm.happened)} faults: {', '.join(one.fault for one in storm.happened)}; {chaos.runs}")
    assert any(run.published for run in chaos.runs)


# A lost snapshot ---------------------------------------------------------------------------------------------------


def lease_job(world: World, bucket: str, name: str, **spec: Any) -> Job:
    """Apply a job of several pods."""
    declared = SPEC | {"parallelism": 2} | spec
    extraction = Extraction(
        world.jobs.namespace, world.source, LARGE, HOST_NAME, world.store, bucket, f"{name}/", declared
    )
    job = Job(world.jobs, extraction, name)
    job.apply_alone()
    return job


def lose_snapshots(world: World, jobs: list[Job]) -> None:
    """End the sessions that hold the snapshots of jobs, once their workers read."""
    for job in jobs:
        job.wait_for_pod("work")
    with world.source.connect() as connection:
        # Of leads that have planned, only the holders have sessions.
        ended = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE '%lead-%'"
        ).fetchall()
    assert len(ended) == len(jobs)


def test_a_lost_snapshot_is_noticed_and_handled_as_declared(world: World, undisturbed: dict[str, Essence]) -> None:
    bucket = "lease"
    world.store.client().create_bucket(Bucket=bucket)
    fails = lease_job(world, bucket, "fails", snapshot={"onLoss": "Fail"})
    degrades = lease_job(world, bucket, "degrades", snapshot={"onLoss": "Degrade"})
    lose_snapshots(world, [fails, degrades])
    degrades.wait_for_reason("SnapshotLost", seconds=60)
    failed = fails.fail(seconds=60)
    assert failed["reason"] == "SnapshotLost"
    assert world.kept(bucket, "fails/") == (set(), [])
    result = degrades.succeed(seconds=120)
    manifest = world.manifest(bucket, "degrades/")
    assert result["consistency"] == manifest["consistency"] == degrades.status["consistency"] == "PerPartition"
    assert essence(manifest) == undisturbed[LARGE]
