"""How values are spelled in CSV and JSON lines, against the standard library's own idea of each."""

import base64
import json
import math
import struct
import uuid
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extraction_worker.model import Format
from extraction_worker.sink.text import json_of, plain_nan, text_of
from extraction_worker.sink.wire import to_wire, wire_schema
from support.encoding import cut, decoded, digests, encoded

quick = settings(max_examples=60, deadline=None, database=None, derandomize=True)
SPELLED: list[tuple[Any, Any, str]] = [
    (Decimal("0E-9"), pa.decimal128(20, 9), "0.000000000"),
    (Decimal("-1E-38"), pa.decimal128(38, 38), "-0." + "0" * 37 + "1"),
    (Decimal("-12.30"), pa.decimal128(12, 2), "-12.30"),
    (Decimal(10**37), pa.decimal128(38, 0), "1" + "0" * 37),
    (Decimal("0.5"), pa.decimal256(76, 1), "0.5"),
    (b"\x00\xff", pa.binary(), "AP8="),
    (time(23, 59, 59, 999_999), pa.time64("us"), "23:59:59.999999"),
    (date(2026, 11, 22), pa.date32(), "2026-11-22"),
    (datetime(2026, 11, 22, 2, 34), pa.timestamp("us"), "2026-11-22T02:34:00.000000"),  # noqa: DTZ001
    (datetime(2026, 11, 22, 2, 34), pa.timestamp("us", "UTC"), "2026-11-22T02:34:00.000000Z"),  # noqa: DTZ001
    (datetime(2026, 11, 22, 2, 34), pa.timestamp("us", "Europe/Berlin"), "2026-11-22T02:34:00.000000Z"),  # noqa: DTZ001
]
EXTREME: list[tuple[int, Any, str]] = [
    (-719_162, pa.date32(), "0001-01-01"),
    (-719_163, pa.date32(), "0000-12-31"),
    (-719_529, pa.date32(), "-0001-12-31"),
    (-2_440_550, pa.date32(), "-4712-01-01"),
    (2_932_897, pa.date32(), "+10000-01-01"),
    (2_145_042_905, pa.date32(), "+5874897-12-31"),
    (-62_135_596_800_000_001, pa.timestamp("us"), "0000-12-31T23:59:59.999999"),
    (-62_135_596_800_000_000, pa.timestamp("us"), "0001-01-01T00:00:00.000000"),
    (253_402_300_799_999_999, pa.timestamp("us", "UTC"), "9999-12-31T23:59:59.999999Z"),
    (253_402_300_800_000_000, pa.timestamp("us", "UTC"), "+10000-01-01T00:00:00.000000Z"),
    (9_223_371_244_799_999_999, pa.timestamp("us", "UTC"), "+294246-12-31T23:59:59.999999Z"),
    (-210_863_520_000_000_000, pa.timestamp("us"), "-4712-01-01T00:00:00.000000"),
]


@pytest.mark.parametrize(("value", "kind", "text"), SPELLED, ids=lambda value: str(value)[:30])
def test_values_are_spelled_for_readers(value: Any, kind: Any, text: str) -> None:
    assert text_of(pa.array([None, value], kind)).to_pylist() == [None, text]


@pytest.mark.parametrize(("raw", "kind", "text"), EXTREME, ids=lambda value: str(value)[:30])
def test_years_beyond_four_digits_are_spelled_as_iso_8601_expands_them(raw: int, kind: Any, text: str) -> None:
    integers = pa.int32() if pa.types.is_date32(kind) else pa.int64()
    assert text_of(pa.array([raw, None, 0], integers).view(kind)).to_pylist()[:2] == [text, None]


@quick
@given(st.lists(st.none() | st.uuids(), max_size=5), st.integers(0, 3))
def test_uuids_are_spelled_as_pythons(values: list[uuid.UUID | None], start: int) -> None:
    storage = pa.array([None if value is None else value.bytes for value in values], pa.binary(16))
    array = pa.ExtensionArray.from_storage(pa.uuid(), storage).slice(start)
    assert text_of(array).to_pylist() == [None if value is None else str(value) for value in values[start:]]


@quick
@given(st.lists(st.none() | st.decimals(-(10**19), 10**19, places=18), max_size=5), st.integers(0, 3))
def test_decimals_are_exact_and_have_no_exponent(values: list[Decimal | None], start: int) -> None:
    array = pa.array(values, pa.decimal128(38, 18)).slice(start)
    assert text_of(array).to_pylist() == [None if value is None else f"{value:.18f}" for value in values[start:]]


@quick
@given(st.lists(st.none() | st.dates(), max_size=5), st.lists(st.none() | st.datetimes(), max_size=5))
def test_dates_and_timestamps_are_spelled_as_pythons(days: list[date | None], moments: list[datetime | None]) -> None:
    assert text_of(pa.array(days, pa.date32())).to_pylist() == [day and day.isoformat() for day in days]
    spelled = [moment and moment.isoformat(timespec="microseconds") for moment in moments]
    assert text_of(pa.array(moments, pa.timestamp("us"))).to_pylist() == spelled


@quick
@given(st.lists(st.none() | st.binary(max_size=20), max_size=5))
def test_binary_is_base64(values: list[bytes | None]) -> None:
    spelled = text_of(pa.array(values, pa.binary())).to_pylist()
    assert [None if text is None else base64.b64decode(text, validate=True) for text in spelled] == values


@quick
@given(st.lists(st.none() | st.lists(st.none() | st.text(max_size=8), max_size=4), max_size=5), st.integers(0, 3))
def test_json_of_strings_and_lists_is_what_json_reads(values: list[list[str | None] | None], start: int) -> None:
    tokens = json_of(pa.array(values, pa.list_(pa.string())).slice(start)).to_pylist()
    assert [None if token is None else json.loads(token) for token in tokens] == values[start:]
    assert not any("\n" in token for token in tokens if token)


@quick
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=8))
def test_json_of_floats_keeps_every_bit(values: list[float]) -> None:
    read = [float(json.loads(token)) for token in json_of(pa.array(values, pa.float64())).to_pylist()]
    assert [struct.pack("d", value) for value in read] == [struct.pack("d", value) for value in values]


def test_json_has_names_for_what_is_no_number() -> None:
    tokens = json_of(pa.array([math.nan, math.inf, -math.inf, -0.0, None], pa.float64())).to_pylist()
    assert tokens == ['"NaN"', '"Infinity"', '"-Infinity"', "-0.0", None]


@pytest.mark.parametrize(
    ("kind", "code", "bits"), [(pa.float64(), "Q", 0xFFF8_0000_0000_0001), (pa.float32(), "I", 0xFFC0_0001)]
)
def test_text_has_one_nan_so_the_wire_has_one(kind: Any, code: str, bits: int) -> None:
    odd = pa.Array.from_buffers(kind, 1, [None, pa.py_buffer(struct.pack(code, bits))])
    plain = plain_nan(odd)
    assert (
        plain.buffers()[1].to_pybytes() == pa.array([math.nan], kind).buffers()[1].to_pybytes()[: struct.calcsize(code)]
    )
    batch = pa.record_batch({"odd": odd, "list": pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), odd)})
    for file_format in (Format(type="CSV", compression="none"), Format(type="JSONL", compression="none")):
        wire = to_wire(batch, file_format)
        assert digests(
            wire.schema, decoded(file_format, batch.schema, encoded(file_format, batch.schema, [batch]))
        ) == digests(wire.schema, [wire])


FLOAT32 = st.floats(width=32)
COLUMNS: list[tuple[Any, Any]] = [
    (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pa.int16(), st.integers(-(2**15), 2**15 - 1)),
    (pa.bool_(), st.booleans()),
    (pa.float64(), st.floats()),
    (pa.float32(), FLOAT32),
    (pa.string(), st.text(max_size=12) | st.text('",\n\r\\ \t', max_size=6)),
    (pa.large_string(), st.text(max_size=5)),
    (pa.binary(), st.binary(max_size=8)),
    (pa.decimal128(38, 10), st.decimals(-(10**27), 10**27, places=10)),
    (pa.decimal256(76, 38), st.decimals(-(10**20), 10**20, places=5)),
    (pa.date32(), st.dates()),
    (pa.time64("us"), st.times()),
    (pa.timestamp("us"), st.datetimes()),
    (pa.timestamp("us", "UTC"), st.datetimes()),
    (pa.list_(pa.string()), st.lists(st.none() | st.text(max_size=5), max_size=3)),
    (pa.list_(pa.float32()), st.lists(st.none() | FLOAT32, max_size=3)),
    (pa.list_(pa.bool_()), st.lists(st.none() | st.booleans(), max_size=3)),
    (pa.list_(pa.timestamp("us", "UTC")), st.lists(st.none() | st.datetimes(), max_size=3)),
]


@st.composite
def tables(draw: st.DrawFn) -> pa.RecordBatch:
    rows = draw(st.integers(0, 12))
    columns = draw(st.lists(st.sampled_from(COLUMNS), min_size=1, max_size=4))
    arrays = [
        pa.array(draw(st.lists(st.none() | values, min_size=rows, max_size=rows)), kind) for kind, values in columns
    ]
    return pa.RecordBatch.from_arrays(arrays, names=[f"c{index}" for index in range(len(arrays))])


@pytest.mark.parametrize(
    "file_format",
    [Format(type="Parquet", compression="zstd"), Format(type="Arrow", compression="lz4"),
     Format(type="CSV", compression="none"), Format(type="JSONL", compression="gzip")],
    ids=lambda value: value.type,
)  # fmt: skip
def test_any_table_comes_back_and_its_batching_does_not_show(file_format: Format) -> None:
    @settings(max_examples=80, deadline=None, database=None, derandomize=True)
    @given(tables(), st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(1, 400))
    def check(batch: pa.RecordBatch, sizes: list[int], group: int) -> None:
        data = encoded(file_format, batch.schema, [batch], row_group_bytes=group)
        wire = wire_schema(batch.schema, file_format)
        assert digests(wire, decoded(file_format, batch.schema, data)) == digests(wire, [to_wire(batch, file_format)])
        assert encoded(file_format, batch.schema, cut(batch, *sizes), row_group_bytes=group) == data

    check()
