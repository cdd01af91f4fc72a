"""CSV (RFC 4180) with a header: strings always quoted, so that NULL is nothing and the empty string is ``""``."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv

from extraction_worker.errors import VerificationFailed
from extraction_worker.sink.compressed import TextStream, read_text
from extraction_worker.sink.gate import Gate
from extraction_worker.sink.groups import slices

_BLOCK = 4 << 20
_QUOTE, _NEWLINE = b'"\n'


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
        except pa.ArrowException:
            # The message would quote the row.
            raise VerificationFailed("The file holds rows that don't parse as CSV of the planned columns.") from None
        for batch in table.combine_chunks().to_batches():
            yield pa.RecordBatch.from_arrays(batch.columns, schema=schema)


def _records(blocks: Iterator[bytes], header: bytes) -> Iterator[bytes]:
    """Cut the text behind the header into runs of whole records of about ``_BLOCK`` bytes, or one longer record.

    pyarrow's own reader fails on a record longer than its block.
    """
    waiting = bytearray()
    for block in blocks:
        waiting += block
        if len(waiting) >= len(header):
            break
    if not waiting.startswith(header):
        raise VerificationFailed("The file doesn't start with the CSV header of the planned columns.")
    first = bytes(waiting[len(header) :])
    waiting.clear()
    whole, quoted = 0, False
    for block in itertools.chain([first], blocks):
        end, quoted = _end_of_records(block, quoted)
        whole = len(waiting) + end if end else whole
        waiting += block
        if whole >= _BLOCK:
            yield bytes(waiting[:whole])
            del waiting[:whole]
            whole = 0
    if whole != len(waiting):
        raise VerificationFailed("The CSV file ends in the middle of a row.")
    if waiting:
        yield bytes(waiting)


def _end_of_records(block: bytes, quoted: bool) -> tuple[int, bool]:
    """Return the end of the last record in ``block`` (0 if none ends), and whether the block ends inside quotes.

    A line break ends a record unless the number of quotes before it is odd: quotes inside a value are doubled.
    """
    data = np.frombuffer(block, np.uint8)
    inside = np.bitwise_xor.accumulate(data == _QUOTE) ^ quoted
    ends = np.flatnonzero((data == _NEWLINE) & ~inside)
    return int(ends[-1]) + 1 if len(ends) else 0, bool(inside[-1]) if len(data) else quoted
