"""Planning in a pod: what the operator is told, what is in staging, and what a second planner of one attempt does."""

import pytest

from extraction_contract.messages import MAX_BYTES, PlanMessage, decode
from extraction_worker.errors import (
    Interrupted,
    InvalidQuery,
    NotFound,
    SinkExists,
    SinkRefused,
    SinkUnavailable,
    VerificationFailed,
)
from extraction_worker.sink.folder import FolderSink
from extraction_worker.stages.pod import plan as plan_module
from extraction_worker.stages.pod.stop import Stop
from support.databases import wait_until
from support.plans import make_plan
from support.pods import COUNTS, Pods, run


def test_the_operator_is_told_what_is_in_staging(table, tmp_path):
    pods = Pods(tmp_path, table, bundles=2, spec={"partitioning": {"targetBytes": "64Ki"}})
    with pods.held() as files:
        told = pods.run("plan")
        held = files.read_snapshot()
    plan = pods.plan()
    assert (told.digest, told.chunks, told.bundles) == (plan.plan_digest(), len(plan.chunks), 2)
    assert (told.estimated_rows, told.strategy) == (plan.estimated_rows, "ctid")
    assert (plan.identity, plan.planned_at) == (held.identity, held.taken_at)


@pytest.mark.parametrize(
    ("spec", "kind"),
    [({"query": "SELECT 1 +"}, InvalidQuery), ({"where": "no_such > 1"}, NotFound)],
)
def test_a_job_that_is_impossible_leaves_nothing(table, tmp_path, spec, kind):
    pods = Pods(tmp_path, table, consistency="PerPartition", spec=spec)
    with pytest.raises(kind):
        pods.run("plan")
    assert pods.files() == []


def test_a_sink_that_is_taken_or_missing_is_refused_first(table, tmp_path):
    pods = Pods(tmp_path, table, consistency="PerPartition")
    taken = pods.etc / "volumes" / "lake" / "default" / "job"
    taken.mkdir(parents=True)
    (taken / "theirs").write_text("")
    with pytest.raises(SinkExists):
        pods.run("plan")
    assert pods.files() == ["default/job/theirs"]
    (taken / "theirs").unlink()
    for folder in (taken, taken.parent, taken.parent.parent):
        folder.rmdir()
    with pytest.raises(SinkRefused):
        pods.run("plan")


def test_a_plan_that_was_stored_although_the_store_said_no_is_removed(table, tmp_path, monkeypatch):
    original = FolderSink.put_state

    def put_state(self, name, data):
        original(self, name, data)
        raise SinkUnavailable("no answer")

    monkeypatch.setattr(FolderSink, "put_state", put_state)
    pods = Pods(tmp_path, table, consistency="PerPartition")
    with pytest.raises(SinkUnavailable):
        pods.run("plan")
    assert pods.files() == []


def test_planning_that_fails_leaves_the_staging_of_others_alone(table, tmp_path, monkeypatch):
    pods = Pods(tmp_path, table, consistency="PerPartition", spec={"where": "no_such_column > 1"})
    pods.sink().put_state("results/00000-x.json", b"{}")
    with pytest.raises(NotFound, match="no_such_column"):
        pods.run("plan")
    assert pods.results() == ["results/00000-x.json"]


def test_a_stop_ends_the_waiting_for_the_holder(table, tmp_path):
    pods = Pods(tmp_path, table)
    stop = Stop()
    stop.request("SIGTERM")
    with pytest.raises(Interrupted, match="SIGTERM"):
        run("plan", pods.invocation("plan", stop=stop))
    assert pods.files() == []


def test_planning_again_in_the_same_pod_takes_the_plan_over(table, tmp_path):
    pods = Pods(tmp_path, table)
    with pods.held():
        first = pods.run("plan")
        plan = pods.plan()
        assert pods.run("plan") == first
        assert pods.plan() == plan


def test_a_second_lead_leaves_the_plan_of_the_first_alone(table, tmp_path):
    pods = Pods(tmp_path, table)
    with pods.held():
        pods.run("plan")
    plan = pods.plan()
    with pods.held("second") as files:
        wait_until(lambda: files.read_snapshot() is not None)
        with pytest.raises(SinkUnavailable, match="Another pod planned"):
            pods.run("plan", "second")
    assert pods.plan() == plan


def test_an_attempt_that_is_published_has_nothing_left_to_plan(table, tmp_path):
    pods = Pods(tmp_path, table)
    with pods.held():
        planned = pods.run("plan")
        published = pods.run("publish")
    with pods.held("second"):
        again = pods.run("plan", "second")
        assert (again.digest, again.bundles) == (planned.digest, 1)
        # It says what is published, and read nothing itself.
        assert pods.run("publish", "second") == published.model_copy(update=dict.fromkeys(COUNTS))
    assert {name.split("/")[0] for name in pods.files()} == {"default"}


def test_the_plan_of_another_run_or_version_is_refused(table, tmp_path):
    pods = Pods(tmp_path, table, consistency="PerPartition")
    pods.sink().put_state("plan.json", make_plan(run_id="other").to_json())
    with pytest.raises(VerificationFailed, match="of run other"):
        pods.run("plan")
    pods.sink().put_state("plan.json", b"{}")
    with pytest.raises(VerificationFailed, match="isn't a plan"):
        pods.run("publish")
    pods.sink().discard()
    with pytest.raises(VerificationFailed, match="isn't in staging"):
        pods.run("publish")


@pytest.mark.parametrize("character", ["a", "ü", "\U0001f600"])
def test_the_message_of_a_plan_fits_whatever_its_reason(character):
    plan = make_plan(strategy_reason=character * 5000)
    text = plan_module._message(plan, 3).encode()
    assert len(text) <= MAX_BYTES
    told = decode(text)
    assert isinstance(told, PlanMessage)
    assert told.reason
    assert plan.strategy_reason.startswith(told.reason)
