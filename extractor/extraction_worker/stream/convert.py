"""Batches as the decoder delivers them become batches of the target schema, or an error; nothing is altered silently.

All of it is vectorised, and columns that need no conversion are the same buffers before and after. A converter
belongs to one reader: it counts what it replaced, and isn't shared between threads.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from extraction_worker.errors import SchemaDrift, Unrepresentable
from extraction_worker.model import ColumnPlan, Replaced
from extraction_worker.source.type_rules import may_not_be_utf8
from extraction_worker.source.types import (
    Conversion,
    OnUnrepresentable,
    target_schema,
    transport_schema,
)

# The decoder adds the days and microseconds between 1970 and 2000 without a check, so that everything it can't hold
# wraps to values below the first that PostgreSQL has, 4714-11-24 BC. PostgreSQL's infinities are the ends of the
# integers.
_FIRST_DAY = -2_440_588
_FIRST_MICROSECOND = _FIRST_DAY * 86_400_000_000
_DAY_INFINITIES = {-(2**31) + 10_956: "infinity", -(2**31) + 10_957: "-infinity"}
_MICROSECOND_INFINITIES = {-(2**63) + 946_684_799_999_999: "infinity", -(2**63) + 946_684_800_000_000: "-infinity"}
_MIDNIGHT_AFTER = 86_400_000_000
_SPECIAL_NUMBERS = pa.array(["NaN", "Infinity", "-Infinity"])

_BAD_SHAPE = "an array of several dimensions or with a lower bound other than 1"

_Found = Mapping[str, int]
"""Kinds of values that the target can't hold, and how many there are."""


class _NotPlannedError(ValueError):
    """A value that the planned type can't have had."""


class BatchConverter:
    """Converts the batches of one reader.

    Parameters
    ----------
    columns
        The plan's columns; the batches come from their :func:`~extraction_worker.source.types.select_list`.
    on_unrepresentable
        What happens to a value that its target type can't hold. ``String`` was settled by the plan: its columns
        are text, so that a value that is still found is an error.
    """

    def __init__(self, columns: Sequence[ColumnPlan], on_unrepresentable: OnUnrepresentable) -> None:
        self._columns = tuple(columns)
        self._on_unrepresentable = on_unrepresentable
        self._transport = transport_schema(columns)
        self._target = target_schema(columns)
        guards = iter(range(len(self._columns), len(self._transport)))
        self._guards = [next(guards) if column.guard else None for column in self._columns]
        self._conversions = [_CONVERSIONS.get(Conversion(column.conversion)) for column in self._columns]
        self._maybe_not_utf8 = [may_not_be_utf8(column.type) for column in self._columns]
        self._checked: pa.Schema | None = None
        self._replaced: Counter[tuple[str, str]] = Counter()

    @property
    def schema(self) -> pa.Schema:
        """The schema of converted batches."""
        return self._target

    @property
    def replaced(self) -> tuple[Replaced, ...]:
        """What became NULL so far, by column and kind."""
        counts = sorted(self._replaced.items())
        return tuple(Replaced(column=column, kind=kind, count=count) for (column, kind), count in counts)

    def convert(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the batch in the target schema.

        Raises
        ------
        SchemaDrift
            The batch has other columns or types than planned, a NULL in a column that is NOT NULL, or a number that
            its ``numeric(p,s)`` doesn't allow.
        Unrepresentable
            Under ``Fail``, a value that its target type can't hold. Under all, text that isn't UTF-8.
        """
        self._check_schema(batch.schema)
        arrays = []
        for index, column in enumerate(self._columns):
            array = batch.column(index)
            guard = self._guards[index]
            nulls = array.null_count if guard is None else batch.column(guard).true_count
            if nulls and not column.nullable:
                raise SchemaDrift(
                    f"Column {column.name!r} was NOT NULL when it was planned, and holds NULL now.",
                    hint="Run the job again.",
                )
            if array.null_count > nulls:
                self._unrepresentable(column, {_BAD_SHAPE: array.null_count - nulls})
            if self._maybe_not_utf8[index]:
                _check_utf8(column, array)
            conversion = self._conversions[index]
            if conversion is not None:
                array = self._apply(conversion, column, array, self._target.field(index).type)
            arrays.append(array)
        return pa.RecordBatch.from_arrays(arrays, schema=self._target)

    def _check_schema(self, schema: pa.Schema) -> None:
        if self._checked is not None and schema.equals(self._checked):
            return
        for expected, found in zip(self._transport, schema, strict=False):
            if (expected.name, expected.type) != (found.name, found.type):
                raise SchemaDrift(
                    f"Column {expected.name!r} should arrive as {expected.type}, "
                    f"but {found.name!r} arrived as {found.type}.",
                    hint="Run the job again.",
                )
        if len(schema) != len(self._transport):
            raise SchemaDrift(f"{len(self._transport)} columns should arrive, but {len(schema)} did.")
        self._checked = schema

    def _apply(self, conversion: "_Convert", column: ColumnPlan, array: pa.Array, target: pa.DataType) -> pa.Array:
        try:
            if pa.types.is_list(target):
                array, found = _elements(conversion, array, target)
            else:
                array, found = conversion(array, target)
        except _NotPlannedError:
            raise SchemaDrift(
                f"Column {column.name!r} holds a number that its type {column.type.formatted} doesn't allow.",
                hint="Run the job again.",
            ) from None
        self._unrepresentable(column, found)
        return array

    def _unrepresentable(self, column: ColumnPlan, found: _Found) -> None:
        if found and self._on_unrepresentable != "Null":
            raise Unrepresentable(
                f"Column {column.name!r} holds {next(iter(found))}, which {column.arrow} can't hold.",
                hint="Set onUnrepresentable to String (columns of such types become text) or to Null (NULL takes its"
                " place).",
            )
        for kind, count in found.items():
            self._replaced[column.name, kind] += count


# Conversions of plain values ---------------------------------------------------------------------------------------
# Each returns the target's array, with NULL in place of what it can't hold, and the kinds of that.

_Convert = Callable[[pa.Array, pa.DataType], tuple[pa.Array, _Found]]


def _dates(values: pa.Array, _target: pa.DataType) -> tuple[pa.Array, _Found]:
    return _not_below(values, values.view(pa.int32()), _FIRST_DAY, _DAY_INFINITIES)


def _timestamps(values: pa.Array, _target: pa.DataType) -> tuple[pa.Array, _Found]:
    return _not_below(values, values.view(pa.int64()), _FIRST_MICROSECOND, _MICROSECOND_INFINITIES)


def _not_below(values: pa.Array, raw: pa.Array, first: int, infinities: Mapping[int, str]) -> tuple[pa.Array, _Found]:
    lowest = pc.min(raw).as_py()
    if lowest is None or lowest >= first:
        return values, {}
    wrapped = pc.less(raw, pa.scalar(first, raw.type))
    found = Counter(infinities.get(number, "a time after 294247-01-10") for number in raw.filter(wrapped).to_pylist())
    return pc.if_else(wrapped, pa.scalar(None, values.type), values), found


def _times(values: pa.Array, _target: pa.DataType) -> tuple[pa.Array, _Found]:
    raw = values.view(pa.int64())
    highest = pc.max(raw).as_py()
    if highest is None or highest < _MIDNIGHT_AFTER:
        return values, {}
    beyond = pc.greater_equal(raw, pa.scalar(_MIDNIGHT_AFTER, pa.int64()))
    return pc.if_else(beyond, pa.scalar(None, values.type), values), {"the time 24:00:00": beyond.true_count}


def _json(values: pa.Array, _target: pa.DataType) -> tuple[pa.Array, _Found]:
    return values.storage, {}


def _decimals(values: pa.Array, target: pa.DataType) -> tuple[pa.Array, _Found]:
    try:
        return _parsed(values, target), {}
    except pa.ArrowInvalid:
        special = pc.is_in(values, value_set=_SPECIAL_NUMBERS)
    if not special.true_count:
        raise _NotPlannedError
    found = Counter(values.filter(special).to_pylist())
    try:
        return _parsed(pc.if_else(special, pa.scalar(None, values.type), values), target), found
    except pa.ArrowInvalid:
        raise _NotPlannedError from None


def _parsed(values: pa.Array, target: pa.DataType) -> pa.Array:
    """Cast digits to a decimal; ArrowInvalid where one doesn't fit.

    The cast overflows silently beyond the digits that the width has room for
    (https://github.com/apache/arrow/issues/49817), so they are counted first, if the text is long enough for that.
    """
    room = 38 if pa.types.is_decimal128(target) else 76
    longest = pc.max(pc.binary_length(values)).as_py()
    if longest is not None and longest > room:
        digits = pc.replace_substring(pc.ascii_ltrim(values, characters="-0."), pattern=".", replacement="")
        if pc.max(pc.binary_length(digits)).as_py() > room:
            raise _NotPlannedError
    return pc.cast(values, target)


_CONVERSIONS: Mapping[Conversion, _Convert] = {
    Conversion.DATE: _dates,
    Conversion.TIMESTAMP: _timestamps,
    Conversion.TIME: _times,
    Conversion.JSON: _json,
    Conversion.DECIMAL: _decimals,
}


def _elements(conversion: _Convert, array: pa.ListArray, target: pa.DataType) -> tuple[pa.Array, _Found]:
    """Convert the elements of an array column; the lists keep their offsets."""
    offsets = array.offsets
    first, last = offsets[0].as_py(), offsets[-1].as_py()
    values = array.values.slice(first, last - first)
    converted, found = conversion(values, target.value_type)
    if converted is values:
        return array, found
    if array.offset:
        offsets = pc.subtract(offsets, pa.scalar(first, offsets.type))
    mask = array.is_null() if array.null_count else None
    return pa.ListArray.from_arrays(offsets, converted, type=target, mask=mask), found


def _check_utf8(column: ColumnPlan, array: pa.Array) -> None:
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        raise Unrepresentable(
            f'Column {column.name!r} holds a "char" above 127, which has no text before PostgreSQL 15.',
            hint="Leave the column out.",
        ) from None
