"""Cuts a stream of batches into groups whose borders depend on the rows alone, never on how they were batched.

A worker halves its batches when memory gets short; the same rows must still give the same file. Groups are what a
format holds in memory and reads back at once: row groups of Parquet, record batches of Arrow.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

ALIGNMENT = 1024
"""Rows. Parquet's writer looks at page sizes after every 1,024 values of a chunk of a column, so chunks whose
borders are multiples of it give the same pages (``write_batch_size`` of pyarrow)."""


def payload_bits(array: pa.Array) -> int:
    """Return the bits that the values of ``array`` take: additive over slices, without validity.

    ``nbytes`` isn't additive: it rounds bitmaps up, and counts a bitmap for slices without a null.
    """
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    kind, length = array.type, len(array)
    if length == 0:
        return 0
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        offsets = np.frombuffer(array.buffers()[1], np.int32)
        return 32 * length + 8 * int(offsets[array.offset + length] - offsets[array.offset])
    if pa.types.is_large_string(kind) or pa.types.is_large_binary(kind):
        offsets = np.frombuffer(array.buffers()[1], np.int64)
        return 64 * length + 8 * int(offsets[array.offset + length] - offsets[array.offset])
    if pa.types.is_list(kind):
        first, last = array.offsets[0].as_py(), array.offsets[length].as_py()
        return 32 * length + payload_bits(array.values.slice(first, last - first))
    return int(kind.bit_width) * length


def batch_bits(batch: pa.RecordBatch) -> int:
    """Return the sum of :func:`payload_bits` over the columns."""
    return sum(payload_bits(column) for column in batch.columns)


def slices(batch: pa.RecordBatch, max_bytes: int) -> Iterator[pa.RecordBatch]:
    """Yield ``batch`` in slices of about ``max_bytes`` and at least one row."""
    rows = max(batch.num_rows * max_bytes * 8 // max(batch_bits(batch), 1), 1)
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


class Groups:
    """Collects batches into groups of at least one row, closed by the row that reaches ``max_bytes`` or ``max_rows``.

    A group takes no copy of the rows: it holds slices of the batches, which keep those batches alive.
    """

    def __init__(self, max_bytes: int, max_rows: int) -> None:
        self._max_bits = max_bytes * 8
        self._max_rows = max_rows
        self._batches: list[pa.RecordBatch] = []
        self._rows = 0
        self._bits = 0
        self._bits_done = 0

    def estimate(self, written: int) -> int:
        """Return the bytes of the file so far: ``written`` for the groups that left, and so much per bit that waits.

        Before the first group left, the waiting rows count half.
        """
        return written + int(self._bits * (written / self._bits_done if self._bits_done else 1 / 16))

    def add(self, batch: pa.RecordBatch) -> Iterator[list[pa.RecordBatch]]:
        """Take the next rows; yield each group that they fill."""
        while batch.num_rows:
            rows = self._rows_to_fill(batch)
            head = batch.slice(0, rows)
            self._batches.append(head)
            self._rows += rows
            self._bits += batch_bits(head)
            batch = batch.slice(rows)
            if self._rows >= self._max_rows or self._bits >= self._max_bits:
                yield self.rest()

    def rest(self) -> list[pa.RecordBatch]:
        """Return what is left: the last group, perhaps without rows."""
        self._bits_done += self._bits
        batches, self._batches, self._rows, self._bits = self._batches, [], 0, 0
        return batches

    def _rows_to_fill(self, batch: pa.RecordBatch) -> int:
        """Return how many rows of ``batch`` the open group takes: all, or up to the row that fills it."""
        most: int = min(batch.num_rows, self._max_rows - self._rows)
        free = self._max_bits - self._bits
        if batch_bits(batch.slice(0, most)) < free:
            return most
        low, high = 1, most
        while low < high:
            middle = (low + high) // 2
            if batch_bits(batch.slice(0, middle)) >= free:
                high = middle
            else:
                low = middle + 1
        return low


def aligned(batches: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """Return the same rows in batches that start at multiples of ``ALIGNMENT``, copying only around the borders."""
    if len(batches) < 2:
        return batches
    result: list[pa.RecordBatch] = []
    gap: list[pa.RecordBatch] = []
    missing = 0
    for batch in batches:
        if missing:
            head = batch.slice(0, missing)
            gap.append(head)
            missing -= head.num_rows
            batch = batch.slice(head.num_rows)  # noqa: PLW2901 - what is left of it
            if missing:
                continue
            result.append(pa.concat_batches(gap))
            gap = []
        whole = batch.num_rows - batch.num_rows % ALIGNMENT
        if whole:
            result.append(batch.slice(0, whole))
        if whole < batch.num_rows:
            gap = [batch.slice(whole)]
            missing = ALIGNMENT - gap[0].num_rows
    return [*result, pa.concat_batches(gap)] if gap else result
