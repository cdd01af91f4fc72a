"""Digests of columns: what they don't depend on, and that nothing else escapes them."""

import itertools
import struct
from datetime import UTC, date, datetime, time
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extraction_worker.errors import VerificationFailed
from extraction_worker.model import ColumnDigest
from extraction_worker.verify.columns import ColumnDigester, compare

bounded = settings(max_examples=12, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])

integers = {width: st.integers(-(2 ** (width - 1)), 2 ** (width - 1) - 1) for width in (16, 32, 64)}
moments = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31))  # noqa: DTZ001 - hypothesis wants naive bounds
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = {
    pa.bool_(): st.booleans(),
    pa.int16(): integers[16],
    pa.int32(): integers[32],
    pa.int64(): integers[64],
    pa.float32(): st.floats(width=32, allow_nan=False).filter(lambda value: value != 0),
    pa.float64(): st.floats(allow_nan=False).filter(lambda value: value != 0),
    pa.decimal128(12, 2): st.decimals(-(10**9), 10**9, places=2),
    pa.decimal256(60, 3): st.decimals(-(10**50), 10**50, places=3),
    pa.date32(): st.dates(),
    pa.timestamp("us"): moments,
    pa.timestamp("us", "UTC"): moments.map(lambda value: value.replace(tzinfo=UTC)),
    pa.time64("us"): st.times(),
    pa.string(): texts,
    pa.large_string(): texts,
    pa.string_view(): st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    pa.binary(): st.binary(max_size=8),
    pa.binary_view(): st.binary(max_size=20),
    pa.uuid(): st.binary(min_size=16, max_size=16),
    pa.list_(pa.int32()): st.lists(integers[32] | st.none(), max_size=4),
    pa.list_(pa.bool_()): st.lists(st.booleans() | st.none(), max_size=4),
    pa.large_list(pa.string()): st.lists(texts | st.none(), max_size=4),
    pa.list_(pa.list_(pa.string())): st.lists(st.lists(texts | st.none(), max_size=3) | st.none(), max_size=3),
    pa.list_(pa.uuid()): st.lists(st.binary(min_size=16, max_size=16) | st.none(), max_size=3),
    pa.struct({"months": pa.int32(), "note": pa.string()}): st.fixed_dictionaries(
        {"months": integers[32] | st.none(), "note": texts | st.none()}
    ),
}


def array_of(values: list[object], kind: pa.DataType) -> pa.Array:
    if kind == pa.list_(pa.uuid()):
        offsets, items = [0], []
        for value in values:
            items += value or []
            offsets.append(len(items))
        mask = pa.array([value is None for value in values], pa.bool_())
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), array_of(items, pa.uuid()), mask=mask)
    if kind == pa.uuid():
        return pa.ExtensionArray.from_storage(kind, pa.array(values, pa.binary(16)))
    return pa.array(values, kind)


def digests(*arrays: pa.Array) -> ColumnDigest:
    digester = ColumnDigester(pa.schema([("value", arrays[0].type)]))
    for array in arrays:
        digester.update(pa.record_batch({"value": array}))
    (digest,) = digester.finish()
    return digest


def rows(data: st.DataObject, kind: pa.DataType) -> list[object]:
    return data.draw(st.lists(VALUES[kind] | st.none(), min_size=1, max_size=30))


@bounded
@given(st.data())
@pytest.mark.parametrize("kind", VALUES, ids=str)
def test_batches_slices_and_offsets_make_no_difference(kind: pa.DataType, data: st.DataObject) -> None:
    values = rows(data, kind)
    whole = array_of(values, kind)
    cuts = data.draw(st.lists(st.integers(0, len(values)), max_size=5))
    bounds = list(itertools.pairwise([0, *sorted(cuts), len(values)]))
    offset = data.draw(st.integers(0, 9))
    shifted = array_of(values[:1] * offset + values + values[:1], kind).slice(offset, len(values))

    expected = digests(whole)
    assert expected.nulls == values.count(None)
    assert digests(*[whole.slice(start, end - start) for start, end in bounds]) == expected
    assert digests(*[array_of(values[start:end], kind) for start, end in bounds]) == expected
    assert digests(shifted) == expected


@bounded
@given(st.data())
@pytest.mark.parametrize("kind", VALUES, ids=str)
def test_a_changed_swapped_lost_or_doubled_value_makes_a_difference(kind: pa.DataType, data: st.DataObject) -> None:
    values = rows(data, kind)
    expected = digests(array_of(values, kind)).digest
    row = data.draw(st.integers(0, len(values) - 1))
    before, value, after = values[:row], values[row], values[row + 1 :]
    other = data.draw(VALUES[kind] | st.none())
    if other != value:
        assert digests(array_of([*before, other, *after], kind)).digest != expected
    if after and after[0] != value:
        assert digests(array_of([*before, after[0], value, *after[1:]], kind)).digest != expected
    assert digests(array_of([*before, *after], kind)).digest != expected
    assert digests(array_of([*before, value, value, *after], kind)).digest != expected


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.binary()], ids=str)
@pytest.mark.parametrize(
    ("left", "right"),
    [
        (["ab", "c"], ["a", "bc"]),
        (["ab", ""], ["", "ab"]),
        (["", None], [None, ""]),
        ([None, "a"], ["a", None]),
        ([""], [None]),
        ([], [""]),
    ],
)
def test_bytes_that_move_to_a_neighbour_make_a_difference(kind: pa.DataType, left: list, right: list) -> None:
    def encode(values: list) -> pa.Array:
        return pa.array(values, pa.string()).cast(kind)

    assert digests(encode(left)).digest != digests(encode(right)).digest


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ([[1], [2]], [[1, 2], []]),
        ([[None], []], [[], [None]]),
        ([[]], [None]),
        ([[1, None]], [[1]]),
        ([[None, 1]], [[1, None]]),
    ],
)
def test_elements_that_move_to_a_neighbour_make_a_difference(left: list, right: list) -> None:
    kind = pa.list_(pa.int32())
    assert digests(pa.array(left, kind)).digest != digests(pa.array(right, kind)).digest


def test_the_layout_of_strings_makes_no_difference() -> None:
    values = ["a", None, "", "a string that is too long for a view's inline form", "ü"] * 3
    plain = pa.array(values, pa.string())
    expected = digests(plain)
    for other in (pa.large_string(), pa.string_view()):
        assert digests(plain.cast(other)) == expected
        assert digests(plain.cast(other).slice(0, 7), plain.cast(other).slice(7)) == expected
    assert digests(plain.dictionary_encode()) == expected
    assert digests(plain.slice(1).dictionary_encode()).digest == digests(plain.slice(1)).digest


@pytest.mark.parametrize(
    ("kind", "values", "width"),
    [
        (pa.int64(), struct.pack("<3q", 1, 2, 3), 8),
        (pa.decimal128(12, 2), b"\1" * 48, 16),
        (pa.binary(16), b"\2" * 48, 16),
    ],
    ids=str,
)
def test_garbage_under_nulls_makes_no_difference(kind: pa.DataType, values: bytes, width: int) -> None:
    validity = pa.py_buffer(b"\5")  # Rows 0 and 2.
    dirty = pa.Array.from_buffers(kind, 3, [validity, pa.py_buffer(values)])
    clean = pa.Array.from_buffers(
        kind, 3, [validity, pa.py_buffer(values[:width] + bytes(width) + values[2 * width :])]
    )
    assert clean.equals(dirty)
    assert digests(dirty) == digests(clean)


def test_garbage_under_null_strings_and_lists_makes_no_difference() -> None:
    validity, offsets = pa.py_buffer(b"\5"), pa.py_buffer(struct.pack("<4i", 0, 1, 3, 4))
    dirty = pa.Array.from_buffers(pa.string(), 3, [validity, offsets, pa.py_buffer(b"axxb")])
    assert digests(dirty) == digests(pa.array(["a", None, "b"]))
    dirty = pa.ListArray.from_arrays(
        pa.array([0, 1, 3, 4], pa.int32()), pa.array([1, 8, None, 4]), mask=pa.array([False, True, False])
    )
    assert digests(dirty) == digests(pa.array([[1], None, [4]]))


def test_garbage_under_null_structs_makes_no_difference() -> None:
    kind = pa.struct({"x": pa.int64()})
    dirty = pa.StructArray.from_arrays([pa.array([1, 9])], ["x"], mask=pa.array([False, True]))
    assert digests(dirty) == digests(pa.array([{"x": 1}, None], kind))


def test_floats_are_compared_bit_by_bit() -> None:
    def double(pattern: int) -> ColumnDigest:
        return digests(pa.Array.from_buffers(pa.float64(), 1, [None, pa.py_buffer(struct.pack("<Q", pattern))]))

    zero, negative_zero, nan, other_nan = 0, 1 << 63, 0x7FF8 << 48, (0x7FF8 << 48) + 1
    assert len({double(pattern).digest for pattern in (zero, negative_zero, nan, other_nan)}) == 4
    assert double(nan) == double(nan)


def test_equal_bytes_of_other_types_differ() -> None:
    one = pa.array([1], pa.int64())
    kinds = [one, one.cast(pa.timestamp("us")), one.cast(pa.timestamp("us", "UTC")), one.cast(pa.time64("us"))]
    assert len({digests(array).digest for array in kinds}) == len(kinds)
    assert digests(pa.array(["a"])).digest != digests(pa.array([b"a"])).digest


def test_every_column_has_its_evidence_in_order() -> None:
    batch = pa.record_batch(
        {
            "id": pa.array([1, 2]),
            "amount": pa.array([Decimal("1.50"), None], pa.decimal128(12, 2)),
            "day": pa.array([date(2026, 1, 1), None]),
            "at": pa.array([time(1), time(2)], pa.time64("us")),
        }
    )
    digester = ColumnDigester(batch.schema)
    empty = digester.finish()
    digester.update(batch)
    assert [(column.name, column.nulls) for column in digester.finish()] == [
        ("id", 0), ("amount", 1), ("day", 1), ("at", 0),
    ]  # fmt: skip
    assert all(before.digest != after.digest for before, after in zip(empty, digester.finish(), strict=True))


def test_columns_of_the_same_name_stay_apart() -> None:
    schema = pa.schema([("x", pa.int64()), ("x", pa.int64())])
    digester = ColumnDigester(schema)
    digester.update(pa.record_batch([pa.array([1]), pa.array([2])], schema=schema))
    first, second = digester.finish()
    assert first.digest != second.digest


def test_a_type_that_is_never_written_is_refused() -> None:
    with pytest.raises(TypeError, match="map"):
        ColumnDigester(pa.schema([("m", pa.map_(pa.string(), pa.int32()))]))


def test_a_batch_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError):
        ColumnDigester(pa.schema([("x", pa.int64())])).update(pa.record_batch({"x": pa.array([1]), "y": pa.array([1])}))


def evidence(name: str, nulls: int, digest: str) -> ColumnDigest:
    return ColumnDigest(name=name, nulls=nulls, digest=digest)


def test_equal_evidence_is_accepted() -> None:
    compare(3, [evidence("id", 0, "aa"), evidence("x", 1, "bb")], [evidence("id", 0, "aa"), evidence("x", 1, "bb")])


@pytest.mark.parametrize(
    ("decoded", "message"),
    [
        ([evidence("id", 0, "aa")], r"Chunk 3 was read with columns \['id', 'amount'\]"),
        ([evidence("id", 0, "aa"), evidence("amount", 2, "bb")], "Chunk 3, column 'amount': 1 nulls were read, 2"),
        ([evidence("id", 0, "aa"), evidence("amount", 1, "cc")], "Chunk 3, column 'amount': the file doesn't decode"),
    ],
)
def test_a_difference_is_named(decoded: list[ColumnDigest], message: str) -> None:
    with pytest.raises(VerificationFailed, match=message):
        compare(3, [evidence("id", 0, "aa"), evidence("amount", 1, "bb")], decoded)
