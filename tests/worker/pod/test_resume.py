"""Another pod takes over: what is whole is reused; what isn't is caught, with its chunk named, and never published."""

import pytest

from extraction_worker.errors import VerificationFailed
from extraction_worker.model import ChunkResult
from support.pods import Pods, end, events, run

SPEC = {"partitioning": {"targetBytes": "64Ki"}}
ROWS = 12858


@pytest.fixture(params=["folder", "s3"])
def store(request):
    """Where parts lie, and how bytes there are damaged."""
    if request.param == "folder":
        return Folder()
    return Uploads(request.getfixturevalue("s3_server"), request.getfixturevalue("bucket"))


class Folder:
    """A volume."""

    place = None

    def path(self, pods, part):
        return pods.etc / "volumes" / "lake" / "_staging" / pods.run_id / "files" / part.name

    def flip(self, pods, part) -> None:
        path = self.path(pods, part)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    def truncate(self, pods, part) -> None:
        path = self.path(pods, part)
        path.write_bytes(path.read_bytes()[:-1])

    def lose(self, pods, part) -> None:
        self.path(pods, part).unlink()


class Uploads:
    """A bucket, whose parts are uploads that aren't complete."""

    def __init__(self, server, bucket) -> None:
        self.place, self.client, self.bucket = (server, bucket), server.client(), bucket

    def again(self, part, change) -> None:
        """Upload the only upload part again, with other bytes: a store keeps the last."""
        key, upload = self.key(part)
        copied = self.client.create_multipart_upload(Bucket=self.bucket, Key="copy")["UploadId"]
        self.client.abort_multipart_upload(Bucket=self.bucket, Key="copy", UploadId=copied)
        self.client.upload_part(
            Bucket=self.bucket, Key=key, UploadId=upload, PartNumber=1, Body=change(b"x" * part.bytes)
        )

    def key(self, part) -> tuple[str, str]:
        uploads = self.client.list_multipart_uploads(Bucket=self.bucket)["Uploads"]
        return next((one["Key"], one["UploadId"]) for one in uploads if one["Key"].endswith(part.name))

    def flip(self, pods, part) -> None:
        self.again(part, lambda data: data)

    def truncate(self, pods, part) -> None:
        self.again(part, lambda data: data[:-1])

    def lose(self, pods, part) -> None:
        key, upload = self.key(part)
        self.client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=upload)


@pytest.fixture
def pods(table, tmp_path, store):
    """A job of two bundles that is planned, the first of them done; the snapshot is held."""
    found = Pods(tmp_path, table, bundles=2, spec=SPEC, **({"s3": store.place} if store.place else {}))
    with found.held():
        found.run("plan")
        found.run("work", "first", **found.worker(0))
        yield found


def result_of(pods, chunk: int, pod: str = "first") -> tuple[str, ChunkResult]:
    name = f"results/{chunk:05d}-{pod}.json"
    return name, ChunkResult.from_json(pods.sink().get_state(name))


def again(pods, index: int = 0, pod: str = "second"):
    """Run a bundle in another pod; return its message and what it said."""
    invocation = pods.invocation("work", pod, **pods.worker(index))
    message = run("work", invocation)
    return message, " ".join(str(event.get("message", "")) for event in events(invocation))


@pytest.mark.parametrize("damage", ["flip", "truncate", "lose"])
def test_a_damaged_part_is_read_again_and_named(pods, store, damage):
    [part] = result_of(pods, 2)[1].parts
    getattr(store, damage)(pods, part)
    message, said = again(pods)
    assert message.reused == message.chunks - 1
    assert "Chunk 2 is read again" in said
    again(pods, 1)
    # Of the two results of chunk 2, the whole one.
    assert pods.run("publish").rows == ROWS
    assert part.name not in {found.name for found in pods.published().parts}


@pytest.mark.parametrize("damage", ["flip", "truncate", "lose"])
def test_a_part_that_was_damaged_after_the_last_worker_is_named_and_not_published(pods, store, damage):
    again(pods, 1)
    [part] = result_of(pods, 2)[1].parts
    getattr(store, damage)(pods, part)
    with pytest.raises(VerificationFailed, match="chunk 2"):
        pods.run("publish")
    assert pods.published() is None


def test_a_bundle_that_is_whole_is_taken_over_by_a_process_without_reading(pods, table):
    second = pods.start("work", "second", **pods.worker(0))
    assert end(second, 300) == 0
    told = pods.last_words("work", "second")
    assert (told.reused, told.sessions) == (told.chunks, 0)
    assert len(pods.results()) == told.chunks


def test_a_zombies_late_result_is_one_of_two_and_only_whole_ones_count(pods, store):
    """A pod that was believed dead goes on beside the one that took its bundle, and writes what it read."""
    again(pods, 1)
    sink = pods.sink()
    kept = {name: sink.get_state(name) for name in pods.results() if name.endswith("-first.json")}
    # The second pod saw nothing of it.
    for name in kept:
        sink.put_state(name, b"{}")
    message, said = again(pods, 0, "a-second")
    assert message.reused == 0
    assert "isn't a result" in said
    for name, data in kept.items():
        sink.put_state(name, data)
    [part] = ChunkResult.from_json(kept["results/00001-first.json"]).parts
    store.flip(pods, part)
    assert pods.run("publish").rows == ROWS
    names = [found.name for found in pods.published().parts]
    assert len(names) == len(set(names)) == len(pods.published().chunks)
    assert part.name not in names


@pytest.mark.parametrize("store", ["folder"], indirect=True)
def test_what_an_older_attempt_left_is_no_result_of_this_one(pods):
    """Staging is keyed by the attempt; and should its documents get here, the plan's digest tells them apart."""
    again(pods, 1)
    stale = {name: pods.sink().get_state(name) for name in pods.results()}
    pods.run_id = "uid-2"
    with pods.held("other-lead"):
        pods.run("plan", "other-lead")
        for name, data in stale.items():
            pods.sink().put_state(name, data)
        message, _ = again(pods, 0)
        assert message.reused == 0
        again(pods, 1)
        assert pods.run("publish", "other-lead").rows == ROWS
    digest = pods.published().plan_digest
    assert {ChunkResult.from_json(data).plan_digest for data in stale.values()} != {digest}
