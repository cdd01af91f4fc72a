"""What each PostgreSQL type becomes: the table of rules, resolved through domains and arrays. Pure values.

The decoder (:mod:`extraction_worker.source.copy`) knows a few types; every other type travels as the text that
PostgreSQL prints for it. Rules are looked up by name in ``pg_catalog`` only: a user's type of the same name is another
type, and travels as text.
"""

from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa

from extraction_worker.model import PgType

_DECIMAL128_DIGITS = 38
_DECIMAL256_DIGITS = 76


class Conversion(StrEnum):
    """How a batch's column becomes the target column. On an array type it applies to the elements."""

    KEEP = "keep"
    """Transport and target are the same buffers."""
    DATE = "date"
    """Kept; infinities are looked for."""
    TIMESTAMP = "timestamp"
    """Kept; infinities and times after 294247-01-10 are looked for."""
    TIME = "time"
    """Kept; 24:00:00 is looked for."""
    JSON = "json"
    """Arrow's JSON extension type becomes its storage, a string; no copy."""
    DECIMAL = "decimal"
    """Digits as text become a decimal; NaN and infinities are looked for."""
    TEXT = "text"
    """The text that PostgreSQL prints; of an array, the text of the whole array."""
    TEXT_ELEMENTS = "text-elements"
    """An array whose elements are the text that PostgreSQL prints."""


UNREPRESENTABLE = frozenset({Conversion.DATE, Conversion.TIMESTAMP, Conversion.TIME, Conversion.DECIMAL})
"""Conversions of types with values that their target can't hold."""


@dataclass(frozen=True)
class Rule:
    """How values of one type travel.

    Parameters
    ----------
    conversion
        What the client does.
    transport
        The Arrow type that arrives.
    target
        The Arrow type that is written.
    casts
        Names in ``pg_catalog`` that the server casts to, one after the other.
    """

    conversion: Conversion
    transport: pa.DataType
    target: pa.DataType
    casts: tuple[str, ...]


def _kept(name: str, arrow: pa.DataType, conversion: Conversion = Conversion.KEEP) -> Rule:
    return Rule(conversion, arrow, arrow, (name,))


TEXT = Rule(Conversion.TEXT, pa.string(), pa.string(), ("text",))

_RULES = {
    "bool": _kept("bool", pa.bool_()),
    "int2": _kept("int2", pa.int16()),
    "int4": _kept("int4", pa.int32()),
    "int8": _kept("int8", pa.int64()),
    "float4": _kept("float4", pa.float32()),
    "float8": _kept("float8", pa.float64()),
    "bytea": _kept("bytea", pa.binary()),
    "text": _kept("text", pa.string()),
    "varchar": _kept("varchar", pa.string()),
    "bpchar": _kept("bpchar", pa.string()),  # ::text would strip the padding
    "name": _kept("name", pa.string()),
    "uuid": _kept("uuid", pa.uuid()),
    "oid": _kept("int8", pa.int64()),  # unsigned, of 32 bits
    "date": _kept("date", pa.date32(), Conversion.DATE),
    "time": _kept("time", pa.time64("us"), Conversion.TIME),
    "timestamp": _kept("timestamp", pa.timestamp("us"), Conversion.TIMESTAMP),
    "timestamptz": _kept("timestamptz", pa.timestamp("us", tz="UTC"), Conversion.TIMESTAMP),
    "json": Rule(Conversion.JSON, pa.json_(), pa.string(), ("json",)),
    "jsonb": Rule(Conversion.JSON, pa.json_(), pa.string(), ("jsonb",)),
    # How many digits of money are a fraction is a setting of the server (lc_monetary), so a decimal would guess.
    "money": Rule(Conversion.TEXT, pa.string(), pa.string(), ("numeric", "text")),
}


def base_type(pg_type: PgType) -> PgType:
    """Return what lies under a domain, domains over domains included; other types as they are."""
    while pg_type.base is not None:
        pg_type = pg_type.base
    return pg_type


def element_type(pg_type: PgType) -> PgType | None:
    """Return the element of a true array type with the array's typmod, None for any other type.

    Names of array types begin with an underscore. ``int2vector``, ``point`` and others have elements in the catalog,
    too, but aren't arrays.
    """
    if pg_type.element is None or not pg_type.name.startswith("_"):
        return None
    if pg_type.typmod == -1:
        return pg_type.element
    return pg_type.element.model_copy(update={"typmod": pg_type.typmod})


def may_not_be_utf8(pg_type: PgType) -> bool:
    """Return whether the text of a type may hold other bytes than UTF-8: ``"char"``, alone or in an array.

    Before PostgreSQL 15 a byte above 127 was printed as that byte, since then as a backslash and octal digits.
    """
    base = base_type(pg_type)
    leaf = base_type(element_type(base) or base)
    return (leaf.namespace, leaf.name) == ("pg_catalog", "char")


def rule(pg_type: PgType) -> Rule:
    """Return how the values of a scalar type travel; of any array as one text."""
    pg_type = base_type(pg_type)
    if pg_type.namespace != "pg_catalog" or pg_type.kind != "b":
        return TEXT
    if pg_type.name == "numeric":
        # The server prints a numeric in 0.1 µs, exactly and at any length; Arrow reads a decimal from that.
        target = decimal_type(pg_type.typmod)
        return TEXT if target is None else Rule(Conversion.DECIMAL, pa.string(), target, ("text",))
    return _RULES.get(pg_type.name, TEXT)


def decimal_type(typmod: int) -> pa.DataType | None:
    """Return the decimal that holds every finite ``numeric(p,s)`` of this typmod; None where there is none.

    A scale above the precision means leading zeros after the point: decimal(s,s). A negative scale means trailing
    zeros before it: decimal(p-s,0). The layout of typmods is that of ``numeric_typmod_scale`` in PostgreSQL's
    ``numeric.c``: 16 bits of precision over 11 bits of signed scale, plus 4.
    """
    if typmod < 4:
        return None
    precision = (typmod - 4) >> 16
    scale = (((typmod - 4) & 0x7FF) ^ 0x400) - 0x400
    precision, scale = (precision - scale, 0) if scale < 0 else (max(precision, scale), scale)
    if precision <= _DECIMAL128_DIGITS:
        return pa.decimal128(precision, scale)
    return pa.decimal256(precision, scale) if precision <= _DECIMAL256_DIGITS else None
