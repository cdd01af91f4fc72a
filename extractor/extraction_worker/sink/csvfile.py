"""CSV (RFC 4180) with a header: strings always quoted, so that NULL is nothing and the empty string is ``""``."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from pyarrow import csv

from extraction_worker.errors import VerificationFailed
from extraction_worker.sink.compressed import TextStream, read_text
from extraction_worker.sink.gate import Gate
from extraction_worker.sink.groups import slices

_BLOCK = 4 << 20
_QUOTE, _NEWLINE = b'"', b"\n"


class CsvEncoder:
    """Writes one CSV file; see :class:`extraction_worker.sink.formats.Encoder`."""

    def __init__(self, schema: pa.Schema, gate: Gate, compression: str) -> None:
        self._text = TextStream(gate, compression)
        self._text.write(_header(schema))

    def write(self, batch: pa.RecordBatch) -> None:
        """Take the next rows."""
        for piece in slices(batch, _BLOCK):
            self._text.write(_text_of(piece, header=False))

    def tell(self) -> int:
        """Return the bytes written; a block of text may wait."""
        return self._text.tell()

    def finish(self) -> None:
        """Write what waits, and the end of the compressed stream."""
        self._text.finish()

    def abort(self) -> None:
        """Nothing to forget: the gate is shut."""


def _header(schema: pa.Schema) -> bytes:
    return bytes(_text_of(pa.RecordBatch.from_pylist([], schema), header=True))


def _text_of(batch: pa.RecordBatch, *, header: bool) -> memoryview:
    sink = pa.BufferOutputStream()
    csv.write_csv(batch, sink, csv.WriteOptions(include_header=header))
    return memoryview(sink.getvalue())


def decode_csv(source: Any, schema: pa.Schema, compression: str) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a CSV file that :class:`CsvEncoder` wrote, one block of text in memory.

    Raises
    ------
    VerificationFailed
        Not a CSV file of this schema. Values are never quoted: they are row data.
    """
    parse = csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False)
    convert = csv.ConvertOptions(
        column_types=schema, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False,
        true_values=["true"], false_values=["false"],
    )  # fmt: skip
    for records in _records(read_text(source, compression), _header(schema)):
        read = csv.ReadOptions(use_threads=False, column_names=schema.names, block_size=len(records) + 1)
        try:
            table = csv.read_csv(pa.BufferReader(records), read, parse, convert)
        except pa.ArrowInvalid:
            # The message would quote the row.
            raise VerificationFailed("The file holds rows that don't parse as CSV of the planned columns.") from None
        for batch in table.combine_chunks().to_batches():
            yield pa.RecordBatch.from_arrays(batch.columns, schema=schema)


def _records(blocks: Iterator[bytes], header: bytes) -> Iterator[bytes]:
    """Cut the text behind the header into runs of whole records.

    pyarrow's own reader fails on a record longer than its block, and on one that straddles two of them.
    """
    waiting = bytearray()
    behind_header = False
    for block in blocks:
        waiting += block
        if not behind_header:
            if len(waiting) < len(header):
                continue
            if not waiting.startswith(header):
                break
            del waiting[: len(header)]
            behind_header = True
        if len(waiting) < _BLOCK:
            continue
        end = _end_of_records(waiting)
        if end:
            yield bytes(waiting[:end])
            del waiting[:end]
    if not behind_header:
        raise VerificationFailed("The file doesn't start with the CSV header of the planned columns.")
    if waiting:
        if _end_of_records(waiting) != len(waiting):
            raise VerificationFailed("The CSV file ends in the middle of a row.")
        yield bytes(waiting)


def _end_of_records(text: bytearray) -> int:
    """Return the end of the last whole record of ``text``, which starts with a record; 0 where there is none.

    Outside of quotes the number of quotes so far is even, because a quote inside a value is doubled.
    """
    end = len(text)
    quotes = text.count(_QUOTE)
    while True:
        newline = text.rfind(_NEWLINE, 0, end)
        if newline < 0:
            return 0
        quotes -= text.count(_QUOTE, newline, end)
        if quotes % 2 == 0:
            return newline + 1
        # Inside a value: it starts at an earlier quote.
        end = newline
