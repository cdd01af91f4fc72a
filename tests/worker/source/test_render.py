"""SQL text of chunks: exact, and read by a real server as it was meant."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extraction_worker.model import Chunk, CtidRead, RangeRead, WholeRead
from extraction_worker.source.render import aggregate_sql, literal, select_sql
from support.planning import planning
from support.plans import make_plan


def chunk(read) -> Chunk:
    return Chunk(index=0, read=read, estimated_rows=0, estimated_bytes=0)


@pytest.mark.parametrize(
    ("read", "where"),
    [
        (WholeRead(), ""),
        (CtidRead(), ""),
        (CtidRead(end_page=8), " WHERE (ctid < '(8,0)'::pg_catalog.tid)"),
        (
            CtidRead(first_page=8, end_page=16),
            " WHERE (ctid >= '(8,0)'::pg_catalog.tid AND ctid < '(16,0)'::pg_catalog.tid)",
        ),
        (RangeRead(column="id", type="pg_catalog.int8", upper="-5"), " WHERE (\"id\" < '-5'::pg_catalog.int8)"),
        (
            RangeRead(column="id", type="pg_catalog.int8", lower="1", upper="9"),
            " WHERE (\"id\" >= '1'::pg_catalog.int8 AND \"id\" < '9'::pg_catalog.int8)",
        ),
        (RangeRead(column='a"b', only_null=True), ' WHERE ("a""b" IS NULL)'),
        (RangeRead(column="id", lower="it's"), " WHERE (\"id\" >= 'it''s')"),
        (
            RangeRead(column="id", lower="1", pages=CtidRead(first_page=2)),
            " WHERE (\"id\" >= '1' AND ctid >= '(2,0)'::pg_catalog.tid)",
        ),
        (
            RangeRead(column="id", pages=CtidRead(end_page=2)),
            " WHERE (\"id\" IS NOT NULL AND ctid < '(2,0)'::pg_catalog.tid)",
        ),
    ],
)
def test_a_chunk_is_one_select_with_its_predicate(read, where):
    assert select_sql(make_plan(), chunk(read)) == f'SELECT "id" AS "id", "name" AS "name" FROM "public"."t"{where}'
    assert aggregate_sql(make_plan(), chunk(read), "count(*)") == f'SELECT count(*) FROM "public"."t"{where}'


def test_the_users_predicate_cannot_swallow_that_of_the_chunk():
    plan = make_plan(where_sql="id > 5 OR name = 'x' -- and more")
    assert aggregate_sql(plan, chunk(CtidRead(end_page=8)), "1") == (
        "SELECT 1 FROM \"public\".\"t\" WHERE (id > 5 OR name = 'x' -- and more\n) AND (ctid < '(8,0)'::pg_catalog.tid)"
    )
    assert aggregate_sql(plan, chunk(WholeRead()), "1").endswith("(id > 5 OR name = 'x' -- and more\n)")


@given(value=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30))
@settings(
    max_examples=60, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
def test_any_text_is_read_by_the_server_as_it_was_written(database18, value):
    for setting in ("on", "off"):
        database18.execute(f"SET standard_conforming_strings = {setting}; SET escape_string_warning = off")
        [(found,)] = database18.connection.execute(f"SELECT {literal(value, 'pg_catalog.text')}".encode()).fetchall()
        assert found == value


@pytest.mark.parametrize("value", ["\\", "\\'", "E'\\''", "'; DROP TABLE t; --", "%s %% {}", "é\u0301", "\n\t", "$$"])
def test_texts_that_look_like_sql_are_values(database18, value):
    [(found,)] = database18.connection.execute(f"SELECT {literal(value, 'pg_catalog.text')}".encode()).fetchall()
    assert found == value


def test_page_ranges_are_tid_range_scans_and_key_ranges_use_the_index(database):
    database.execute("CREATE TABLE t (id int8 PRIMARY KEY, name varchar(40))")
    database.execute("INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 20000) AS i")
    database.execute("CREATE INDEX ON t (name)")
    database.execute("ANALYZE t")
    kinds = {
        "Tid Range Scan": CtidRead(first_page=3, end_page=9),
        "t_pkey": RangeRead(column="id", type="pg_catalog.int8", lower="100", upper="200"),
        "t_name_idx": RangeRead(column="name", type="pg_catalog.varchar", lower="aa", upper="ab"),
    }
    with planning(database) as connection:
        for kind, read in kinds.items():
            explained = connection.execute(f"EXPLAIN {select_sql(make_plan(), chunk(read))}".encode()).fetchall()
            assert kind in str(explained)
