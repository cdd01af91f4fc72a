"""Masks: between what was read and everything that is written, digested or spooled.

A mask keeps the type of its column; the plan has chosen a type that allows it
(:func:`extraction_worker.source.types.plan_column`):

- ``Nullify`` and ``Constant`` are of any type and of simple types. The values weren't even read.
- ``Hash``: text, the 64 hexadecimal digits of HMAC-SHA-256 (RFC 2104) over the UTF-8 of the value's text. Any other
  program that has the key finds the same, and equal values of two columns or tables stay equal under one key.
- ``Partial``: text, some characters at the ends.
- ``Truncate``: dates and timestamps, rounded down in the proleptic Gregorian calendar, in UTC where they have a zone.

NULL stays NULL under the last three. Values are hashed once for each distinct one in a batch. Keys are held here alone:
no repr, no message and no value that crosses a boundary has one.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from extraction_worker.errors import InvalidManifest
from extraction_worker.model import ColumnPlan, MaskPlan
from extraction_worker.source.types import constant, target_schema, target_type
from extraction_worker.stream.mask_keys import key_id

_BLOCK = 64
"""Bytes that SHA-256 takes at a time."""
_DIGITS = 64
_DAY = 86_400_000_000
_HOUR = 3_600_000_000
_MONTHS = {"Year": 12, "Quarter": 3, "Month": 1}

_Apply = Callable[[pa.Array], pa.Array]


class Masks:
    """The masks of a plan's columns. Threads may share it.

    Parameters
    ----------
    columns
        The plan's.
    keys
        Of the columns that are hashed, by name.

    Raises
    ------
    InvalidManifest
        A key isn't the one that the plan was made with, or isn't there.
    """

    def __init__(self, columns: Sequence[ColumnPlan], keys: Mapping[str, bytes]) -> None:
        self._schema = target_schema(columns)
        self._masks: dict[int, _Apply] = {}
        for index, column in enumerate(columns):
            if column.mask is not None:
                self._masks[index] = _mask(column, column.mask, keys)

    def __repr__(self) -> str:
        return f"Masks({[self._schema.names[index] for index in self._masks]})"

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return a converted batch with its masked columns replaced; the others are the same buffers."""
        if not self._masks:
            return batch
        arrays = list(batch.columns)
        for index, mask in self._masks.items():
            arrays[index] = mask(arrays[index])
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)


def _mask(column: ColumnPlan, mask: MaskPlan, keys: Mapping[str, bytes]) -> _Apply:
    target = target_type(column)
    match mask.method:
        case "Nullify":
            return lambda array: pa.nulls(len(array), target)
        case "Constant":
            value = constant(mask, target)
            return lambda array: pa.repeat(value, len(array))
        case "Hash":
            key = keys.get(column.name)
            if key is None or key_id(key) != mask.key_id:
                raise InvalidManifest(
                    f"masks: the key for column {column.name!r} isn't the one that the job was planned with"
                    f" (key id {mask.key_id}).",
                    hint="It was changed while the job ran: run the job again.",
                )
            return _Hash(key)
        case "Partial":
            return lambda array: _partial(array, mask.keep_first or 0, mask.keep_last or 0, mask.replacement or "")
        case "Truncate":
            return lambda array: _truncate(array, str(mask.to))


class _Hash:
    """HMAC-SHA-256 of texts. The state behind the key's blocks is copied, not computed anew: three times as fast."""

    def __init__(self, key: bytes) -> None:
        padded = (hashlib.sha256(key).digest() if len(key) > _BLOCK else key).ljust(_BLOCK, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded))

    def __repr__(self) -> str:
        return "_Hash()"

    def __call__(self, array: pa.Array) -> pa.Array:
        encoded = array.dictionary_encode()
        inner, outer = self._inner, self._outer
        digests = []
        for value in encoded.dictionary.cast(pa.binary()).to_pylist():
            first = inner.copy()
            first.update(value)
            second = outer.copy()
            second.update(first.digest())
            digests.append(second.digest())
        digits = b"".join(digests).hex().encode()
        offsets = np.arange(0, len(digits) + 1, _DIGITS, dtype=np.int32)
        hashes = pa.StringArray.from_buffers(len(digests), pa.py_buffer(offsets), pa.py_buffer(digits))
        return hashes.take(encoded.indices)


def _partial(array: pa.Array, first: int, last: int, replacement: str) -> pa.Array:
    shown = first + last
    head = pc.utf8_slice_codeunits(array, 0, first) if first else pa.scalar("")
    tail = pc.utf8_slice_codeunits(array, -last, None) if last else pa.scalar("")
    hidden = pa.scalar(replacement)
    masked = pc.binary_join_element_wise(head, hidden, tail, pa.scalar("")) if shown else hidden
    long_enough = pc.greater_equal(pc.utf8_length(array), 2 * shown)
    # The condition is NULL where the value is, and so is the result.
    return pc.if_else(long_enough, masked, hidden)


def _truncate(array: pa.Array, to: str) -> pa.Array:
    """Round down in integers and numpy's calendar, which reach all years; Arrow's own rounding ends at 32767."""
    is_date = pa.types.is_date(array.type)
    numbers = array.view(pa.int32() if is_date else pa.int64()).fill_null(0).to_numpy().astype(np.int64)
    if to == "Hour":
        return _with_nulls(numbers // _HOUR * _HOUR, array)
    days = numbers if is_date else numbers // _DAY
    if to == "Week":
        days = (days + 3) // 7 * 7 - 3  # 1970-01-01 was a Thursday
    elif to in _MONTHS:
        months = days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
        months = months // _MONTHS[to] * _MONTHS[to]
        days = months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    return _with_nulls(days if is_date else days * _DAY, array)


def _with_nulls(numbers: "np.ndarray[tuple[int], np.dtype[np.int64]]", array: pa.Array) -> pa.Array:
    mask = array.is_null().to_numpy(zero_copy_only=False) if array.null_count else None
    stored = numbers.astype(np.int32) if pa.types.is_date(array.type) else numbers
    return pa.array(stored, mask=mask).view(array.type)
