"""Verifying a set whose manifest or files were tampered with: each lie is named. No database is needed for that."""

import base64
import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from extraction_worker.errors import InvalidManifest, SinkFull, SinkRefused, SinkUnavailable, VerificationFailed
from extraction_worker.model import Format, Manifest, ManifestChunk
from extraction_worker.sink import tree
from extraction_worker.sink.abc import MANIFEST_NAME, Sink
from extraction_worker.sink.folder import FolderSink
from extraction_worker.sink.formats import extension, open_encoder, to_wire, wire_schema
from extraction_worker.verify.columns import ColumnDigester
from extraction_worker.verify.manifest import Report, open_set, verify_set
from support.s3_gateway import Forward, Gateway, Request, Response
from support.sinks import S3Place, make_manifest, make_part

PARQUET = Format(type="Parquet", compression="zstd")
FORMATS = [
    PARQUET,
    Format(type="Arrow", compression="lz4"),
    Format(type="CSV", compression="gzip"),
    Format(type="JSONL", compression="none"),
]
SCHEMA = pa.schema([pa.field("id", pa.int64(), nullable=False), ("name", pa.string()), ("tags", pa.list_(pa.string()))])


def rows_of(chunk: int, count: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [
            pa.array([chunk * 1000 + index for index in range(count)], pa.int64()),
            pa.array([None if index % 3 == 0 else f"row {index}" for index in range(count)], pa.string()),
            pa.array([["a", None][: index % 3] for index in range(count)], pa.list_(pa.string())),
        ],
        schema=SCHEMA,
    )


def publish(
    sink: Sink, file_format: Format = PARQUET, *, sizes: tuple[tuple[int, ...], ...] = ((40, 60), (30,))
) -> Manifest:
    """Publish a set of chunks, each of parts of so many rows, as the stages do."""
    wire = wire_schema(SCHEMA, file_format)
    parts, chunks = [], []
    for chunk, counts in enumerate(sizes):
        evidence = ColumnDigester(wire)
        names = []
        for sequence, count in enumerate(counts):
            stream = sink.open_part(f"part-{chunk:05d}-{sequence:08x}.{extension(file_format)}")
            encoder = open_encoder(file_format, wire, stream)
            batch = to_wire(rows_of(chunk, count), file_format)
            evidence.update(batch)
            encoder.write(batch)
            encoder.finish()
            part = make_part(stream.close(), chunk=chunk, rows=count)
            parts.append(part)
            names.append(part.name)
        chunks.append(ManifestChunk(chunk=chunk, rows=sum(counts), parts=tuple(names), columns=evidence.finish()))
    schema = base64.b64encode(SCHEMA.serialize()).decode()
    published = sink.publish(
        make_manifest("run", tuple(parts), format=file_format, arrow_schema=schema, chunks=tuple(chunks))
    )
    sink.discard()
    return published


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A published set of three Parquet files."""
    publish(FolderSink(tmp_path, "set", run_id="run", if_exists="Fail"))
    return tmp_path / "set"


@pytest.fixture
def place(s3_server: Any, bucket: str) -> S3Place:
    return S3Place(s3_server, bucket)


def verify(location: object, **options: Any) -> Report:
    return verify_set(open_set(str(location)), **options)


def problems(location: object) -> list[str]:
    """Return what is wrong with a set, which must be something."""
    report = verify(location)
    with pytest.raises(VerificationFailed) as caught:
        report.require_whole()
    assert all(problem in str(caught.value) for problem in report.problems)
    return list(report.problems)


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest in place."""
    path = folder / MANIFEST_NAME
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))


# Addresses and levels ------------------------------------------------------------------------------------------------


def test_every_address_of_a_set_is_understood(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for address in (folder, f"{folder}/", folder / MANIFEST_NAME, folder.as_uri(), ".", MANIFEST_NAME):
        assert verify(address).require_whole().uri == folder.as_uri()


@pytest.mark.parametrize("address", ["s3://", "s3://bucket", "s3://bucket/", "s3:///prefix", "https://host/path"])
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(InvalidManifest):
        open_set(address)


@pytest.mark.parametrize("file_format", FORMATS, ids=lambda value: value.type)
def test_columns_are_proven_unless_told_otherwise(tmp_path: Path, file_format: Format) -> None:
    publish(FolderSink(tmp_path, "set", run_id="run", if_exists="Fail"), file_format)
    assert verify(tmp_path / "set").require_whole().columns_proven
    assert not verify(tmp_path / "set", columns=False).require_whole().columns_proven
    rewrite(tmp_path / "set", lambda document: document.pop("arrowSchema"))
    assert not verify(tmp_path / "set").require_whole().columns_proven


def test_an_empty_set_and_empty_chunks_are_sound(tmp_path: Path) -> None:
    publish(FolderSink(tmp_path, "none", run_id="run", if_exists="Fail"), sizes=())
    assert verify(tmp_path / "none").require_whole().parts == 0
    publish(FolderSink(tmp_path, "some", run_id="run", if_exists="Fail"), sizes=((0,), (), (5,)))
    assert verify(tmp_path / "some").require_whole().rows == 5


# S3 ------------------------------------------------------------------------------------------------------------------


def test_damage_in_s3_is_named(place: S3Place) -> None:
    manifest = publish(place.sink("run"))
    address = f"s3://{place.bucket}/shop/orders"
    published = open_set(
        f"{address}/{MANIFEST_NAME}", endpoint=place.options.endpoint, credentials=place.options.credentials
    )
    assert verify_set(published).require_whole().uri == address
    place.put(manifest.parts[0].name, b"spoiled")
    place.put("part-00009-00000009.parquet", b"stranger")
    place.client.delete_object(Bucket=place.bucket, Key=f"shop/orders/{manifest.parts[2].name}")
    assert verify_set(published).problems == (
        "part-00009-00000009.parquet is there and isn't in the manifest.",
        f"{manifest.parts[0].name} of chunk 0 has 7 bytes instead of {manifest.parts[0].bytes}.",
        f"{manifest.parts[2].name} of chunk 1 is missing.",
    )


@pytest.mark.parametrize("cuts", [1, 100])
def test_a_download_that_breaks_off_is_begun_again_but_not_for_ever(s3_server: Any, place: S3Place, cuts: int) -> None:
    publish(place.sink("run"))
    left = cuts

    def spoil(request: Request, forward: Forward) -> Response:
        nonlocal left
        reply = forward(request)
        if "/part-" in request.path and left:
            left -= 1
            reply.short = True
        return reply

    with Gateway(s3_server.port).running() as gateway:
        gateway.spoil = spoil
        address = f"s3://{place.bucket}/shop/orders"
        published = open_set(address, endpoint=gateway.endpoint, credentials=place.options.credentials)
        if cuts == 1:
            assert verify_set(published).require_whole().rows == 130
        else:
            with pytest.raises(SinkUnavailable):
                verify_set(published, threads=1)


def test_no_room_for_the_temporary_file_is_no_finding(place: S3Place) -> None:
    publish(place.sink("run"))
    published = open_set(
        f"s3://{place.bucket}/shop/orders", endpoint=place.options.endpoint, credentials=place.options.credentials
    )
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        with pytest.raises(SinkFull, match="Fetching part-"):
            verify_set(published)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


# Files that aren't what they were ------------------------------------------------------------------------------------


def test_a_link_in_the_place_of_a_part_is_no_part(folder: Path, tmp_path: Path) -> None:
    (part, *_) = sorted(folder.glob("part-*"))
    shutil.move(part, tmp_path / "elsewhere")
    part.symlink_to(tmp_path / "elsewhere")
    (found,) = problems(folder)
    assert found.startswith(f"{part.name} of chunk 0 can't be read: ")
    assert "link" in found


def test_a_place_that_is_no_folder_is_no_finding(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(SinkRefused):
        verify(tmp_path / "file")


def test_a_disk_that_fails_is_no_finding(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(5, "Input/output error")

    published = open_set(str(folder))
    published.manifest()
    monkeypatch.setattr(tree, "open_regular", fail)
    monkeypatch.setattr(tree, "read_file", lambda *_: (folder / MANIFEST_NAME).read_bytes())
    with pytest.raises(SinkUnavailable):
        verify_set(published)


def forge(folder: Path, file_format: Format, batch: pa.RecordBatch) -> None:
    """Put another file in the place of the first part, and its bytes into the manifest: only its values tell."""
    manifest = Manifest.from_json((folder / MANIFEST_NAME).read_bytes())
    part = manifest.parts[0]
    stream = FolderSink(folder.parent, "forged", run_id="forger", if_exists="Fail").open_part(part.name)
    encoder = open_encoder(file_format, wire_schema(SCHEMA, file_format), stream)
    encoder.write(to_wire(batch, file_format))
    encoder.finish()
    forged = make_part(stream.close(), rows=part.rows)
    shutil.copy(folder.parent / "_staging/forger/files" / part.name, folder / part.name)
    parts = (forged, *manifest.parts[1:])
    changes = {"parts": parts, "bytes": sum(one.bytes for one in parts), "digest": Manifest.set_digest(parts)}
    (folder / MANIFEST_NAME).write_bytes(manifest.model_copy(update=changes).to_json())


@pytest.mark.parametrize("file_format", FORMATS, ids=lambda value: value.type)
def test_other_values_behind_right_bytes_are_caught_by_decoding(tmp_path: Path, file_format: Format) -> None:
    publish(FolderSink(tmp_path, "set", run_id="run", if_exists="Fail"), file_format)
    names = pa.array([None if index % 3 == 0 else "other" for index in range(40)], pa.string())
    forge(tmp_path / "set", file_format, rows_of(0, 40).set_column(1, SCHEMA.field(1), names))
    verify(tmp_path / "set", columns=False).require_whole()
    assert problems(tmp_path / "set") == ["Chunk 0, column 'name': other values than were published."]


@pytest.mark.parametrize("file_format", FORMATS, ids=lambda value: value.type)
def test_fewer_rows_behind_right_bytes_are_caught(tmp_path: Path, file_format: Format) -> None:
    publish(FolderSink(tmp_path, "set", run_id="run", if_exists="Fail"), file_format)
    forge(tmp_path / "set", file_format, rows_of(0, 39))
    for columns in (True, False):
        (found,) = verify(tmp_path / "set", columns=columns).problems
        assert "39 rows" in found


# Manifests that aren't what they were --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "version None"),
        (b'{"version": "extraction-manifest/v9"}', "version 'extraction-manifest/v9'"),
        (b'{"version": "extraction-manifest/v1", "rows": "many"}', r"runId: Field required; .*rows: .*valid integer"),
    ],
)
def test_a_manifest_that_cannot_be_read_says_why(folder: Path, data: bytes, message: str) -> None:
    (folder / MANIFEST_NAME).write_bytes(data)
    with pytest.raises(VerificationFailed, match=message):
        verify(folder)


def more_rows(document: dict[str, Any]) -> None:
    document["parts"][0]["rows"] += 1


def other_order(document: dict[str, Any]) -> None:
    document["parts"].reverse()


def fewer_parts(document: dict[str, Any]) -> None:
    del document["parts"][2]


def a_part_twice(document: dict[str, Any]) -> None:
    document["chunks"][1]["parts"] *= 2


def a_part_of_another_chunk(document: dict[str, Any]) -> None:
    document["parts"][2]["chunk"] = 0


def other_schema(document: dict[str, Any]) -> None:
    document["arrowSchema"] = base64.b64encode(SCHEMA.remove(1).serialize()).decode()


def no_schema(document: dict[str, Any]) -> None:
    document["arrowSchema"] = "bm8gc2NoZW1h"


def no_base64(document: dict[str, Any]) -> None:
    document["arrowSchema"] = "no base64"


def odd_schema(document: dict[str, Any]) -> None:
    kind = pa.map_(pa.string(), pa.string())
    document["arrowSchema"] = base64.b64encode(pa.schema([("map", kind)]).serialize()).decode()


def other_digest(document: dict[str, Any]) -> None:
    for column in document["chunks"][0]["columns"]:
        column["digest"] = "0" * 32


def other_nulls(document: dict[str, Any]) -> None:
    document["chunks"][1]["columns"][1]["nulls"] = 9


def other_names(document: dict[str, Any]) -> None:
    document["chunks"][1]["columns"][1]["name"] = "renamed"


def other_count_of_the_server(document: dict[str, Any]) -> None:
    document["chunks"][1]["columns"][0]["source"] = {"count": "29"}


def other_sums(document: dict[str, Any]) -> None:
    document["rows"] += 1
    document["bytes"] += 1


def other_rows_of_a_chunk(document: dict[str, Any]) -> None:
    document["chunks"][1]["rows"] += 1


def a_name_outside(document: dict[str, Any]) -> None:
    document["parts"][0]["name"] = document["chunks"][0]["parts"][0] = "../secret"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (more_rows, ["doesn't have the manifest's digest", "130 rows, its parts 131", "40 rows by its footer, not 41"]),
        (other_order, ["doesn't have the manifest's digest", "don't list its parts in order"]),
        (fewer_parts, ["doesn't have the manifest's digest", "is there and isn't in the manifest"]),
        (a_part_twice, ["each once"]),
        (a_part_of_another_chunk, ["Chunk 1 lists a part of another chunk."]),
        (other_schema, ["of chunk 0 can't be read: The file has", "of chunk 1 can't be read: The file has"]),
        (no_schema, ["The manifest's schema can't be read"]),
        (no_base64, ["The manifest's schema can't be read"]),
        (odd_schema, ["The manifest's schema can't be read: Column \"map\""]),
        (other_digest, [f"Chunk 0, column '{name}': other values" for name in ("id", "name", "tags")]),
        (other_nulls, ["Chunk 1, column 'name': 10 nulls instead of 9."]),
        (other_names, ["Chunk 1 has digests of the columns ['id', 'renamed', 'tags']"]),
        (other_count_of_the_server, ["column 'id': the server counted 29 values; 30 rows with 0 nulls have 30."]),
        (other_sums, ["counts 131 rows, its parts 130", "bytes, its parts"]),
        (other_rows_of_a_chunk, ["Chunk 1 has 31 rows, its parts 30."]),
        (a_name_outside, ["../secret of chunk 0 can't be read: its name: '../secret' has"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_manifest_that_contradicts_itself_or_the_files_is_caught(
    folder: Path, change: Callable[[dict[str, Any]], None], expected: list[str]
) -> None:
    rewrite(folder, change)
    found = problems(folder)
    for text in expected:
        assert any(text in problem for problem in found), found
