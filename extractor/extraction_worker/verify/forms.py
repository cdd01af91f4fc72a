"""How a column is proven, on the server's side: SQL aggregates of its values. Pure.

A form is made of a count of the values that aren't NULL, of their exact sum where there is one (integers, numbers
with digits, the trues of ``bool``), and of the sum of PostgreSQL's 64-bit hashes of them. None depends on the order
of rows. :mod:`extraction_worker.verify.values` computes the same from Arrow arrays. What is hashed of each type:

- integers, floats, dates, times, uuids: ``hash…extended`` of the value. It folds 64-bit integers to 32 bits, and takes
  zeros for equal, and NaNs; bits are compared between what was read and what is decoded
  (:mod:`extraction_worker.verify.columns`).
- text, and all that travels as text: its bytes in UTF-8; from :data:`LONG` bytes on, the SHA-256 of them in
  hexadecimal digits, because lookup3 can't be vectorised within one value. ``numeric(p,s)``: its text, too.
- bytea: the same in an array of one, because no function that SQL may call hashes bytea before version 18.
- arrays: ``hash_array_extended``, over elements as above, long ones in full. Elements of ``char(n)`` are hashed
  without their padding.

A server whose encoding isn't UTF8 hashes the bytea that it would send to us.

Under ``onUnrepresentable: Null`` the server leaves out by the same rule, in SQL, what the client replaced; under the
other policies there is nothing to leave out, and it costs nothing.
"""

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
from psycopg import sql

from extraction_worker.model import ColumnPlan, PgType
from extraction_worker.source.type_rules import base_type
from extraction_worker.source.types import Conversion, OnUnrepresentable, target_type

LONG = 2048
"""Bytes of UTF-8 from which on the digest of a text or bytea is hashed in its place."""

_IS_UTF8 = "(SELECT pg_catalog.getdatabaseencoding() = 'UTF8')"
"""A subquery that refers to nothing outside runs once, not for each row."""

# Conditions under which the target can hold the value that the plan's expression sends; a DECIMAL is sent as text.
# The client's side of these rules is stream.convert.
_REPRESENTABLE = {
    Conversion.DATE: "pg_catalog.isfinite({0})",
    Conversion.TIMESTAMP: "({0} > '-infinity' AND {0} < '294247-01-10 04:00:54.775808+00')",
    Conversion.TIME: "{0} < '24:00:00'",
    Conversion.DECIMAL: "{0} NOT IN ('NaN', 'Infinity', '-Infinity')",
}

# How the server hashes a value, by the type that is written.
_VALUE_HASHES = {
    **dict.fromkeys(("int16", "int32", "int64"), "pg_catalog.hashint8extended({0}, 0)"),
    **dict.fromkeys(("float", "double"), "pg_catalog.hashfloat8extended({0}, 0)"),
    "date32[day]": "pg_catalog.hashint8extended({0} - '2000-01-01'::pg_catalog.date, 0)",
    "time64[us]": "pg_catalog.time_hash_extended({0}, 0)",
    "timestamp[us]": "pg_catalog.timestamp_hash_extended({0}, 0)",
    # The hash function of timestamptz has a name of its own from version 18 on.
    "timestamp[us, tz=UTC]": "pg_catalog.timestamp_hash_extended(pg_catalog.timezone('UTC', {0}), 0)",
    str(pa.uuid()): "pg_catalog.uuid_hash_extended({0}, 0)",
}

_STORED_TEXTS = frozenset({"text", "varchar", "name"})
# Types whose text is always shorter than LONG; of others the length is asked.
_SHORT_TEXTS = frozenset(
    {"bool", "char", "cidr", "date", "inet", "int2", "int4", "int8", "interval", "macaddr", "macaddr8",
     "money", "oid", "pg_lsn", "point", "tid", "time", "timestamp", "timestamptz", "timetz", "uuid", "xid", "xid8"}
)  # fmt: skip
_LONGEST_CHARACTER = 4


InArray = Literal["never", "unless UTF8", "always"]


@dataclass(frozen=True)
class Form:
    """SQL aggregates over one column.

    Parameters
    ----------
    count
        Values that aren't NULL.
    total
        Exact sum; None where the type has none.
    hashed
        Sum of hashes; None for bool, whose count and sum say everything.
    in_array
        Where the hash is that of an array of one value.
    """

    count: str
    total: str | None
    hashed: str | None
    in_array: InArray = "never"


def form(column: ColumnPlan, on_unrepresentable: OnUnrepresentable) -> Form:
    """Return the aggregates that prove a column."""
    checked = on_unrepresentable == "Null"
    return (_array if pa.types.is_list(target_type(column)) else _scalar)(column, checked=checked)


def _scalar(column: ColumnPlan, *, checked: bool) -> Form:
    name, value = sql.Identifier(column.name).as_string(), f"({column.expression})"
    conversion, kind = Conversion(column.conversion), target_type(column)
    only = ""
    if checked and conversion in _REPRESENTABLE:
        only = f" FILTER (WHERE {_REPRESENTABLE[conversion].format(value)})"
    count = f"pg_catalog.count({name}){only}"
    if pa.types.is_boolean(kind):
        return Form(count, f"pg_catalog.count(*) FILTER (WHERE {value})", None)
    total = None
    if pa.types.is_integer(kind) or pa.types.is_decimal(kind):
        # Not a number parsed from the text that is sent, but the one that was stored.
        number = f"{name}::pg_catalog.numeric" if conversion is Conversion.DECIMAL else value
        total = f"pg_catalog.sum({number}){only}"
    in_array: InArray = "never"
    if pa.types.is_decimal(kind):
        hashed = _short_hash(value)
    elif pa.types.is_binary(kind):
        hashed, in_array = _bytea_hash(value), "always"
    elif pa.types.is_string(kind):
        hashed, in_array = _text_hash(value, base_type(column.type), conversion), "unless UTF8"
    else:
        hashed = _VALUE_HASHES[str(kind)].format(value)
    return Form(count, total, f"pg_catalog.sum({hashed}){only}", in_array)


def _short_hash(text: str) -> str:
    return f'pg_catalog.hashtextextended({text} COLLATE pg_catalog."C", 0)'


def _text_hash(value: str, pg_type: PgType, conversion: Conversion) -> str:
    stored = pg_type.namespace == "pg_catalog" and pg_type.name in _STORED_TEXTS
    if (pg_type.namespace, pg_type.name) == ("pg_catalog", "bpchar") and conversion is not Conversion.TEXT:
        # A cast to text would strip the padding.
        text = f"pg_catalog.textin(pg_catalog.bpcharout({value}))"
    else:
        text = f"{value}::pg_catalog.text"
    short = _is_short(pg_type)
    # What is computed is computed once, in a subquery that the planner doesn't dissolve.
    term = text if stored or short else "t"
    sent = f"pg_catalog.textsend({term})"
    if short:
        content, sent_content = term, sent
    else:
        digest = f"pg_catalog.encode(pg_catalog.sha256({sent}), 'hex')"
        content = f"CASE WHEN pg_catalog.octet_length({term}) < {LONG} THEN {term} ELSE {digest} END"
        sent_content = (
            f"CASE WHEN pg_catalog.octet_length({sent}) < {LONG} THEN {sent} ELSE pg_catalog.textsend({digest}) END"
        )
    # An array of one NULL isn't NULL.
    hashed = (
        f"CASE WHEN {_IS_UTF8} THEN {_short_hash(f'({content})')}"
        f" WHEN {term} IS NOT NULL THEN pg_catalog.hash_array_extended(ARRAY[{sent_content}], 0) END"
    )
    return hashed if term == text else f"(SELECT {hashed} FROM (SELECT {text} AS t OFFSET 0) AS s)"


def _is_short(pg_type: PgType) -> bool:
    if pg_type.kind == "e":
        return True
    if pg_type.namespace != "pg_catalog":
        return False
    if pg_type.name == "bpchar":
        # The typmod is the number of characters, plus 4.
        return 4 < pg_type.typmod < LONG // _LONGEST_CHARACTER
    # A numeric of declared precision and scale has 2,000 digits at most.
    return pg_type.name in _SHORT_TEXTS or (pg_type.name == "numeric" and pg_type.typmod >= 4)


def _bytea_hash(value: str) -> str:
    digest = f"pg_catalog.textsend(pg_catalog.encode(pg_catalog.sha256({value}), 'hex'))"
    content = f"CASE WHEN pg_catalog.octet_length({value}) < {LONG} THEN {value} ELSE {digest} END"
    return f"CASE WHEN {value} IS NOT NULL THEN pg_catalog.hash_array_extended(ARRAY[{content}], 0) END"


def _array(column: ColumnPlan, *, checked: bool) -> Form:
    value = sent = f"({column.expression})"
    conversion, element = Conversion(column.conversion), target_type(column).value_type
    if checked and conversion in _REPRESENTABLE:
        items = (
            f"SELECT CASE WHEN {_REPRESENTABLE[conversion].format('e')} THEN e END FROM pg_catalog.unnest({sent}) AS e"
        )
        value = f"(CASE WHEN {sent} IS NOT NULL THEN ARRAY({items}) END)"
    if pa.types.is_string(element) or pa.types.is_decimal(element):
        texts = f"{value}::pg_catalog.text[]"
        items = f"SELECT pg_catalog.textsend(e) FROM pg_catalog.unnest({texts}) AS e"
        hashed = (
            f'CASE WHEN {_IS_UTF8} THEN pg_catalog.hash_array_extended({texts} COLLATE pg_catalog."C", 0)'
            f" WHEN {sent} IS NOT NULL THEN pg_catalog.hash_array_extended(ARRAY({items}), 0) END"
        )
    else:
        hashed = f"pg_catalog.hash_array_extended({value}, 0)"
    # The plan's expression is NULL for an array of a shape that doesn't travel.
    return Form(f"pg_catalog.count({sent})", None, f"pg_catalog.sum({hashed})")
