"""A whole job by hand, container by container: what is published is what local mode publishes."""

import contextlib
import signal

import pytest

from extraction_contract.messages import BundleMessage, PlanMessage, PublishMessage
from support.databases import wait_until
from support.jobs import local_run
from support.pods import LEAD, Pods, end

SPEC = {"partitioning": {"targetBytes": "64Ki"}, "verification": "Decoded"}


def backends(database):
    return database.execute(
        "SELECT application_name FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name LIKE 'extraction/default/job/%'"
    )


@pytest.mark.parametrize("store", ["folder", "s3"])
def test_the_pods_of_a_job_publish_what_local_mode_does(table, tmp_path, store, s3_server, bucket):
    s3 = {"s3": (s3_server, bucket)} if store == "s3" else {}
    pods = Pods(tmp_path / "pods", table, bundles=3, spec=SPEC, **s3)
    hold = pods.start("hold")
    assert end(pods.start("plan")) == 0
    planned = pods.last_words("plan")
    assert isinstance(planned, PlanMessage)
    assert (planned.bundles, planned.digest) == (3, pods.plan().plan_digest())
    assert backends(table) == [(f"extraction/default/job/{LEAD}",)]
    table.execute("DELETE FROM t WHERE id > 100")
    publish = pods.start("publish")
    workers = [pods.start("work", f"pod-{index}", **pods.worker(index)) for index in range(3)]
    assert [end(worker) for worker in workers] == [0, 0, 0]
    done = [pods.last_words("work", f"pod-{index}") for index in range(3)]
    assert all(isinstance(bundle, BundleMessage) for bundle in done)
    assert sum(bundle.chunks for bundle in done) == planned.chunks
    assert end(publish) == 0
    told = pods.last_words("publish")
    assert isinstance(told, PublishMessage)
    hold.send_signal(signal.SIGTERM)
    assert end(hold) == 0
    manifest = pods.published()
    assert manifest is not None
    assert told.rows == 12858
    assert (told.rows, told.bytes, told.digest) == (manifest.rows, manifest.bytes, manifest.digest)
    assert sum(bundle.rows for bundle in done) == manifest.rows
    wait_until(lambda: backends(table) == [])
    if store == "folder":
        assert {name.split("/")[0] for name in pods.files()} == {"default"}
    else:
        assert "Uploads" not in s3_server.client().list_multipart_uploads(Bucket=bucket)
        assert list(pods.sink().list_state("")) == []


def test_parts_and_digests_are_those_of_local_mode(table, tmp_path):
    pods = Pods(tmp_path / "pods", table, bundles=2, spec=SPEC)
    with pods.held():
        pods.run("plan")
        for index in (1, 0):
            pods.run("work", f"pod-{index}", **pods.worker(index))
        pods.run("publish")
    manifest = pods.published()
    local = local_run(tmp_path / "local", table, threads=6, spec=SPEC).run()
    assert [part.xxh3_128 for part in manifest.parts] == [part.xxh3_128 for part in local.parts]
    assert [chunk.columns for chunk in manifest.chunks] == [chunk.columns for chunk in local.chunks]


def test_a_small_plan_is_worked_by_publish(table, tmp_path):
    pods = Pods(tmp_path, table, spec=SPEC)
    with pods.held() as files:
        planned = pods.run("plan", EXTRACTION_BUNDLES="")
        assert planned.bundles == 1
        assert pods.run("publish", EXTRACTION_BUNDLES="").rows == 12858
        assert files.is_released
    assert pods.published().plan_digest == planned.digest
    assert {name.split("/")[0] for name in pods.files()} == {"default"}


@pytest.mark.parametrize("bundles", [1, 2])
def test_an_empty_result_has_one_file_with_the_schema(table, tmp_path, bundles):
    pods = Pods(tmp_path, table, bundles=bundles, spec=SPEC | {"where": "id < 0"})
    with pods.held():
        pods.run("plan")
        if bundles > 1:
            for index in range(bundles):
                pods.run("work", f"pod-{index}", **pods.worker(index))
        assert (pods.run("publish").rows, len(pods.published().parts)) == (0, 1)


def test_a_degraded_attempt_needs_no_holder_and_says_what_it_gives(table, tmp_path):
    pods = Pods(tmp_path, table, consistency="PerPartition", bundles=2, spec=SPEC | {"snapshot": {"onLoss": "Degrade"}})
    pods.run("plan")
    for index in range(2):
        pods.run("work", f"pod-{index}", **pods.worker(index))
    told = pods.run("publish")
    assert (told.consistency, pods.published().consistency) == ("PerPartition", "PerPartition")
    assert told.rows == 12858


@pytest.mark.parametrize("then", ["Snapshot", "PerPartition"])
def test_after_a_lost_lead_another_attempt_publishes_alone_and_says_what_it_gives(table, tmp_path, then):
    """What the operator does under onLoss: Restart and Degrade; under Fail it ends with the clean-up."""
    pods = Pods(tmp_path, table, bundles=2, spec=SPEC)
    hold = pods.start("hold")
    assert end(pods.start("plan")) == 0
    publish = pods.start("publish")
    pods.run("work", "pod-0", **pods.worker(0))
    hold.kill()
    end(hold)
    # The kubelet starts a sidecar again that has ended.
    hold = pods.start("hold")
    assert end(publish) == 22
    assert pods.last_words("publish").reason == "SnapshotLost"
    hold.send_signal(signal.SIGTERM)
    assert end(hold) == 0
    assert end(pods.start("clean", "cleaner")) == 0
    assert pods.published() is None
    assert pods.files() == []
    table.execute("DELETE FROM t WHERE id > 5000")
    pods.run_id, pods.consistency = "uid-2", then
    with pods.held("second") if then == "Snapshot" else contextlib.nullcontext():
        pods.run("plan", "second")
        for index in range(2):
            pods.run("work", f"again-{index}", **pods.worker(index))
        told = pods.run("publish", "second")
    manifest = pods.published()
    assert (told.rows, told.consistency) == (4286, then)
    assert (manifest.run_id, manifest.consistency) == ("uid-2", then)
    assert {name.split("/")[0] for name in pods.files()} == {"default"}
