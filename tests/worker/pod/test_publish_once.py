"""Publishing happens once: two leads, two attempts, and a lead that dies between its commit and its report."""

import pytest

from extraction_contract.messages import CleanMessage, PublishMessage
from extraction_worker.errors import VerificationFailed
from extraction_worker.sink import s3_publish
from extraction_worker.sink.folder import FolderSink
from extraction_worker.stages.pod import publish as publish_module
from support.pods import LEAD, Pods, end

SPEC = {"partitioning": {"targetBytes": "64Ki"}}
ROWS = 12858


class Died(BaseException):
    """Stands for SIGKILL at some place of the code."""


@pytest.fixture(params=["folder", "s3"])
def place(request):
    """Arguments for a job whose files go there."""
    if request.param == "folder":
        return {}
    return {"s3": (request.getfixturevalue("s3_server"), request.getfixturevalue("bucket"))}


def worked(pods: Pods) -> Pods:
    pods.run("plan")
    for index in range(2):
        pods.run("work", f"pod-{pods.run_id}-{index}", **pods.worker(index))
    return pods


def test_two_leads_at_once_publish_one_set_and_tell_the_same(table, tmp_path, place):
    """A lead that is believed dead goes on beside another pod of its Job."""
    pods = Pods(tmp_path, table, bundles=2, spec=SPEC, consistency="PerPartition", **place)
    worked(pods)
    publishers = [pods.start("publish", name) for name in (LEAD, "second")]
    assert [end(publisher, 300) for publisher in publishers] == [0, 0]
    told = [pods.last_words("publish", name) for name in (LEAD, "second")]
    # Who takes the results counts what pools did: the other one may find the set there already.
    assert any(message.connections is not None for message in told)
    sets = [message.model_copy(update={"connections": None}) for message in told]
    assert sets[0] == sets[1]
    assert told[0].digest == pods.published().digest
    assert pods.published().rows == ROWS


def test_a_publisher_that_another_overtakes_at_its_last_step_tells_of_the_same_set(table, tmp_path, place, monkeypatch):
    pods = Pods(tmp_path, table, bundles=2, spec=SPEC, consistency="PerPartition", **place)
    worked(pods)
    original, told = publish_module.publish, []

    def overtaken(*arguments, **more):
        monkeypatch.setattr(publish_module, "publish", original)
        told.append(pods.run("publish", "second"))
        return original(*arguments, **more)

    monkeypatch.setattr(publish_module, "publish", overtaken)
    mine = pods.run("publish")
    # The other one has removed staging, too. What pools did is counted by who publishes.
    assert told == [mine.model_copy(update={"connections": told[0].connections})]
    assert told[0].connections is not None
    assert pods.published().rows == ROWS


def test_a_publisher_that_another_overtakes_before_its_first_look_tells_of_the_same_set(
    table, tmp_path, place, monkeypatch
):
    pods = Pods(tmp_path, table, bundles=2, spec=SPEC, consistency="PerPartition", **place)
    worked(pods)
    original, told = publish_module.Collector, []

    def overtaken(*arguments):
        monkeypatch.setattr(publish_module, "Collector", original)
        told.append(pods.run("publish", "second"))
        return original(*arguments)

    monkeypatch.setattr(publish_module, "Collector", overtaken)
    # Neither results nor plan are in staging now.
    mine = pods.run("publish")
    assert told == [mine.model_copy(update={"connections": told[0].connections})]
    assert pods.published().rows == ROWS


def test_a_publisher_doesnt_wait_for_results_when_staging_was_removed(table, tmp_path, place, monkeypatch):
    pods = Pods(tmp_path, table, bundles=2, spec=SPEC, consistency="PerPartition", **place)
    pods.run("plan")
    original = publish_module.Collector

    def removed(*arguments):
        pods.sink().discard()
        return original(*arguments)

    monkeypatch.setattr(publish_module, "Collector", removed)
    with pytest.raises(VerificationFailed, match="The plan of run uid-1 isn't in staging"):
        pods.run("publish")
    assert pods.published() is None


def test_of_two_attempts_one_is_published_and_the_other_says_so(table, tmp_path, place):
    first = Pods(tmp_path / "pods", table, bundles=2, spec=SPEC, consistency="PerPartition", **place)
    worked(first)
    first.run_id = "uid-2"
    worked(first)
    processes = {}
    for number, run_id in enumerate(("uid-1", "uid-2")):
        first.run_id = run_id
        processes[run_id] = first.start("publish", f"lead-{number}")
    codes = {run_id: end(process, 300) for run_id, process in processes.items()}
    winner = first.published().run_id
    assert codes[winner] == 0
    assert sorted(codes.values()) == [0, 26]
    # Nothing of the other's is among it, and it can be cleaned up without harm.
    published = first.published()
    first.run_id = next(run_id for run_id in codes if run_id != winner)
    assert isinstance(first.run("clean", "cleaner"), CleanMessage)
    assert first.published() == published


def test_a_publisher_that_is_killed_between_commit_and_report_is_settled_as_published(
    table, tmp_path, place, monkeypatch
):
    pods = Pods(tmp_path, table, bundles=2, spec=SPEC, consistency="PerPartition", **place)
    worked(pods)
    commit = FolderSink.publish if not place else s3_publish.Publication.publish
    owner = FolderSink if not place else s3_publish.Publication

    def commit_and_die(self, manifest):
        commit(self, manifest)
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(owner, "publish", commit_and_die)
        with pytest.raises(Died):
            pods.run("publish")
    published = pods.published()
    # Whoever comes next, another pod of the lead or the clean-up, tells what was published.
    for told in (pods.run("publish", "second"), pods.run("clean", "cleaner")):
        assert isinstance(told, PublishMessage)
        assert (told.rows, told.digest) == (ROWS, published.digest)
    assert pods.published() == published
    assert list(pods.sink().list_state("")) == []
