"""The decoder against ADBC's, which knows PostgreSQL from elsewhere: the same batches of the same rows."""

from collections.abc import Iterator

import adbc_driver_postgresql.dbapi
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from extraction_worker.source.copy.columns import _TYPES, wire_column
from extraction_worker.source.copy.stream import read_copy
from support.pg_types import SESSION, TypesDatabase, types_database

# Values at the ends of each type; ADBC wraps dates and timestamps as we do.
VALUES = {
    "bool": ["true", "false"],
    "bytea": [r"'\x'", r"'\x00ff'", "decode(repeat('ab', 5000), 'hex')"],
    "name": ["''", "'n'", "repeat('x', 63)"],
    "int8": ["-9223372036854775808", "9223372036854775807", "0"],
    "int2": ["'-32768'", "32767", "0"],
    "int4": ["-2147483648", "2147483647", "0"],
    "text": ["''", "'ü🐘'", "repeat('wide ', 4000)", "E'a\\nb\\tc'"],
    "json": ["'{\"a\": [1, null]}'", "' 1 '", "'\"\"'"],
    "float4": ["'NaN'", "'Infinity'", "'-Infinity'", "'-0'", "'3.4028235e38'", "'1e-45'"],
    "float8": ["'NaN'", "'Infinity'", "'-Infinity'", "'-0'", "'1.7976931348623157e308'", "'5e-324'"],
    "bpchar": ["''", "'a  '::char(5)", "'ü'"],
    "varchar": ["''", "'v'", "repeat('v', 3000)"],
    "date": ["'2000-01-01'", "'4713-01-01 BC'", "'5874897-12-31'", "'infinity'", "'-infinity'", "'1969-12-31'"],
    "time": ["'00:00'", "'23:59:59.999999'", "'24:00'"],
    "timestamp": ["'2000-01-01'", "'4713-01-01 BC'", "'294276-12-31 23:59:59.999999'", "'infinity'", "'-infinity'"],
    "timestamptz": [
        "'2000-01-01Z'",
        "'4713-01-01Z BC'",
        "'294276-12-31 23:59:59.999999Z'",
        "'infinity'",
        "'1969-1-1Z'",
    ],
    "uuid": ["'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'"],
    "jsonb": ["'{\"a\": [1, null]}'", "'[]'", "'\"x\"'"],
}


@pytest.fixture(scope="module")
def types(postgres18) -> Iterator[TypesDatabase]:
    with types_database(postgres18) as value:
        yield value


@pytest.fixture(scope="module")
def oracle(types) -> Iterator[adbc_driver_postgresql.dbapi.Connection]:
    with adbc_driver_postgresql.dbapi.connect(types.conninfo, autocommit=True) as connection:
        with connection.cursor() as cursor:
            for name, value in SESSION.items():
                cursor.execute(f"SET {name} = '{value}'")
        yield connection


def of_oracle(oracle, query: str) -> pa.Table:
    with oracle.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetch_arrow_table()


def of_ours(types, query: str, batch_bytes: int) -> list[pa.RecordBatch]:
    batches = list(read_copy(types.truth, query, batch_bytes=batch_bytes, tick=lambda: None))
    for batch in batches:
        # The converter looks for 24:00, which Arrow has no time for.
        batch.validate(full=not any("time64" in str(kind) for kind in batch.schema.types))
    return batches


def plain(array: pa.Array) -> list[pa.Array]:
    """Return arrays that are equal only for equal values, so that NaN equals NaN and -0 isn't 0."""
    if isinstance(array.type, pa.BaseExtensionType):
        array = array.storage
    if pa.types.is_list(array.type):
        return [pc.list_value_length(array), *plain(array.flatten())]
    number = (
        {4: pa.int32(), 8: pa.int64()}.get(array.type.bit_width // 8) if pa.types.is_primitive(array.type) else None
    )
    return [array if number is None else array.view(number)]


def table_of(types, name: str) -> str:
    """Make a table of 400 rows of a type and its array, NULLs among them, in an order that chance gave."""
    table = types.name("t")
    values = f"(ARRAY[{', '.join(VALUES[name])}, NULL]::{name}[])"
    pick = f"{values}[1 + floor(random() * {len(VALUES[name]) + 1})::int]"
    types.execute("SELECT setseed(0.5)")
    types.execute(
        f"CREATE TABLE {table} AS SELECT i, {pick} AS v, CASE floor(random() * 4)::int WHEN 0 THEN NULL"
        f" WHEN 1 THEN ARRAY[]::{name}[] ELSE ARRAY[{pick}, {pick}, {pick}] END AS a, ARRAY[{pick}] AS b"
        " FROM generate_series(1, 400) AS i"
    )
    return table


@pytest.mark.parametrize("name", VALUES)
def test_every_type_and_its_array(types, oracle, name):
    query = f"SELECT i, v, a, b FROM {table_of(types, name)} ORDER BY i"
    expected = of_oracle(oracle, query)
    for batch_bytes in (1, 5000, 1 << 20):
        found = pa.Table.from_batches(of_ours(types, query, batch_bytes))
        assert found.schema.types == expected.schema.types
        assert found.schema.names == expected.schema.names
        assert found.num_rows == 400
        for column in expected.column_names:
            ours, theirs = (plain(table[column].combine_chunks()) for table in (found, expected))
            assert ours == theirs
            assert ours[0].null_count == theirs[0].null_count


def test_all_types_that_are_decoded_are_compared(types):
    [(names,)] = types.execute(
        "SELECT array_agg(typname::text) FROM pg_type WHERE oid = ANY"
        f" (ARRAY[{', '.join(str(oid) for oid, *_ in _TYPES)}])"
    )
    assert sorted(names) == sorted(VALUES)


def test_the_oids_are_those_of_the_server(types):
    for oid, array_oid, _, _ in _TYPES:
        assert types.execute(f"SELECT typarray::int8 FROM pg_type WHERE oid = {oid}") == [(array_oid,)]
        assert wire_column("a", array_oid).element_oid == oid


def test_batches_are_one_row_at_least_and_full_by_bytes(types):
    query = "SELECT i, repeat('x', i % 1000) FROM generate_series(1, 2000) AS i"
    assert {batch.num_rows for batch in of_ours(types, query, 1)} == {1}
    batches = of_ours(types, query, 50_000)
    assert all(50_000 <= batch.nbytes <= 52_000 for batch in batches[:-1])
    assert sum(batch.num_rows for batch in batches) == 2000


def test_rows_of_megabytes(types):
    query = "SELECT i, repeat(i::text, 3000000) AS v FROM generate_series(1, 5) AS i"
    batches = of_ours(types, query, 1)
    assert [batch.column(1)[0].as_py() for batch in batches] == [str(number) * 3_000_000 for number in range(1, 6)]


def test_a_query_may_end_in_a_comment_and_its_columns_may_have_one_name(types):
    [batch] = of_ours(types, "SELECT 1 AS a, 'x'::text AS a -- the end", 1000)
    assert batch.schema.names == ["a", "a"]
