"""Jobs in a queue of Kueue's: when they run and with how many pods is Kueue's to say, and theirs to bear."""

from dataclasses import replace

import pytest

from extraction_operator.plan.budget import Budget
from extraction_operator.plan.claims import claim_of
from extraction_operator.plan.names import QUEUE
from extraction_operator.plan.values import ChildJob, DeleteJob, Ending, Role, ScaleJob
from support.plan_world import (
    NOW,
    PUBLISHED,
    World,
    actions,
    created,
    ended,
    failure,
    make_source,
    ready,
    running,
    seconds,
)

NIGHT = "night"


def queued(world: World) -> World:
    """Have the ExtractionJob name a queue."""
    world.metadata(labels={QUEUE: NIGHT})
    return world


def waiting() -> World:
    """Return the world of a job whose lead waits in the queue."""
    world = queued(World.pending())
    world.add_job(Role.LEAD, suspended=True, suspended_since=NOW, queue=NIGHT)
    world.step()
    return world


def begun(bundles: int = 4) -> World:
    """Return the world of a job whose lead got its quota, and whose workers, made just now, wait for theirs."""
    world = queued(World.planned(bundles))
    world.change_job(Role.LEAD, queue=NIGHT)
    world.add_job(
        Role.WORK, number=1, parallelism=3, completions=bundles, suspended=True, suspended_since=NOW, queue=NIGHT
    )
    world.step()
    return world


def test_a_lead_in_the_queue_is_waited_for_and_no_time_runs():
    world = queued(World.pending())
    assert created(world.step()) == ["lead-1"]
    world = waiting()
    decision = world.step()
    assert not decision.actions
    assert (decision.status.phase, decision.status.start_time) == ("Pending", None)
    assert ready(decision) == ("Queued", f"Job {world.jobs[0].name} waits for quota in Kueue's queue night.")
    world.pass_time(10**6)  # longer than activeDeadlineSeconds
    assert not world.step().actions
    world.change_job(Role.LEAD, suspended=False, suspended_since=None, active=1)
    world.add_pod(Role.LEAD, running("hold"), running("plan"))
    decision = world.step()
    assert (decision.status.phase, decision.status.start_time) == ("Planning", world.now)
    assert ready(decision)[0] == "Started"


def test_workers_in_the_queue_are_neither_resumed_nor_resized():
    world = begun()
    decision = world.step()
    assert not decision.actions
    assert decision.status.phase == "Running"
    assert ready(decision)[0] == "Queued"
    # Kueue may start fewer pods than were asked for, and the budget or a user may want others.
    world.change_job(Role.WORK, suspended=False, suspended_since=None, parallelism=1, active=1)
    world.spec(parallelism=2)
    world.grant = replace(world.grant, parallelism=4)
    decision = world.step()
    assert not decision.actions
    assert ready(decision)[0] == "Started"
    # It may take the quota back; finished chunks stay.
    world.change_job(Role.WORK, completed_indexes="0,1")
    world.step()
    world.change_job(Role.WORK, suspended=True, suspended_since=world.now, active=0)
    decision = world.step()
    assert not decision.actions
    assert ready(decision)[0] == "Queued"
    assert decision.status.progress is not None
    assert decision.status.progress.chunks == 5
    world.change_job(Role.WORK, ending=Ending.COMPLETE, ended_at=world.now, completed_indexes="0-3", suspended=False)
    world.lead_says(PUBLISHED)
    assert world.step().status.phase == "Succeeded"
    decision = world.step()
    assert {action.name for action in actions(decision, DeleteJob)} == {job.name for job in world.jobs}


def test_suspending_the_extraction_gives_the_workers_quota_back():
    world = begun()
    workers = world.change_job(Role.WORK, suspended=False, suspended_since=None, active=3)
    world.step()
    world.spec(suspend=True)
    decision = world.step()
    assert decision.status.phase == "Suspended"
    assert decision.actions == (DeleteJob(workers.name, workers.uid),)
    world.change_job(Role.WORK, deleting=True)
    assert not world.step().actions
    world.jobs.pop()
    assert not world.step().actions
    world.spec(suspend=False)
    assert created(world.step()) == ["work-1-1"], "they look through what is in staging"


@pytest.mark.parametrize("end", ["cancel", "delete", "deadline"])
def test_what_is_to_stop_is_deleted_as_kueue_would_let_it_go_on(end):
    world = begun()
    world.change_job(Role.WORK, suspended=False, suspended_since=None, active=3)
    world.step()
    if end == "cancel":
        world.spec(cancel=True)
    elif end == "delete":
        world.delete()
    else:
        world.pass_time(world.job.spec.active_deadline_seconds)
    decision = world.step()
    assert not actions(decision, ScaleJob)
    assert {action.name for action in actions(decision, DeleteJob)} == {job.name for job in world.jobs}
    world.jobs.clear()
    world.pods.clear()
    # The last one that could have been on its way is made impossible; then staging is cleaned.
    assert created(world.step()) == ["work-1-1"]


def test_a_job_that_never_began_is_stopped_too():
    world = waiting()
    world.spec(cancel=True)
    decision = world.step()
    assert [action.name for action in actions(decision, DeleteJob)] == [world.jobs[0].name]
    assert decision.status.phase == "Planning", "should it have begun, staging is cleaned"


def test_a_failure_of_the_workers_is_told_though_the_lead_is_deleted():
    world = begun()
    world.change_job(Role.WORK, suspended=False, suspended_since=None, active=1)
    world.step()
    world.change_job(
        Role.WORK, active=0, ending=Ending.FAILED, ending_reason="PodFailurePolicy", ended_at=world.now,
        failed_indexes="2",
    )  # fmt: skip
    said = failure("SchemaDrift", 20, text="It has another column.", bundle=2)
    world.add_pod(Role.WORK, index=2, phase="Failed")
    world.change_pod(Role.WORK, containers=(ended("work", said),))
    decision = world.step()
    lead = world.jobs[0]
    assert actions(decision, DeleteJob) == [DeleteJob(lead.name, lead.uid)]
    world.jobs.remove(lead)
    world.pods = [pod for pod in world.pods if pod.role is Role.WORK]
    world.step()
    assert created(world.step()) == ["clean-1"]
    assert ready(world.decide())[0] == "SchemaDrift"


@pytest.mark.parametrize(("planned", "reason"), [(False, "Disrupted"), (True, "SnapshotLost")])
def test_a_lead_whose_quota_is_taken_back_has_lost_its_snapshot(planned, reason):
    world = begun() if planned else queued(World.planning())
    world.change_job(Role.LEAD, queue=NIGHT, suspended=True, suspended_since=world.now, active=0)
    world.pods.clear()
    decision = world.step()
    gone = {action.name for action in actions(decision, DeleteJob)}
    assert gone == {job.name for job in world.jobs}, "it doesn't come again"
    assert ready(decision)[0] == reason
    assert "Kueue took the quota" in ready(decision)[1]


def test_the_queue_that_kueue_gave_a_lead_by_itself_is_that_of_the_workers():
    world = World.planned()
    world.change_job(Role.LEAD, queue="default")
    [action] = world.step().actions
    metadata = action.manifest["metadata"]
    assert metadata["labels"][QUEUE] == "default"
    assert [owner["kind"] for owner in metadata["ownerReferences"]] == ["ExtractionJob"]


def test_connections_of_what_waits_in_a_queue_are_promised():
    """Kueue may let it begin at any moment."""
    children = (
        ChildJob("lead", "uid-1", Role.LEAD, 1, 0, NOW, queue=NIGHT, active=1),
        ChildJob(
            "work", "uid-2", Role.WORK, 1, 1, NOW, queue=NIGHT, parallelism=3, suspended=True, suspended_since=NOW
        ),
    )
    world = World.pending()
    claim = claim_of(world.job, make_source(), children, NOW + seconds(1), 100)
    assert claim.used == 7
    assert Budget().ask(claim, NOW).admitted
    assert claim_of(world.job, make_source(), (replace(children[0], suspended=True),), NOW, 100).used == 3
