"""What holds for every format and compression: the values, the schema, the count, other readers, bounded memory."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from extraction_worker.errors import InvalidManifest, SchemaDrift, VerificationFailed
from extraction_worker.model import Format
from extraction_worker.sink.formats import check_format, decode, extension, footer_rows, to_wire, wire_schema
from support.encoding import FORMATS, Recorder, cut, decoded, digests, encoded, every_value, many_rows, name_of, opened

PARQUET = Format(type="Parquet", compression="zstd")
CSV = Format(type="CSV", compression="none")
JSONL = Format(type="JSONL", compression="none")
each_format = pytest.mark.parametrize("file_format", FORMATS, ids=name_of)


@each_format
def test_every_value_comes_back_bit_by_bit(file_format: Format) -> None:
    batch = every_value()
    wire = wire_schema(batch.schema, file_format)
    got = decoded(file_format, batch.schema, encoded(file_format, batch.schema, [batch]))
    assert all(piece.schema.equals(wire) for piece in got)
    assert digests(wire, got) == digests(wire, [to_wire(batch, file_format)])


@each_format
def test_a_file_without_rows_is_whole_and_tells_its_schema(file_format: Format) -> None:
    schema = every_value().schema
    data = encoded(file_format, schema, [])
    assert sum(batch.num_rows for batch in decoded(file_format, schema, data)) == 0
    if file_format.type in {"Parquet", "Arrow", "CSV"}:
        other = schema.set(0, pa.field("another", pa.int64()))
        with pytest.raises(VerificationFailed, match="column"):
            decoded(file_format, other, data)


@each_format
def test_the_same_rows_give_the_same_bytes_however_they_are_batched(file_format: Format) -> None:
    batch = many_rows(9_000)
    options: dict[str, Any] = {"row_group_bytes": 300_000}
    whole = encoded(file_format, batch.schema, [batch], **options)
    assert encoded(file_format, batch.schema, cut(batch, 1, 999, 2_503), **options) == whole
    assert encoded(file_format, batch.schema, cut(batch, 4_096, 0, 1, 1_023, 777), **options) == whole
    assert sum(piece.num_rows for piece in decoded(file_format, batch.schema, whole)) == batch.num_rows


def test_row_groups_of_many_pages_do_not_depend_on_batches() -> None:
    numbers = np.arange(150_000)
    texts = pa.array(numbers * 2_654_435_761 % 2**32).cast(pa.string())
    batch = pa.record_batch({"n": pa.array(numbers), "even": pa.array(numbers % 2 == 0), "text": texts})
    whole = encoded(PARQUET, batch.schema, [batch], row_group_bytes=2_000_000)
    assert pq.read_metadata(io.BytesIO(whole)).num_row_groups == 2
    assert encoded(PARQUET, batch.schema, cut(batch, 10_001), row_group_bytes=2_000_000) == whole


@each_format
def test_the_footer_counts_the_rows_where_there_is_one(file_format: Format, tmp_path: Path) -> None:
    batch = many_rows(5_000)
    stream = Recorder()
    encoder = opened(file_format, batch.schema, stream)
    for piece in cut(batch, 1_000):
        encoder.write(to_wire(piece, file_format))
    footer = encoder.finish()
    assert (footer.rows, footer.bytes) == (5_000, len(stream.taken))
    path = tmp_path / f"part.{extension(file_format)}"
    path.write_bytes(stream.taken)
    assert footer_rows(file_format, path) == (5_000 if file_format.type in {"Parquet", "Arrow"} else None)


@each_format
def test_a_decoded_file_stays_open_for_its_owner(file_format: Format) -> None:
    batch = many_rows(100)
    file = io.BytesIO(encoded(file_format, batch.schema, [batch]))
    assert sum(piece.num_rows for piece in decode(file_format, file, wire_schema(batch.schema, file_format))) == 100
    file.seek(0)
    assert file.read(1)


@each_format
def test_tell_estimates_the_size_before_the_end(file_format: Format) -> None:
    batch = many_rows(12_000)
    stream = Recorder()
    encoder = opened(file_format, batch.schema, stream, row_group_bytes=300_000)
    told = []
    for piece in cut(batch, 1_000):
        encoder.write(to_wire(piece, file_format))
        told.append(encoder.tell())
    size = encoder.finish().bytes
    # A compressor keeps up to a block of text for itself.
    assert told[-1] >= min(size // 3, size - (1 << 20))
    assert told[-1] <= 5 * size
    assert told == sorted(told) or file_format.type == "Parquet"
    assert encoder.tell() == size


@pytest.mark.parametrize(
    ("kind", "compression", "works"),
    [
        ("CSV", "snappy", "zstd, gzip or none"),
        ("CSV", "lz4", "zstd, gzip or none"),
        ("JSONL", "snappy", "zstd, gzip or none"),
        ("JSONL", "lz4", "zstd, gzip or none"),
        ("Arrow", "snappy", "zstd, lz4 or none"),
        ("Arrow", "gzip", "zstd, lz4 or none"),
    ],
)
def test_a_compression_that_a_format_lacks_is_refused_with_those_it_has(
    kind: Any, compression: Any, works: str
) -> None:
    file_format = Format(type=kind, compression=compression)
    with pytest.raises(InvalidManifest, match=rf"{kind} has no {compression} compression.*Use {works}\."):
        check_format(file_format)
    with pytest.raises(InvalidManifest):
        opened(file_format, pa.schema([("a", pa.int64())]), Recorder())


def test_extensions_name_format_and_stream_compression() -> None:
    assert [extension(file_format) for file_format in FORMATS] == [
        *["parquet"] * 5, *["arrow"] * 3, "csv.zst", "csv.gz", "csv", "jsonl.zst", "jsonl.gz", "jsonl",
    ]  # fmt: skip


@pytest.mark.parametrize("file_format", [PARQUET, CSV], ids=name_of)
@pytest.mark.parametrize(
    "kind", [pa.month_day_nano_interval(), pa.timestamp("ns"), pa.uint8(), pa.list_(pa.duration("us"))], ids=str
)
def test_a_type_that_is_not_extracted_is_refused_by_column(file_format: Format, kind: pa.DataType) -> None:
    with pytest.raises(InvalidManifest, match='"odd column"'):
        wire_schema(pa.schema([("odd column", kind)]), file_format)


@each_format
def test_a_batch_of_another_schema_is_refused_and_ends_the_file(file_format: Format) -> None:
    stream = Recorder()
    encoder = opened(file_format, pa.schema([("a", pa.int64())]), stream)
    encoder.write(pa.record_batch({"a": [1]}))
    with pytest.raises(SchemaDrift, match='"b" int64'):
        encoder.write(pa.record_batch({"b": [1]}))
    with pytest.raises(RuntimeError, match="failed"):
        encoder.finish()


@each_format
@pytest.mark.parametrize("end", ["finish", "abort"])
def test_nothing_is_written_after_the_end(file_format: Format, end: str) -> None:
    batch = many_rows(100)
    stream = Recorder()
    encoder = opened(file_format, batch.schema, stream)
    getattr(encoder, end)()
    encoder.abort()
    encoder.abort()
    before = bytes(stream.taken)
    with pytest.raises(RuntimeError):
        encoder.write(to_wire(batch, file_format))
    with pytest.raises(RuntimeError):
        encoder.finish()
    assert stream.taken == before


@pytest.mark.parametrize("file_format", [one for one in FORMATS if one.compression == "zstd"], ids=name_of)
def test_encoding_and_decoding_hold_a_few_groups_of_any_table(file_format: Format) -> None:
    batch = pa.record_batch(
        {"n": pa.array(range(4_000)), "text": pa.array([f"{n:x}".rjust(1_000) for n in range(4_000)])}
    )
    base = pa.total_allocated_bytes()
    stream = Recorder()
    encoder = opened(file_format, batch.schema, stream, row_group_bytes=1 << 20)
    most = 0
    for piece in cut(batch, 500) * 12:
        encoder.write(piece)
        most = max(most, pa.total_allocated_bytes() - base)
    encoder.finish()
    data = bytes(stream.taken)
    rows = 0
    for piece in decode(file_format, io.BytesIO(data), batch.schema):
        rows += piece.num_rows
        most = max(most, pa.total_allocated_bytes() - base)
    assert rows == 48_000
    assert most < 24 << 20, "of 46 MiB"


def test_values_longer_than_any_block_are_decoded() -> None:
    long = ['line "one",\nline two\r\n' * 200_000, "", "x" * 5_000_000, '"' * 3_000_000, "\n" * 5_000_000]
    batch = pa.record_batch({"n": pa.array(range(10)), "text": pa.array(long * 2)})
    for file_format in FORMATS:
        if file_format.compression == "none":
            data = encoded(file_format, batch.schema, cut(batch, 3))
            assert pa.Table.from_batches(decoded(file_format, batch.schema, data)).equals(
                pa.Table.from_batches([batch])
            ), file_format


def test_wide_rows_take_one_value_a_page_and_come_back() -> None:
    batch = pa.record_batch({"n": pa.array(range(6)), "text": pa.array([f"{n}" * 1_000_000 for n in range(6)])})
    data = encoded(PARQUET, batch.schema, [batch], wide=True, row_group_bytes=2_500_000)
    metadata = pq.read_metadata(io.BytesIO(data))
    assert [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)] == [3, 3]
    assert not metadata.row_group(0).column(1).is_stats_set
    assert metadata.row_group(0).column(0).statistics.max == 2
    assert pa.Table.from_batches(decoded(PARQUET, batch.schema, data)).equals(pa.Table.from_batches([batch]))


def test_rows_are_wide_by_what_the_first_group_holds_too() -> None:
    def encode(width: int, *, wide: bool) -> bytes:
        batch = pa.record_batch(
            {"n": pa.array(range(40)), "text": pa.array([f"{n:07}" * (width // 7) for n in range(40)])}
        )
        results = {encoded(PARQUET, batch.schema, cut(batch, size), wide=wide) for size in (1, 7, 40)}
        [result] = results
        return result

    assert encode(70_000, wide=False) == encode(70_000, wide=True)
    assert encode(60_000, wide=False) != encode(60_000, wide=True)


def test_parquet_encodes_each_column_by_what_a_sample_says() -> None:
    batch = many_rows(9_000)
    metadata = pq.read_metadata(io.BytesIO(encoded(PARQUET, batch.schema, [batch])))
    group = metadata.row_group(0)
    columns = {group.column(index).path_in_schema: group.column(index) for index in range(group.num_columns)}
    dictionaries = {path for path, column in columns.items() if "RLE_DICTIONARY" in column.encodings}
    assert dictionaries == {"category", "note", "tags.list.element"}
    assert "DELTA_BINARY_PACKED" in columns["id"].encodings
    assert "DELTA_LENGTH_BYTE_ARRAY" in columns["name"].encodings
    assert {path for path, column in columns.items() if not column.is_stats_set} == {"note"}


def test_duckdb_reads_every_value_of_parquet(tmp_path: Path) -> None:
    batch = every_value()
    path = tmp_path / "part.parquet"
    # DuckDB has no decimals of more than 38 digits, and turns them to double.
    batch = batch.drop_columns(["numeric_76_20"])
    path.write_bytes(encoded(PARQUET, batch.schema, [batch]))
    query = f"SELECT * EXCLUDE (timestamptz), epoch_us(timestamptz) AS tz FROM '{path}'"
    rows = duckdb.sql(query).to_arrow_table().drop_columns(["uuid"])
    for name in ("int8", "text", "bytes", "numeric_38_38", "time", "texts", "required"):
        assert rows[name].to_pylist() == batch[name].to_pylist(), name
    assert rows["tz"].to_pylist() == batch["timestamptz"].view(pa.int64()).to_pylist()
    assert rows["float8"].cast(pa.string()).to_pylist() == batch["float8"].cast(pa.string()).to_pylist()


@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_the_standard_library_reads_csv(compression: Any) -> None:
    batch = every_value()
    csv.field_size_limit(1 << 20)
    file_format = Format(type="CSV", compression=compression)
    data = encoded(file_format, batch.schema, [batch])
    text = (gzip.decompress(data) if compression == "gzip" else data).decode()
    header, *rows = csv.reader(io.StringIO(text, newline=""))
    assert header == batch.schema.names
    assert len(rows) == batch.num_rows
    index = header.index("text")
    assert [row[index] for row in rows] == [value or "" for value in batch["text"].to_pylist()]
    nested = [json.loads(row[header.index("texts")]) for row in rows if row[header.index("texts")]]
    assert nested == [value for value in batch["texts"].to_pylist() if value is not None]
    assert [int(row[header.index("int8")] or 0) for row in rows] == [value or 0 for value in batch["int8"].to_pylist()]


def test_the_standard_library_reads_json_lines() -> None:
    batch = every_value()
    text = gzip.decompress(encoded(Format(type="JSONL", compression="gzip"), batch.schema, [batch])).decode()
    rows = [json.loads(line) for line in text.removesuffix("\n").split("\n")]
    assert all(list(row) == batch.schema.names for row in rows)
    for name in ("bool", "int8", "text", "texts", "ints", "bools", "required", "nothing"):
        assert [row[name] for row in rows] == batch[name].to_pylist(), name
    assert {row["float8"] for row in rows if isinstance(row["float8"], str)} == {"NaN", "Infinity", "-Infinity"}


@pytest.mark.parametrize("file_format", [CSV, JSONL], ids=name_of)
def test_names_of_columns_are_escaped(file_format: Format) -> None:
    names = ['a"b', "a,b", "line\nbreak", "back\\slash", "日本", " ", "a.b"]
    batch = pa.RecordBatch.from_arrays([pa.array([1, None])] * len(names), names=names)
    data = encoded(file_format, batch.schema, [batch])
    assert decoded(file_format, batch.schema, data)[0].equals(batch)
    first = (
        next(csv.reader(io.StringIO(data.decode(), newline="")))
        if file_format is CSV
        else json.loads(data.split(b"\n")[0])
    )
    assert list(first) == names


def test_gzip_carries_neither_name_nor_time() -> None:
    data = encoded(Format(type="CSV", compression="gzip"), pa.schema([("a", pa.int64())]), [])
    assert data[:8] == b"\x1f\x8b\x08\0\0\0\0\0"
