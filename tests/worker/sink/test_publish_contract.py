"""What every sink promises its readers, whatever happens to its publisher. A new kind of sink is added to ``place``."""

import contextlib
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from extraction_worker.errors import ExtractionError, SinkExists, VerificationFailed
from extraction_worker.model import Manifest, Part
from extraction_worker.sink import tree
from extraction_worker.sink.abc import MANIFEST_NAME
from extraction_worker.sink.digests import Digester
from support.sinks import Died, FolderPlace, Place, S3Place, Steps, make_manifest, stage, write_part


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in memory, where there is such a thing: hundreds of fsyncs cost nothing there."""
    memory = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(dir=memory)) if memory.is_dir() else tmp_path_factory.mktemp("volumes")
    yield root
    shutil.rmtree(root)


@pytest.fixture(params=["folder", "s3"])
def new_place(request: pytest.FixtureRequest, volumes: Path) -> Callable[[], Place]:
    """Return a function that makes empty places."""
    if request.param == "folder":
        return lambda: FolderPlace(Path(tempfile.mkdtemp(dir=volumes)))
    server = request.getfixturevalue("s3_server")
    client = server.client()
    count = iter(range(10_000))
    prefix = f"contract-{id(request):x}"

    def place() -> Place:
        name = f"{prefix}-{next(count)}"
        client.create_bucket(Bucket=name)
        return S3Place(server, name)

    return place


@pytest.fixture
def place(new_place: Callable[[], Place]) -> Place:
    return new_place()


def published_before(place: Place) -> Manifest:
    """Put an old set of ours at the place, as a reader sees it."""
    parts = []
    for chunk in range(2):
        digester = Digester()
        digester.update(b"old")
        held = digester.digest()
        name = f"part-{chunk:05d}-000000ld.parquet"
        parts.append(Part(name=name, chunk=chunk, rows=1, bytes=3, xxh3_128=held.xxh3_128, crc32=held.crc32))
        place.put(name, b"old")
    manifest = make_manifest("old", tuple(parts))
    place.put(MANIFEST_NAME, manifest.to_json())
    return manifest


def steps_of(place: Place, if_exists: str) -> int:
    """Return the number of steps that a publish takes without trouble."""
    if if_exists == "Replace":
        published_before(place)
    sink = place.sink("run", if_exists)
    manifest = stage(sink, "run", count=1)
    steps = Steps()
    with place.watch(sink, steps):
        sink.publish(manifest)
    return steps.count


def every_step(new_place: Callable[[], Place], if_exists: str) -> Iterator[tuple[int, Place, Manifest | None]]:
    """Yield a fresh place, with what is published there, for each step of a publish."""
    place = new_place()
    total = steps_of(place, if_exists)
    assert total > 6
    # In S3 both modes take the same steps, of which only one is conditional in another way; and each takes its time.
    for step in range(1, total + 1, 3 if if_exists == "Fail" and isinstance(place, S3Place) else 1):
        place = new_place()
        yield step, place, published_before(place) if if_exists == "Replace" else None


# Without trouble -----------------------------------------------------------------------------------------------------


def test_nothing_is_visible_before_publish(place: Place) -> None:
    sink = place.sink("run")
    sink.probe()
    stage(sink, "run")
    sink.open_part("part-00009-abcdef01.parquet").write(b"x" * 3_000_000)
    assert place.visible() == {}
    assert sink.published() is None


def test_readers_find_exactly_the_bytes_written_and_a_manifest_without_uploads(place: Place) -> None:
    sink = place.sink("run")
    manifest = stage(sink, "run")
    for part in manifest.parts:
        sink.check_part(part)
    published = sink.publish(manifest)
    seen = place.visible()
    assert b"upload" not in seen[MANIFEST_NAME]
    assert Manifest.from_json(seen.pop(MANIFEST_NAME)) == published == sink.published()
    assert seen == {part.name: f"run {part.chunk} ".encode() * 100 for part in manifest.parts}
    assert all(part.upload_id is None and part.upload_parts == () for part in published.parts)
    assert published.digest == manifest.digest


def test_an_empty_set_is_a_manifest_alone(place: Place) -> None:
    sink = place.sink("run")
    sink.publish(make_manifest("run", ()))
    assert list(place.visible()) == [MANIFEST_NAME]


def test_an_empty_file_is_a_part_like_others(place: Place) -> None:
    sink = place.sink("run")
    manifest = stage(sink, "run", count=1, size=0)
    sink.check_part(manifest.parts[0])
    assert place.visible() == {}
    sink.publish(manifest)
    assert place.visible()[manifest.parts[0].name] == b""


def test_a_part_that_the_manifest_does_not_list_is_not_published(place: Place) -> None:
    sink = place.sink("run")
    manifest = stage(sink, "run")
    write_part(sink.open_part("part-00000-deadbeef.parquet"), b"by a zombie")
    sink.publish(manifest)
    sink.discard()
    place.require_whole(manifest)
    assert place.left() == []


def test_publishing_twice_returns_the_first_manifest(place: Place) -> None:
    sink = place.sink("run")
    manifest = stage(sink, "run")
    first = sink.publish(manifest)
    sink.discard()
    again = place.sink("run").publish(manifest.model_copy(update={"program": "another"}))
    assert again == first


def test_discard_leaves_nothing_and_may_be_repeated(place: Place) -> None:
    sink = place.sink("run")
    stage(sink, "run")
    sink.put_state("plan.json", b"{}")
    sink.open_part("part-00007-abcdef01.parquet").write(b"x" * 3_000_000)
    assert place.left()
    sink.discard()
    sink.discard()
    assert place.left() == []
    assert place.visible() == {}


def test_discard_leaves_other_runs_alone(place: Place) -> None:
    other = place.sink("other")
    manifest = stage(other, "other")
    sink = place.sink("run")
    stage(sink, "run")
    sink.discard()
    other.publish(manifest)
    place.require_whole(manifest)


def test_probe_leaves_nothing_behind(place: Place) -> None:
    place.sink("run").probe()
    place.sink("run", "Replace").probe()
    assert place.left() == []
    assert place.visible() == {}


def test_state_documents_are_replaced_listed_in_order_and_missing_ones_are_none(place: Place) -> None:
    sink = place.sink("run")
    assert list(sink.list_state("")) == []
    assert sink.get_state("plan.json") is None
    for name in ("results/00002-w.json", "plan.json", "results/00001-w.json"):
        sink.put_state(name, b"old")
    sink.put_state("plan.json", b"new")
    assert place.sink("run").get_state("plan.json") == b"new"
    assert sink.get_state("results/00003-w.json") is None
    assert list(sink.list_state("results/")) == ["results/00001-w.json", "results/00002-w.json"]
    assert list(sink.list_state("results/00002")) == ["results/00002-w.json"]
    assert list(place.sink("another").list_state("")) == []


def test_an_aborted_part_leaves_nothing_closed_or_not(place: Place) -> None:
    sink = place.sink("run")
    for name, end in (("part-00000-00000001.csv", "open"), ("part-00000-00000002.csv", "closed")):
        stream = sink.open_part(name)
        stream.write(b"x" * 1_000_000)
        if end == "closed":
            stream.close()
        stream.abort()
        stream.abort()
        with pytest.raises(ExtractionError):
            stream.close()
    assert not [name for name in place.left() if name.endswith(".csv") and "/uploads/" not in name]


def test_a_retried_part_of_the_same_name_holds_the_last_bytes(place: Place) -> None:
    sink = place.sink("run")
    sink.open_part("part-00000-00000run.parquet").write(b"half")
    manifest = stage(sink, "run", count=1)
    sink.check_part(manifest.parts[0])
    sink.publish(manifest)
    sink.discard()
    place.require_whole(manifest)
    assert place.left() == []


# What is there already -----------------------------------------------------------------------------------------------


def test_fail_refuses_the_set_of_another_run(place: Place) -> None:
    old = published_before(place)
    sink = place.sink("run")
    with pytest.raises(SinkExists, match="run old published"):
        sink.probe()
    manifest = stage(sink, "run")
    with pytest.raises(SinkExists):
        sink.publish(manifest)
    sink.discard()
    place.require_whole(old)
    assert place.left() == []


def test_replace_leaves_only_the_new_set(place: Place) -> None:
    published_before(place)
    sink = place.sink("run", "Replace")
    sink.probe()
    manifest = stage(sink, "run", count=3)
    sink.publish(manifest)
    place.require_whole(manifest)
    sink.discard()
    place.require_whole(manifest)
    assert place.left() == []


@pytest.mark.parametrize("if_exists", ["Fail", "Replace"])
@pytest.mark.parametrize("name", ["notes.txt", "sub/part-00000-00000000.parquet"])
def test_what_is_not_ours_is_named_and_never_touched(place: Place, if_exists: str, name: str) -> None:
    place.put(name, b"precious")
    sink = place.sink("run", if_exists)
    first = name.split("/", maxsplit=1)[0]
    with pytest.raises(SinkExists, match=first):
        sink.probe()
    manifest = stage(sink, "run")
    with pytest.raises(SinkExists, match=first):
        sink.publish(manifest)
    sink.discard()
    assert place.visible() == {name: b"precious"}
    assert place.left() == []


def test_replace_refuses_a_set_of_ours_with_something_else_in_it(place: Place) -> None:
    published_before(place)
    place.put("notes.txt", b"precious")
    before = place.visible()
    sink = place.sink("run", "Replace")
    with pytest.raises(SinkExists, match=r"notes\.txt"):
        sink.probe()
    manifest = stage(sink, "run")
    with pytest.raises(SinkExists, match=r"notes\.txt"):
        sink.publish(manifest)
    sink.discard()
    assert place.visible() == before


@pytest.mark.parametrize("damage", [b"{}", b"not JSON", b"older", b"contradiction"])
def test_replace_refuses_a_manifest_that_is_not_ours_or_was_altered(place: Place, damage: bytes) -> None:
    manifest = make_manifest("old", ())
    if damage == b"older":
        damage = manifest.model_copy(update={"version": "extraction-manifest/v0"}).to_json()
    if damage == b"contradiction":
        damage = manifest.model_copy(update={"digest": "0" * 32}).to_json()
    place.put(MANIFEST_NAME, damage)
    sink = place.sink("run", "Replace")
    with pytest.raises(SinkExists):
        sink.probe()
    staged = stage(sink, "run")
    with pytest.raises(SinkExists):
        sink.publish(staged)
    sink.discard()
    assert place.visible() == {MANIFEST_NAME: damage}
    assert place.left() == []


# Damage in staging ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["flip", "truncate", "extend", "remove"])
def test_a_damaged_staged_part_is_named_with_its_chunk(place: Place, how: str) -> None:
    sink = place.sink("run")
    manifest = stage(sink, "run")
    sound, damaged = manifest.parts
    place.damage(damaged, how)
    sink.check_part(sound)
    with pytest.raises(VerificationFailed, match=rf"{damaged.name} of chunk 1 "):
        sink.check_part(damaged)


@pytest.mark.parametrize("how", ["truncate", "extend", "remove"])
def test_publish_refuses_parts_that_are_missing_or_of_another_size(place: Place, how: str) -> None:
    sink = place.sink("run")
    manifest = stage(sink, "run")
    place.damage(manifest.parts[1], how)
    if how == "extend" and isinstance(place, S3Place):
        # S3 completes exactly the upload parts that are named.
        sink.publish(manifest)
        place.require_whole(manifest)
        return
    with pytest.raises(ExtractionError):
        sink.publish(manifest)
    assert MANIFEST_NAME not in place.visible()
    sink.discard()
    assert place.visible() == {}
    assert place.left() == []


# Trouble at every step -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("if_exists", ["Fail", "Replace"])
def test_a_publisher_that_dies_anywhere_is_finished_by_the_next(new_place: Callable[[], Place], if_exists: str) -> None:
    for step, place, old in every_step(new_place, if_exists):
        sink = place.sink("run", if_exists)
        manifest = stage(sink, "run", count=1)
        with place.watch(sink, Steps.dying(step)), pytest.raises(Died):
            sink.publish(manifest)
        seen = sink.published()
        assert seen == old or (seen and seen.digest == manifest.digest)
        second = place.sink("run", if_exists)
        assert second.publish(manifest).digest == manifest.digest
        second.discard()
        place.require_whole(manifest)
        assert place.left() == []


@pytest.mark.parametrize("if_exists", ["Fail", "Replace"])
def test_a_publisher_that_dies_anywhere_can_be_discarded(new_place: Callable[[], Place], if_exists: str) -> None:
    for step, place, old in every_step(new_place, if_exists):
        sink = place.sink("run", if_exists)
        manifest = stage(sink, "run", count=1)
        with place.watch(sink, Steps.dying(step)), pytest.raises(Died):
            sink.publish(manifest)
        place.sink("run", if_exists).discard()
        place.require_whole(old, manifest)
        assert place.left() == []


@pytest.mark.parametrize("if_exists", ["Fail", "Replace"])
def test_an_error_at_any_step_leaves_the_old_set_or_the_new(new_place: Callable[[], Place], if_exists: str) -> None:
    for step, place, old in every_step(new_place, if_exists):
        sink = place.sink("run", if_exists)
        manifest = stage(sink, "run", count=1)

        def fail(place: Place = place) -> None:
            raise place.failure()

        published = None
        with place.watch(sink, Steps(step, fail)), contextlib.suppress(ExtractionError):
            published = sink.publish(manifest)
        sink.discard()
        place.require_whole(*([manifest] if published else [old, manifest]))
        assert place.left() == []


def test_a_discard_that_dies_anywhere_is_finished_by_the_next(new_place: Callable[[], Place]) -> None:
    def half_published(place: Place) -> Manifest:
        sink = place.sink("run")
        manifest = stage(sink, "run", count=1)
        sink.open_part("part-00007-abcdef01.parquet").write(b"x" * 1_000_000)
        with place.watch(sink, Steps.dying(steps_before_the_fence)), pytest.raises(Died):
            sink.publish(manifest)
        return manifest

    steps_before_the_fence = steps_of(new_place(), "Fail") - 4
    place, steps = new_place(), Steps()
    half_published(place)
    sink = place.sink("run")
    with place.watch(sink, steps):
        sink.discard()
    for step in range(1, steps.count + 1):
        place = new_place()
        manifest = half_published(place)
        sink = place.sink("run")
        with place.watch(sink, Steps.dying(step)), pytest.raises(Died):
            sink.discard()
        place.sink("run").discard()
        place.require_whole(None, manifest)
        assert place.left() == []


# Two at once ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("if_exists", ["Fail", "Replace"])
def test_of_two_runs_exactly_one_is_published_wherever_they_meet(
    new_place: Callable[[], Place], if_exists: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One waits here for the other, in the same thread: it must not wait for the lock that the other holds.
    monkeypatch.setattr(tree, "LOCK_SECONDS", 0)
    for step, place, _old in every_step(new_place, if_exists):
        sinks = {run: place.sink(run, if_exists) for run in ("run", "rival")}
        manifests = {run: stage(sink, run, count=1) for run, sink in sinks.items()}
        winners: list[str] = []

        def attempt(run: str, winners: list[str] = winners, sinks: dict = sinks, manifests: dict = manifests) -> None:
            try:
                winners.append(sinks[run].publish(manifests[run]).run_id)
            except ExtractionError:
                sinks[run].discard()

        with place.watch(sinks["run"], Steps(step, lambda: attempt("rival"))):
            attempt("run")
        if if_exists == "Fail":
            assert len(winners) == 1
        # Under Replace one may come after the other, and replace it.
        assert winners
        for sink in sinks.values():
            sink.discard()
        place.require_whole(*(manifests[run] for run in winners))
        assert place.left() == []


@pytest.mark.parametrize("if_exists", ["Fail", "Replace"])
def test_two_publishers_of_one_run_publish_it_once(
    new_place: Callable[[], Place], if_exists: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "LOCK_SECONDS", 0)
    for step, place, _old in every_step(new_place, if_exists):
        sink, twin = place.sink("run", if_exists), place.sink("run", if_exists)
        manifest = stage(sink, "run", count=1)

        def publish(twin: object = twin, manifest: Manifest = manifest) -> None:
            with contextlib.suppress(ExtractionError):
                twin.publish(manifest)

        with place.watch(sink, Steps(step, publish)):
            assert sink.publish(manifest).digest == manifest.digest
        sink.discard()
        place.require_whole(manifest)
        assert place.left() == []


@pytest.mark.parametrize("if_exists", ["Fail", "Replace"])
def test_a_discard_during_publish_never_leaves_half_a_set(new_place: Callable[[], Place], if_exists: str) -> None:
    for step, place, old in every_step(new_place, if_exists):
        sink = place.sink("run", if_exists)
        manifest = stage(sink, "run", count=1)
        published = None
        with place.watch(sink, Steps(step, place.sink("run").discard)), contextlib.suppress(ExtractionError):
            published = sink.publish(manifest)
        place.require_whole(*([manifest] if published else [old]))


def test_threads_that_publish_at_once_have_one_winner(new_place: Callable[[], Place]) -> None:
    for _ in range(3):
        place = new_place()
        runs = ["one", "two", "three"]
        sinks = {run: place.sink(run) for run in runs}
        manifests = {run: stage(sinks[run], run, count=1) for run in runs}
        barrier = threading.Barrier(len(runs))

        def attempt(
            run: str, barrier: threading.Barrier = barrier, sinks: dict = sinks, manifests: dict = manifests
        ) -> str | None:
            barrier.wait(10)
            try:
                return sinks[run].publish(manifests[run]).run_id
            except SinkExists:
                return None

        with ThreadPoolExecutor(len(runs)) as pool:
            winners = [run for run in pool.map(attempt, runs) if run]
        assert len(winners) == 1
        for sink in sinks.values():
            sink.discard()
        place.require_whole(manifests[winners[0]])
        assert place.left() == []
