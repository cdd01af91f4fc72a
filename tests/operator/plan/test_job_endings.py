"""How attempts end: failures and their policy, cancelling, deadlines, losses, retries, deletion."""

import pytest

from extraction_contract.exit_codes import EXIT_CODES
from extraction_contract.messages import SNAPSHOT_EXIT_CODES, TERMINAL_EXIT_CODES, CleanMessage, FailureMessage
from extraction_contract.models import PodTemplate
from extraction_operator.plan.values import (
    FINALIZER,
    CreateJob,
    DeleteJob,
    Ending,
    RemoveFinalizer,
    Role,
    ScaleJob,
)
from support.api_rules import kstatus
from support.plan_world import (
    PUBLISHED,
    SETTINGS,
    World,
    actions,
    created,
    ended,
    failure,
    make_source,
    plan_message,
    ready,
    reasons,
    running,
)

INTERRUPTED = FailureMessage(reason="Interrupted", exit_code=130, message="Stopped.")
LOST = failure("SnapshotLost", 22, text="The lease ended.")


def finish(world: World, said=None):
    """Take an ending's steps: stop, record, clean, settle; return the last decision."""
    for _ in range(6):
        world.pass_time(SETTINGS.last_words)
        decision = world.step()
        world.stop()
        if created(decision) == ["clean-1"]:
            world.clean_says(said or CleanMessage())
        if world.job.status.phase not in {"Planning", "Running", "Suspended", "Publishing"}:
            break
    return decision


def fail_workers(world: World, said=None, *, reason: str = "PodFailurePolicy", pod=True) -> None:
    """Have the worker Job fail."""
    world.change_job(
        Role.WORK, active=0, ending=Ending.FAILED, ending_reason=reason, ended_at=world.now, failed_indexes="2"
    )
    if pod:
        world.add_pod(Role.WORK, ended("work", said), index=2, phase="Failed")


# Failures --------------------------------------------------------------------------------------------------------


def test_what_planning_says_fails_the_job_at_once_without_a_clean_up():
    world = World.planning()
    world.lead_says(failure("AuthenticationFailed", 14, text="password authentication failed"), container="plan")
    decision = world.step()
    assert decision.status.phase == "Failed"
    assert decision.urgent
    assert not actions(decision, CreateJob)
    assert ready(decision) == ("AuthenticationFailed", "password authentication failed")
    assert reasons(decision) == ["AuthenticationFailed"]
    assert kstatus(decision.status, generation=1) == "Failed"
    assert {c.type for c in decision.status.conditions if c.status == "True"} == {"Stalled", "Failed"}


def test_a_holder_that_is_heard_before_its_planner_fails_the_job_without_a_clean_up_too():
    world = World.planning()
    said = failure("AuthenticationFailed", 14, text="password authentication failed")
    world.lead_says(said, container="plan")
    world.change_pod(Role.LEAD, containers=(ended("hold", said, 0), ended("plan", said)))
    decision = world.step()
    assert decision.status.phase == "Failed"
    assert not actions(decision, CreateJob)
    assert ready(decision)[0] == "AuthenticationFailed"


def test_a_failed_plan_is_heard_while_its_pod_goes_on():
    world = World.planning()
    world.change_pod(Role.LEAD, containers=(running("hold"), ended("plan", failure("NotFound", 12))))
    decision = world.step()
    assert ready(decision)[0] == "NotFound"
    assert not decision.actions, "a suspended Job deletes its pod, and its words with it"
    world.lead_says(failure("NotFound", 12), container="plan")
    assert world.step().status.phase == "Failed"


def test_a_terminal_error_of_a_worker_names_its_bundle_and_survives_that_the_lead_is_stopped():
    world = World.working()
    fail_workers(world, failure("Unrepresentable", 19, text="column c: NaN.", bundle=2))
    decision = world.step()
    assert [(a.name, a.suspend) for a in actions(decision, ScaleJob)] == [(world.jobs[0].name, True)]
    world.change_job(Role.LEAD, suspended=True, suspended_since=world.now)
    world.change_pod(Role.LEAD, containers=(ended("publish", INTERRUPTED),), deleting_since=world.now)
    world.step()
    world.stop()
    assert created(world.step()) == ["clean-1"]
    world.clean_says(CleanMessage())
    decision = world.step()
    assert decision.status.phase == "Failed"
    assert ready(decision) == ("Unrepresentable", "Bundle 2: column c: NaN.")


def test_what_a_stopped_lead_says_isnt_the_cause():
    world = World.working()
    fail_workers(world, failure("Unrepresentable", 19))
    world.step()
    world.change_job(Role.LEAD, suspended=True)
    world.change_pod(Role.LEAD, containers=(ended("publish", failure("SinkUnavailable", 43)),))
    assert ready(world.step())[0] == "Unrepresentable"


def test_a_transient_error_begins_another_attempt_after_a_while():
    world = World.working()
    fail_workers(world, failure(), reason="MaxFailedIndexesExceeded")
    decision = finish(world)
    status = decision.status
    assert (status.phase, status.attempt, status.restarts, status.plan, status.workers) == ("Pending", 2, 1, None, 0)
    assert status.next_attempt_time is not None
    assert status.next_attempt_time > world.now
    assert reasons(decision) == ["Restarting"]
    decision = world.step()
    assert {a.name for a in actions(decision, DeleteJob)} == {job.name for job in world.jobs}
    assert decision.again_at == status.next_attempt_time
    world.jobs.clear()
    world.pods.clear()
    world.pass_time(SETTINGS.backoff)
    assert created(world.step()) == ["lead-2"]


def test_transient_errors_are_counted():
    world = World.working()
    world.status(restarts=SETTINGS.max_restarts)
    fail_workers(world, failure(), reason="MaxFailedIndexesExceeded")
    assert finish(world).status.phase == "Failed"


def test_the_pod_that_failed_the_job_is_awaited():
    world = World.working()
    fail_workers(world, failure())  # of another pod: the policy was about a terminal exit code
    decision = world.step()
    assert not decision.actions
    assert decision.again_at is not None
    world.add_pod(Role.WORK, ended("work", failure("RowTooLarge", 20)), index=2, phase="Failed")
    assert ready(finish(world))[0] == "RowTooLarge"


def test_a_job_whose_words_never_come_fails_by_what_its_job_says():
    world = World.working()
    fail_workers(world, pod=False)
    world.step()
    world.pass_time(SETTINGS.last_words)
    decision = finish(world)
    assert decision.status.phase == "Failed"
    assert ready(decision)[0] == "PodFailurePolicy"


def by_policy(code: int) -> str:
    """Return the words of the Job controller of Kubernetes 1.33 to 1.36."""
    return f"Container work for pod default/orders-work-3 failed with exit code {code} matching FailJob rule at index 0"


@pytest.mark.parametrize(("code", "reason"), SNAPSHOT_EXIT_CODES.items())
def test_a_snapshot_that_ended_is_known_by_the_exit_code_where_the_pod_is_gone(code: int, reason: str):
    world = World.working(snapshot={"onLoss": "Restart"})
    fail_workers(world, pod=False)
    world.change_job(Role.WORK, ending_message=by_policy(code))
    world.step()
    world.pass_time(SETTINGS.last_words)
    decision = finish(world)
    assert (decision.status.phase, decision.status.attempt) == ("Pending", 2)
    assert ready(decision)[0] == reason


@pytest.mark.parametrize("code", [code for code in TERMINAL_EXIT_CODES if code not in SNAPSHOT_EXIT_CODES])
def test_a_terminal_error_is_told_by_its_exit_code_where_the_pod_is_gone(code: int):
    world = World.working()
    fail_workers(world, pod=False)
    world.change_job(Role.WORK, ending_message=by_policy(code))
    world.step()
    world.pass_time(SETTINGS.last_words)
    decision = finish(world)
    assert decision.status.phase == "Failed"
    reason, message = ready(decision)
    if code in EXIT_CODES:
        assert (reason, *message.partition(" Container ")[:1]) == EXIT_CODES[code]
        assert f"Container work of pod default/orders-work-3 ended with exit code {code}" in message
    else:
        # Of a newer worker: no more is known than what Kubernetes says.
        assert reason == "PodFailurePolicy"
        assert by_policy(code) in message


def test_an_index_that_recovered_isnt_blamed():
    world = World.working()
    oom = ended("work", "", 137, "OOMKilled")
    world.add_pod(Role.WORK, oom, index=0, phase="Failed")
    fail_workers(world, failure("SinkUnavailable", 43), reason="MaxFailedIndexesExceeded")
    decision = finish(world)
    assert decision.status.attempt == 2
    assert ready(decision)[0] == "SinkUnavailable"


def test_an_index_that_needs_more_memory_than_there_is_fails_the_job():
    world = World.working()
    oom = ended("work", "", 137, "OOMKilled")
    fail_workers(world, pod=False, reason="MaxFailedIndexesExceeded")
    world.add_pod(Role.WORK, oom, index=2, phase="Failed")
    decision = finish(world)
    assert decision.status.phase == "Failed"
    assert ready(decision)[0] == "OutOfMemory"
    assert "podTemplate.resources.limits.memory" in ready(decision)[1]


def test_a_lead_that_was_killed_for_its_memory_begins_anew_with_less():
    world = World.planned(1)
    world.step()
    killed = ended("publish", "", 137, "OOMKilled")
    plan = ended("plan", plan_message(1))
    world.change_pod(Role.LEAD, containers=(running("hold"), plan, killed), phase="Failed")
    decision = finish(world)
    assert (decision.status.phase, decision.status.attempt, decision.status.memory_kills) == ("Pending", 2, 1)
    world.pass_time(SETTINGS.backoff)
    [action] = actions(world.step(), CreateJob)
    environment = action.manifest["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "EXTRACTION_KILLED", "value": "1"} in environment


def test_a_lead_that_fails_with_its_only_bundle_doesnt_number_it():
    world = World.planned(1)
    world.step()
    said = ended("publish", failure("Unrepresentable", 19, text="column c: NaN.", bundle=0))
    world.change_pod(Role.LEAD, containers=(running("hold"), ended("plan", plan_message(1)), said), phase="Failed")
    assert ready(finish(world)) == ("Unrepresentable", "column c: NaN.")


def test_evictions_of_workers_dont_count():
    world = World.working()
    world.add_pod(Role.WORK, ended("work", INTERRUPTED), index=1, phase="Failed", disrupted="EvictionByEvictionAPI")
    decision = world.step()
    assert (decision.status.phase, decision.actions) == ("Running", ())


def test_what_cant_be_read_isnt_a_plan():
    world = World.planning()
    cut = plan_message().encode()[:100]
    world.change_pod(Role.LEAD, containers=(ended("plan", cut, 0), running("publish")))
    decision = finish(world)
    assert (decision.status.phase, decision.status.attempt) == ("Pending", 2)


def test_a_lead_that_ends_without_a_word_may_have_published():
    world = World.publishing()
    world.lead_says("", code=0)
    world.step()
    world.pass_time(SETTINGS.last_words)
    assert created(world.step()) == ["clean-1"]
    world.clean_says(PUBLISHED)
    decision = world.step()
    assert decision.status.phase == "Succeeded"
    assert decision.status.result is not None


def test_a_clean_up_that_fails_is_told_and_doesnt_hold_the_job():
    world = World.working()
    fail_workers(world, failure("Unrepresentable", 19))
    world.step()
    world.stop()
    assert created(world.step()) == ["clean-1"]
    world.add_job(Role.CLEAN, ending=Ending.FAILED, ending_reason="BackoffLimitExceeded", ended_at=world.now)
    assert world.step().status.phase == "Running"
    world.pass_time(SETTINGS.last_words)
    decision = world.step()
    assert decision.status.phase == "Failed"
    assert reasons(decision) == ["StagingLeft", "Unrepresentable"]


def test_a_clean_up_that_takes_too_long_doesnt_hold_the_job():
    world = World.working()
    fail_workers(world, failure("Unrepresentable", 19))
    world.step()
    world.stop()
    world.add_job(Role.CLEAN, active=1)
    world.step()
    world.pass_time(SETTINGS.clean_deadline + SETTINGS.grace)
    assert reasons(world.step()) == ["StagingLeft", "Unrepresentable"]


# Snapshots ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["SnapshotLost", "SourceInDanger"])
@pytest.mark.parametrize(
    ("on_loss", "phase", "consistency"),
    [("Fail", "Failed", "Snapshot"), ("Restart", "Pending", "Snapshot"), ("Degrade", "Pending", "PerPartition")],
)
def test_a_lost_snapshot_is_handled_as_declared(reason, on_loss, phase, consistency):
    world = World.working(snapshot={"onLoss": on_loss})
    world.lead_says(failure(reason, 22))
    decision = finish(world)
    assert (decision.status.phase, decision.status.consistency) == (phase, consistency)


def test_a_degraded_attempt_has_no_snapshot_to_hold():
    world = World.pending()
    world.status(phase="Pending", attempt=2, consistency="PerPartition")
    [action] = actions(world.decide(), CreateJob)
    pod = action.manifest["spec"]["template"]["spec"]
    assert [container["name"] for container in pod["initContainers"]] == ["plan"]


def evict(world: World) -> None:
    world.lead_says(INTERRUPTED, disrupted="EvictionByEvictionAPI")


def lose_node(world: World) -> None:
    world.change_pod(Role.LEAD, deleting_since=world.now, disrupted="DeletionByTaintManager")
    assert world.decide().again_at is not None
    world.pass_time(SETTINGS.lost_after + 1)


def lose_node_and_hear_of_it(world: World) -> None:
    lose_node(world)
    world.change_job(
        Role.LEAD, ending=Ending.FAILED, ending_reason="BackoffLimitExceeded", ended_at=world.now, terminating=1
    )
    world.pass_time(SETTINGS.grace + SETTINGS.lost_after)


def delete_lead(world: World) -> None:
    del world.jobs[0]
    world.pods.clear()


def delete_pod(world: World) -> None:
    world.pods.clear()
    world.change_job(
        Role.LEAD, active=0, ending=Ending.FAILED, ending_reason="BackoffLimitExceeded", ended_at=world.now
    )
    world.pass_time(SETTINGS.last_words)


LOSSES = [evict, lose_node, lose_node_and_hear_of_it, delete_lead]


@pytest.mark.parametrize("lose", [*LOSSES, delete_pod])
def test_losing_the_lead_after_the_plan_loses_the_snapshot(lose):
    world = World.working()
    lose(world)
    world.step()
    world.stop()
    world.pods.clear()
    decision = finish(world)
    assert decision.status.phase == "Failed"
    assert ready(decision)[0] == "SnapshotLost"


@pytest.mark.parametrize("lose", LOSSES)
def test_losing_the_lead_before_the_plan_costs_nothing_but_another_attempt(lose):
    world = World.planning()
    lose(world)
    decision = finish(world)
    assert (decision.status.phase, decision.status.attempt, decision.status.restarts) == ("Pending", 2, 0)


@pytest.mark.parametrize("lose", LOSSES)
def test_losing_the_lead_loses_no_snapshot_where_there_is_none(lose):
    world = World.working(consistency="PerPartition")
    lose(world)
    decision = finish(world)
    assert (decision.status.phase, decision.status.attempt, decision.status.restarts) == ("Pending", 2, 0)


def test_a_lead_that_somebody_deletes_on_a_dead_node_doesnt_hang_the_job():
    world = World.working(snapshot={"onLoss": "Restart"})
    world.change_job(Role.LEAD, deleting=True, deleting_since=world.now)
    world.change_pod(Role.LEAD, deleting_since=world.now)
    world.step()
    assert world.job.status.phase == "Running"
    world.change_job(Role.WORK, suspended=True, suspended_since=world.now, active=0)
    world.pass_time(SETTINGS.grace + SETTINGS.lost_after)
    assert created(world.step()) == ["clean-1"]


# Lost nodes of workers -----------------------------------------------------------------------------------------------


def test_workers_on_a_silent_node_are_replaced_once_by_another_job():
    world = World.working()
    world.change_job(Role.WORK, completed_indexes="0-1")
    world.step()
    world.add_pod(Role.WORK, running("work"), index=2, deleting_since=world.now)
    assert world.step().again_at is not None
    assert world.job.status.workers == 1
    world.pass_time(SETTINGS.lost_after + 1)
    decision = world.step()
    assert decision.status.workers == 2
    assert decision.urgent
    assert reasons(decision) == ["WorkersReplaced"]
    decision = world.step()
    assert [a.name for a in actions(decision, DeleteJob)] == [world.jobs[1].name]
    assert not created(decision), "the first is still there"
    world.change_job(Role.WORK, deleting=True, deleting_since=world.now)
    assert created(world.step()) == ["work-1-2"]
    world.add_job(Role.WORK, number=2, active=1, parallelism=3, completed_indexes="0")
    decision = world.step()
    assert not decision.actions
    assert decision.status.progress is not None
    assert decision.status.progress.completed_bundles == "0-1", "what was done stays done"


# Cancelling and deadlines --------------------------------------------------------------------------------------------


def test_cancelling_what_never_began_ends_it_at_once():
    world = World()
    world.spec(cancel=True)
    decision = world.step()
    assert decision.status.phase == "Cancelled"
    assert not decision.actions
    assert {c.type for c in decision.status.conditions if c.status == "True"} == {"Stalled"}


def test_a_lead_that_may_be_on_its_way_is_kept_from_coming():
    world = World.pending(cancel=True)
    [action] = actions(world.step(), CreateJob)
    assert (action.role, action.manifest["spec"]["parallelism"]) == (Role.LEAD, 0)
    world.add_job(Role.LEAD, parallelism=0)
    decision = world.step()
    assert decision.status.phase == "Cancelled"
    assert not decision.actions


def test_a_lead_that_is_seen_first_when_it_is_cancelled_is_written_down_before_it_is_cleaned():
    world = World.pending(cancel=True)
    world.add_job(Role.LEAD, active=1)
    decision = world.step()
    assert decision.status.phase == "Planning"
    assert decision.urgent
    assert [a.suspend for a in actions(decision, ScaleJob)] == [True]
    assert finish(world).status.phase == "Cancelled"


def test_workers_that_may_be_on_their_way_are_kept_from_coming():
    world = World.planned()
    world.spec(cancel=True)
    [action] = actions(world.step(), CreateJob)
    assert (action.role, action.manifest["spec"]["parallelism"]) == (Role.WORK, 0)
    world.add_job(Role.WORK, number=1, parallelism=0)
    assert finish(world).status.phase == "Cancelled"


@pytest.mark.parametrize("stage", [World.planning, World.working, World.publishing])
def test_cancelling_stops_pods_cleans_up_and_keeps_failed_pods_for_their_logs(stage):
    world = stage()
    world.spec(cancel=True)
    decision = world.step()
    assert actions(decision, ScaleJob)
    assert not created(decision)
    assert ready(decision)[0] == "Stopping"
    decision = finish(world)
    assert decision.status.phase == "Cancelled"
    assert kstatus(decision.status, generation=2) == "Failed"
    decision = world.step()
    assert [type(action) for action in decision.actions] == [RemoveFinalizer]
    world.metadata(finalizers=())
    assert decision.again_at is not None
    world.now = decision.again_at
    assert {job.attempt for job in world.jobs} == {1}
    assert len(actions(world.step(), DeleteJob)) == 2, "lead and clean-up; workers go with the lead"


@pytest.mark.parametrize("by", [Role.LEAD, Role.CLEAN])
def test_a_committed_publish_beats_cancelling(by):
    world = World.publishing()
    world.spec(cancel=True)
    if by is Role.LEAD:
        world.lead_says(PUBLISHED)
        decision = world.step()
    else:
        decision = finish(world, PUBLISHED)
    assert decision.status.phase == "Succeeded"


def test_a_deadline_fails_the_job():
    world = World.working(activeDeadlineSeconds=100)
    world.pass_time(100)
    decision = finish(world)
    assert decision.status.phase == "Failed"
    assert ready(decision)[0] == "DeadlineExceeded"


def test_a_stopped_pod_on_a_silent_node_isnt_waited_for_for_ever():
    world = World.working()
    world.spec(cancel=True)
    world.step()
    world.change_job(Role.LEAD, suspended=True, suspended_since=world.now, active=0, terminating=1)
    world.change_job(Role.WORK, suspended=True, suspended_since=world.now, active=0)
    world.change_pod(Role.LEAD, deleting_since=world.now)
    world.step()
    world.pass_time(SETTINGS.grace + SETTINGS.lost_after)
    assert created(world.step()) == ["clean-1"]


# Retries -------------------------------------------------------------------------------------------------------------


def test_a_retry_begins_the_next_attempt_of_what_failed():
    world = World.failed(consistency="Snapshot")
    world.status(restarts=3)
    world.spec(retry=1)
    decision = world.step()
    status = decision.status
    assert (status.phase, status.attempt, status.retries, status.restarts) == ("Pending", 2, 1, 0)
    assert (status.start_time, status.completion_time, status.consistency) == (None, None, None)
    assert not decision.actions, "the finalizer is needed again"
    assert kstatus(status, generation=2) == "InProgress"
    assert reasons(decision) == ["Retrying"]
    assert created(world.step()) == ["lead-2"]


@pytest.mark.parametrize("phase", ["Succeeded", "Cancelled"])
def test_only_what_failed_is_retried(phase):
    world = World.failed()
    world.status(phase=phase)
    world.spec(retry=1)
    assert world.step().status.attempt == 1


# Deletion ------------------------------------------------------------------------------------------------------------


def test_deleting_stops_cleans_and_lets_go():
    world = World.working()
    world.delete()
    decision = world.step()
    assert {(a.name, a.suspend) for a in actions(decision, ScaleJob)} == {(job.name, True) for job in world.jobs}
    world.stop()
    assert created(world.step()) == ["clean-1"]
    world.clean_says(CleanMessage())
    decision = world.step()
    assert actions(decision, RemoveFinalizer)
    assert [a.name for a in actions(decision, DeleteJob)] == [world.jobs[-1].name]


def test_deleting_what_is_final_or_never_began_needs_no_clean_up():
    world = World.failed()
    world.delete()
    assert world.step().actions == (RemoveFinalizer(),)
    world = World()
    world.delete()
    decision = world.step()
    assert (decision.actions, decision.again_at) == ((), None)


def test_a_deleted_job_without_a_source_is_let_go_and_told_of():
    world = World.planning()
    world.delete()
    world.step()
    world.stop()
    world.source = None
    decision = world.step()
    assert actions(decision, RemoveFinalizer)
    assert reasons(decision) == ["StagingLeft"]
    world = World.pending()
    world.delete()
    world.source = None
    assert reasons(world.step()) == ["StagingLeft"]


def test_a_deleted_job_isnt_held_for_ever_by_what_cant_be_done():
    world = World.working()
    world.delete()
    world.step()
    world.pass_time(2 * SETTINGS.clean_deadline)
    decision = world.step()
    assert actions(decision, RemoveFinalizer)
    assert reasons(decision) == ["StagingLeft"]


def test_a_namespace_that_goes_is_left_at_once():
    world = World.working()
    world.delete()
    world.namespace_terminating = True
    decision = world.step()
    # Pods that the Job controller would keep until it had made others go with their Jobs.
    assert len(actions(decision, DeleteJob)) == 2
    assert actions(decision, RemoveFinalizer)
    assert reasons(decision) == ["StagingLeft"]
    world.metadata(finalizers=(), deletion_timestamp=None)
    assert not actions(world.step(), RemoveFinalizer)


def test_a_final_job_in_a_namespace_that_goes_left_nothing():
    world = World.failed()
    world.delete()
    world.namespace_terminating = True
    decision = world.step()
    assert (decision.actions, decision.events) == ((RemoveFinalizer(),), ())


def test_a_source_that_was_made_anew_is_used_for_cleaning_up():
    world = World.working()
    world.spec(cancel=True, pod_template=PodTemplate(labels={"team": "x"}))
    world.source = make_source()
    assert FINALIZER in world.job.metadata.finalizers
    assert finish(world).status.phase == "Cancelled"
