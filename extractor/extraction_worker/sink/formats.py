"""File formats: what each can hold, its encoder over a part, its decoder, and the count in its footer.

:func:`check_format` refuses combinations that don't exist, :func:`wire_schema` says what a format holds of a
schema, :func:`to_wire` converts batches to it. Verification compares digests of wire batches on both sides.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, TypeAlias

import pyarrow as pa

from extraction_worker.errors import InvalidManifest, SchemaDrift, VerificationFailed
from extraction_worker.model import Format
from extraction_worker.sink.abc import PartStream
from extraction_worker.sink.arrowfile import ArrowEncoder, arrow_rows, decode_arrow
from extraction_worker.sink.compressed import EXTENSIONS
from extraction_worker.sink.csvfile import CsvEncoder, decode_csv
from extraction_worker.sink.gate import Gate
from extraction_worker.sink.jsonlines import JsonLinesEncoder, decode_json_lines
from extraction_worker.sink.parquet import ParquetEncoder, decode_parquet, parquet_rows
from extraction_worker.sink.wire import brief, to_wire, wire_schema

__all__ = [
    "EncodedFooter", "Encoder", "Source", "check_format", "decode", "extension", "footer_rows", "open_encoder",
    "to_wire", "wire_schema",
]  # fmt: skip

ROW_GROUP_BYTES = 8 << 20
"""Arrow bytes of a row group of Parquet, which its encoder holds in memory; groups of 64 MiB save 0.5 % of the file."""

Source: TypeAlias = Path | IO[bytes]
"""What can be decoded: a file's path, or a seekable file, which stays open."""

_COMPRESSIONS = {
    "Parquet": ("zstd", "lz4", "snappy", "gzip", "none"),
    "Arrow": ("zstd", "lz4", "none"),
    "CSV": ("zstd", "gzip", "none"),
    "JSONL": ("zstd", "gzip", "none"),
}


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


def check_format(file_format: Format) -> None:
    """Refuse a compression that the format doesn't have.

    Raises
    ------
    InvalidManifest
        With the compressions that the format has.
    """
    known = _COMPRESSIONS[file_format.type]
    if file_format.compression not in known:
        raise InvalidManifest(
            f"spec.sink.format.compression: {file_format.type} has no {file_format.compression} compression.",
            hint=f"Use {', '.join(known[:-1])} or {known[-1]}.",
        )


def extension(file_format: Format) -> str:
    """Return the file name's extension, e.g. ``parquet``, ``csv.gz``, ``jsonl.zst``."""
    if file_format.type in {"CSV", "JSONL"}:
        return file_format.type.lower() + EXTENSIONS[file_format.compression]
    return file_format.type.lower()


class _Inner(Protocol):
    """An encoder of one format. Called by :class:`_GatedEncoder` alone, which opens the gate for the call."""

    def write(self, batch: pa.RecordBatch) -> None: ...
    def tell(self) -> int: ...
    def finish(self) -> None: ...
    def abort(self) -> None: ...


class _GatedEncoder:
    """The :class:`Encoder` around that of a format: the gate, the check of the schema, the count of rows."""

    def __init__(self, open_inner: Callable[[Gate], _Inner], gate: Gate, schema: pa.Schema) -> None:
        self._gate = gate
        self._schema = schema
        self._rows = 0
        with gate.passing():
            self._inner = open_inner(gate)

    def write(self, batch: pa.RecordBatch) -> None:
        with self._gate.passing():
            if not batch.schema.equals(self._schema):
                raise SchemaDrift(f"A batch has the schema {brief(batch.schema)}, not {brief(self._schema)}.")
            self._inner.write(batch)
        self._rows += batch.num_rows

    def tell(self) -> int:
        return self._inner.tell()

    def finish(self) -> EncodedFooter:
        with self._gate.passing():
            self._inner.finish()
        self._gate.shut()
        return EncodedFooter(self._rows, self._gate.tell())

    def abort(self) -> None:
        self._gate.shut()
        self._inner.abort()


def open_encoder(
    file_format: Format,
    schema: pa.Schema,
    stream: PartStream,
    *,
    wide: bool = False,
    row_group_bytes: int = ROW_GROUP_BYTES,
) -> Encoder:
    """Return an encoder of wire batches into ``stream``; may write a header to it at once.

    The same rows give the same bytes, however they are batched.

    Parameters
    ----------
    file_format
        Type and compression.
    schema
        The wire schema, from :func:`wire_schema`.
    stream
        Takes the bytes; its owner closes it after :meth:`Encoder.finish`, or aborts it.
    wide
        Rows of megabytes: Parquet's pages are cut after each value, and no string has a minimum and maximum, even in
        a column whose first values are short. A row of 100 MB takes 4 times its size while it is encoded.
    row_group_bytes
        Arrow bytes of a row group of Parquet, which are held in memory.

    Raises
    ------
    InvalidManifest
        The format doesn't have this compression.
    """
    check_format(file_format)

    def open_inner(gate: Gate) -> _Inner:
        match file_format.type:
            case "Parquet":
                return ParquetEncoder(schema, gate, file_format.compression, wide=wide, group_bytes=row_group_bytes)
            case "Arrow":
                return ArrowEncoder(schema, gate, file_format.compression)
            case "CSV":
                return CsvEncoder(schema, gate, file_format.compression)
            case "JSONL":
                return JsonLinesEncoder(schema, gate, file_format.compression)

    return _GatedEncoder(open_inner, Gate(stream), schema)


def decode(file_format: Format, source: Source, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield what was encoded, as batches of exactly the wire schema, a row group or a block in memory.

    Parameters
    ----------
    file_format
        As it was encoded.
    source
        A seekable file at its start.
    schema
        The wire schema, from :func:`wire_schema`.

    Raises
    ------
    VerificationFailed
        The file is damaged, ends early, or has another schema.
    """
    with _reading(file_format, source) as file:
        match file_format.type:
            case "Parquet":
                yield from decode_parquet(file, schema)
            case "Arrow":
                yield from decode_arrow(file, schema)
            case "CSV":
                yield from decode_csv(file, schema, file_format.compression)
            case "JSONL":
                yield from decode_json_lines(file, schema, file_format.compression)


def footer_rows(file_format: Format, source: Source) -> int | None:
    """Return the number of rows as the file's own footer says; None for CSV and JSON lines, which have none.

    Raises
    ------
    VerificationFailed
        The file has no whole footer.
    """
    with _reading(file_format, source) as file:
        match file_format.type:
            case "Parquet":
                return parquet_rows(file)
            case "Arrow":
                return arrow_rows(file)
            case _:
                return None


class _Borrowed:
    """A file for pyarrow that it doesn't close: its streams close what they read from, even in destructors."""

    closed = False

    def __init__(self, file: IO[bytes]) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell

    def close(self) -> None:
        pass


@contextmanager
def _reading(file_format: Format, source: Source) -> Iterator[pa.NativeFile]:
    """Open the source for pyarrow, and name what is wrong with it: messages of pyarrow speak of bytes, not of rows."""
    try:
        with pa.OSFile(str(source)) if isinstance(source, Path) else pa.PythonFile(_Borrowed(source), "r") as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise VerificationFailed(
            f"The file can't be read as {file_format.type}: {' '.join(str(error).split())}."
        ) from error
