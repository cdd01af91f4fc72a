"""Streams, formats and batches for the tests of encoders."""

import io
import math
import uuid
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import pyarrow as pa

from extraction_worker.model import Format
from extraction_worker.sink.abc import StagedPart
from extraction_worker.sink.formats import Encoder, decode, open_encoder, to_wire, wire_schema
from extraction_worker.verify.columns import ColumnDigester

FORMATS = [
    Format(type=kind, compression=compression)
    for kind, compressions in {
        "Parquet": ("zstd", "lz4", "snappy", "gzip", "none"),
        "Arrow": ("zstd", "lz4", "none"),
        "CSV": ("zstd", "gzip", "none"),
        "JSONL": ("zstd", "gzip", "none"),
    }.items()
    for compression in compressions
]
ENDED = [
    file_format
    for file_format in FORMATS
    if file_format.type in {"Parquet", "Arrow"} or file_format.compression != "none"
]
"""Formats whose readers can tell a whole file from the beginning of one."""


def name_of(value: Any) -> str:
    return f"{value.type}-{value.compression}" if isinstance(value, Format) else str(value)


class Recorder:
    """A part's stream that keeps its bytes, and raises ``error`` when asked for more than ``limit``."""

    def __init__(self, limit: int | None = None, error: BaseException | None = None) -> None:
        self.taken = bytearray()
        self.limit = limit
        self.error = error

    def write(self, data: bytes | memoryview) -> int:
        if self.limit is not None and len(self.taken) + len(data) > self.limit:
            self.taken += data[: self.limit - len(self.taken)]
            assert self.error is not None
            raise self.error
        self.taken += data
        return len(data)

    def tell(self) -> int:
        return len(self.taken)

    def close(self) -> StagedPart:
        raise AssertionError("an encoder doesn't close its stream")

    def abort(self) -> None:
        raise AssertionError("an encoder doesn't abort its stream")


def opened(file_format: Format, schema: pa.Schema, stream: Recorder, **options: Any) -> Encoder:
    return open_encoder(file_format, wire_schema(schema, file_format), stream, **options)


def encoded(file_format: Format, schema: pa.Schema, batches: Iterable[pa.RecordBatch], **options: Any) -> bytes:
    """Return the file of these batches."""
    stream = Recorder()
    encoder = opened(file_format, schema, stream, **options)
    for batch in batches:
        encoder.write(to_wire(batch, file_format))
    encoder.finish()
    return bytes(stream.taken)


def decoded(file_format: Format, schema: pa.Schema, data: bytes) -> list[pa.RecordBatch]:
    return list(decode(file_format, io.BytesIO(data), wire_schema(schema, file_format)))


def digests(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Any:
    """Return what two sequences of rows share only if every bit of every value is the same."""
    digester = ColumnDigester(schema)
    for batch in batches:
        digester.update(batch)
    return digester.finish()


def cut(batch: pa.RecordBatch, *sizes: int) -> list[pa.RecordBatch]:
    """Return ``batch`` in batches of these sizes, the last one again and again."""
    result, start, left = [], 0, list(sizes)
    while start < batch.num_rows:
        size = left.pop(0) if len(left) > 1 else left[0]
        result.append(batch.slice(start, size))
        start += size
    return result


MICROSECONDS = [
    0, -1, 1, -210_866_803_200_000_000, 9_223_372_022_399_999_999, -62_135_596_800_000_000, -62_135_596_800_000_001,
    253_402_300_799_999_999, 253_402_300_800_000_000, 1_795_314_857_123_456,
]  # fmt: skip
"""Timestamps: the epoch, 4713 BC, the last before 294247-01-10, and both ends of the years 1 to 9999."""
DAYS = [0, -1, 2_145_042_905, -2_440_588, -719_162, -719_163, 2_932_896, 2_932_897]
"""Dates: the epoch, 5874897-12-31, 4713 BC, and both ends of the years 1 to 9999."""
TEXTS = [
    "", " ", "NULL", "null", "NaN", "\\N", '"', '""', 'a"b', "a,b", "line\nbreak", "carriage\rreturn", "both\r\n", "\n",
    "\t", "\x01\x1f\x7f", "\\", "\\n", "/", "é", "日本語", "𝄞", "\u2028\u2029", "\ufeff", "1", "true", "x" * 100_000,
    'quoted "x",\n' * 5_000, "{}", "[]", "'", "\x85", "\ud7ff",
]  # fmt: skip
FLOATS = [
    0.0, -0.0, 1.0, 0.1, 1 / 3, 1e16, 1e22, 1e23, 1e300, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, -1.5,
    math.nan, math.inf, -math.inf, 2.0**53, 123456789.0, 1e-7,
]  # fmt: skip
NINES38, NINES76 = "9" * 38, "9" * 76


def every_value() -> pa.RecordBatch:
    """Return a batch of every type that is extracted, each with the values that are hard to hold, and nulls."""
    columns: dict[str, pa.Array] = {
        "bool": pa.array([True, False, None]),
        "int2": pa.array([-(2**15), 2**15 - 1, 0, None], pa.int16()),
        "int4": pa.array([-(2**31), 2**31 - 1, 0, None], pa.int32()),
        "int8": pa.array([-(2**63), 2**63 - 1, 2**53 + 1, 0, None], pa.int64()),
        "float4": pa.array([0.0, -0.0, 0.1, 3.4028234663852886e38, 1e-45, math.nan, math.inf, None], pa.float32()),
        "float8": pa.array([*FLOATS, None], pa.float64()),
        "text": pa.array([*TEXTS, None], pa.string()),
        "bytes": pa.array([b"", b"\0", bytes(range(256)), b"\xff" * 3, b"12", None], pa.binary()),
        "uuid": pa.ExtensionArray.from_storage(
            pa.uuid(), pa.array([bytes(16), b"\xff" * 16, uuid.UUID(int=1 << 100).bytes, None], pa.binary(16))
        ),
        "numeric_12_2": pa.array([Decimal(0), Decimal("-0.01"), Decimal("9999999999.99"), None], pa.decimal128(12, 2)),
        "numeric_38": pa.array([Decimal(NINES38), Decimal("-" + NINES38), Decimal(0), None], pa.decimal128(38, 0)),
        "numeric_38_38": pa.array([Decimal("0." + NINES38), Decimal("-1e-38"), None], pa.decimal128(38, 38)),
        "numeric_76_20": pa.array([Decimal(f"{NINES76[20:]}.{NINES76[:20]}"), Decimal("1e-20")], pa.decimal256(76, 20)),
        "date": pa.array([*DAYS, None], pa.int32()).view(pa.date32()),
        "time": pa.array([0, 86_399_999_999, 1, None], pa.int64()).view(pa.time64("us")),
        "timestamp": pa.array([*MICROSECONDS, None], pa.int64()).view(pa.timestamp("us")),
        "timestamptz": pa.array([*MICROSECONDS, None], pa.int64()).view(pa.timestamp("us", "UTC")),
        "texts": pa.array([[], None, [None], ["", None, *TEXTS]], pa.list_(pa.string())),
        "ints": pa.array([[], None, [None], [1, None, -(2**31)]], pa.list_(pa.int32())),
        "floats": pa.array([[], None, FLOATS, [None]], pa.list_(pa.float64())),
        "small_floats": pa.array([[], None, [0.1, -0.0, math.nan, math.inf], [None]], pa.list_(pa.float32())),
        "bools": pa.array([[True, None, False], None, []], pa.list_(pa.bool_())),
        "dates": pa.array([None, [], [0, None]], pa.list_(pa.int32())).cast(pa.list_(pa.date32())),
        "numerics": pa.array([[Decimal("1e-9"), None], None, []], pa.list_(pa.decimal128(20, 9))),
        "nothing": pa.nulls(1, pa.string()),
    }  # fmt: skip
    rows = max(map(len, columns.values()))
    filled = {
        name: column.take(pa.array([index % len(column) for index in range(rows)])) for name, column in columns.items()
    }
    filled["required"] = pa.array(range(rows), pa.int64())
    fields = [pa.field(name, column.type, nullable=name != "required") for name, column in filled.items()]
    return pa.RecordBatch.from_arrays(list(filled.values()), schema=pa.schema(fields))


def many_rows(count: int) -> pa.RecordBatch:
    """Return rows that fill several groups and pages: lengths vary, some values repeat, nulls, lists."""
    numbers = range(count)
    columns = {
        "id": pa.array(numbers, pa.int64()),
        "category": pa.array([None if n % 11 == 0 else n % 97 for n in numbers], pa.int32()),
        "flag": pa.array([None if n % 7 == 0 else n % 3 == 0 for n in numbers]),
        "name": pa.array([f"{n * 2_654_435_761 % 2**32:x}" * (n % 5) for n in numbers]),
        "note": pa.array([None if n % 5 == 0 else f"note {n % 100} " * 10 for n in numbers]),
        "tags": pa.array([None if n % 13 == 0 else [f"t{n % 5}"] * (n % 4) for n in numbers], pa.list_(pa.string())),
        "score": pa.array([n / 7 for n in numbers], pa.float64()),
    }
    return pa.RecordBatch.from_pydict(columns)
