"""Parquet: row groups by bytes, dictionaries where a sample says that they pay, the same bytes for the same rows."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from extraction_worker.sink.gate import Gate
from extraction_worker.sink.groups import ALIGNMENT, Groups, aligned

ROW_GROUP_ROWS = 1 << 20
_CODECS = {"zstd": "ZSTD", "snappy": "SNAPPY", "gzip": "GZIP", "lz4": "LZ4_RAW", "none": "NONE"}
_SAMPLE_SLICES = 8
_FIRST_GUESS = 0.5
"""Encoded bytes per byte of Arrow, until the first row group tells."""


class ParquetEncoder:
    """Writes one Parquet file; see :class:`extraction_worker.sink.formats.Encoder`."""

    def __init__(self, schema: pa.Schema, gate: Gate, compression: str, *, wide: bool, group_bytes: int) -> None:
        self._schema = schema
        self._gate = gate
        self._compression = _CODECS[compression]
        self._wide = wide
        self._groups = Groups(group_bytes, ROW_GROUP_ROWS)
        self._nested = any(pa.types.is_nested(field.type) for field in schema)
        self._writer: pq.ParquetWriter | None = None
        self._raw = 0
        self.rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Take the next rows."""
        for group in self._groups.add(batch):
            self._write_group(group)
        self.rows += batch.num_rows

    def tell(self) -> int:
        """Return the bytes written, and those that the pending rows will take by the ratio so far."""
        written = self._gate.tell()
        ratio = written / self._raw if self._raw else _FIRST_GUESS
        return written + int(self._groups.pending_bytes * ratio)

    def finish(self) -> None:
        """Write the pending rows and the footer."""
        self._write_group(self._groups.rest()).close()

    def abort(self) -> None:
        """Forget the pending rows; the gate is shut, so that the writer's destructor writes its footer nowhere."""
        self._groups.rest()
        if self._writer is not None:
            self._writer.is_open = False
            self._writer = None

    def _write_group(self, batches: list[pa.RecordBatch]) -> pq.ParquetWriter:
        self._raw += sum(batch.nbytes for batch in batches)
        table = pa.Table.from_batches(aligned(batches), self._schema)
        if self._nested:
            # Pages of lists are cut by values, not by rows: only one chunk is the same for any batching.
            table = table.combine_chunks()
        if self._writer is None:
            self._writer = self._open(table)
        if table.num_rows:
            self._writer.write_table(table, row_group_size=table.num_rows)
        return self._writer

    def _open(self, table: pa.Table) -> pq.ParquetWriter:
        return pq.ParquetWriter(
            self._gate, self._schema, compression=self._compression, use_dictionary=_low_cardinality(table),
            write_statistics=not self._wide, write_batch_size=1 if self._wide else ALIGNMENT,
            store_decimal_as_integer=True,
        )  # fmt: skip


def _low_cardinality(table: pa.Table) -> list[str]:
    """Return the paths of the columns whose values repeat in a sample spread over ``table``."""
    rows = table.num_rows
    step = max(rows // _SAMPLE_SLICES, 1)
    sample = pa.concat_tables([table.slice(start, ALIGNMENT) for start in range(0, rows, step)] or [table])
    found = []
    for name, column in zip(table.column_names, sample.columns, strict=True):
        path, values = name, column
        while pa.types.is_list(values.type):
            path, values = f"{path}.list.element", pc.list_flatten(values)
        if pa.types.is_boolean(values.type) or pa.types.is_nested(values.type):
            continue
        if isinstance(values.type, pa.BaseExtensionType):
            values = pa.chunked_array([chunk.storage for chunk in values.chunks], values.type.storage_type)
        present = len(values) - values.null_count
        if pc.count_distinct(values).as_py() * 2 <= present:
            found.append(path)
    return found


def decode_parquet(source: pa.NativeFile) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a Parquet file in batches of about 8 MiB, one row group in memory at most."""
    file = pq.ParquetFile(source, pre_buffer=False, buffer_size=1 << 20)
    for index in range(file.num_row_groups):
        group = file.metadata.row_group(index)
        row = max(group.total_byte_size // max(group.num_rows, 1), 1)
        size = min(max((8 << 20) // row, 1), 1 << 14)
        yield from file.iter_batches(size, row_groups=[index], use_threads=False)


def parquet_rows(source: pa.NativeFile) -> int:
    """Return the rows that the footer counts."""
    rows: int = pq.ParquetFile(source, pre_buffer=False).metadata.num_rows
    return rows
