"""What the server computes over a table and what we compute over its batches agree, until a value differs."""

import uuid
from collections.abc import Iterator

import psycopg
import pyarrow as pa
import pytest
from psycopg.conninfo import make_conninfo

from extraction_worker.demo.postgres import PostgresServer
from extraction_worker.errors import VerificationFailed
from extraction_worker.source.types import OnUnrepresentable, plan_columns
from extraction_worker.verify.forms import LONG
from extraction_worker.verify.server import ServerProof
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


class Reading:
    """A table as it was read, and the proof of it."""

    def __init__(
        self, types: TypesDatabase, table: str, policy: OnUnrepresentable = "Fail", *, batch_rows: int = 3
    ) -> None:
        self.types = types
        self.table = table
        plans = plan_columns(types.columns(table), policy)
        self.proof = ServerProof(plans, policy)
        self.arrived, converter = types.extract(table, plans, policy)
        self.replaced = {replacement.column: 0 for replacement in converter.replaced}
        for replacement in converter.replaced:
            self.replaced[replacement.column] += replacement.count
        for batch in self.arrived.combine_chunks().to_batches(max_chunksize=batch_rows):
            self.proof.update(batch)

    def compare(self) -> dict[str, dict[str, str]]:
        """Compare with the table as it is now."""
        (row,) = self.types.execute(f"SELECT {self.proof.select_list()} FROM {self.table}")
        self.proof.compare(row, chunk=7)
        return self.proof.evidence()

    def fails(self, message: str) -> None:
        """Compare with the table as it is now, which is to differ."""
        with pytest.raises(VerificationFailed, match=message):
            self.compare()


# Agreement ---------------------------------------------------------------------------------------------------------


@every_case
def test_every_type_agrees(types: TypesDatabase, case: Case) -> None:
    domain, of_array = types.name("d"), types.name("d")
    types.execute(f"CREATE DOMAIN {domain} AS {case.type}")
    types.execute(f"CREATE DOMAIN {of_array} AS {case.type}[]")
    full = f"ARRAY[{', '.join([*case.values, 'NULL'])}]::{case.type}[]"
    arrays = [full, "'{}'", f"ARRAY[NULL]::{case.type}[]", f"ARRAY[{case.values[0]}]"]
    rows = [f"{value}, {value}, {array}, {array}" for value in case.values for array in arrays]
    columns = f"v {case.type}, d {domain}, a {case.type}[], b {of_array}"
    table = types.table(columns, [*rows, "NULL, NULL, NULL, NULL"])

    for policy in ("Fail", "Null"):
        evidence = Reading(types, table, policy).compare()

        assert [numbers["count"] for numbers in evidence.values()] == [str(len(rows))] * 4
        assert evidence["v"] == evidence["d"]
        assert evidence["a"] == evidence["b"]
        assert "hash" in evidence["a"]


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("date", "2026-01-01", ("infinity", "-infinity")),
        ("timestamp", "294247-01-10 04:00:54.775807", ("infinity", "-infinity", "294247-01-10 04:00:54.775808")),
        ("timestamptz", "2026-01-01 00:00:00+00", ("infinity", "-infinity", "294247-01-10 04:00:54.775808+00")),
        ("time", "23:59:59.999999", ("24:00:00",)),
        ("numeric(12,2)", "-1.50", ("NaN",)),
        ("numeric(50,2)", "1.50", ("NaN",)),
    ],
)
def test_the_server_leaves_out_what_became_null(
    types: TypesDatabase, kind: str, good: str, bad: tuple[str, ...]
) -> None:
    rows = [f"'{value}', ARRAY['{good}', '{value}', NULL]::{kind}[]" for value in (*bad, good, good)]
    rows += ["NULL, NULL", f"'{good}', ARRAY[['{good}']]::{kind}[]", f"'{good}', '[2:2]={{{good}}}'::{kind}[]"]
    table = types.table(f"v {kind}, a {kind}[]", rows)

    reading = Reading(types, table, "Null")

    # The values, and in the other column those elements and two shapes.
    assert reading.replaced == {"v": len(bad), "a": len(bad) + 2}
    evidence = reading.compare()
    assert evidence["v"]["count"] == "4"
    assert evidence["a"]["count"] == str(len(bad) + 2)
    as_text = Reading(types, table, "String").compare()
    assert {numbers["count"] for numbers in as_text.values()} == {str(len(rows) - 1)}
    types.execute(f"UPDATE {table} SET v = '{good}' WHERE v = '{bad[0]}'")
    reading.fails("column 'v': the server has 5 values that aren't NULL, 4 were read")


@pytest.mark.parametrize(
    "kind", ["text", "varchar", "char(3000)", "char(500)", "jsonb", "json", "bytea", "public.pair"]
)
def test_long_values_agree(types: TypesDatabase, kind: str) -> None:
    def literal(text: str) -> str:
        forms = {"jsonb": f'["{text}"]', "json": f'["{text}"]', "public.pair": f"(1,{text})"}
        return f"'{forms.get(kind, text)}'::{kind}"

    lengths = [0, 1, 499] if kind == "char(500)" else [0, LONG - 9, *range(LONG - 4, LONG + 3), 2 * LONG]
    lengths = [length for length in lengths if length <= 3000] if kind == "char(3000)" else lengths
    texts = ["x" * length for length in lengths]
    if kind != "bytea":
        texts += ["🐘" * (length // 4) for length in lengths]
    values = [literal(text) for text in texts]
    array = f"ARRAY[{', '.join(values)}]::{kind}[]"
    table = types.table(f"v {kind}, a {kind}[]", [f"{value}, {array}" for value in values] + ["NULL, NULL"])

    reading = Reading(types, table, batch_rows=10)

    assert reading.compare()["v"]["count"] == str(len(values))
    types.execute(f"UPDATE {table} SET v = {literal('y' + texts[-1][1:])} WHERE ctid = '(0,1)'")
    reading.fails("column 'v': the server's values have other hashes")


def test_a_server_of_another_encoding_agrees(server: PostgresServer) -> None:
    name = f"latin_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server.conninfo(), autocommit=True) as admin:
        admin.execute(
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'"  # type: ignore[arg-type]
        )
        types = TypesDatabase(make_conninfo(server.conninfo(name), client_encoding="UTF8"))
        try:
            texts = ["''", "'é'", f"repeat('é', {LONG // 2 - 1})", f"repeat('é', {LONG // 2})", "'plain'", "NULL"]
            columns = "t text, c char(9), l char(3000), j jsonb, b bytea, a text[], e int4, n numeric(9,2)[]"
            rows = [
                f"{text}, left({text}, 9), left({text}, 3000), to_jsonb({text}::text), convert_to({text}, 'UTF8'),"
                f" ARRAY[{text}, NULL, 'ü'], 1, ARRAY[1.5]"
                for text in texts
            ]
            table = types.table(columns, [*rows, "NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL"])
            reading = Reading(types, table)
            assert reading.arrived["t"].to_pylist()[1] == "é"
            assert {numbers["count"] for numbers in reading.compare().values()} == {"5", "6"}
            for column, change in {"t": "'è'", "a": "ARRAY['è']", "j": "'\"è\"'", "c": "'è'"}.items():
                types.execute(f"UPDATE {table} SET {column} = {change} WHERE e = 1 AND t = 'é'")
                reading.fails(f"column '{column}': the server's values have other hashes")
                types.execute(
                    f"UPDATE {table} SET t = 'é', a = ARRAY['é', NULL, 'ü'], j = '\"é\"' WHERE t IN ('è', 'é')"
                )
        finally:
            types.close()
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")  # type: ignore[arg-type]


def test_a_collation_that_takes_texts_for_equal_makes_no_difference(postgres15: PostgresServer) -> None:
    with types_database(postgres15) as types:
        types.execute(
            "CREATE COLLATION public.loose (provider = icu, locale = 'und-u-ks-level1', deterministic = false)"
        )
        table = types.table("v text COLLATE public.loose, a text[] COLLATE public.loose", ["'résumé', ARRAY['résumé']"])
        reading = Reading(types, table)
        reading.compare()
        types.execute(f"UPDATE {table} SET v = 'Resume'")
        reading.fails("column 'v'")


def test_sums_are_exact_at_any_size(types: TypesDatabase) -> None:
    table = types.table("i int8, o oid, d numeric(76,3), s int2")
    types.execute(
        f"INSERT INTO {table} SELECT 9223372036854775807 - i, 4294967295, -(10::numeric ^ 73 - 1) * 0.001 - i, -32768"
        " FROM generate_series(0, 999) AS i"
    )
    evidence = Reading(types, table, batch_rows=300).compare()
    assert evidence["i"]["sum"] == str(9223372036854775807 * 1000 - 499500)
    assert evidence["o"]["sum"] == str(4294967295 * 1000)
    assert evidence["d"]["sum"] == f"-{10**73 - 1 + 499500}.000"
    assert evidence["s"]["sum"] == str(-32768 * 1000)


def test_repeated_and_distinct_texts_agree(types: TypesDatabase) -> None:
    table = types.table("few text, many text, turns text, b bytea")
    types.execute(
        f"INSERT INTO {table} SELECT 'v' || i % 7, md5(i::text), left(md5((i / 1000 * i)::text), i % 33),"
        " decode(md5((i % 3)::text), 'hex') FROM generate_series(1, 20000) AS i"
    )
    whole, sliced = Reading(types, table, batch_rows=20000), Reading(types, table, batch_rows=500)
    assert whole.compare() == sliced.compare()


def test_an_empty_table_agrees(types: TypesDatabase) -> None:
    table = types.table("i int8, v text, a int4[], b bool, n numeric(5,2)")
    reading = Reading(types, table)
    reading.proof.update(pa.RecordBatch.from_pylist([], schema=reading.arrived.schema))
    evidence = reading.compare()
    assert evidence["n"] == {"count": "0", "sum": "0.00", "hash": "0" * 16}
    assert evidence["b"] == {"count": "0", "sum": "0"}
    types.execute(f"INSERT INTO {table} DEFAULT VALUES")
    reading.fails("Chunk 7: the server has 1 rows, 0 were read")


def test_the_widest_table_fits_in_one_select(types: TypesDatabase) -> None:
    names = [f"c{index}" for index in range(1600)]
    table = types.table(", ".join(f"{name} int4" for name in names), [", ".join(["1"] * len(names))])
    (plan,) = plan_columns(types.columns(types.table("c int4")), "Fail")
    proof = ServerProof(
        [plan.model_copy(update={"name": name, "expression": f"{name}::int4"}) for name in names], "Fail"
    )
    proof.update(pa.record_batch([pa.array([1], pa.int32())] * len(names), names=names))
    (row,) = types.execute(f"SELECT {proof.select_list()} FROM {table}")
    proof.compare(row, chunk=0)
    assert len(proof.evidence()) == len(names)


# Differences -------------------------------------------------------------------------------------------------------


@every_case
def test_a_changed_value_is_detected_and_its_column_named(types: TypesDatabase, case: Case) -> None:
    # Zeros are one value to the server's hash.
    others = [value for value in case.values if "-0'::float" not in value]
    other = others[1] if len(others) > 1 else "NULL"
    rows = [f"{value}, ARRAY[{value}]::{case.type}[], {index}" for index, value in enumerate(case.values)]
    table = types.table(f"v {case.type}, a {case.type}[], k int4", rows)
    reading = Reading(types, table)
    reading.compare()

    types.execute(f"UPDATE {table} SET v = {other} WHERE k = 0")
    reading.fails("^Chunk 7, column 'v': the server")

    types.execute(f"UPDATE {table} SET v = {case.values[0]}, a = ARRAY[{other}]::{case.type}[] WHERE k = 0")
    reading.fails("^Chunk 7, column 'a': the server")

    types.execute(f"UPDATE {table} SET a = ARRAY[{case.values[0]}]::{case.type}[] WHERE k = 0")
    reading.compare()


@pytest.fixture
def orders(types: TypesDatabase) -> str:
    table = types.table("id int8, note text, at timestamptz, tags text[], paid bool")
    types.execute(
        f"INSERT INTO {table} SELECT i, 'note ' || i, now() - i * interval '1 s', ARRAY['a' || i, 'b'], i % 2 = 0"
        " FROM generate_series(1, 1000) AS i"
    )
    return table


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("DELETE FROM {0} WHERE id = 500", "Chunk 7: the server has 999 rows, 1000 were read"),
        ("INSERT INTO {0} SELECT * FROM {0} WHERE id = 500", "Chunk 7: the server has 1001 rows, 1000 were read"),
        ("UPDATE {0} SET note = NULL WHERE id = 5", "column 'note': the server has 999 values that aren't NULL, 1000"),
        ("UPDATE {0} SET id = id + 1 WHERE id = 5", "column 'id': the server's values have another sum"),
        ("UPDATE {0} SET id = CASE id WHEN 5 THEN 4 ELSE 7 END WHERE id IN (5, 6)", "column 'id': .* other hashes"),
        ("UPDATE {0} SET note = upper(note) WHERE id = 5", "column 'note': the server's values have other hashes"),
        ("UPDATE {0} SET note = note || ' ' WHERE id = 5", "column 'note': .* other hashes"),
        ("UPDATE {0} SET at = at + interval '1 us' WHERE id = 5", "column 'at': .* other hashes"),
        ("UPDATE {0} SET tags = tags || 'c'::text WHERE id = 5", "column 'tags': .* other hashes"),
        ("UPDATE {0} SET tags = tags || NULL::text WHERE id = 5", "column 'tags': .* other hashes"),
        ("UPDATE {0} SET tags = ARRAY[tags[2], tags[1]] WHERE id = 5", "column 'tags': .* other hashes"),
        ("UPDATE {0} SET tags = '{{}}' WHERE id = 5", "column 'tags': .* other hashes"),
        ("UPDATE {0} SET paid = NOT paid WHERE id = 5", "column 'paid': the server's values have another sum"),
    ],
)
def test_what_was_lost_doubled_or_changed_is_named(
    types: TypesDatabase, orders: str, change: str, message: str
) -> None:
    reading = Reading(types, orders, batch_rows=128)
    reading.compare()
    types.execute(change.format(orders))
    reading.fails(message)


def test_a_row_lost_and_another_doubled_are_detected(types: TypesDatabase, orders: str) -> None:
    reading = Reading(types, orders)
    types.execute(f"INSERT INTO {orders} SELECT * FROM {orders} WHERE id = 1")
    types.execute(f"DELETE FROM {orders} WHERE id = 2")
    reading.fails("Chunk 7, column 'id'")


def test_the_message_holds_no_value_of_a_row(types: TypesDatabase) -> None:
    table = types.table("id int8", ["123456789"])
    reading = Reading(types, table)
    types.execute(f"UPDATE {table} SET id = 987654321")
    with pytest.raises(VerificationFailed) as caught:
        reading.compare()
    assert "123456789" not in str(caught.value)
    assert "987654321" not in str(caught.value)


def test_there_is_no_evidence_without_a_comparison(types: TypesDatabase, orders: str) -> None:
    reading = Reading(types, orders)
    with pytest.raises(ValueError, match="compared"):
        reading.proof.evidence()
    types.execute(f"DELETE FROM {orders} WHERE id = 500")
    reading.fails("rows")
    with pytest.raises(ValueError, match="compared"):
        reading.proof.evidence()
