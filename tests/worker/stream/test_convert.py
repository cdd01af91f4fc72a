"""Batches that can't be converted exactly are an error or a counted NULL; others keep their buffers."""

import struct
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
import pytest

from extraction_worker.demo.postgres import PostgresServer
from extraction_worker.errors import SchemaDrift, Unrepresentable
from extraction_worker.model import ColumnPlan, Replaced
from extraction_worker.source.types import OnUnrepresentable, plan_columns, select_list, transport_schema
from extraction_worker.stream.convert import BatchConverter
from support.pg_types import TypesDatabase, types_database

LATE = "a time after 294247-01-10"
SHAPE = "an array of several dimensions or with a lower bound other than 1"

# Type → literal → what is said about it.
UNREPRESENTABLE: Mapping[str, Mapping[str, str]] = {
    "date": {"infinity": "infinity", "-infinity": "-infinity"},
    "timestamp": {
        "infinity": "infinity", "-infinity": "-infinity",
        "294247-01-10 04:00:54.775808": LATE, "294276-12-31 23:59:59.999999": LATE,
    },
    "timestamptz": {
        "infinity": "infinity", "-infinity": "-infinity",
        "294247-01-10 04:00:54.775808+00": LATE, "294276-12-31 23:59:59.999999+00": LATE,
    },
    "time": {"24:00:00": "the time 24:00:00"},
    "numeric(12,2)": {"NaN": "NaN"},
    "numeric(76,76)": {"NaN": "NaN"},
}  # fmt: skip
FINE = {
    "date": "2026-01-01", "timestamp": "2026-01-01", "timestamptz": "2026-01-01", "time": "23:59:59.999999",
    "numeric(12,2)": "1.50", "numeric(76,76)": "0",
}  # fmt: skip
VALUES = [(kind, literal, said) for kind, literals in UNREPRESENTABLE.items() for literal, said in literals.items()]
BAD_ARRAYS = ["{{1,2},{3,4}}", "{{1}}", "[0:1]={1,2}", "[2:2]={1}", "[-5:-4][1:1]={{1},{2}}"]


@pytest.fixture(scope="module")
def types(server: PostgresServer) -> Iterator[TypesDatabase]:
    with types_database(server) as value:
        yield value


@pytest.mark.parametrize(("kind", "literal", "said"), VALUES)
@pytest.mark.parametrize("form", ["{0}", "ARRAY[NULL, {0}]"], ids=["value", "element"])
def test_fail_names_column_and_kind(types: TypesDatabase, kind: str, literal: str, said: str, form: str) -> None:
    suffix = "" if form == "{0}" else "[]"
    bad, fine = (form.format(f"'{value}'::{kind}") for value in (literal, FINE[kind]))
    table = types.table(f'"the column" {kind}{suffix} NOT NULL', [fine, bad])
    with pytest.raises(Unrepresentable) as caught:
        types.extract_table(table)
    assert f"Column 'the column' holds {said}, which" in caught.value.message
    assert "onUnrepresentable" in caught.value.hint
    assert literal not in str(caught.value) or literal == said or literal in said


@pytest.mark.parametrize(("kind", "literal", "said"), VALUES)
def test_null_takes_the_place_of_exactly_such_values(types: TypesDatabase, kind: str, literal: str, said: str) -> None:
    bad, fine = (f"'{value}'::{kind}" for value in (literal, FINE[kind]))
    rows = [
        f"{fine}, ARRAY[{fine}, NULL]",
        f"{bad}, ARRAY[{bad}, {fine}]",
        "NULL, NULL",
        f"{bad}, ARRAY[[{bad}],[{fine}]]",  # gone as a whole: its elements aren't counted
        f"{fine}, '{{}}'",
    ]
    table = types.table(f"v {kind}, a {kind}[]", rows)
    reference, _ = types.extract_table(types.table(f"v {kind}", [fine]))
    value = reference.column("v")[0].as_py()

    arrived, converter = types.extract_table(table, "Null")

    assert arrived.column("v").to_pylist() == [value, None, None, None, value]
    assert arrived.column("a").to_pylist() == [[value, None], [None, value], None, None, []]
    assert converter.replaced == tuple(
        sorted(
            [
                Replaced(column="a", kind=said, count=1),
                Replaced(column="a", kind=SHAPE, count=1),
                Replaced(column="v", kind=said, count=2),
            ],
            key=lambda replacement: (replacement.column, replacement.kind),
        )
    )


@pytest.mark.parametrize(("kind", "literal", "said"), VALUES)
def test_string_gives_the_text(types: TypesDatabase, kind: str, literal: str, said: str) -> None:
    table = types.table(f"v {kind} NOT NULL, a {kind}[] NOT NULL", [f"'{literal}', ARRAY['{literal}'::{kind}]"])
    arrived, converter = types.extract_table(table, "String")
    assert types.execute(f"SELECT v::text, a::text FROM {table}") == [tuple(arrived.to_pylist()[0].values())]
    assert [field.type for field in arrived.schema] == [pa.string(), pa.string()]
    assert arrived.column("v")[0].as_py() == literal
    assert converter.replaced == ()


@pytest.mark.parametrize("element", ["int4", "text", "inet", "uuid", "json", "numeric(5,0)"])
@pytest.mark.parametrize("literal", BAD_ARRAYS)
def test_arrays_are_never_flattened(types: TypesDatabase, element: str, literal: str) -> None:
    example = {"inet": "10.0.0.{}/32", "uuid": "5b0a3f1e-8d3c-4f2a-9c11-01234567890{}"}.get(element, "{}")
    head, equals, body = literal.rpartition("=")
    for digit in "1234":
        body = body.replace(digit, f"<{digit}>")
    for digit in "1234":
        body = body.replace(f"<{digit}>", example.format(digit))
    bad = f"'{head}{equals}{body}'"
    fine = f"ARRAY['{example.format(1)}']::{element}[]"
    domain = types.name("d")
    types.execute(f"CREATE DOMAIN {domain} AS {element}[]")
    table = types.table(
        f"a {element}[], d {domain}", [f"{fine}, {fine}", f"NULL, {bad}", f"{bad}, {fine}", "'{}', NULL"]
    )

    with pytest.raises(Unrepresentable, match=f"Column 'a' holds {SHAPE}"):
        types.extract_table(table)
    arrived, converter = types.extract_table(table, "Null")
    text, _ = types.extract_table(table, "String")

    one = arrived.column("a").to_pylist()[0]
    assert arrived.column("a").to_pylist() == [one, None, None, []]
    assert arrived.column("d").to_pylist() == [one, None, one, None]
    assert len(one) == 1
    assert converter.replaced == (Replaced(column="a", kind=SHAPE, count=1), Replaced(column="d", kind=SHAPE, count=1))
    assert [tuple(row.values()) for row in text.to_pylist()] == types.execute(f"SELECT a::text, d::text FROM {table}")


def test_batches_of_single_rows_are_counted_together(types: TypesDatabase) -> None:
    rows = ["'infinity', ARRAY[[1]]", "'2026-01-01', ARRAY[1]"] * 20
    table = types.table("v date, a int4[]", rows)
    arrived, converter = types.extract_table(table, "Null", batch_bytes=1)
    assert arrived.column("v").num_chunks > 1
    assert converter.replaced == (
        Replaced(column="a", kind=SHAPE, count=20),
        Replaced(column="v", kind="infinity", count=20),
    )
    assert arrived.column("a").to_pylist() == [None, [1]] * 20


@pytest.mark.parametrize("choice", ["Fail", "Null", "String"])
@pytest.mark.parametrize("suffix", ["", "[]"])
def test_text_that_is_not_utf8_is_refused(types: TypesDatabase, choice: OnUnrepresentable, suffix: str) -> None:
    # As servers before 15 send a "char" above 127.
    columns = plan_columns(types.columns(types.table(f'c pg_catalog."char"{suffix}')), choice)
    schema = transport_schema(columns)
    offsets = pa.py_buffer(struct.pack("<2i", 0, 1))
    array = pa.Array.from_buffers(pa.string(), 1, [None, offsets, pa.py_buffer(b"\xc3")])
    if pa.types.is_list(schema.field(0).type):
        array = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), array)
    batch = pa.RecordBatch.from_arrays([array, pa.array([False])][: len(schema)], schema=schema)
    with pytest.raises(Unrepresentable, match="Column 'c' holds a \"char\" above 127"):
        BatchConverter(columns, choice).convert(batch)


# Drift -----------------------------------------------------------------------------------------------------------


def planned(types: TypesDatabase, columns: str, rows: Sequence[str] = ()) -> tuple[str, tuple[ColumnPlan, ...]]:
    table = types.table(columns, rows)
    return table, plan_columns(types.columns(table), "Fail")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("numeric(12,2)", "numeric(12,3)"), ("numeric(12,2)", "numeric(13,2)"), ("numeric(12,2)", "numeric"),
        ("numeric(38,0)", "numeric(39,0)"), ("numeric(38,38)", "numeric(39,39)"), ("numeric(76,0)", "numeric(80,0)"),
        ("numeric(76,0)", "numeric(77,0)"),
    ],
)  # fmt: skip
def test_numbers_beyond_the_planned_precision_are_drift(types: TypesDatabase, before: str, after: str) -> None:
    table, columns = planned(types, f"v {before}, a {before}[]", ["1, ARRAY[1]"] if "38,38" not in before else [])
    types.execute(f"ALTER TABLE {table} ALTER v TYPE {after}, ALTER a TYPE {after}[]")
    types.extract(table, columns)
    digits = {"numeric(12,3)": "0.001", "numeric(13,2)": "9" * 11, "numeric": "1e11", "numeric(39,39)": "0." + "9" * 39}
    number = digits.get(after, "9" * int(after[8:10]) if "," in after else "")
    types.execute(f"INSERT INTO {table} VALUES (NULL, ARRAY[{number}::numeric, 'NaN'])")
    message = f"Column 'a' holds a number that its type {before.replace('numeric', 'numeric')}"
    with pytest.raises(SchemaDrift) as caught:
        types.extract(table, columns)
    assert caught.value.message.startswith(message.split("(", maxsplit=1)[0])
    assert number not in str(caught.value)
    assert caught.value.__suppress_context__
    types.execute(f"UPDATE {table} SET v = {number}, a = NULL")
    with pytest.raises(SchemaDrift, match="Column 'v' holds a number"):
        types.extract(table, columns)


def test_text_longer_than_planned_arrives_whole(types: TypesDatabase) -> None:
    table, columns = planned(types, "v varchar(2), c char(2)")
    types.execute(f"ALTER TABLE {table} ALTER v TYPE varchar(9), ALTER c TYPE char(5)")
    types.execute(f"INSERT INTO {table} VALUES ('abcdef', 'abc')")
    arrived, _ = types.extract(table, columns)
    assert arrived.to_pylist() == [{"v": "abcdef", "c": "abc  "}]


def test_null_in_a_column_that_was_not_null_is_drift(types: TypesDatabase) -> None:
    table, columns = planned(types, "v int4 NOT NULL")
    types.execute(f"ALTER TABLE {table} ALTER v DROP NOT NULL")
    types.execute(f"INSERT INTO {table} VALUES (NULL)")
    with pytest.raises(SchemaDrift, match="Column 'v' was NOT NULL"):
        types.extract(table, columns)


def test_another_type_name_or_number_of_columns_is_drift(types: TypesDatabase) -> None:
    table, columns = planned(types, "v int4, a int4[]", ["1, ARRAY[1]"])
    for select, said in {
        'v::int8 AS v, a, false AS "guard 1"': "Column 'v' should arrive as int32, but 'v' arrived as int64",
        'v AS w, a, false AS "guard 1"': "Column 'v' should arrive as int32, but 'w' arrived",
        'v, a::int8[] AS a, false AS "guard 1"': "Column 'a' should arrive as list<item: int32>",
        "v, a": "3 columns should arrive, but 2 did",
        'v, a, false AS "guard 1", 1 AS x': "3 columns should arrive, but 4 did",
    }.items():
        (batch,) = types.batches(f"SELECT {select} FROM {table}")
        with pytest.raises(SchemaDrift) as caught:
            BatchConverter(columns, "Fail").convert(batch)
        assert said in caught.value.message


# Cost ------------------------------------------------------------------------------------------------------------


def test_columns_that_need_no_conversion_keep_their_buffers(types: TypesDatabase) -> None:
    table, columns = planned(
        types, "i int8, t text, b bytea, u uuid, d date, ts timestamptz, h time, j jsonb, a int4[], da date[]",
        ["1, 't', 'b', gen_random_uuid(), 'today', now(), '12:00', '{}', ARRAY[1], ARRAY['today'::date]"] * 3,
    )  # fmt: skip
    (batch,) = types.batches(f"SELECT {select_list(columns)} FROM {table}")
    converted = BatchConverter(columns, "Fail").convert(batch)
    for before, after in zip(batch.columns[: len(columns)], converted.columns, strict=True):
        assert addresses(after) == addresses(before)


def addresses(array: pa.Array) -> list[int | None]:
    array = array.storage if isinstance(array, pa.ExtensionArray) else array
    return [buffer and buffer.address for buffer in array.buffers()]


def test_slices_convert_like_the_whole(types: TypesDatabase) -> None:
    rows = ["'1', ARRAY[1.5, NULL]", "NULL, NULL", "'2', '{}'", "'[3]', ARRAY[2.5]", "'4', ARRAY[3.5, 4.5]"]
    table, columns = planned(types, "j json, a numeric(5,2)[]", rows)
    (batch,) = types.batches(f"SELECT {select_list(columns)} FROM {table}")
    whole = BatchConverter(columns, "Fail").convert(batch).to_pylist()
    for start in range(len(rows) + 1):
        for stop in range(start, len(rows) + 1):
            part = BatchConverter(columns, "Fail").convert(batch.slice(start, stop - start))
            part.validate(full=True)
            assert part.to_pylist() == whole[start:stop]


def test_an_empty_batch_has_the_target_schema(types: TypesDatabase) -> None:
    _, columns = planned(types, "i int4 NOT NULL, n numeric(5,2), t time, d date, a numeric(5,2)[]")
    converter = BatchConverter(columns, "Fail")
    empty = pa.RecordBatch.from_pylist([], schema=transport_schema(columns))
    assert converter.convert(empty).schema.equals(converter.schema, check_metadata=True)
