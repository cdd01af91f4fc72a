"""JSON lines: an object for each row, every key in each, written column by column, read by orjson."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from extraction_worker.errors import VerificationFailed
from extraction_worker.sink.compressed import TextStream, read_text
from extraction_worker.sink.gate import Gate
from extraction_worker.sink.groups import slices
from extraction_worker.sink.text import json_of

_BLOCK = 4 << 20
_ROWS = 8192
"""Rows decoded at once: as Python objects they take several times their bytes."""


class JsonLinesEncoder:
    """Writes one file of JSON lines; see :class:`extraction_worker.sink.formats.Encoder`."""

    def __init__(self, schema: pa.Schema, gate: Gate, compression: str) -> None:
        self._text = TextStream(gate, compression)
        keys = [orjson.dumps(name).decode() for name in schema.names]
        self._before = [f"{',' if index else '{'}{key}:" for index, key in enumerate(keys)]

    def write(self, batch: pa.RecordBatch) -> None:
        """Take the next rows."""
        for piece in slices(batch, _BLOCK):
            parts: list[Any] = []
            for before, column in zip(self._before, piece.columns, strict=True):
                parts += [before, pc.fill_null(json_of(column), "null")]
            lines = pc.binary_join_element_wise(*parts, "}\n", "")
            _, offsets, data = lines.buffers()
            end = memoryview(offsets).cast("i")[len(lines)]
            self._text.write(memoryview(data)[:end])

    def tell(self) -> int:
        """Return the bytes written; a block of text may wait."""
        return self._text.tell()

    def finish(self) -> None:
        """Write what waits, and the end of the compressed stream."""
        self._text.finish()

    def abort(self) -> None:
        """Nothing to forget: the gate is shut."""


def decode_json_lines(source: Any, schema: pa.Schema, compression: str) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a file that :class:`JsonLinesEncoder` wrote, a block of text or one row in memory.

    Raises
    ------
    VerificationFailed
        Not JSON lines of this schema. Values are never quoted: they are row data.
    """
    for lines in _lines(read_text(source, compression)):
        for start in range(0, len(lines), _ROWS):
            try:
                yield _batch(lines[start : start + _ROWS], schema)
            except (orjson.JSONDecodeError, pa.ArrowException, ValueError, TypeError, OverflowError):
                raise VerificationFailed("The file holds lines that aren't JSON of the planned columns.") from None


def _batch(lines: list[bytes], schema: pa.Schema) -> pa.RecordBatch:
    names = schema.names
    rows = []
    for line in lines:
        row = orjson.loads(line)
        if list(row) != names:
            raise ValueError("other keys")
        rows.append(row.values())
    columns = [_column(values, field.type) for values, field in zip(zip(*rows, strict=True), schema, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _column(values: Sequence[Any], kind: Any) -> Any:
    if pa.types.is_list(kind):
        offsets = np.zeros(len(values) + 1, np.int32)
        np.cumsum([len(value) if value else 0 for value in values], out=offsets[1:])
        elements = _column([element for value in values if value for element in value], kind.value_type)
        return pa.ListArray.from_arrays(pa.array(offsets), elements, mask=pa.array([value is None for value in values]))
    if pa.types.is_floating(kind):
        # float() knows the names of NaN and the infinities. The digits of a float32 are read as such: by way of
        # float64 they could be rounded twice.
        numbers = pa.array([None if value is None else float(value) for value in values], pa.float64())
        return numbers if pa.types.is_float64(kind) else numbers.cast(pa.string()).cast(kind)
    array = pa.array(values, None if pa.types.is_integer(kind) else kind)
    if pa.types.is_floating(array.type):
        # Given the type, pyarrow would round.
        raise ValueError("a number with a fraction in a column of integers")
    return array.cast(kind)


def _lines(blocks: Iterator[bytes]) -> Iterator[list[bytes]]:
    """Cut the text into lists of whole lines; a line break inside a value is escaped."""
    waiting = bytearray()
    for block in blocks:
        end = block.rfind(b"\n") + 1
        waiting += block[:end]
        if end:
            yield bytes(waiting[:-1]).split(b"\n")
            waiting.clear()
        waiting += block[end:]
    if waiting:
        raise VerificationFailed("The file of JSON lines ends in the middle of a line.")
