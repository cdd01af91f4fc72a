"""Each kind of fault once: the same set is published, or nothing and the reason is told; and nothing is left.

``make chaos`` does harm for much longer, and at random: ``test_long.py``.
"""

import pytest

from e2e.chaos.driver import LARGE, PATIENCE, SEED, Chaos, Essence
from e2e.chaos.world import World
from e2e.support.api import Object
from e2e.support.jobs import FINAL, KIND, Job
from support.databases import wait_until

SLOW, FAST = "4Mi", "64Mi"
"""Bytes a second of attempts that are to be hit, a minute's work then, and of those that may end."""
PASSING = ("stop record", "crash Redis", "kill worker", "crash store", "silence kubelet")
"""After these an attempt goes on."""
ENDING = ("cut session", "delete lead", "restart source")
"""After these none does."""
LEADER = "kill leader"


def is_read_by_workers(world: World, job: Job) -> bool:
    """Whether sessions of the job's workers are on the source."""
    return any(f"/{job.name}/" in name and "work-" in name for name in world.sessions())


def is_at_work_again(job: Object) -> bool:
    """Whether a second attempt has begun to read, or is over."""
    status = job.get("status", {})
    return status.get("attempt", 1) > 1 and status.get("phase") in {"Running", "Publishing", *FINAL}


@pytest.mark.timeout(600)
def test_each_kind_of_fault_and_what_is_declared_for_a_lost_snapshot(
    world: World, undisturbed: dict[str, Essence]
) -> None:
    world.limit(SLOW)
    world.wait_for_source()
    chaos = Chaos(world, undisturbed, "once", SEED)
    fails, degrades, restarts = [chaos.begin(LARGE, on_loss) for on_loss in ("Fail", "Degrade", "Restart")]
    for job in (fails, degrades, restarts):
        job.wait_for_phase("Running", seconds=PATIENCE)
        wait_until(lambda job=job: is_read_by_workers(world, job), PATIENCE)
    world.limit(FAST)
    chaos.strike(PASSING, 3, longest=2)
    world.wait_for_source()
    chaos.strike(ENDING, 1, longest=1)
    for job in (degrades, restarts):
        world.jobs.wait_for(KIND, job.name, is_at_work_again, PATIENCE)
    wait_until(lambda: world.leader() is not None, PATIENCE)
    chaos.strike([LEADER], 0, longest=0)
    chaos.settle()
    chaos.judge()
    if world.stand_in is not None:
        assert [one.fault for one in chaos.happened] == [*PASSING, *ENDING, LEADER]
    ended = {run.name: run for run in chaos.runs}
    assert ended[fails.name].reasons == ["SnapshotLost"]
    assert not ended[fails.name].published
    results = [chaos.ended[job.name]["status"]["result"] for job in (degrades, restarts)]
    assert [result["consistency"] for result in results] == ["PerPartition", "Snapshot"]
