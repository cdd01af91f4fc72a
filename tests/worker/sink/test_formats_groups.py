"""Groups of rows: their borders are the rows' alone, each is full or the last, and no row is lost between them."""

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extraction_worker.sink.groups import ALIGNMENT, Groups, aligned, batch_bits, payload_bits, slices
from support.encoding import cut, every_value, many_rows

quick = settings(max_examples=60, deadline=None, database=None, derandomize=True)


def groups_of(batches: list[pa.RecordBatch], max_bytes: int, max_rows: int = 1 << 20) -> list[pa.Table]:
    groups = Groups(max_bytes, max_rows)
    found = [group for batch in batches for group in groups.add(batch)]
    rest = groups.rest()
    return [pa.Table.from_batches(group) for group in [*found, rest] if group]


@quick
@given(
    st.lists(st.none() | st.text(max_size=30), min_size=1, max_size=40),
    st.lists(st.integers(1, 9), min_size=1, max_size=6),
    st.integers(1, 120),
    st.integers(1, 10),
)
def test_groups_do_not_depend_on_batches(texts: list[str | None], sizes: list[int], most: int, rows: int) -> None:
    batch = pa.record_batch({"text": pa.array(texts, pa.string()), "flag": pa.array([text == "" for text in texts])})
    groups = groups_of([batch], most, rows)
    assert [group.combine_chunks() for group in groups_of(cut(batch, *sizes), most, rows)] == groups
    assert pa.concat_tables(groups) == pa.Table.from_batches([batch])
    for index, group in enumerate(groups):
        bits = sum(map(batch_bits, group.to_batches()))
        before_its_last_row = sum(map(batch_bits, group.slice(0, group.num_rows - 1).to_batches()))
        assert group.num_rows <= rows
        assert before_its_last_row < most * 8
        assert group.num_rows == rows or bits >= most * 8 or index == len(groups) - 1


@pytest.mark.parametrize("at", [0, 1, 17, 36])
def test_payload_is_additive_over_slices(at: int) -> None:
    batch = every_value()
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        assert payload_bits(column) == payload_bits(column.slice(0, at)) + payload_bits(column.slice(at)), name


@pytest.mark.parametrize(
    ("values", "kind", "bits"),
    [
        ([1, None], pa.int64(), 128),
        ([True, None, False], pa.bool_(), 3),
        (["ab", None, ""], pa.string(), 3 * 32 + 16),
        ([b"abc"], pa.large_binary(), 64 + 24),
        ([[1, 2], None, []], pa.list_(pa.int16()), 3 * 32 + 32),
        ([], pa.string(), 0),
    ],
    ids=str,
)
def test_payload_counts_values_and_offsets(values: list[Any], kind: Any, bits: int) -> None:
    assert payload_bits(pa.array(values, kind)) == bits


def test_aligned_batches_start_at_multiples_and_lose_nothing() -> None:
    batch = many_rows(5_000)
    for sizes in [(1,), (100,), (ALIGNMENT,), (ALIGNMENT - 1,), (3_000, 1, 1_500)]:
        pieces = aligned(cut(batch, *sizes)[:3_000])
        total = sum(piece.num_rows for piece in pieces)
        assert pa.Table.from_batches(pieces) == pa.Table.from_batches([batch.slice(0, total)])
        assert all(piece.num_rows % ALIGNMENT == 0 for piece in pieces[:-1])
        assert total == min(5_000, sizes[0] * 3_000)


def test_one_batch_is_aligned_without_a_copy() -> None:
    batch = many_rows(100)
    assert aligned([batch])[0] is batch


def test_slices_are_bounded_and_have_a_row_at_least() -> None:
    batch = pa.record_batch({"text": pa.array(["x" * 1_000] * 50)})
    pieces = list(slices(batch, 5_000))
    assert [piece.num_rows for piece in pieces] == [4] * 12 + [2]
    assert [piece.num_rows for piece in slices(batch, 1)] == [1] * 50
    assert list(slices(batch.slice(0, 0), 1)) == []


def test_the_size_of_waiting_rows_is_estimated_from_the_groups_before() -> None:
    batch = pa.record_batch({"n": pa.array(range(1_000), pa.int64())})
    groups = Groups(8_000, 1 << 20)
    assert list(groups.add(batch.slice(0, 500))) == []
    assert groups.estimate(0) == 2_000
    assert len(list(groups.add(batch))) == 1
    assert groups.estimate(800) == 800 + 400
