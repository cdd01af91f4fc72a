"""Whatever values a column holds, the batches hold the same; those that Arrow lacks, and no others, become NULL."""

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from uuid import UUID

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from extraction_worker.demo.postgres import PostgresServer
from extraction_worker.source.types import plan_columns
from support.pg_types import TypesDatabase, types_database

DAYS_TO_2000 = 10_957
MICROSECONDS_TO_2000 = DAYS_TO_2000 * 86_400_000_000
JULIAN_2000 = 2_451_545
LAST_JULIAN = {"date": JULIAN_2000 + 2_145_031_948, "timestamp": 109_203_527}
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
INFINITIES = st.sampled_from(["infinity", "-infinity"])
DAY = st.integers(0, 86_399_999_999)


@dataclass(frozen=True)
class Kind:
    """A type, literals of random values, and how exactness is seen.

    ``truth`` is SQL that shows ``v`` exactly, ``shown`` the same of a value that arrived; both have None for NULL.
    ``lacking`` says of a truth that the target has no place for it.
    """

    type: str
    literals: st.SearchStrategy[str]
    truth: str
    shown: Callable[[pa.Array], list[object]]
    lacking: Callable[[object], bool] = lambda _: False


def shown_by(function: Callable[[object], object]) -> Callable[[pa.Array], list[object]]:
    return lambda array: [None if value is None else function(value) for value in array.to_pylist()]


def sent(form: str, offset: int = 0) -> Callable[[pa.Array], list[object]]:
    """Show integers below dates and times as PostgreSQL sends them."""
    integer = pa.int32() if form == ">i" else pa.int64()
    return lambda array: [
        None if value is None else struct.pack(form, value - offset) for value in array.view(integer).to_pylist()
    ]


def clock(microseconds: int) -> str:
    """Return hours, minutes, seconds; 24:00:00 included."""
    seconds, fraction = divmod(microseconds, 1_000_000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{fraction:06}"


def numbers(precision: int, scale: int) -> Kind:
    """Numbers of all lengths up to the precision, and NaN."""
    digits = st.integers(1, precision).flatmap(lambda n: st.integers(-(10**n) + 1, 10**n - 1))
    return Kind(
        f"numeric({precision},{scale})",
        digits.map(lambda number: f"{number}e{-scale}") | st.just("NaN"),
        "v::text",
        shown_by(lambda value: format(value, "f")),  # type: ignore[call-overload]
        lambda truth: truth == "NaN",
    )


def timestamps(kind: str) -> Kind:
    """All microseconds from the first of PostgreSQL to its last, often the last years of it, and infinities."""
    days = st.integers(0, LAST_JULIAN["timestamp"]) | st.integers(109_190_000, LAST_JULIAN["timestamp"])
    return Kind(
        kind,
        st.builds(lambda day, time: f"J{day} {clock(time)}", days, DAY) | INFINITIES,
        f"pg_catalog.{kind}_send(v)",
        sent(">q", MICROSECONDS_TO_2000),
        lambda truth: not -(2**63) < struct.unpack(">q", truth)[0] < 2**63 - MICROSECONDS_TO_2000,  # type: ignore[arg-type]
    )


JSON = st.recursive(TEXT | st.integers() | st.none(), lambda inner: st.lists(inner, max_size=3)).map(json.dumps)
KINDS = (
    Kind("int8", st.integers(-(2**63), 2**63 - 1).map(str), "v", pa.Array.to_pylist),
    Kind("float8", st.floats(width=64).map(repr), "float8send(v)", shown_by(lambda value: struct.pack(">d", value))),
    Kind("float4", st.floats(width=32).map(repr), "float4send(v)", shown_by(lambda value: struct.pack(">f", value))),
    Kind("text", TEXT, "v", pa.Array.to_pylist),
    Kind("char(20)", TEXT, "v", pa.Array.to_pylist),
    Kind("bytea", st.binary(max_size=20).map(lambda value: "\\x" + value.hex()), "v", pa.Array.to_pylist),
    Kind("uuid", st.uuids().map(str), "v::text", shown_by(lambda value: str(UUID(str(value))))),
    Kind("jsonb", JSON, "v::text", pa.Array.to_pylist),
    Kind("varbit", st.text("01", max_size=70), "v::text", pa.Array.to_pylist),
    Kind("interval", st.integers(-(2**63) + 1, 2**63 - 1).map(lambda number: f"{number} us"), "v::text",
         pa.Array.to_pylist),
    Kind("numeric", st.builds("{}e{}".format, st.integers(), st.integers(-99, 99)) | INFINITIES, "v::text",
         pa.Array.to_pylist),
    numbers(9, 2), numbers(38, 0), numbers(38, 19), numbers(38, 38), numbers(76, 40), numbers(2, 5), numbers(5, -3),
    timestamps("timestamp"), timestamps("timestamptz"),
    Kind("time", (DAY | st.just(86_400_000_000)).map(clock), "time_send(v)", sent(">q"),
         lambda truth: truth == struct.pack(">q", 86_400_000_000)),
    Kind("date", st.integers(0, LAST_JULIAN["date"]).map(lambda day: f"J{day}") | INFINITIES, "date_send(v)",
         sent(">i", DAYS_TO_2000),
         lambda truth: truth in (struct.pack(">i", -(2**31)), struct.pack(">i", 2**31 - 1))),
)  # fmt: skip


@pytest.fixture(scope="module")
def types(postgres18: PostgresServer) -> Iterator[TypesDatabase]:
    with types_database(postgres18) as value:
        yield value


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.type)
def test_random_values_arrive_exactly(types: TypesDatabase, kind: Kind) -> None:
    table = types.table(f"v {kind.type}, a {kind.type}[]")
    value_plan, array_plan = plan_columns(types.columns(table), "Null")

    @settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    @given(literals=st.lists(kind.literals | st.none(), max_size=40), batch_bytes=st.sampled_from([1, 1 << 20]))
    def check(literals: list[str | None], batch_bytes: int) -> None:
        rows = sql.SQL("(SELECT literal::{} AS v FROM unnest({}::text[]) AS u (literal)) AS t")
        relation = rows.format(sql.SQL(kind.type), sql.Literal(literals)).as_string(types.truth)
        truth = [value for (value,) in types.execute(f"SELECT {kind.truth} FROM {relation}")]
        expected = [None if value is None or kind.lacking(value) else value for value in truth]
        lost = sum(value is not None for value in truth) - sum(value is not None for value in expected)

        arrived, converter = types.extract(relation, [value_plan], "Null", batch_bytes=batch_bytes)
        assert kind.shown(arrived.column("v").combine_chunks()) == expected
        assert sum(replacement.count for replacement in converter.replaced) == lost

        arrived, converter = types.extract(f"(SELECT array_agg(v) AS a FROM {relation}) AS t", [array_plan], "Null")
        (row,) = arrived.column("a")
        assert (kind.shown(row.values) if row.is_valid else []) == expected
        assert sum(replacement.count for replacement in converter.replaced) == lost

    check()
