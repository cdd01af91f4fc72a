"""The folder sink on real file systems: links, full disks, odd file systems, and streams of any rhythm."""

import errno
import fcntl
import hashlib
import os
import resource
import stat
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extraction_worker.errors import (
    ExtractionError,
    InvalidManifest,
    SinkExists,
    SinkFull,
    SinkRefused,
    SinkUnavailable,
    VerificationFailed,
)
from extraction_worker.sink import folder, tree
from extraction_worker.sink.folder import FolderSink
from extraction_worker.sink.paths import RelativePath
from support.sinks import FolderPlace, make_manifest, make_part, stage, write_part

PART = "part-00000-00000001.parquet"


@pytest.fixture
def place(tmp_path: Path) -> FolderPlace:
    root = tmp_path / "volume"
    root.mkdir()
    return FolderPlace(root)


# Streams -------------------------------------------------------------------------------------------------------------


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.integers(0, 1_500_000), max_size=6))
def test_digests_are_those_of_the_bytes_however_they_are_cut(place: FolderPlace, sizes: list[int]) -> None:
    data = hashlib.shake_128(repr(sizes).encode()).digest(sum(sizes))
    stream = place.sink("run").open_part(PART)
    start = 0
    for size in sizes:
        assert stream.write(memoryview(data)[start : start + size]) == size
        start += size
        assert stream.tell() == start
    staged = stream.close()
    assert staged.bytes == len(data)
    assert staged.xxh3_128 == xxhash.xxh3_128_hexdigest(data)
    assert staged.crc32 == f"{zlib.crc32(data):08x}"
    assert (place.root / "_staging/run/files" / PART).read_bytes() == data
    place.sink("run").check_part(make_part(staged))
    stream.abort()
    assert not list(place.root.glob("_staging/run/files/*"))


def test_items_of_several_bytes_count_as_bytes(place: FolderPlace) -> None:
    import numpy as np

    stream = place.sink("run").open_part(PART)
    assert stream.write(memoryview(np.arange(10, dtype="<i8"))) == 80
    assert stream.close().bytes == 80


def test_a_part_that_failed_cannot_be_closed(place: FolderPlace, limit_files: Callable[[int], None]) -> None:
    stream = place.sink("run").open_part(PART)
    limit_files(1 << 20)
    with pytest.raises(SinkFull):
        stream.write(b"x" * (2 << 20))
    limit_files(-1)
    for _ in range(2):
        with pytest.raises(SinkRefused, match="failed before"):
            stream.close()
    stream.abort()
    assert not list(place.root.glob("_staging/run/files/*"))


def test_a_forgotten_stream_lets_go_of_its_files(place: FolderPlace) -> None:
    sink = place.sink("run")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        sink.open_part(PART).write(b"x")
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2


def test_documents_are_never_seen_half_written(place: FolderPlace) -> None:
    sink = place.sink("run")
    contents = {bytes([letter]) * 100_000 for letter in b"abcd"}
    sink.put_state("plan.json", next(iter(contents)))
    done = threading.Event()

    def read() -> bool:
        whole = True
        while not done.is_set():
            whole = whole and sink.get_state("plan.json") in contents
        return whole

    with ThreadPoolExecutor(2) as pool:
        reader = pool.submit(read)
        for _ in range(10):
            for content in contents:
                sink.put_state("plan.json", content)
        done.set()
        assert reader.result()
    assert list(sink.list_state("")) == ["plan.json"]


# Space ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def limit_files() -> Iterator[Callable[[int], None]]:
    """Limit the size of files that this process writes; -1 lifts the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft if size < 0 else size, hard))

    yield limit
    limit(-1)


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    root = tmp_path / "small"
    root.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(root)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting needs root; test_a_part_that_failed_cannot_be_closed fills a limit instead")
    yield root
    subprocess.run(["umount", str(root)], check=True)


def test_a_full_disk_is_named_and_nothing_is_published(small_volume: Path) -> None:
    place = FolderPlace(small_volume)
    sink = place.sink("run")
    sink.probe()
    first = sink.open_part(PART)
    first.write(b"x" * (1 << 20))
    second = sink.open_part("part-00001-00000001.parquet")
    with pytest.raises(SinkFull, match=r"part-00001-00000001\.parquet: No space left"):
        second.write(b"x" * (2 << 20))
    first.abort()
    second.abort()
    sink.discard()
    assert place.visible() == {}
    assert place.left() == []
    sink = place.sink("again")
    sink.publish(stage(sink, "again"))


def test_a_disk_that_is_full_already_is_found_by_the_probe(small_volume: Path) -> None:
    (small_volume / "ballast").write_bytes(b"x" * (2 << 20))
    place = FolderPlace(small_volume)
    with pytest.raises(SinkFull):
        place.sink("run").probe()
    assert place.left() == []


# Links and odd places ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", ["shop", "shop/orders", "_staging", "_staging/run", "_staging/run/files"])
def test_a_symbolic_link_in_the_path_is_never_followed(place: FolderPlace, tmp_path: Path, link: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / PART).write_bytes(b"precious")
    other = place.sink("other")
    manifest = make_manifest("run", (make_part(write_part(other.open_part(PART), b"x")),))
    other.discard()
    (place.root / link).parent.mkdir(parents=True, exist_ok=True)
    (place.root / link).symlink_to(outside)
    sink = place.sink("run")
    attempts: list[Callable[[], object]] = [
        sink.probe,
        lambda: write_part(sink.open_part(PART), b"x"),
        lambda: sink.publish(manifest),
        lambda: sink.put_state("plan.json", b"x"),
        sink.discard,
    ]
    refused = 0
    for attempt in attempts:
        try:
            attempt()
        except ExtractionError:
            refused += 1
    assert refused
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == {PART: b"precious"}


def test_a_staged_part_that_became_a_link_or_a_pipe_is_refused(place: FolderPlace, tmp_path: Path) -> None:
    sink = place.sink("run")
    secret = tmp_path / "secret"
    secret.write_bytes(b"run 0 " * 100)
    manifest = stage(sink, "run", count=1)
    path = place.root / "_staging/run/files" / manifest.parts[0].name
    for replace in (lambda: path.symlink_to(secret), lambda: os.mkfifo(path), path.mkdir):
        path.unlink()
        replace()
        with pytest.raises(ExtractionError):
            sink.check_part(manifest.parts[0])
        with pytest.raises(ExtractionError):
            sink.publish(manifest)
        if path.is_dir():
            break
    sink.discard()
    assert place.visible() == {}
    assert place.left() == []
    assert secret.read_bytes() == b"run 0 " * 100


def test_the_root_may_be_reached_through_a_link(place: FolderPlace, tmp_path: Path) -> None:
    (tmp_path / "mount").symlink_to(place.root)
    sink = FolderSink(tmp_path / "mount", "shop/orders", run_id="run", if_exists="Fail")
    sink.probe()
    manifest = stage(sink, "run")
    sink.publish(manifest)
    place.require_whole(manifest)


def test_a_missing_volume_is_refused_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(SinkRefused, match=r"The volume .*/claim isn't there"):
        FolderSink(tmp_path / "claim", "a", run_id="run", if_exists="Fail").probe()
    assert list(tmp_path.iterdir()) == []


def test_a_missing_volume_has_nothing_staged_or_published(tmp_path: Path) -> None:
    sink = FolderSink(tmp_path / "claim", "a", run_id="run", if_exists="Fail")
    assert sink.published() is None
    assert sink.get_state("plan.json") is None
    assert list(sink.list_state("")) == []
    sink.discard()


def test_a_file_in_the_place_of_the_set_is_refused_and_kept(place: FolderPlace) -> None:
    sink = place.sink("run")
    manifest = stage(sink, "run")
    place.target.parent.mkdir()
    place.target.write_bytes(b"precious")
    for attempt in (sink.probe, lambda: sink.publish(manifest)):
        with pytest.raises(SinkRefused, match="not a folder"):
            attempt()
    assert place.target.read_bytes() == b"precious"


def test_an_empty_folder_in_the_place_of_the_set_is_as_good_as_none(place: FolderPlace) -> None:
    place.target.mkdir(parents=True)
    for if_exists in ("Fail", "Replace"):
        sink = place.sink(if_exists, if_exists)
        sink.probe()
        manifest = stage(sink, if_exists)
        sink.publish(manifest)
        place.require_whole(manifest)


def test_a_target_on_another_file_system_is_refused_by_the_probe(small_volume: Path, tmp_path: Path) -> None:
    sink = FolderSink(tmp_path, f"{small_volume.name}/orders", run_id="run", if_exists="Fail")
    with pytest.raises(SinkRefused, match="another file system"):
        sink.probe()
    with pytest.raises(SinkRefused):
        sink.publish(stage(sink, "run"))


def test_a_read_only_volume_is_refused(small_volume: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_volume)], check=True)
    with pytest.raises(SinkRefused, match="Read-only"):
        FolderPlace(small_volume).sink("run").probe()


@pytest.mark.parametrize(
    ("call", "code", "message"),
    [
        ("link", errno.EPERM, "no hard links"),
        ("exchange", errno.EINVAL, "no atomic exchange of folders, which ifExists: Replace needs"),
    ],
)
def test_a_file_system_that_cannot_publish_is_refused_by_the_probe(
    place: FolderPlace, monkeypatch: pytest.MonkeyPatch, call: str, code: int, message: str
) -> None:
    # File systems of this kind (NFS, exFAT, SMB) can't be mounted in a test: the system call answers as there.
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(tree if call == "exchange" else os, call, refuse)
    with pytest.raises(SinkRefused, match=message):
        place.sink("run", "Replace").probe()
    assert place.left() == []
    if call == "exchange":
        place.sink("run", "Fail").probe()


def test_a_file_system_whose_rename_replaces_folders_is_refused(
    place: FolderPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder.os, "rename", lambda *_, **__: None)
    with pytest.raises(SinkRefused, match="keeps folders which aren't empty"):
        place.sink("run").probe()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ENOSPC, SinkFull),
        (errno.EDQUOT, SinkFull),
        (errno.EFBIG, SinkFull),
        (errno.EACCES, SinkRefused),
        (errno.EROFS, SinkRefused),
        (errno.ELOOP, SinkRefused),
        (errno.EIO, SinkUnavailable),
        (errno.ESTALE, SinkUnavailable),
        (errno.ETIMEDOUT, SinkUnavailable),
    ],
)
def test_errors_of_the_system_are_sorted(code: int, kind: type[ExtractionError]) -> None:
    with pytest.raises(ExtractionError, match=r"^Writing part-1: ") as caught, tree.sink_errors("Writing part-1"):
        raise OSError(code, os.strerror(code))
    assert type(caught.value) is kind


def test_errors_without_a_number_are_sorted_too() -> None:
    with pytest.raises(SinkUnavailable, match="odd"), tree.sink_errors("Reading"):
        raise OSError("odd")


# Publish -------------------------------------------------------------------------------------------------------------


def test_readers_may_read_what_was_published(place: FolderPlace) -> None:
    old = os.umask(0o022)
    try:
        sink = place.sink("run")
        sink.publish(stage(sink, "run"))
    finally:
        os.umask(old)
    assert stat.S_IMODE(place.target.stat().st_mode) == 0o755
    assert {stat.S_IMODE(path.stat().st_mode) for path in place.target.iterdir()} == {0o644}


def test_a_reader_of_the_old_set_finishes_while_it_is_replaced(place: FolderPlace) -> None:
    old = place.sink("old")
    manifest = stage(old, "old")
    old.publish(manifest)
    with (place.target / manifest.parts[0].name).open("rb") as reader:
        sink = place.sink("run", "Replace")
        sink.publish(stage(sink, "run"))
        assert reader.read() == b"old 0 " * 100


def test_a_publisher_that_hangs_with_the_lock_does_not_hang_others(
    place: FolderPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "LOCK_SECONDS", 0.1)
    sink = place.sink("run", "Replace")
    manifest = stage(sink, "run")
    holder = os.open(place.root, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    with pytest.raises(SinkUnavailable, match="lock"):
        sink.publish(manifest)
    os.close(holder)
    sink.publish(manifest)
    place.require_whole(manifest)


def test_a_killed_process_leaves_what_the_next_one_publishes(place: FolderPlace) -> None:
    # The steps at which it dies are covered by the contract; this is a real death.
    script = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from support.sinks import FolderPlace, stage
from extraction_worker.sink import folder
place = FolderPlace(Path({str(place.root)!r}))
sink = place.sink("run")
sink.put_state("manifest.json", stage(sink, "run").to_json())
folder.os.rename = lambda *_, **__: os.kill(os.getpid(), 9)
from extraction_worker.model import Manifest
sink.publish(Manifest.from_json(sink.get_state("manifest.json")))
"""
    killed = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    assert place.visible() == {}
    sink = place.sink("run")
    data = sink.get_state("manifest.json")
    assert data is not None
    from extraction_worker.model import Manifest

    manifest = Manifest.from_json(data)
    for part in manifest.parts:
        sink.check_part(part)
    sink.publish(manifest)
    sink.discard()
    place.require_whole(manifest)
    assert place.left() == []


def test_a_set_that_is_staged_by_nobody_is_named(place: FolderPlace) -> None:
    sink = place.sink("run")
    manifest = stage(sink, "run")
    other = place.sink("never")
    with pytest.raises(VerificationFailed, match=manifest.parts[0].name):
        other.publish(manifest.model_copy(update={"run_id": "never"}))
    with pytest.raises(VerificationFailed, match="isn't in staging"):
        other.check_part(manifest.parts[0])


def test_fail_names_a_set_that_came_meanwhile(place: FolderPlace) -> None:
    first, second = place.sink("first"), place.sink("second")
    second.probe()
    late = stage(second, "second")
    first.publish(stage(first, "first"))
    with pytest.raises(SinkExists, match="run first"):
        second.publish(late)


# Names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["", "/", "/etc", "a//b", "./a", "a/.", "..", "a/../../b", "a\\b", "a\0b", "a\u2028b", "\ud800",
             "_staging", "a/_staging/b", "a/_manifest.json", "x" * 256, "/".join(["abcdefg"] * 80)],
)  # fmt: skip
def test_paths_that_leave_the_root_or_cannot_be_are_refused_by_field(tmp_path: Path, path: str) -> None:
    with pytest.raises(InvalidManifest, match=r"^spec\.sink\.volume\.path: "):
        FolderSink(tmp_path, path, run_id="run", if_exists="Fail")


@given(st.text(max_size=30))
def test_a_relative_path_that_is_accepted_stays_below_its_root(text: str) -> None:
    try:
        path = RelativePath.parse(text, field="path")
    except InvalidManifest:
        return
    assert str(path) == text.removesuffix("/")
    assert (*path.parent, path.last) == path.segments
    root = Path("/root-of-sink")
    resolved = Path(os.path.normpath(root.joinpath(*path.segments)))
    assert resolved != root
    assert root in resolved.parents


@pytest.mark.parametrize("name", ["../x", "/x", "_staging/x", ""])
def test_documents_stay_in_staging(place: FolderPlace, name: str) -> None:
    sink = place.sink("run")
    with pytest.raises(SinkRefused):
        sink.put_state(name, b"")
    with pytest.raises(SinkRefused):
        sink.get_state(name)


def test_the_uri_is_absolute_and_escaped(place: FolderPlace) -> None:
    sink = FolderSink(place.root, "a b/größe", run_id="run", if_exists="Fail")
    assert sink.uri == (place.root / "a b" / "größe").as_uri()
    assert sink.uri.startswith("file:///")
