"""Long lists outside of the heap: the same values, the same documents, and nothing that grows with their number."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from extraction_worker.lines import Changed, Lines, Writer
from extraction_worker.model import Chunk, CtidRead, Manifest, Part, Plan
from support.plans import make_plan
from support.sinks import make_manifest

PARTS = tuple(
    Part(name=f"part-{n:05d}-0.parquet", chunk=n, rows=n, bytes=n, xxh3_128="a" * 32, crc32="b" * 8) for n in range(5)
)
CHUNKS = tuple(
    Chunk(index=n, read=CtidRead(first_page=n, end_page=n + 1), estimated_rows=1, estimated_bytes=1) for n in range(5)
)


def lines(values) -> Lines:
    writer = Writer(type(values[0]))
    for value in values:
        writer.append(value)
    return writer.lines()


def test_a_sequence_of_lines_is_a_sequence():
    found = lines(PARTS)
    assert found == PARTS
    assert tuple(found) == PARTS
    assert found != PARTS[:-1]
    assert found != 7
    assert (found[0], found[-1]) == (PARTS[0], PARTS[-1])
    assert found[1:3] == PARTS[1:3]
    assert PARTS[2] in found
    assert repr(found) == "<5 × Part>"
    with pytest.raises(IndexError):
        found[5]


def test_values_are_changed_when_they_are_asked_for():
    found = Changed(lines(PARTS), lambda part: part.model_copy(update={"rows": 7}))
    assert len(found) == 5
    assert {part.rows for part in found} == {found[2].rows, *(part.rows for part in found[1:])} == {7}
    assert found == tuple(part.model_copy(update={"rows": 7}) for part in PARTS)
    assert [part.chunk for part in found[3:]] == [3, 4]


def test_what_was_written_later_is_not_part_of_an_earlier_sequence():
    writer = Writer(Part)
    writer.append(PARTS[0])
    first = writer.lines()
    writer.append(PARTS[1])
    assert (len(first), len(writer.lines())) == (1, 2)


@pytest.mark.parametrize("chunks", [CHUNKS, CHUNKS[:1]])
def test_a_plan_is_the_same_by_lines_by_a_file_and_as_anybody_formats_it(tmp_path, chunks):
    plan = make_plan(chunks=chunks)
    data = plan.to_json()
    assert data.count(b"\n") == len(chunks) + 1
    again = Plan.from_json(data)
    assert isinstance(again.chunks, Lines)
    assert again == plan
    assert (again.plan_digest(), again.to_json()) == (plan.plan_digest(), data)
    (tmp_path / "plan.json").write_bytes(data)
    with (tmp_path / "plan.json").open("rb") as file:
        read = Plan.from_file(file)
    # The file is closed, and gone.
    (tmp_path / "plan.json").unlink()
    assert read == plan
    formatted = Plan.from_json(json.dumps(json.loads(data), indent=2).encode())
    assert isinstance(formatted.chunks, tuple)
    assert formatted == plan


@pytest.mark.parametrize("parts", [PARTS, ()])
def test_a_manifest_has_two_lists_which_may_be_empty(parts):
    manifest = make_manifest("run", parts)
    data = manifest.to_json()
    assert json.loads(data)["parts"] == [json.loads(part.to_json()) for part in parts]
    again = Manifest.from_json(data)
    assert isinstance(again.parts, Lines)
    assert again == manifest
    assert again.to_json() == data


@pytest.mark.parametrize("at", [0, 2, 4])
def test_a_damaged_element_is_named_by_its_place_before_anything_is_used(at):
    data = make_manifest("run", PARTS).to_json().replace(b'"chunk":%d,' % at, b'"chunk":"x",', 1)
    with pytest.raises(ValidationError) as error:
        Manifest.from_json(data)
    assert error.value.errors()[0]["loc"] == ("parts", at, "chunk")


def test_every_way_to_cut_a_document_short_or_to_join_its_lines_is_refused():
    data = make_manifest("run", PARTS[:2]).to_json()
    for end in range(len(data)):
        with pytest.raises(ValidationError):
            Manifest.from_json(data[:end])
    for broken in (data.replace(b"},\n", b"}\n", 1), data.replace(b"}\n]", b"},\n]", 1), data + b"{}", data + b"\n{}"):
        with pytest.raises(ValidationError):
            Manifest.from_json(broken)


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_a_file_is_closed_with_the_last_value_that_needs_it():
    before = open_files()
    found = lines(PARTS)[1:]
    assert open_files() == before + 1
    assert found[0] == PARTS[1]
    del found
    assert open_files() == before
