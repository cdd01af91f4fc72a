"""Checks of a DataSource: when, what they find, and what is told."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import pytest

from extraction_contract.messages import CheckMessage, Message
from extraction_contract.models import DataSource
from extraction_operator.plan import names
from extraction_operator.plan.admission import hindrance
from extraction_operator.plan.source import check_claim, decide_source
from extraction_operator.plan.values import (
    FINALIZER,
    AddFinalizer,
    ChildJob,
    CreateJob,
    DeleteJob,
    Ending,
    Grant,
    LookForWarnings,
    ObservedSource,
    Pod,
    RemoveFinalizer,
    Role,
    SourceDecision,
)  # fmt: skip
from support.api_rules import check_status, check_times, kstatus
from support.plan_world import NOW, SETTINGS, ended, failure, make_job, make_source, seconds

FOUND = CheckMessage(server_version="18.6", latency_milliseconds=0.4, tls="TLSv1.3", max_connections=100)
REFUSED = failure("AuthenticationFailed", 14, text="password authentication failed")
BUSY = failure("SourceBusy", 41, text="The budget shop-db:5432 of 10 connections is used up: by others.")


def new_source(**metadata: Any) -> DataSource:
    found = make_source()
    return DataSource.model_validate(
        {
            "metadata": {"name": "shop", "namespace": "team", "uid": "55555555-x", "generation": 1, **metadata},
            "spec": found.spec,
        },
        strict=False,
    )


@dataclass
class SourceWorld:
    """What is observed of one source."""

    source: DataSource = field(default_factory=lambda: new_source(finalizers=(FINALIZER,)))
    now: datetime = NOW
    jobs: list[ChildJob] = field(default_factory=list)
    pods: list[Pod] = field(default_factory=list)
    warnings: dict[str, str] = field(default_factory=dict)
    active: int = 0
    grant: Grant = field(default_factory=lambda: Grant(admitted=True))

    @property
    def seen(self) -> ObservedSource:
        return ObservedSource(
            self.source, self.now, tuple(self.jobs), tuple(self.pods), self.warnings, active_jobs=self.active,
            grant=self.grant,
        )  # fmt: skip

    def decide(self) -> SourceDecision:
        decision = decide_source(self.seen, SETTINGS)
        check_status(decision.status)
        check_times(self.source.status, decision.status, self.now)
        assert decision.again_at is None or decision.again_at > self.now
        return decision

    def step(self) -> SourceDecision:
        """Decide, store the status, carry the actions out."""
        decision = self.decide()
        self.source = self.source.model_copy(update={"status": decision.status})
        for action in decision.actions:
            if isinstance(action, CreateJob):
                metadata = action.manifest["metadata"]
                self.jobs.append(
                    ChildJob(
                        action.name, f"uid-{action.name}", Role.CHECK, int(metadata["labels"][names.ATTEMPT]), 0,
                        created=self.now, generation=int(metadata["annotations"][names.GENERATION]),
                        request=metadata["annotations"][names.CHECK], active=1,
                    )
                )  # fmt: skip
            elif isinstance(action, DeleteJob):
                self.jobs = [job for job in self.jobs if job.uid != action.uid]
        return decision

    def metadata(self, **fields: Any) -> None:
        self.source = self.source.model_copy(update={"metadata": self.source.metadata.model_copy(update=fields)})

    def pod(self, said: Message | str | None = None, **fields: Any) -> None:
        job = self.jobs[-1]
        containers = () if said is None else (ended("check", said),)
        values = {"phase": "Pending" if said is None else "Succeeded" if containers[0].exit_code == 0 else "Failed"}
        pod = Pod(
            f"{job.name}-x", f"uid-{job.name}-x", job.name, job.uid, Role.CHECK, job.attempt, None, self.now,
            containers=containers, **(values | fields),
        )  # fmt: skip
        self.pods = [found for found in self.pods if found.uid != pod.uid] + [pod]

    def check_says(self, said: Message | str) -> SourceDecision:
        """Have a check be made, and end."""
        self.step()
        self.pod(said)
        return self.step()

    def condition(self, kind: str = "Ready"):
        return next(found for found in self.source.status.conditions if found.type == kind)


def test_the_finalizer_comes_before_the_first_check():
    world = SourceWorld(new_source())
    assert world.step().actions == (AddFinalizer(),)
    world.metadata(finalizers=(FINALIZER,))
    decision = world.step()
    [action] = decision.actions
    assert isinstance(action, CreateJob)
    assert action.name == "shop-55555555-check-1"
    assert kstatus(decision.status, generation=1) == "InProgress"
    decision = world.step()
    assert not decision.actions
    assert decision.status == world.source.status


def test_a_good_check_makes_the_source_ready():
    world = SourceWorld()
    decision = world.check_says(FOUND)
    assert decision.urgent
    assert kstatus(decision.status, generation=1) == "Current"
    assert decision.status.server is not None
    assert (decision.status.server.version, decision.status.server.latency_milliseconds) == ("18.6", 1)
    assert world.condition().message == "PostgreSQL 18.6, TLSv1.3."
    assert world.condition("ReadOnly").status == "True"
    assert (world.condition("Secure").status, world.condition("Secure").reason) == ("True", "ServerVerified")
    assert [event.reason for event in decision.events] == ["Connected"]
    decision = world.step()
    assert [type(action) for action in decision.actions] == [DeleteJob]
    assert decision.again_at is None
    decision = world.step()
    assert (decision.actions, decision.events, decision.status) == ((), (), world.source.status)


def test_what_a_check_finds_is_told():
    world = SourceWorld()
    decision = world.check_says(
        FOUND.model_copy(
            update={"pooler": True, "replica": True, "tls": "", "can_write": True, "role_connection_limit": 5}
        )
    )
    text = world.condition().message
    assert text == (
        "PostgreSQL 18.6, no TLS, a replica, behind a pooler,"
        " the role may have 5 connections only, limits.maxConnections is 10."
    )
    assert world.condition("ReadOnly").reason == "RoleCanWrite"
    assert [event.reason for event in decision.events] == ["Connected", "RoleCanWrite", "NoTLS"]


@pytest.mark.parametrize(
    ("mode", "tls", "reason"),
    [
        ("disable", "", "NoTLS"),
        ("require", "TLSv1.3", "ServerNotVerified"),
        ("verify-ca", "TLSv1.3", "ServerNotVerified"),
    ],
)
def test_a_connection_that_others_could_read_is_warned_of_once(mode, tls, reason):
    source = new_source()
    connection = source.spec.connection.model_copy(update={"ssl_mode": mode})
    spec = source.spec.model_copy(update={"connection": connection})
    world = SourceWorld(source.model_copy(update={"spec": spec}))
    world.metadata(finalizers=(FINALIZER,))
    decision = world.check_says(FOUND.model_copy(update={"tls": tls}))
    found = world.condition("Secure")
    assert (found.status, found.reason) == ("False", reason)
    assert mode in found.message
    [warning] = [event for event in decision.events if event.reason == reason]
    assert warning.warning
    # The source is usable all the same: it was declared so.
    assert world.condition().status == "True"


def test_a_role_with_too_few_connections_for_a_job_is_refused():
    world = SourceWorld()
    world.check_says(FOUND.model_copy(update={"role_connection_limit": 1}))
    assert (world.condition().status, world.condition().reason) == ("False", "TooFewConnections")
    assert "may have 1 connections only, and a job needs 2" in world.condition().message
    assert world.condition("Stalled").status == "True"


def test_a_failed_check_is_told_and_repeated_later_and_later():
    world = SourceWorld()
    decision = world.check_says(REFUSED)
    assert kstatus(decision.status, generation=1) == "Failed"
    assert world.condition().message == "password authentication failed"
    assert [event.reason for event in decision.events] == ["AuthenticationFailed"]
    waits = []
    for _ in range(8):
        decision = world.decide()
        assert decision.again_at is not None
        waits.append((decision.again_at - world.now).total_seconds())
        world.now = decision.again_at
        told = world.check_says(REFUSED).events
        assert not told, "nothing new"
        assert len(world.jobs) == 2
        world.step()
        assert len(world.jobs) == 1, "the last one is kept for its log"
    assert waits == [10, 20, 40, 80, 160, 300, 300, 300]
    world.now += seconds(300)
    world.check_says(FOUND)
    assert (world.condition().status, world.source.status.failed_checks) == ("True", 0)


def test_a_check_that_finds_no_connection_free_waits_and_knocks_again_soon():
    world = SourceWorld()
    decision = world.check_says(BUSY)
    assert kstatus(decision.status, generation=1) == "InProgress"
    assert [(event.reason, event.warning) for event in decision.events] == [("SourceBusy", False)]
    waits = []
    for _ in range(8):
        for kind, status in (("Ready", "False"), ("Reconciling", "True"), ("Stalled", "False")):
            assert (world.condition(kind).status, world.condition(kind).reason) == (status, "SourceBusy")
        assert "used up: by others" in world.condition().message
        found = hindrance(make_job(), world.source, world.now)
        assert found is not None
        assert "used up: by others" in found.message, "the job says so, too"
        decision = world.decide()
        assert decision.again_at is not None
        waits.append((decision.again_at - world.now).total_seconds())
        world.now = decision.again_at
        told = world.check_says(BUSY).events
        assert not told, "nothing new"
    assert waits == [10] * 8
    world.now += seconds(10)
    world.check_says(FOUND)
    assert (world.condition().status, world.condition("Reconciling").status) == ("True", "False")
    assert world.source.status.failed_checks == 0


def test_a_source_that_is_ready_stays_so_while_another_check_waits_for_a_connection():
    world = SourceWorld()
    world.check_says(FOUND)
    world.step()
    before = {kind: world.condition(kind) for kind in ("Ready", "ReadOnly", "Secure")}
    world.now += seconds(100)
    world.metadata(annotations={names.CHECK: "please"})
    decision = world.check_says(BUSY)
    assert {kind: world.condition(kind) for kind in before} == before
    assert world.condition("Reconciling").status == "True"
    assert "used up: by others" in world.condition("Reconciling").message
    assert [event.reason for event in decision.events] == ["SourceBusy"]
    assert decision.status.server is not None
    assert hindrance(make_job(), world.source, world.now) is None, "jobs begin meanwhile"
    world.now += seconds(10)
    assert not world.check_says(BUSY).events
    world.now += seconds(10)
    world.check_says(FOUND)
    assert kstatus(world.source.status, generation=1) == "Current"
    world.step()
    assert not world.step().actions
    # What is wrong is still told.
    world.metadata(annotations={names.CHECK: "again"})
    world.check_says(BUSY)
    world.now += seconds(10)
    world.check_says(REFUSED)
    assert (world.condition().status, world.condition().reason) == ("False", "AuthenticationFailed")


def test_an_edited_source_isnt_ready_before_its_check_found_a_connection():
    world = SourceWorld()
    world.check_says(FOUND)
    world.step()
    world.metadata(generation=2)
    world.check_says(BUSY)
    assert (world.condition().status, world.condition().observed_generation) == ("False", 2)
    assert world.source.status.observed_generation == 2
    assert hindrance(make_job(), world.source, world.now) is not None


def test_a_server_that_answers_that_it_is_busy_ends_the_growing_pauses():
    world = SourceWorld()
    for _ in range(5):
        world.check_says(failure())
        world.now += seconds(300)
    assert world.source.status.failed_checks == 5
    world.check_says(BUSY)
    decision = world.decide()
    assert decision.again_at == world.now + seconds(10)


def test_an_error_that_may_pass_isnt_stalled():
    world = SourceWorld()
    assert kstatus(world.check_says(failure()).status, generation=1) == "InProgress"


def test_a_check_for_which_no_connection_is_left_isnt_made_and_says_why():
    world = SourceWorld(grant=Grant(admitted=False, reason="All are in use.", again_at=NOW + seconds(30)))
    decision = world.step()
    assert (decision.actions, decision.again_at) == ((), NOW + seconds(30))
    assert kstatus(decision.status, generation=1) == "InProgress"
    for kind, status in (("Ready", "False"), ("Reconciling", "True"), ("Stalled", "False")):
        found = world.condition(kind)
        assert (found.status, found.reason) == (status, "WaitingForBudget")
    assert world.condition("Reconciling").message == "All are in use."
    assert world.source.status.checks == 0
    world.grant = Grant(admitted=True)
    [action] = world.step().actions
    assert isinstance(action, CreateJob)


def test_a_source_that_is_ready_stays_so_while_another_check_waits_for_the_budget():
    world = SourceWorld()
    world.check_says(FOUND)
    world.step()
    world.metadata(annotations={names.CHECK: "again"})
    world.grant = Grant(admitted=False, reason="All are in use.", again_at=NOW + seconds(30))
    assert not world.step().actions
    assert world.condition().status == "True"
    assert world.condition("Reconciling").reason == "WaitingForBudget"
    world.grant = Grant(admitted=True)
    world.check_says(FOUND)
    assert world.condition("Reconciling").status == "False"


def test_what_a_check_claims_is_one_connection_from_when_it_is_due_until_its_pod_is_gone():
    world = SourceWorld()
    due = check_claim(world.seen, SETTINGS)
    assert due is not None
    assert (due.runs, due.limit) == (False, world.source.spec.limits.max_connections)
    world.step()
    assert check_claim(world.seen, SETTINGS) == replace(due, runs=True)
    world.pod(FOUND)
    world.jobs[-1] = replace(world.jobs[-1], active=0, terminating=1, ending=Ending.COMPLETE)
    world.step()
    assert check_claim(world.seen, SETTINGS) == replace(due, runs=True) or not world.jobs
    world.jobs = []
    assert check_claim(world.seen, SETTINGS) is None
    world.metadata(annotations={names.CHECK: "again"})
    assert check_claim(world.seen, SETTINGS) == due
    world.metadata(deletion_timestamp=NOW)
    assert check_claim(world.seen, SETTINGS) is None


def test_an_edited_source_is_checked_again():
    world = SourceWorld()
    world.step()
    world.metadata(generation=2)
    world.pod(FOUND)
    decision = world.step()
    assert decision.status.observed_generation == 1, "that check was about the old one"
    assert kstatus(decision.status, generation=2) == "InProgress"
    world.step()
    assert [job.generation for job in world.jobs] == [2]
    world.pod(FOUND)
    assert kstatus(world.step().status, generation=2) == "Current"


def test_an_annotation_asks_for_a_check():
    world = SourceWorld()
    world.check_says(FOUND)
    world.step()
    world.metadata(annotations={names.CHECK: "x" * 300})
    world.step()
    assert [job.request for job in world.jobs] == ["x" * 256]
    world.pod(FOUND)
    world.step()
    world.step()
    assert not world.step().actions


@pytest.mark.parametrize("ending", Ending)
def test_a_check_without_a_word_is_a_failure_once_it_was_awaited(ending):
    world = SourceWorld()
    world.step()
    world.jobs[0] = replace(
        world.jobs[0], ending=ending, ended_at=world.now, ending_reason="DeadlineExceeded", active=0
    )
    assert world.step().status.checks == 0
    world.now += seconds(SETTINGS.last_words)
    decision = world.step()
    assert decision.status.failed_checks == 1
    assert world.condition().reason == ("PodFailed" if ending is Ending.COMPLETE else "DeadlineExceeded")


def test_why_a_check_didnt_start_is_told_and_remembered():
    world = SourceWorld()
    world.step()
    world.pod(unschedulable="Insufficient cpu.")
    world.step()
    assert world.condition().reason == "PodCannotStart"
    world.pods.clear()
    world.jobs[0] = replace(
        world.jobs[0], ending=Ending.FAILED, ended_at=world.now, ending_reason="DeadlineExceeded", active=0
    )
    world.now += seconds(SETTINGS.last_words)
    decision = world.step()
    assert decision.status.failed_checks == 1
    assert "Insufficient cpu" in world.condition().message


def test_events_are_asked_for_when_a_check_takes_long():
    world = SourceWorld()
    world.step()
    world.pod()
    world.now += seconds(SETTINGS.explain_after)
    assert world.step().actions == (LookForWarnings((world.pods[0].name,)),)
    world.warnings = {world.pods[0].name: 'secret "shop-reader" not found'}
    world.step()
    assert 'secret "shop-reader" not found' in world.condition().message


def test_a_message_that_isnt_ours_is_no_answer():
    world = SourceWorld()
    world.step()
    world.pod(FOUND.encode()[:50])
    decision = world.step()
    assert decision.status.checks == 0
    world.pod(failure().model_copy(update={"exit_code": 1}))
    assert world.step().status.failed_checks == 1


def test_a_deleted_source_waits_for_jobs_that_need_it():
    world = SourceWorld()
    world.active = 1
    world.metadata(deletion_timestamp=NOW)
    assert not world.step().actions
    world.active = 0
    assert world.step().actions == (RemoveFinalizer(),)
    world.metadata(finalizers=())
    assert not world.step().actions


def test_the_budget_is_shown():
    world = SourceWorld()
    world.active = 3
    assert world.step().status.active_jobs == 3
