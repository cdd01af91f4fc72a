"""Cleaning up after an attempt: nothing is left, unless it was published after all."""

import pytest

from extraction_contract.messages import CleanMessage, PublishMessage
from extraction_worker.errors import SinkUnavailable
from extraction_worker.sink.folder import FolderSink
from support.pods import COUNTS, Pods

SPEC = {"partitioning": {"targetBytes": "64Ki"}}


@pytest.mark.parametrize("store", ["folder", "s3"])
def test_nothing_of_an_attempt_that_was_not_published_is_left(table, tmp_path, store, s3_server, bucket):
    s3 = {"s3": (s3_server, bucket)} if store == "s3" else {}
    pods = Pods(tmp_path, table, bundles=2, spec=SPEC, **s3)
    with pods.held():
        pods.run("plan")
        pods.run("work", "w", **pods.worker(0))
    if store == "s3":
        assert s3_server.client().list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert isinstance(pods.run("clean", "cleaner"), CleanMessage)
    assert isinstance(pods.run("clean", "cleaner"), CleanMessage)
    if store == "s3":
        assert "Uploads" not in s3_server.client().list_multipart_uploads(Bucket=bucket)
        assert "Contents" not in s3_server.client().list_objects_v2(Bucket=bucket)
    assert pods.files() == []


@pytest.mark.parametrize("store", ["folder", "s3"])
def test_a_set_whose_message_was_lost_is_found(table, tmp_path, store, s3_server, bucket, monkeypatch):
    s3 = {"s3": (s3_server, bucket)} if store == "s3" else {}
    pods = Pods(tmp_path, table, spec=SPEC, **s3)
    with pods.held():
        pods.run("plan")
        published = pods.run("publish")
    told = pods.run("clean", "cleaner")
    assert isinstance(told, PublishMessage)
    assert told == published.model_copy(update=dict.fromkeys(COUNTS))
    assert list(pods.sink().list_state("")) == []


def test_the_set_of_another_attempt_is_not_taken_for_this_ones(table, tmp_path):
    pods = Pods(tmp_path, table, spec=SPEC)
    with pods.held():
        pods.run("plan")
        pods.run("publish")
    files = pods.files()
    pods.run_id = "uid-2"
    assert isinstance(pods.run("clean", "cleaner"), CleanMessage)
    assert pods.files() == files
    (pods.etc / "volumes" / "lake" / "default" / "job" / "_manifest.json").write_text("theirs")
    assert isinstance(pods.run("clean", "cleaner"), CleanMessage)
    assert pods.files() == files


def test_a_sink_that_is_away_for_a_moment_is_asked_again(table, tmp_path, monkeypatch):
    original = FolderSink.discard
    failures = iter([SinkUnavailable("away")])

    def discard(self):
        for error in failures:
            raise error
        original(self)

    monkeypatch.setattr(FolderSink, "discard", discard)
    assert isinstance(Pods(tmp_path, table).run("clean"), CleanMessage)
