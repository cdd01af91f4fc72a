"""Every PostgreSQL type at the limits of its values, and how to tell that a value arrived exactly.

``truth`` is SQL over ``v`` whose result psycopg and :attr:`Case.arrived` must agree on; both compare the exact value
(bytes of a float, microseconds of a time, digits of a number), not what a Python class makes of it.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

import psycopg
import pyarrow as pa
import pytest

from support.pg_types import TypesDatabase


def _plain(values: pa.Array) -> list[object]:
    return values.to_pylist()


def _float_bits(form: str) -> Callable[[pa.Array], list[object]]:
    return lambda values: [None if value is None else struct.pack(form, value) for value in values.to_pylist()]


def _integers(values: pa.Array) -> list[object]:
    return values.view(pa.int32() if values.type == pa.date32() else pa.int64()).to_pylist()


def _sent(values: pa.Array) -> list[object]:
    """As PostgreSQL sends a timestamp: microseconds since 2000."""
    return [None if value is None else struct.pack(">q", value - 946_684_800_000_000) for value in _integers(values)]


def _digits(values: pa.Array) -> list[object]:
    return [None if value is None else format(value, "f") for value in values.to_pylist()]


def _uuids(values: pa.Array) -> list[object]:
    return [None if value is None else str(value) for value in values.to_pylist()]


_DAYS = "v - '1970-01-01'::date"
_MICROSECONDS = "(extract(epoch FROM v) * 1000000)::int8"


@dataclass(frozen=True)
class Case:
    """A type, its values as SQL literals, the target type, and how exactness is seen."""

    type: str
    literals: tuple[str, ...]
    arrow: pa.DataType
    truth: str = "v"
    arrived: Callable[[pa.Array], list[object]] = _plain
    requires: str = ""
    """An extension that the server must offer, or ``xml``."""
    since: int = 0
    """The first major version with this type or these values."""

    @property
    def id(self) -> str:
        """The test's name."""
        return self.type.replace("pg_catalog.", "")

    @property
    def values(self) -> tuple[str, ...]:
        """The literals with their type."""
        return tuple(f"'{literal.replace(chr(39), chr(39) * 2)}'::{self.type}" for literal in self.literals)


def _text(kind: str, *literals: str, requires: str = "", since: int = 0) -> Case:
    return Case(kind, literals, pa.string(), "v::text", requires=requires, since=since)


_TIMESTAMPS = (
    "4714-11-24 00:00:00 BC", "0001-12-31 23:59:59.999999 BC", "0001-01-01 00:00:00", "1969-12-31 23:59:59.999999",
    "1970-01-01 00:00:00", "2000-01-01 00:00:00", "2262-04-11 23:47:16.854776", "9999-12-31 23:59:59.999999",
    "10000-01-01 00:00:00", "294247-01-10 04:00:54.775807",
)  # fmt: skip
_FLOAT_SPECIALS = ("NaN", "Infinity", "-Infinity", "0", "-0")

CASES = (
    Case("bool", ("true", "false"), pa.bool_()),
    Case("int2", ("-32768", "32767", "0"), pa.int16()),
    Case("int4", ("-2147483648", "2147483647", "0"), pa.int32()),
    Case("int8", ("-9223372036854775808", "9223372036854775807", "9007199254740993"), pa.int64()),
    Case(
        "float4", (*_FLOAT_SPECIALS, "1e-45", "1.17549421e-38", "3.4028235e38", "0.1"), pa.float32(),
        "pg_catalog.float4send(v)", _float_bits(">f"),
    ),
    Case(
        "float8", (*_FLOAT_SPECIALS, "5e-324", "2.225073858507201e-308", "1.7976931348623157e308", "0.1"),
        pa.float64(), "pg_catalog.float8send(v)", _float_bits(">d"),
    ),
    Case("bytea", (r"\x", r"\x00", r"\x00ff5c27", r"\xc328"), pa.binary()),
    Case("text", ("", " ", "x" * 9000, "a'b\"c\\d", "NULL", "{}", "é\u0301 🐘 \U0010ffff", "\x01\n\r\t"), pa.string()),
    Case("varchar(5)", ("", "ab   ", "🐘🐘🐘🐘🐘"), pa.string()),
    Case("char(5)", ("", "ab", "  ab ", "🐘"), pa.string()),
    Case("bpchar", ("", "ab  "), pa.string(), since=16),
    Case("name", ("", "x" * 63, "🐘"), pa.string()),
    Case("json", ('{"b": 1,  "a": 2, "a": 3}', "null", '"\\u0000"', "1E400", " [ ] "), pa.string(), "v::text"),
    Case("jsonb", ('{"b": 1, "a": 1e400}', "null", "[]", '"🐘"', "0.10"), pa.string(), "v::text"),
    Case(
        "uuid", ("00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff",
                 "5b0a3f1e-8d3c-4f2a-9c11-0123456789ab"), pa.uuid(), "v::text", _uuids,
    ),
    Case("oid", ("0", "2147483648", "4294967295"), pa.int64(), "v::int8"),
    Case("money", ("-92233720368547758.08", "92233720368547758.07", "0.01"), pa.string(), "v::numeric::text"),
    Case(
        "date", ("4714-11-24 BC", "0001-12-31 BC", "1969-12-31", "1970-01-01", "9999-12-31", "5874897-12-31"),
        pa.date32(), _DAYS, _integers,
    ),
    Case("time", ("00:00:00", "23:59:59.999999", "00:00:00.000001"), pa.time64("us"), _MICROSECONDS, _integers),
    Case("time(0)", ("23:59:59", "12:00"), pa.time64("us"), _MICROSECONDS, _integers),
    Case("timestamp", _TIMESTAMPS, pa.timestamp("us"), "pg_catalog.timestamp_send(v)", _sent),
    Case("timestamp(3)", ("2026-01-01 00:00:00.123",), pa.timestamp("us"), "pg_catalog.timestamp_send(v)", _sent),
    Case(
        "timestamptz", (*(f"{value} +00" for value in _TIMESTAMPS if "BC" not in value), "0044-03-15 12:00:00+00 BC"),
        pa.timestamp("us", tz="UTC"), "pg_catalog.timestamptz_send(v)", _sent,
    ),
    # Numbers with a scale: the width follows the precision.
    Case("numeric(1,0)", ("9", "-9", "0"), pa.decimal128(1, 0), "v::text", _digits),
    Case("numeric(12,2)", ("9999999999.99", "-9999999999.99", "0.01", "0", "-0.01"), pa.decimal128(12, 2), "v::text",
         _digits),
    Case("numeric(18,18)", ("0." + "9" * 18, "-0." + "9" * 18, "0.000000000000000001"), pa.decimal128(18, 18),
         "v::text", _digits),
    Case("numeric(36,6)", ("9" * 30 + ".999999", "-" + "9" * 30 + ".999999"), pa.decimal128(36, 6), "v::text", _digits),
    Case("numeric(38,0)", ("9" * 38, "-" + "9" * 38, "1"), pa.decimal128(38, 0), "v::text", _digits),
    Case("numeric(38,10)", ("9" * 28 + "." + "9" * 10, "-" + "9" * 28 + "." + "9" * 10, "0"), pa.decimal128(38, 10),
         "v::text", _digits),
    Case("numeric(38,38)", ("0." + "9" * 38, "-0." + "9" * 38, "0." + "0" * 37 + "1"), pa.decimal128(38, 38),
         "v::text", _digits),
    Case("numeric(39,0)", ("9" * 39, "-" + "9" * 39), pa.decimal256(39, 0), "v::text", _digits),
    Case("numeric(39,39)", ("0." + "9" * 39,), pa.decimal256(39, 39), "v::text", _digits),
    Case("numeric(44,4)", ("9" * 40 + ".9999", "0"), pa.decimal256(44, 4), "v::text", _digits),
    Case("numeric(76,0)", ("9" * 76, "-" + "9" * 76), pa.decimal256(76, 0), "v::text", _digits),
    Case("numeric(76,76)", ("0." + "9" * 76, "-0." + "9" * 76), pa.decimal256(76, 76), "v::text", _digits),
    Case("numeric(3,5)", ("0.00999", "-0.00999", "0"), pa.decimal128(5, 5), "v::text", _digits),
    Case("numeric(2,-3)", ("99000", "-99000", "1499"), pa.decimal128(5, 0), "v::text", _digits),
    Case("numeric(38,-38)", ("9" * 38 + "0" * 38,), pa.decimal256(76, 0), "v::text", _digits),
    _text("numeric(77,0)", "9" * 77),
    _text("numeric(2,-75)", "99" + "0" * 75),
    _text("numeric(2,77)", "0." + "0" * 75 + "99"),
    _text("numeric(1000,2)", "9" * 998 + ".99"),
    _text(
        "numeric", "NaN", "Infinity", "-Infinity", "0", "0.00", "1e-16383", "-1.10", "9" * 131072 + "." + "9" * 16383,
    ),
    # Types that travel as text.
    _text('pg_catalog."char"', "a", "", "\\"),
    _text("interval", "1 year 2 mons 3 days 04:05:06.000007", "-1 mon +1 day -0.000001 sec", "178000000 years", "0"),
    _text("interval", "infinity", "-infinity", since=17),
    _text("timetz", "24:00:00+00", "00:00:00+15:59:59", "23:59:59.999999-15:59:59"),
    _text("inet", "10.0.0.1/8", "::ffff:1.2.3.4", "0.0.0.0/0"),
    _text("cidr", "10.0.0.0/8", "2001:db8::/32"),
    _text("macaddr", "08:00:2b:01:02:03"),
    _text("macaddr8", "08:00:2b:01:02:03:04:05"),
    _text("bit(3)", "101", "000"),
    _text("varbit", "", "1" * 65),
    _text("point", "(1,-0)", "(NaN,Infinity)", "(0.1,1e-300)"),
    _text("line", "{1,2,3}"), _text("lseg", "[(0,0),(1,1)]"), _text("box", "(1,1),(0,0)"),
    _text("path", "[(0,0),(1,1)]", "((0,0),(1,1))"), _text("polygon", "((0,0),(1,1))"), _text("circle", "<(0,0),1>"),
    _text("tsvector", "'a':1A 'b c':2", ""), _text("tsquery", "'a' & !'b'"),
    _text("jsonpath", "$.a[*] ? (@ > 1)"),
    _text("pg_lsn", "0/0", "FFFFFFFF/FFFFFFFF"),
    _text("xid", "0", "4294967295"), _text("xid8", "18446744073709551615"), _text("cid", "4294967295"),
    _text("tid", "(4294967295,65535)"),
    _text("regclass", "pg_catalog.pg_class", "4294967295", "-"), _text("regtype", "integer", "text[]"),
    _text("aclitem", "postgres=r/postgres"), _text("pg_snapshot", "10:20:10,14"),
    _text("int2vector", "", "1 -2 3"), _text("oidvector", "4294967295 0"),
    _text("int4range", "empty", "[1,5)", "(,)"), _text("int4multirange", "{}", "{[1,2),[5,)}"),
    _text("tstzrange", '[-infinity,"2026-01-01 00:00:00+00")'),
    _text("xml", "<a b='c'>🐘</a>", requires="xml"),
    _text("public.citext", "ÄbC", "", requires="citext"),
    _text("public.hstore", '"a"=>NULL, "b"=>"\\"x"', requires="hstore"),
    # Types of the user; a name in pg_catalog means nothing elsewhere.
    _text("public.mood", "sad", "it's 🐘"),
    _text("public.pair", '(1,"a,b")', "(,)"),
    _text("public.numeric", "(NaN)"),
)  # fmt: skip

SETUP = (
    "CREATE TYPE public.mood AS ENUM ('sad', 'it''s 🐘')",
    "CREATE TYPE public.pair AS (n int4, t text)",
    "CREATE TYPE public.numeric AS (n float8)",
)


def require(types: TypesDatabase, case: Case) -> None:
    """Skip the test where the server can't have the case's type; create its extension where it can."""
    if case.since > types.truth.info.server_version // 10000:
        pytest.skip(f"since PostgreSQL {case.since}")
    if case.requires == "xml":
        try:
            types.execute("SELECT '<a/>'::xml")
        except psycopg.errors.FeatureNotSupported:
            pytest.skip("the server was built without libxml")
    elif case.requires:
        if not types.execute(f"SELECT FROM pg_catalog.pg_available_extensions WHERE name = '{case.requires}'"):
            pytest.skip(f"the server has no extension {case.requires}")
        types.execute(f"CREATE EXTENSION IF NOT EXISTS {case.requires} SCHEMA public")
