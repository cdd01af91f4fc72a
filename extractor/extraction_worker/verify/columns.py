"""Digests of columns: one value for all that a chunk holds in one column, whatever the batches it came in.

A digest is the xxh3-128 of a column's canonical form. Values decide it, and their order; batches, slices, offsets,
dictionaries, the width of string offsets and what lies in the slots of nulls don't. So the digest of what was read
can be compared with the digest of what a reader decodes from the finished file (level ``Decoded``), and, a year
later, with what ``extraction verify`` decodes from the published set.

The canonical form of a column (:data:`CANONICAL_VERSION`) is made of streams, each hashed as it comes:

- the row numbers of the nulls, as int64; a column without nulls has none. Values of other streams are the rest, so
  a null moved by one row changes this stream, and nothing in a null's slot can reach another.
- numbers, dates, times, decimals, uuids: their Arrow bytes. Floats are compared bit by bit: a NaN keeps its payload
  and zero its sign, as Parquet and Arrow files keep both.
- bool: one byte each.
- strings and binaries: their lengths as int64, and their bytes, end to end. The lengths tell ``ab``, ``c`` from
  ``a``, ``bc``.
- lists: their lengths, and the streams of their elements as one column. Structs: the streams of their fields.

Arrow's bytes are little-endian on every platform that pyarrow is built for, so digests can be compared across them.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from extraction_worker.errors import VerificationFailed
from extraction_worker.model import ColumnDigest

CANONICAL_VERSION = "columns/v1"

Array = Any
"""A ``pa.Array``. pyarrow ships no types, and the stubs of others know only some of its classes."""


class ColumnDigester:
    """The digests of all columns of one chunk, fed batch by batch. Not for use by two threads at once.

    Buffers are hashed where they lie, and the GIL is released meanwhile; only nulls (and ``string_view``) cost a copy
    of the batch's column.

    Parameters
    ----------
    schema
        The schema of the batches.

    Raises
    ------
    TypeError
        A column has a type that the extractor never writes, such as a map or a union.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._names = list(schema.names)
        self._columns = [_column(field.type) for field in schema]

    def update(self, batch: pa.RecordBatch) -> None:
        """Add the rows of ``batch``, whose columns have the schema's types in the schema's order."""
        for column, array in zip(self._columns, batch.columns, strict=True):
            column.update(array)

    def finish(self) -> tuple[ColumnDigest, ...]:
        """Return the evidence of each column, in the schema's order. More batches may follow."""
        return tuple(
            ColumnDigest(name=name, nulls=column.nulls, digest=column.digest().hex())
            for name, column in zip(self._names, self._columns, strict=True)
        )


def compare(chunk: int, read: Sequence[ColumnDigest], decoded: Sequence[ColumnDigest]) -> None:
    """Refuse a chunk whose file doesn't decode to what was read.

    Parameters
    ----------
    chunk
        Index of the chunk, for the message.
    read, decoded
        Digests of the batches that were written, and of what a reader decoded from the result.

    Raises
    ------
    VerificationFailed
        The columns, a number of nulls or a value differs; the message names the chunk and the first such column.
    """
    names, found = [column.name for column in read], [column.name for column in decoded]
    if names != found:
        raise VerificationFailed(f"Chunk {chunk} was read with columns {names}, and decodes to columns {found}.")
    for ours, theirs in zip(read, decoded, strict=True):
        if ours.nulls != theirs.nulls:
            raise VerificationFailed(
                f"Chunk {chunk}, column {ours.name!r}: {ours.nulls} nulls were read, {theirs.nulls} are in the file."
            )
        if ours.digest != theirs.digest:
            raise VerificationFailed(
                f"Chunk {chunk}, column {ours.name!r}: the file doesn't decode to the values that were read "
                f"(digest {ours.digest} read, {theirs.digest} decoded)."
            )


class _Column(ABC):
    """The streams of one column: the nulls here, the values in the subclasses."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.rows = 0
        self.nulls = 0
        self._positions = xxhash.xxh3_128()

    def update(self, array: Array) -> None:
        """Add the rows of ``array``."""
        if isinstance(array, pa.DictionaryArray):
            array = array.dictionary_decode()
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        first, self.rows = self.rows, self.rows + len(array)
        array = self.plain(array)
        if array.null_count:
            self.nulls += array.null_count
            positions = np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False)) + first
            self._positions.update(positions.astype("<i8").data)
            array = array.drop_null()
        if len(array):
            self.values(array)

    def plain(self, array: Array) -> Array:
        """Return ``array`` in a layout that :meth:`values` knows."""
        return array

    @abstractmethod
    def values(self, array: Array) -> None:
        """Add the values of ``array``, which has no nulls and is not empty."""

    @abstractmethod
    def streams(self) -> list[bytes]:
        """Return the digests of the streams of values."""

    def digest(self) -> bytes:
        """Return the digest of everything so far."""
        head = f"{CANONICAL_VERSION} {self.kind} {self.rows} {self.nulls} ".encode()
        return xxhash.xxh3_128_digest(head + b"".join([self._positions.digest(), *self.streams()]))


class _Fixed(_Column):
    """Values of a fixed number of bytes."""

    def __init__(self, kind: str, width: int) -> None:
        super().__init__(kind)
        self._width = width
        self._data = xxhash.xxh3_128()

    def values(self, array: Array) -> None:
        data = array.buffers()[1]
        self._data.update(data.slice(array.offset * self._width, len(array) * self._width))

    def streams(self) -> list[bytes]:
        return [self._data.digest()]


class _Bool(_Fixed):
    """Bits, spread to bytes: a batch may end within a byte of the bitmap."""

    def __init__(self) -> None:
        super().__init__("bool", 1)

    def values(self, array: Array) -> None:
        super().values(array.cast(pa.uint8()))


class _Bytes(_Column):
    """Strings and binaries: lengths and bytes."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self._lengths = xxhash.xxh3_128()
        self._data = xxhash.xxh3_128()

    def plain(self, array: Array) -> Array:
        if array.type == pa.string_view():
            return array.cast(pa.large_string())
        if array.type == pa.binary_view():
            return array.cast(pa.large_binary())
        return array

    def values(self, array: Array) -> None:
        _, offsets, data = array.buffers()
        large = pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)
        bounds = np.frombuffer(offsets, "<i8" if large else "<i4")[array.offset : array.offset + len(array) + 1]
        self._lengths.update(np.diff(bounds).astype("<i8", copy=False).data)
        self._data.update(data.slice(int(bounds[0]), int(bounds[-1] - bounds[0])))

    def streams(self) -> list[bytes]:
        return [self._lengths.digest(), self._data.digest()]


class _List(_Column):
    """Lists: lengths, and the elements as a column."""

    def __init__(self, element: _Column) -> None:
        super().__init__(f"list<{element.kind}>")
        self._lengths = xxhash.xxh3_128()
        self._element = element

    def plain(self, array: Array) -> Array:
        # pyarrow can't drop nulls from lists of extension types.
        storage = _storage(array.type)
        return array if storage == array.type else array.cast(storage)

    def values(self, array: Array) -> None:
        bounds = array.offsets.to_numpy()
        self._lengths.update(np.diff(bounds).astype("<i8", copy=False).data)
        self._element.update(array.values.slice(int(bounds[0]), int(bounds[-1] - bounds[0])))

    def streams(self) -> list[bytes]:
        return [self._lengths.digest(), self._element.digest()]


class _Struct(_Column):
    """Structs: each field as a column."""

    def __init__(self, names: Sequence[str], fields: Sequence[_Column]) -> None:
        labels = ", ".join(f"{name}: {field.kind}" for name, field in zip(names, fields, strict=True))
        super().__init__(f"struct<{labels}>")
        self._fields = fields

    def values(self, array: Array) -> None:
        for field, child in zip(self._fields, array.flatten(), strict=True):
            field.update(child)

    def streams(self) -> list[bytes]:
        return [field.digest() for field in self._fields]


def _storage(kind: Any) -> Any:
    """Return ``kind`` with the storage of extension types in their place, in lists, too."""
    if isinstance(kind, pa.BaseExtensionType):
        return kind.storage_type
    if pa.types.is_list(kind):
        return pa.list_(_storage(kind.value_type))
    if pa.types.is_large_list(kind):
        return pa.large_list(_storage(kind.value_type))
    return kind


def _column(kind: Any) -> _Column:
    """Return the empty streams of a type. ``kind`` in the digest tells 1 from 1.0, and no layout from another."""
    types = pa.types
    if types.is_dictionary(kind):
        return _column(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return _column(kind.storage_type)
    if types.is_boolean(kind):
        return _Bool()
    if kind in (pa.string(), pa.large_string(), pa.string_view()):
        return _Bytes("string")
    if kind in (pa.binary(), pa.large_binary(), pa.binary_view()):
        return _Bytes("binary")
    if types.is_list(kind) or types.is_large_list(kind):
        return _List(_column(kind.value_type))
    if types.is_struct(kind):
        fields = [kind.field(index) for index in range(kind.num_fields)]
        return _Struct([field.name for field in fields], [_column(field.type) for field in fields])
    if types.is_primitive(kind) or types.is_decimal(kind) or types.is_fixed_size_binary(kind):
        return _Fixed(str(kind), kind.bit_width // 8)
    raise TypeError(f"no canonical form for Arrow type {kind}")
