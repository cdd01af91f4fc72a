"""Every type, alone, under domains and in arrays, arrives exactly as PostgreSQL has it; read by COPY.

Each plan travels as JSON in between, as it does to a worker in another pod.
"""

from collections.abc import Iterator

import pyarrow as pa
import pytest

from extraction_worker.demo.postgres import PostgresServer
from support.pg_types import TypesDatabase, types_database
from support.type_cases import CASES, SETUP, Case, require


@pytest.fixture(scope="module")
def types(server: PostgresServer) -> Iterator[TypesDatabase]:
    with types_database(server) as value:
        for statement in SETUP:
            value.execute(statement)
        yield value


@pytest.fixture
def case(request: pytest.FixtureRequest, types: TypesDatabase) -> Case:
    value: Case = request.param
    require(types, value)
    return value


every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id, indirect=True)


def truth(types: TypesDatabase, table: str, column: str, sql: str) -> list[object]:
    return [value for (value,) in types.execute(f"SELECT {sql} FROM (SELECT {column} AS v FROM {table}) AS t")]


@every_case
def test_values_arrive_exactly(types: TypesDatabase, case: Case) -> None:
    rows = [f"{value}, {value}" for value in case.values]
    inner, outer = types.name("d"), types.name("d")
    types.execute(f"CREATE DOMAIN {inner} AS {case.type}")
    types.execute(f"CREATE DOMAIN {outer} AS {inner}")
    table = types.table(f"v {case.type}, d {outer}", [*rows, "NULL, NULL"])

    arrived, converter = types.extract_table(table)

    for name in ("v", "d"):
        assert arrived.schema.field(name).type == case.arrow
        assert case.arrived(arrived.column(name).combine_chunks()) == truth(types, table, name, case.truth)
    assert arrived.num_rows == len(case.values) + 1
    assert arrived.column("v").null_count == 1
    assert converter.replaced == ()


@every_case
def test_elements_arrive_exactly(types: TypesDatabase, case: Case) -> None:
    domain, of_array = types.name("d"), types.name("d")
    types.execute(f"CREATE DOMAIN {domain} AS {case.type}")
    types.execute(f"CREATE DOMAIN {of_array} AS {case.type}[]")
    full = f"ARRAY[{', '.join([*case.values, 'NULL'])}]::{case.type}[]"
    values = [full, "'{}'", f"ARRAY[NULL]::{case.type}[]", "NULL", full]
    table = types.table(f"v {case.type}[], d {domain}[], a {of_array}", [", ".join([value] * 3) for value in values])

    arrived, converter = types.extract_table(table)

    expected = truth(
        types, table, "v",
        f"CASE WHEN v IS NULL THEN NULL ELSE ARRAY(SELECT {case.truth} FROM (SELECT v[i] FROM"
        " generate_subscripts(v, 1) AS i ORDER BY i) AS e (v)) END",
    )  # fmt: skip
    for name in ("v", "d", "a"):
        assert arrived.schema.field(name).type == pa.list_(case.arrow)
        got = [case.arrived(row.values) if row.is_valid else None for row in arrived.column(name).combine_chunks()]
        assert got == expected
    assert converter.replaced == ()


@every_case
def test_text_is_exact_where_a_type_has_values_that_arrow_lacks(types: TypesDatabase, case: Case) -> None:
    rows = [f"{value}, ARRAY[[{value}],[NULL::{case.type}]]" for value in case.values]
    table = types.table(f"v {case.type}, a {case.type}[]", [*rows, "NULL, '{}'"])

    arrived, _ = types.extract_table(table, "String")

    assert arrived.schema.field("a").type == pa.string()
    assert arrived.column("a").to_pylist() == truth(types, table, "a", "v::text")
    if arrived.schema.field("v").type == pa.string() and case.id not in {"money", "bpchar", "char(5)"}:
        assert arrived.column("v").to_pylist() == truth(types, table, "v", "v::text")
    else:
        assert case.arrived(arrived.column("v").combine_chunks()) == truth(types, table, "v", case.truth)


def test_unusual_names_travel(types: TypesDatabase) -> None:
    names = ['Mixed "Case"', "guard 1", "select", "ü🐘", "a.b", "%s {} $1 ?", "x" * 63]
    quoted = ['"' + name.replace('"', '""') + '"' for name in names]
    table = types.table(", ".join(f"{name} int4[]" for name in quoted), [", ".join(["ARRAY[1]"] * len(names))])
    arrived, _ = types.extract_table(table)
    assert arrived.to_pylist() == [{name: [1] for name in names}]


def test_an_array_of_arrays_through_a_domain_is_an_array_of_text(types: TypesDatabase) -> None:
    domain = types.name("d")
    types.execute(f"CREATE DOMAIN {domain} AS int4[]")
    table = types.table(f"v {domain}[]", ["""'{"{1,2}","{}",NULL}'"""])
    arrived, _ = types.extract_table(table)
    assert arrived.schema.field("v").type == pa.list_(pa.string())
    assert arrived.column("v").to_pylist() == [["{1,2}", "{}", None]]


def test_a_high_char_is_escaped(types: TypesDatabase) -> None:
    char = 'chr(233)::pg_catalog."char"'
    table = types.table('v pg_catalog."char", a pg_catalog."char"[]', [f"{char}, ARRAY[{char}]", "'a', '{}'"])
    arrived, _ = types.extract_table(table)
    assert arrived.to_pylist() == [{"v": r"\303", "a": [r"\303"]}, {"v": "a", "a": []}]
