"""Pods that can't start: people are told why, once, and when it is over."""

from dataclasses import replace

import pytest

from extraction_operator.plan.values import Container, LookForWarnings, Role
from support.plan_world import SETTINGS, World, actions, ended, plan_message, ready, reasons, running


def pending(**pod) -> World:
    """Return a world whose lead has a pod that hasn't started."""
    world = World.pending()
    world.add_job(Role.LEAD, active=1)
    world.add_pod(Role.LEAD, phase="Pending", **pod)
    return world


def test_a_pod_that_no_node_takes_is_told_at_once_and_once():
    world = pending(unschedulable="0/3 nodes are available: 3 Insufficient cpu.")
    decision = world.step()
    assert ready(decision)[0] == "PodCannotStart"
    assert "Insufficient cpu" in ready(decision)[1]
    assert reasons(decision) == ["Started", "PodCannotStart"]
    assert decision.status.phase == "Planning"
    world.pods = [replace(world.pods[0], unschedulable="0/4 nodes are available: 4 Insufficient cpu.")]
    decision = world.step()
    assert decision.events == ()
    assert decision.again_at is not None
    world.pods = [replace(world.pods[0], unschedulable="", phase="Running")]
    decision = world.step()
    assert ready(decision)[0] == "Started"


@pytest.mark.parametrize(
    "reason", ["ImagePullBackOff", "ErrImagePull", "CreateContainerConfigError", "InvalidImageName"]
)
def test_a_container_that_cant_be_made_is_told(reason):
    world = pending()
    world.change_pod(
        Role.LEAD, containers=(Container("hold", waiting_reason=reason, waiting_message="It is like that."),)
    )
    decision = world.step()
    assert ready(decision)[0] == "PodCannotStart"
    assert f"{reason}: It is like that." in ready(decision)[1]


def test_a_container_that_is_being_made_is_not():
    world = pending()
    world.change_pod(Role.LEAD, containers=(Container("hold", waiting_reason="PodInitializing"),))
    decision = world.step()
    assert ready(decision)[0] == "Started"
    assert decision.again_at is not None
    assert (decision.again_at - world.now).total_seconds() <= 30


def test_events_are_asked_for_when_a_pod_takes_long():
    world = pending()
    assert not actions(world.step(), LookForWarnings)
    world.pass_time(SETTINGS.explain_after)
    decision = world.step()
    assert decision.actions == (LookForWarnings((world.pods[0].name,)),)
    world.warnings = {world.pods[0].name: 'MountVolume.SetUp failed: secret "shop-reader" not found'}
    decision = world.step()
    assert not decision.actions
    assert 'secret "shop-reader" not found' in ready(decision)[1]
    assert reasons(decision) == ["PodCannotStart"]


def test_a_job_that_gets_no_pods_is_told():
    world = World.pending()
    job = world.add_job(Role.LEAD)
    world.step()
    world.pass_time(SETTINGS.explain_after)
    assert world.step().actions == (LookForWarnings((job.name,)),)
    world.warnings = {job.name: "exceeded quota: pods"}
    decision = world.step()
    assert ready(decision) == ("PodCannotStart", f"Job {job.name} gets no pods: exceeded quota: pods")


def test_workers_that_dont_start_are_told_while_others_work():
    world = World.working()
    world.add_pod(Role.WORK, index=2, phase="Pending", unschedulable="Insufficient memory.")
    assert "Insufficient memory" in ready(world.step())[1]


def test_what_was_said_of_the_plan_isnt_replaced_by_a_pod_that_has_started():
    world = pending(unschedulable="no")
    world.step()
    world.pods = [
        replace(world.pods[0], unschedulable="", phase="Running", containers=(running("hold"), running("plan")))
    ]
    world.change_pod(Role.LEAD, containers=(ended("plan", plan_message(1)), running("publish")))
    assert ready(world.step())[0] == "Planned"


def test_suspended_and_ended_jobs_need_no_pods():
    world = World.working()
    world.spec(suspend=True)
    world.step()
    world.change_job(Role.WORK, suspended=True, suspended_since=world.now, active=0)
    world.pass_time(60)
    assert not actions(world.step(), LookForWarnings)
