"""How a column is proven, on our side: counts, exact sums and sums of hashes of Arrow arrays.

The counterpart of :mod:`extraction_worker.verify.forms`, which says what is hashed of each type. Everything is a few
vector operations on a batch, but for the digests of long texts.
"""

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from extraction_worker.verify.forms import LONG
from extraction_worker.verify.hashes import Hashes, hash_bytes, hash_float64, hash_int64, hash_uint32, hash_words

Array = Any
"""A ``pa.Array``; see :data:`extraction_worker.verify.columns.Array`."""

_MODULUS = 1 << 64
_EPOCH_DAYS = 10_957  # Arrow counts from 1970, PostgreSQL from 2000.
_EPOCH_MICROSECONDS = _EPOCH_DAYS * 86_400_000_000
_PLAIN_SCALE = 6
"""Up to this scale Arrow prints every decimal without an exponent."""
_FEW_DISTINCT = 4
"""Texts are hashed once for each distinct value when at most one in this many is one."""
_DISTINCT_AGAIN = 16
"""Batches without a look at distinct values after one that had too many."""


class ColumnSums:
    """Count, sum and sum of hashes of one column, over all batches so far.

    Parameters
    ----------
    kind
        The column's target type.
    summed
        Whether the exact sum is wanted.
    padded
        Whether elements of an array are ``char(n)``, which the server hashes without padding.
    """

    def __init__(self, kind: pa.DataType, *, summed: bool, padded: bool = False) -> None:
        self.count = 0
        self.total = 0
        self.hashed = 0
        self._is_list = pa.types.is_list(kind)
        self._is_bool = pa.types.is_boolean(kind)
        self._is_text = pa.types.is_string(kind) or pa.types.is_binary(kind)
        self._summed = summed
        self._padded = padded
        self._skipped = 0

    def update(self, array: Array) -> None:
        """Add the values of ``array``."""
        self.count += len(array) - array.null_count
        if array.null_count == len(array):
            return
        if self._is_list:
            self._add(_hash_lists(array, padded=self._padded))
            return
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        values = array.drop_null() if array.null_count else array
        if self._summed:
            self.total += exact_sum(values)
        if self._is_text:
            self._hash_texts(values)
        elif not self._is_bool:
            self._add(hash_values(values))

    def _add(self, hashes: Hashes) -> None:
        self.hashed = (self.hashed + int(hashes.sum())) % _MODULUS

    def _hash_texts(self, values: Array) -> None:
        data, offsets = _bytes(values)
        is_long = np.diff(offsets) >= LONG
        if is_long.any():
            bounds = zip(offsets[:-1][is_long].tolist(), offsets[1:][is_long].tolist(), strict=True)
            digests = [hashlib.sha256(data[start:end].data).hexdigest() for start, end in bounds]
            self._add(hash_values(pa.array(digests, pa.string())))
            values = values.filter(pa.array(~is_long))
        self._add(self._hash_short_texts(values))

    def _hash_short_texts(self, values: Array) -> Hashes:
        """Hash texts; where a batch has few distinct ones, each of those once, times how often it is there."""
        if self._skipped:
            self._skipped -= 1
            return hash_values(values)
        encoded = values.dictionary_encode()
        if len(encoded.dictionary) * _FEW_DISTINCT > len(values):
            self._skipped = _DISTINCT_AGAIN
            return hash_values(values)
        times: Hashes = np.bincount(encoded.indices.to_numpy()).astype(np.uint64)
        return hash_values(encoded.dictionary) * times


def exact_sum(values: Array) -> int:
    """Return the sum of integers, the number of trues, or the sum of decimals in units of their last digit."""
    kind = values.type
    if pa.types.is_boolean(kind):
        return int(values.true_count)
    # Summed by their words of 32 bits, the highest of which is signed: no sum of a batch overflows 64 bits.
    width = kind.bit_width // 32
    if width == 0:
        return int(values.to_numpy().sum(dtype=np.int64))
    words = _words(values, width)
    total = int(words[:, -1].view(np.int32).sum(dtype=np.int64))
    for index in reversed(range(width - 1)):
        total = (total << 32) + int(words[:, index].sum(dtype=np.uint64))
    return total


def hash_values(values: Array) -> Hashes:
    """Return PostgreSQL's hash of each value; ``values`` has no nulls. Text and bytea are hashed in full."""
    kind, types = values.type, pa.types
    if not len(values):
        # An empty array may have no buffers.
        return np.empty(0, np.uint64)
    if types.is_string(kind) or types.is_binary(kind):
        return hash_bytes(*_bytes(values))
    if types.is_decimal(kind):
        return hash_bytes(*_bytes(decimal_text(values)))
    if types.is_fixed_size_binary(kind):
        return hash_words(_words(values, kind.byte_width // 4))
    if types.is_floating(kind):
        return hash_float64(values.to_numpy().astype(np.float64))
    if types.is_timestamp(kind):
        return hash_int64(values.view(pa.int64()).to_numpy() - _EPOCH_MICROSECONDS)
    if types.is_date32(kind):
        return _hash_int32(values.view(pa.int32()).to_numpy() - np.int32(_EPOCH_DAYS))
    if types.is_int64(kind) or types.is_time64(kind):
        return hash_int64(values.view(pa.int64()).to_numpy())
    return _hash_int32(values.cast(pa.int32()).to_numpy())


def decimal_text(values: Array) -> Array:
    """Return decimals as PostgreSQL prints them: all digits of the scale, no exponent."""
    kind = values.type
    if kind.scale <= _PLAIN_SCALE:
        return values.cast(pa.string())
    # The same words as integers; zeros are put before them until there is one before the point.
    whole = (pa.decimal128 if pa.types.is_decimal128(kind) else pa.decimal256)(kind.precision, 0)
    digits = pa.Array.from_buffers(whole, len(values), values.buffers(), offset=values.offset).cast(pa.string())
    sign = pc.if_else(pc.starts_with(digits, "-"), "-", "")
    digits = pc.ascii_lpad(pc.ascii_ltrim(digits, "-"), kind.scale + 1, "0")
    before = pc.utf8_slice_codeunits(digits, 0, -kind.scale)
    after = pc.utf8_slice_codeunits(digits, -kind.scale)
    return pc.binary_join_element_wise(sign, before, ".", after, "")


def _hash_int32(values: npt.NDArray[np.int32]) -> Hashes:
    return hash_uint32(np.ascontiguousarray(values).view(np.uint32))


def _hash_lists(array: Array, *, padded: bool) -> Hashes:
    """Return terms that add up to the hashes of lists.

    A list folds the hashes of its elements, 0 for NULL: from 1, by h → 31 h + hash(element). Unrolled, that is 31^n
    plus each element's hash times 31 to the number of elements behind it.
    """
    bounds = array.offsets.to_numpy().astype(np.int64)
    lengths = np.diff(bounds)
    elements = array.values.slice(bounds[0], bounds[-1] - bounds[0])
    if isinstance(elements, pa.ExtensionArray):
        elements = elements.storage
    if padded:
        elements = pc.ascii_rtrim(elements, " ")
    powers = np.cumprod(np.concatenate([[1], np.full(lengths.max(initial=0), 31)]).astype(np.uint64))
    is_list = array.is_valid().to_numpy(zero_copy_only=False)
    is_valid = elements.is_valid().to_numpy(zero_copy_only=False)
    hashes = np.zeros(len(elements), np.uint64)
    hashes[is_valid] = hash_values(elements.drop_null())
    behind = np.repeat(bounds[1:], lengths) - 1 - np.arange(bounds[0], bounds[-1])
    hashes *= powers[behind]
    # What lies in the slot of a null list isn't part of any.
    return np.concatenate([powers[lengths[is_list]], hashes[np.repeat(is_list, lengths)]])


def _bytes(values: Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    _, offsets, data = values.buffers()
    bounds = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1]
    return np.frombuffer(data, np.uint8), bounds


def _words(values: Array, width: int) -> npt.NDArray[np.uint32]:
    """Return the words of 32 bits of fixed-width values, one value a row."""
    words = np.frombuffer(values.buffers()[1], np.uint32)
    return words[values.offset * width : (values.offset + len(values)) * width].reshape(-1, width)
