"""From PostgreSQL columns to the SELECT list and the Arrow types on both ends. Pure.

Every column is cast to a type that the decoder knows (:mod:`extraction_worker.source.type_rules`), so that
neither the driver's type cache nor a type it doesn't know can change a value. Casts carry no typmod: that would
round or cut a value where the column has changed since it was planned, which the client is to notice.

Some values have no place in their target type: infinite dates and timestamps, timestamps after 294247-01-10, the
time 24:00:00, NaN in a ``numeric(p,s)``, and arrays of several dimensions or with a lower bound other than 1. What
happens to them is ``onUnrepresentable``:

- ``Fail``: the first one ends the extraction.
- ``Null``: NULL takes its place, and is counted.
- ``String``: every column of a type that has such values becomes text as PostgreSQL prints it, whatever rows it
  holds: dates, timestamps, times, ``numeric(p,s)`` and all arrays.

A mask decides how its column travels, so that it can be applied without a change of type
(:mod:`extraction_worker.stream.masks`): ``Hash`` and ``Partial`` read any type as text, ``Truncate`` reads dates and
timestamps, ``Nullify`` and ``Constant`` read nothing: the server sends NULL of the column's type.

The client sees them in the values themselves, all but the shape of arrays, which the decoder refuses. The
server sends NULL for such an array, and a hidden boolean column (``ColumnPlan.guard``) behind the others tells which
NULLs are the source's own.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Literal

import pyarrow as pa
from psycopg import sql

from extraction_worker.errors import InvalidManifest, InvalidQuery
from extraction_worker.model import Column, ColumnPlan, MaskPlan, PgType
from extraction_worker.source.type_rules import (
    UNREPRESENTABLE,
    Conversion,
    base_type,
    element_type,
    rule,
)

__all__ = [
    "Conversion",
    "OnUnrepresentable",
    "constant",
    "plan_column",
    "plan_columns",
    "select_list",
    "target_schema",
    "target_type",
    "transport_schema",
    "transport_type",
]

OnUnrepresentable = Literal["Fail", "String", "Null"]

SOURCE_TYPE_KEY = b"extraction.source_type"
"""Field metadata of the target schema: the column's type as PostgreSQL prints it."""


def plan_columns(
    columns: Sequence[Column], on_unrepresentable: OnUnrepresentable, masks: Mapping[str, MaskPlan] | None = None
) -> tuple[ColumnPlan, ...]:
    """Return how all columns of a relation travel.

    Parameters
    ----------
    masks
        By the column's name.

    Raises
    ------
    InvalidQuery
        No column, two columns of one name, or a type that can't be a column of a file.
    InvalidManifest
        A mask of a column that isn't there, or whose type it can't mask.
    """
    masks = masks or {}
    if not columns:
        raise InvalidQuery("There is no column to extract.", hint="Name at least one column.")
    for name, count in Counter(column.name for column in columns).items():
        if count > 1:
            raise InvalidQuery(f"{count} columns have the name {name!r}.", hint="Give each column an alias of its own.")
    if strangers := sorted(masks.keys() - {column.name for column in columns}):
        raise InvalidManifest(
            f"masks: no column {', '.join(map(repr, strangers))} is extracted.", hint="Names are exact: case counts."
        )
    return tuple(plan_column(column, on_unrepresentable, masks.get(column.name)) for column in columns)


def plan_column(column: Column, on_unrepresentable: OnUnrepresentable, mask: MaskPlan | None = None) -> ColumnPlan:
    """Return how a column travels: its SELECT expression, conversion and target type.

    Under ``Null`` a column that may get a NULL in place of a value is nullable.

    Raises
    ------
    InvalidQuery
        The type is a pseudo-type, e.g. an anonymous record.
    InvalidManifest
        The mask can't mask a column of this type.
    """
    conversion = _conversion(column, on_unrepresentable)
    if mask is not None and mask.method in {"Hash", "Partial"}:
        conversion = Conversion.TEXT
    array = element_type(base_type(column.type)) is not None and conversion is not Conversion.TEXT
    name = sql.Identifier(column.name).as_string()
    expression = _expression(name, column.type, conversion)
    nulled = on_unrepresentable == "Null" and (array or conversion in UNREPRESENTABLE)
    if mask is not None and not mask.reads:
        # Folded before it runs: the server neither looks at the value nor sends it.
        expression, array, nulled = f"CASE WHEN false THEN {expression} END", False, True
    if mask is not None:
        _check_mask(column, mask, _arrow(column.type, conversion, target=True))
    return ColumnPlan(
        name=column.name,
        type=column.type,
        nullable=column.nullable or nulled,
        expression=_shape_checked(name, expression) if array else expression,
        conversion=conversion,
        arrow=str(_arrow(column.type, conversion, target=True)),
        guard=f"{name} IS NULL" if array else None,
        mask=mask,
    )


def _check_mask(column: Column, mask: MaskPlan, target: pa.DataType) -> None:
    if mask.method == "Constant":
        try:
            constant(mask, target)
        except ValueError:
            raise InvalidManifest(
                f"masks: the value for column {column.name!r} isn't one of type {target}.",
                hint="Text, booleans, numbers, dates and timestamps can be constants; use Nullify for other types.",
            ) from None
    if mask.method != "Truncate":
        return
    if not (pa.types.is_date(target) or pa.types.is_timestamp(target)):
        raise InvalidManifest(
            f"masks: column {column.name!r} arrives as {target}, and Truncate is for dates and timestamps.",
            hint="Under onUnrepresentable String they become text."
            if base_type(column.type).name in {"date", "timestamp", "timestamptz"}
            else "Use another method.",
        )
    if pa.types.is_date(target) and mask.to == "Hour":
        raise InvalidManifest(f"masks: column {column.name!r} is a date and has no hours.", hint="Use Day or more.")


def constant(mask: MaskPlan, target: pa.DataType) -> pa.Scalar:
    """Return the value of a ``Constant`` mask in the column's type.

    Raises
    ------
    ValueError
        It isn't a value of the type.
    """
    text = mask.value or ""
    try:
        return pa.scalar(_constant(text, target), target)
    except (ArithmeticError, TypeError, pa.ArrowException):
        raise ValueError(text) from None


def _constant(text: str, target: pa.DataType) -> object:
    types = pa.types
    if types.is_string(target):
        return text
    if types.is_boolean(target) and text in {"true", "false"}:
        return text == "true"
    if types.is_integer(target):
        return int(text)
    if types.is_floating(target):
        return float(text)
    if types.is_decimal(target):
        return Decimal(text)
    if types.is_date(target):
        return date.fromisoformat(text)
    if types.is_timestamp(target):
        moment = datetime.fromisoformat(text)
        if (moment.tzinfo is None) == (target.tz is None):
            return moment
    raise ValueError(text)


def select_list(columns: Sequence[ColumnPlan]) -> str:
    """Return the SELECT list: each column under its own name, and then the guards.

    The names are those of :func:`transport_schema`.
    """
    expressions = [column.expression for column in columns] + [column.guard for column in columns if column.guard]
    return ", ".join(
        f"{expression} AS {sql.Identifier(name).as_string()}"
        for expression, name in zip(expressions, transport_schema(columns).names, strict=True)
    )


def transport_schema(columns: Sequence[ColumnPlan]) -> pa.Schema:
    """Return names and types of the batches that must arrive for :func:`select_list`, guards included."""
    names = [column.name for column in columns]
    guards = [_guard_name(index, names) for index, column in enumerate(columns) if column.guard]
    return pa.schema([*zip(names, map(transport_type, columns), strict=True), *((name, pa.bool_()) for name in guards)])


def target_schema(columns: Sequence[ColumnPlan]) -> pa.Schema:
    """Return the schema of what is written: target types, nullability, the source's type as field metadata."""
    return pa.schema(
        [
            pa.field(
                column.name,
                target_type(column),
                nullable=column.nullable,
                metadata={SOURCE_TYPE_KEY: column.type.formatted.encode()},
            )
            for column in columns
        ]
    )


def transport_type(column: ColumnPlan) -> pa.DataType:
    """Return the Arrow type that must arrive for the column's expression."""
    return _arrow(column.type, Conversion(column.conversion), target=False)


def target_type(column: ColumnPlan) -> pa.DataType:
    """Return the Arrow type that is written."""
    return _arrow(column.type, Conversion(column.conversion), target=True)


def _conversion(column: Column, on_unrepresentable: OnUnrepresentable) -> Conversion:
    base = base_type(column.type)
    element = element_type(base)
    if base.kind == "p" or (element is not None and base_type(element).kind == "p"):
        raise InvalidQuery(
            f"Column {column.name!r} has the pseudo-type {base.formatted}, which no file can hold.",
            hint="Cast it to a named type in the query, or leave the column out.",
        )
    if element is None:
        conversion = rule(base).conversion
        unrepresentable = conversion in UNREPRESENTABLE
    else:
        # An element that is an array itself (through a domain) is text, too.
        conversion = rule(element).conversion
        conversion = Conversion.TEXT_ELEMENTS if conversion is Conversion.TEXT else conversion
        unrepresentable = True
    return Conversion.TEXT if unrepresentable and on_unrepresentable == "String" else conversion


def _expression(name: str, pg_type: PgType, conversion: Conversion) -> str:
    base = base_type(pg_type)
    element = element_type(base)
    if conversion is Conversion.TEXT:
        casts = ("text",) if element is not None or rule(base).conversion is not conversion else rule(base).casts
        suffix = ""
    else:
        casts = rule(base if element is None else element).casts
        suffix = "" if element is None else "[]"
    return name + "".join(f"::pg_catalog.{cast}{suffix}" for cast in casts)


def _shape_checked(name: str, expression: str) -> str:
    shape = f"pg_catalog.array_ndims({name}) > 1 OR pg_catalog.array_lower({name}, 1) <> 1"
    return f"CASE WHEN {shape} THEN NULL ELSE {expression} END"


def _arrow(pg_type: PgType, conversion: Conversion, *, target: bool) -> pa.DataType:
    if conversion is Conversion.TEXT:
        return pa.string()
    base = base_type(pg_type)
    element = element_type(base)
    found = rule(base if element is None else element)
    arrow = found.target if target else found.transport
    return arrow if element is None else pa.list_(arrow)


def _guard_name(index: int, taken: Sequence[str]) -> str:
    name = f"guard {index}"
    while name in taken:
        name += "?"
    return name
