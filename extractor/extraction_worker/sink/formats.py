"""File formats: what each can hold, its encoder over a part, its decoder, and the count in its footer.

:func:`check_format` refuses combinations that don't exist, :func:`wire_schema` says what a format holds of a
schema, :func:`to_wire` converts batches to it. Verification compares digests of wire batches on both sides.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import pyarrow as pa

from extraction_worker.errors import InvalidManifest
from extraction_worker.model import Format
from extraction_worker.sink.abc import PartStream
from extraction_worker.sink.gate import Gate
from extraction_worker.sink.parquet import ParquetEncoder, decode_parquet, parquet_rows

ROW_GROUP_BYTES = 32 << 20
"""Arrow bytes of a group of rows, which an encoder holds in memory."""

Source = Path | IO[bytes] | pa.Buffer | pa.NativeFile
"""What can be decoded: a file's path, an open file, or bytes in memory."""

_COMPRESSIONS: dict[str, tuple[str, ...]] = {
    "Parquet": ("zstd", "lz4", "snappy", "gzip", "none"),
}
_EXTENSIONS = {"Parquet": "parquet"}


@dataclass(frozen=True)
class EncodedFooter:
    """What a finished file holds: its rows, and its bytes as handed to the stream."""

    rows: int
    bytes: int


class Encoder(Protocol):
    """One file being encoded into a stream, which its owner closes or aborts.

    After an exception out of any method, and after :meth:`abort` or :meth:`finish`, nothing more is written to the
    stream, not even by a destructor.
    """

    def write(self, batch: pa.RecordBatch) -> None:
        """Encode the next rows: a batch of the schema that the encoder was opened with."""
        ...

    def tell(self) -> int:
        """Return the encoded bytes so far, with an estimate of what waits in memory."""
        ...

    def finish(self) -> EncodedFooter:
        """Write what waits, and the footer. Doesn't close the stream."""
        ...

    def abort(self) -> None:
        """Write nothing any more. Idempotent; never raises."""
        ...


def check_format(format: Format) -> None:  # noqa: A002 - the field's name in the manifest
    """Refuse a compression that the format doesn't have.

    Raises
    ------
    InvalidManifest
        With the compressions that the format has.
    """
    known = _COMPRESSIONS[format.type]
    if format.compression not in known:
        raise InvalidManifest(
            f"spec.sink.format.compression: {format.type} has no {format.compression} compression.",
            hint=f"Use {', '.join(known[:-1])} or {known[-1]}.",
        )


def extension(format: Format) -> str:  # noqa: A002
    """Return the file name's extension, e.g. ``parquet``, ``csv.gz``, ``jsonl.zst``."""
    return _EXTENSIONS[format.type]


def wire_schema(schema: pa.Schema, format: Format) -> pa.Schema:  # noqa: A002, ARG001
    """Return the schema that the format holds of ``schema``."""
    return schema


def to_wire(batch: pa.RecordBatch, format: Format) -> pa.RecordBatch:  # noqa: A002, ARG001
    """Return ``batch`` in the schema that the format holds."""
    return batch


class _GatedEncoder:
    """An encoder of one format behind its gate."""

    def __init__(self, inner: ParquetEncoder, gate: Gate, schema: pa.Schema) -> None:
        self._inner = inner
        self._gate = gate
        self._schema = schema

    def write(self, batch: pa.RecordBatch) -> None:
        with self._gate.passing():
            if not batch.schema.equals(self._schema):
                raise ValueError(f"The batch has the schema {batch.schema}, not {self._schema}.")
            self._inner.write(batch)

    def tell(self) -> int:
        return self._inner.tell()

    def finish(self) -> EncodedFooter:
        with self._gate.passing():
            self._inner.finish()
        self._gate.shut()
        return EncodedFooter(self._inner.rows, self._gate.tell())

    def abort(self) -> None:
        self._gate.shut()
        self._inner.abort()


def open_encoder(
    format: Format,  # noqa: A002
    schema: pa.Schema,
    stream: PartStream,
    *,
    wide: bool = False,
    row_group_bytes: int = ROW_GROUP_BYTES,
) -> Encoder:
    """Return an encoder of wire batches into ``stream``.

    Parameters
    ----------
    format
        Type and compression; checked by :func:`check_format`.
    schema
        The wire schema, from :func:`wire_schema`.
    stream
        Takes the bytes; its owner closes it after :meth:`Encoder.finish`, or aborts it.
    wide
        Rows of many megabytes: no statistics and small pages, which takes half of the memory.
    row_group_bytes
        Arrow bytes that the encoder collects before it writes them.

    Raises
    ------
    InvalidManifest
        The format doesn't have this compression.
    """
    check_format(format)
    gate = Gate(stream)
    inner = ParquetEncoder(schema, gate, format.compression, wide=wide, group_bytes=row_group_bytes)
    return _GatedEncoder(inner, gate, schema)


def decode(format: Format, source: Source, schema: pa.Schema) -> Iterator[pa.RecordBatch]:  # noqa: A002, ARG001
    """Yield what was encoded, as batches of the wire schema, with bounded memory."""
    yield from decode_parquet(_open(source))


def footer_rows(format: Format, source: Source) -> int:  # noqa: A002, ARG001
    """Return the number of rows as the file itself says."""
    return parquet_rows(_open(source))


def _open(source: Source) -> pa.NativeFile:
    if isinstance(source, pa.NativeFile):
        return source
    if isinstance(source, pa.Buffer):
        return pa.BufferReader(source)
    return pa.OSFile(str(source)) if isinstance(source, Path) else pa.PythonFile(source, "r")
