"""The way of a job that goes well, and what it waits for."""

import pytest

from extraction_contract.base import API_VERSION
from extraction_contract.models import ReusedStatus
from extraction_contract.status import ConnectionCounts
from extraction_operator.plan.values import (
    FINALIZER,
    AddFinalizer,
    CreateJob,
    DeleteJob,
    Ending,
    Grant,
    RemoveFinalizer,
    Role,
    ScaleJob,
)
from support.api_rules import kstatus
from support.plan_world import (
    NOW,
    PUBLISHED,
    SETTINGS,
    World,
    actions,
    created,
    ended,
    make_job,
    make_source,
    plan_message,
    ready,
    reasons,
    running,
    seconds,
)


def test_the_finalizer_comes_before_the_lead():
    world = World()
    decision = world.step()
    assert decision.actions == (AddFinalizer(),)
    assert decision.status.phase == "Pending"
    world.metadata(finalizers=(FINALIZER,))
    assert created(world.step()) == ["lead-1"]


def test_workers_have_the_image_of_their_lead_also_after_an_upgrade():
    world = World.planned(4)
    world.step()
    world.change_job(Role.LEAD, image="lake/extractor:before")
    [action] = actions(world.step(), CreateJob)
    assert action.role is Role.WORK
    [container] = action.manifest["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "lake/extractor:before" != SETTINGS.image


def test_the_lead_of_an_attempt_that_began_is_never_made_again():
    world = World.planning()
    world.jobs.clear()
    world.pods.clear()
    assert "lead-1" not in created(world.step())


def test_a_job_of_several_bundles_goes_through_its_phases():
    world = World.pending()
    assert created(world.step()) == ["lead-1"]
    world.add_job(Role.LEAD, active=1)
    world.add_pod(Role.LEAD, running("hold"), running("plan"))
    decision = world.step()
    assert (decision.status.phase, decision.status.attempt, reasons(decision)) == ("Planning", 1, ["Started"])
    assert decision.urgent
    assert decision.status.start_time == NOW
    world.change_pod(Role.LEAD, containers=(running("hold"), ended("plan", plan_message(4, 10)), running("publish")))
    decision = world.step()
    assert decision.status.phase == "Running"
    assert decision.urgent
    assert not decision.actions, "workers are made once the plan is stored"
    assert decision.status.plan == plan_message(4, 10).status()
    assert decision.status.progress is not None
    assert decision.status.progress.summary == "0/10"
    decision = world.step()
    assert created(decision) == ["work-1-1"]
    world.add_job(Role.WORK, number=1, active=3, parallelism=3, completions=4, completed_indexes="0,2")
    decision = world.step()
    assert not decision.actions
    assert decision.status.progress is not None
    assert (decision.status.progress.chunks, decision.status.progress.completed_bundles) == (6, "0,2")
    world.change_job(Role.WORK, ending=Ending.COMPLETE, ended_at=world.now, active=0, completed_indexes="0-3")
    decision = world.step()
    assert decision.status.phase == "Running", "publishing that is over at once isn't told"
    world.pass_time(SETTINGS.brief)
    decision = world.step()
    assert decision.status.phase == "Publishing"
    assert decision.status.progress is not None
    assert decision.status.progress.summary == "10/10"
    world.pass_time(10)
    world.lead_says(PUBLISHED)
    decision = world.step()
    assert decision.status.phase == "Succeeded"
    assert decision.urgent
    assert decision.status.result is not None
    told = PUBLISHED.model_dump(exclude={"plan_digest", "work", "snapshot_seconds"})
    assert decision.status.result.model_dump() == told | {"seconds": 10 + SETTINGS.brief}
    assert kstatus(decision.status, generation=1) == "Current"
    assert {c.type for c in decision.status.conditions if c.status == "True"} == {"Ready", "Succeeded"}
    decision = world.step()
    assert actions(decision, RemoveFinalizer)
    assert [action.name for action in actions(decision, DeleteJob)] == [world.jobs[0].name], "workers go with it"


@pytest.mark.parametrize(
    ("endpoint", "warned"), [("http://minio:9000", True), ("https://minio:9000", False), (None, False)]
)
def test_a_store_that_is_reached_without_tls_is_warned_of_as_long_as_the_job_lives(endpoint, warned):
    sink = {"s3": {"bucket": "lake", "endpoint": endpoint, "credentialsSecretRef": {"name": "lake"}}}

    def secure(status):
        return [(c.status, c.reason) for c in status.conditions if c.type == "Secure"]

    expected = [("False", "StoreWithoutTLS")] if warned else []
    world = World.pending(sink=sink)
    world.step()
    world.add_job(Role.LEAD, active=1)
    world.add_pod(Role.LEAD, running("hold"), running("plan"))
    decision = world.step()
    events = [event for event in decision.events if event.reason == "StoreWithoutTLS"]
    assert [event.warning for event in events] == [True] * warned
    assert secure(decision.status) == expected
    world.lead_says(PUBLISHED)
    decision = world.step()
    assert decision.status.phase == "Succeeded"
    assert secure(decision.status) == expected
    assert "StoreWithoutTLS" not in reasons(decision), "it is told once"
    assert kstatus(decision.status, generation=1) == "Current"


def test_what_the_pods_did_with_connections_is_part_of_the_result():
    did = ConnectionCounts(opened=4, checkouts=100, reuses=96, waits=4)
    world = World.publishing()
    world.lead_says(PUBLISHED.model_copy(update={"connections": did}))
    result = world.step().status.result
    assert result is not None
    assert result.connections == did


def test_a_plan_of_one_bundle_is_worked_by_the_lead():
    world = World.planned(bundles=1)
    assert (world.job.status.phase, world.job.status.workers) == ("Running", 0)
    decision = world.step()
    assert not decision.actions
    assert decision.status == world.job.status
    world.lead_says(PUBLISHED)
    assert world.step().status.phase == "Succeeded"


def test_a_result_that_was_taken_says_whose_it_is():
    world = World.planned(bundles=1)
    world.step()
    reused = ReusedStatus(job="team/first", run="uid-of-first-1", published_at=world.now)
    world.lead_says(PUBLISHED.model_copy(update={"reused": reused}))
    decision = world.step()
    assert decision.status.result is not None
    assert decision.status.result.reused == reused
    assert ", copied from the result of team/first: s3://lake/" in decision.events[-1].message


def test_a_plan_that_was_never_stored_doesnt_keep_a_job_from_success():
    world = World.planning()
    plan = ended("plan", plan_message(1, reason="é" * 200))
    world.change_pod(Role.LEAD, containers=(plan,))
    world.lead_says(PUBLISHED)
    decision = world.step()
    assert decision.status.phase == "Succeeded"
    assert decision.status.plan is not None


def test_outside_of_its_sources_windows_a_job_waits_for_the_next_one():
    windows = [{"start": "22:00", "end": "06:00", "timeZone": "Europe/Berlin"}]
    world = World.pending()
    world.source = make_source(limits={"windows": windows})
    decision = world.step()
    assert ready(decision) == (
        "OutsideWindow", "No window of DataSource shop is open: the next one opens on 2026-03-01 at 22:00 CET."
    )  # fmt: skip
    assert decision.again_at == NOW + seconds(9 * 3600)
    world.now = decision.again_at
    assert created(world.step()) == ["lead-1"]
    # What has begun goes on when the window closes.
    world = World.planning()
    world.source = make_source(limits={"windows": windows})
    assert world.step().status.phase == "Planning"


def test_a_job_that_waits_for_its_budget_asks_again_when_a_window_changes_it():
    world = World.pending()
    world.grant = Grant(admitted=False, reason="No.", again_at=NOW + seconds(60))
    assert world.step().again_at == NOW + seconds(60)


@pytest.mark.parametrize(
    ("change", "reason", "part"),
    [
        ({"source": None}, "SourceNotFound", "no DataSource shop"),
        ({"source": make_source(ready=False, why="wrong password")}, "SourceNotReady", "wrong password"),
        ({"grant": Grant(admitted=False, reason="2 jobs came first.")}, "WaitingForBudget", "2 jobs came first"),
        ({"job": make_job(suspend=True)}, "Suspended", "hasn't begun"),
    ],
)
def test_a_job_that_waits_says_why(change, reason, part):
    world = World()
    for name, value in change.items():
        setattr(world, name, value)
    decision = world.step()
    assert (decision.status.phase, decision.actions) == ("Pending", ())
    assert ready(decision)[0] == reason
    assert part in ready(decision)[1]
    assert kstatus(decision.status, generation=1) == "InProgress"
    assert world.step().status == decision.status


def test_a_source_that_isnt_checked_or_is_going_is_no_source():
    world = World()
    assert world.source is not None
    world.source = world.source.model_copy(
        update={"metadata": world.source.metadata.model_copy(update={"generation": 2})}
    )
    assert ready(world.decide())[0] == "SourceNotReady"
    world.source = make_source().model_copy(
        update={"metadata": world.source.metadata.model_copy(update={"deletion_timestamp": NOW})}
    )
    assert ready(world.decide())[0] == "SourceNotFound"


def test_parallelism_follows_what_is_declared_and_granted():
    world = World.working()
    world.spec(parallelism=2)
    assert [a.parallelism for a in actions(world.step(), ScaleJob)] == [2]
    world.spec(parallelism=200)
    assert not actions(world.step(), ScaleJob), "three are granted and there"
    world.grant = Grant(admitted=True, parallelism=200, pool=2)
    assert [a.parallelism for a in actions(world.step(), ScaleJob)] == [4], "there are four bundles"
    world.grant = Grant(admitted=False, reason="The source is gone.")
    assert not actions(world.step(), ScaleJob)


def test_a_grant_that_will_grow_is_asked_for_again():
    world = World.working()
    world.grant = Grant(admitted=True, parallelism=3, pool=2, again_at=world.now + seconds(20))
    assert world.decide().again_at == world.now + seconds(20)


def test_suspending_stops_workers_and_keeps_the_lead():
    world = World.working()
    world.spec(suspend=True)
    decision = world.step()
    assert decision.status.phase == "Suspended"
    assert [(a.name, a.suspend) for a in actions(decision, ScaleJob)] == [(world.jobs[1].name, True)]
    world.change_job(Role.WORK, suspended=True, suspended_since=world.now, active=0)
    assert not world.step().actions
    world.spec(suspend=False)
    decision = world.step()
    assert decision.status.phase == "Running"
    assert [(a.suspend, a.parallelism) for a in actions(decision, ScaleJob)] == [(False, None)]


def test_suspending_while_planning_takes_hold_before_workers_are_made():
    world = World.planning()
    world.spec(suspend=True)
    world.change_pod(Role.LEAD, containers=(ended("plan", plan_message()), running("publish")))
    world.step()
    decision = world.step()
    assert decision.status.phase == "Suspended"
    assert not decision.actions
    world.spec(suspend=False)
    assert created(world.step()) == ["work-1-1"]


def test_workers_that_somebody_deleted_are_made_again_under_their_name():
    world = World.working()
    del world.jobs[1]
    assert created(world.step()) == ["work-1-1"]


def test_workers_that_go_while_their_result_is_published_are_not_missed():
    world = World.publishing()
    del world.jobs[1]
    decision = world.step()
    assert not decision.actions
    assert decision.status.phase == "Publishing"


def test_workers_cant_be_made_without_a_source_and_say_so():
    world = World.planned()
    world.source = None
    decision = world.step()
    assert not decision.actions
    assert ready(decision)[0] == "SourceNotFound"
    world.source = make_source()
    assert created(world.step()) == ["work-1-1"]
    assert ready(world.step())[0] == "Started"


def test_a_volume_for_one_node_keeps_workers_beside_the_lead():
    world = World.planned(sink={"volume": {"claimName": "lake"}})
    world.claim_modes = ("ReadWriteOnce",)
    [action] = actions(world.decide(), CreateJob)
    terms = action.manifest["spec"]["template"]["spec"]["affinity"]["podAffinity"]
    [term] = terms["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["labelSelector"]["matchLabels"]["extraction-operator.io/role"] == "lead"
    world.claim_modes = ("ReadWriteOnce", "ReadWriteMany")
    [action] = actions(world.decide(), CreateJob)
    assert "affinity" not in action.manifest["spec"]["template"]["spec"]


def test_a_volume_for_one_pod_is_worked_by_the_lead():
    world = World.pending(sink={"volume": {"claimName": "lake"}})
    world.claim_modes = ("ReadWriteOncePod",)
    [action] = actions(world.decide(), CreateJob)
    for container in action.manifest["spec"]["template"]["spec"]["initContainers"]:
        assert {"name": "EXTRACTION_BUNDLES", "value": "1"} in container["env"]


def test_a_job_that_was_made_with_a_retry_isnt_retried_for_it():
    world = World.pending(retry=3)
    world.add_job(Role.LEAD, active=1)
    assert world.step().status.retries == 3


def test_children_of_a_later_attempt_show_that_the_view_is_stale():
    world = World.working()
    world.add_job(Role.LEAD, attempt=2)
    del world.jobs[1]
    decision = world.decide()
    assert (decision.status, decision.actions) == (world.job.status, ())
    assert decision.again_at == world.now + seconds(SETTINGS.busy_poll)


def test_workers_of_a_later_number_show_that_the_view_is_stale():
    world = World.planned()
    world.add_job(Role.WORK, number=2)
    assert not world.decide().actions


def test_children_of_earlier_attempts_are_deleted():
    world = World.working()
    world.status(attempt=2, phase="Pending", workers=0, plan=None)
    names = {action.name for action in actions(world.decide(), DeleteJob)}
    assert names == {job.name for job in world.jobs}


def test_a_changed_spec_is_taken_note_of():
    world = World.working()
    world.spec(parallelism=3)
    assert world.step().status.observed_generation == world.job.metadata.generation


def test_the_deadline_is_looked_at_in_time():
    world = World.working(activeDeadlineSeconds=100)
    assert world.decide().again_at == NOW + seconds(100)


def test_children_are_made_under_the_settings_image():
    [action] = actions(World.pending().decide(), CreateJob)
    assert action.manifest["spec"]["template"]["spec"]["containers"][0]["image"] == SETTINGS.image
    assert action.manifest["metadata"]["ownerReferences"][0]["apiVersion"] == API_VERSION
