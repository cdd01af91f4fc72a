"""What planning learns of rows and keys, and that it reads no table for it."""

from unittest.mock import Mock

import pytest

from extraction_worker.errors import InvalidQuery, NotFound, Transient
from extraction_worker.model import Leaf, RelationKind
from extraction_worker.source import sample
from extraction_worker.source.catalog import describe_query, list_columns, resolve_relation
from extraction_worker.source.chunks import KeyFacts, SplitOptions
from extraction_worker.source.estimate import estimate_query, estimate_relation
from extraction_worker.source.keys import key_facts, query_key
from extraction_worker.source.sample import SAMPLE_PAGES, read_sample, steps
from extraction_worker.source.split import split_relation
from support.planning import planning


def sampled(database, name, column, buckets=10, where=None):
    with planning(database) as connection:
        relation = resolve_relation(connection, name)
        return read_sample(connection, relation, key_facts(connection, relation, column), buckets, where)


def estimated(database, name, columns=None, where=None):
    with planning(database) as connection:
        relation = resolve_relation(connection, name)
        return estimate_relation(connection, relation, list_columns(connection, relation, columns), where)


@pytest.fixture
def large(database):
    """A table of some thousand pages, with an index on its key, never analysed."""
    database.execute("CREATE TABLE t (id int8 PRIMARY KEY, kind int, pad text) WITH (fillfactor = 10)")
    database.execute("INSERT INTO t SELECT i, i % 3, repeat('x', 300) FROM generate_series(1, 6000) AS i")
    return database


class TestSamples:
    def test_are_in_the_order_of_the_server_with_even_shares(self, large):
        found = sampled(large, "public.t", "id")
        assert found.origin == "sample"
        values = [int(bound.value) for bound in found.bounds]
        assert values == sorted(set(values))
        assert [round(bound.before, 1) for bound in found.bounds] == [round(i / 10, 1) for i in range(1, 10)]
        assert all(abs(value - 6000 * bound.before) < 900 for value, bound in zip(values, found.bounds, strict=True))

    def test_are_the_same_each_time(self, large):
        assert sampled(large, "public.t", "id") == sampled(large, "public.t", "id")

    def test_make_steps_between_values_where_pages_are_fewer_than_ranges(self, large, monkeypatch):
        monkeypatch.setattr(sample, "SAMPLE_PAGES", 16)
        found = sampled(large, "public.t", "id", buckets=200)
        values = [int(bound.value) for bound in found.bounds]
        assert 100 < len(values) < 300
        assert values == sorted(set(values))

    def test_tell_hot_values_and_nulls(self, database):
        database.execute("CREATE TABLE t AS SELECT CASE WHEN i % 2 = 0 THEN 5 WHEN i % 10 > 1 THEN i END AS k "
                         "FROM generate_series(1, 5000) AS i")  # fmt: skip
        found = sampled(database, "public.t", "k")
        assert found.null_fraction == pytest.approx(0.1, abs=0.05)
        shares = {bound.value: bound.before for bound in found.bounds}
        # 5 is also the fifth of all values: a bound in front of it, and one right behind it.
        following = found.bounds[[bound.value for bound in found.bounds].index("5") + 1]
        assert following.before - shares["5"] == pytest.approx(5 / 9, abs=0.05)

    def test_heed_the_predicate(self, large):
        assert all(int(bound.value) > 5000 for bound in sampled(large, "public.t", "id", where="id > 5000 --").bounds)

    def test_leave_out_values_too_long_for_a_plan(self, database):
        database.execute(
            "CREATE TABLE t AS SELECT repeat(chr(97 + i % 26), 2000) || i AS k FROM generate_series(1, 300) AS i"
        )
        database.execute("INSERT INTO t SELECT 'short' || i FROM generate_series(1, 3) AS i")
        found = sampled(database, "public.t", "k", buckets=1000)
        assert {bound.value[:5] for bound in found.bounds} == {"short"}

    def test_of_one_value_have_no_bounds_and_of_no_row_there_is_none(self, database):
        database.execute("CREATE TABLE one AS SELECT 7 AS k FROM generate_series(1, 100)")
        database.execute("CREATE TABLE nulls AS SELECT NULL::int AS k FROM generate_series(1, 100)")
        database.execute("CREATE TABLE gone AS SELECT 7 AS k FROM generate_series(1, 100)")
        database.execute("DELETE FROM gone")
        assert (sampled(database, "public.one", "k").bounds, sampled(database, "public.one", "k").null_fraction) == (
            (),
            0,
        )
        assert sampled(database, "public.nulls", "k").null_fraction == 1
        assert sampled(database, "public.gone", "k") is None

    def test_under_a_predicate_that_the_server_refuses_are_errors(self, large):
        with pytest.raises(NotFound, match="Sampling the key id"):
            sampled(large, "public.t", "id", where="no_such_column")

    def test_of_rows_that_the_predicate_fails_on_quote_no_value(self, database):
        database.execute("CREATE TABLE t AS SELECT 'private' || i AS k FROM generate_series(1, 10) AS i")
        with pytest.raises(InvalidQuery) as caught:
            sampled(database, "public.t", "k", where="k::int > 5")
        assert "22P02" in str(caught.value)
        assert "private" not in str(caught.value)

    def test_that_come_back_empty_give_way_to_statistics_and_these_to_the_ends_of_an_index(self, large):
        never = "id < 0"
        found = sampled(large, "public.t", "id", where=never)
        assert found.origin == "interpolation"
        assert [int(bound.value) for bound in found.bounds] == [1 + 5999 * i // 10 for i in range(1, 10)]
        large.execute("ANALYZE t")
        found = sampled(large, "public.t", "id", where=never)
        assert found.origin == "statistics"
        assert [round(int(bound.value), -3) for bound in found.bounds] == [
            1000 * i for i in (1, 1, 2, 2, 3, 4, 4, 5, 5)
        ]
        large.execute("UPDATE t SET kind = NULL WHERE id % 4 = 0")
        large.execute("ANALYZE t")
        found = sampled(large, "public.t", "kind", where="kind < 0")
        assert (found.origin, [bound.value for bound in found.bounds]) == ("statistics", ["1", "2"])
        assert found.null_fraction == pytest.approx(0.25, abs=0.02)
        assert found.bounds[1].before == pytest.approx(2 / 3, abs=0.05)

    @pytest.mark.parametrize(
        ("kind", "low", "high"),
        [("int2", "1", "900"), ("numeric", "0.5", "99.5"), ("date", "2020-01-01", "2020-12-31"),
         ("uuid", "0" * 32, "f" * 32), ("timestamp", "2020-01-01", "2020-01-02 03:04:05.678"),
         ("timestamptz", "0001-01-01", "2020-01-02 03:04:05")],
    )  # fmt: skip
    def test_of_a_view_are_steps_between_the_ends_of_an_index(self, database, kind, low, high):
        database.execute(f"CREATE TABLE t (k {kind}); CREATE INDEX ON t (k); CREATE VIEW v AS SELECT k FROM t")
        database.execute("INSERT INTO t SELECT u::" + kind + " FROM unnest(%s::text[]) AS u", [low, high, None])
        if kind in {"date", "timestamp", "timestamptz"}:
            database.execute("INSERT INTO t VALUES ('infinity'), ('-infinity')")
        found = sampled(database, "public.v", "k", buckets=4)
        assert found.origin == "interpolation"
        assert [bound.before for bound in found.bounds] == [0.25, 0.5, 0.75]
        placed = database.execute(
            f"SELECT bool_and(v::{kind} > %s::{kind} AND v::{kind} < %s::{kind}), array_agg(v ORDER BY v::{kind}) "
            "FROM unnest(%s::text[]) AS v", low, high, [bound.value for bound in found.bounds],
        )  # fmt: skip
        assert placed == [(True, [bound.value for bound in found.bounds])]

    @pytest.mark.parametrize(
        ("setup", "column"),
        [
            ("SELECT i AS k FROM generate_series(1, 100000) AS i", "k"),  # no index: the ends would cost a scan
            ("SELECT i::text AS k FROM generate_series(1, 100) AS i", "k"),  # no steps between texts
            ("SELECT NULL::int AS k", "k"),
            ("SELECT 'infinity'::date AS k", "k"),
            ("SELECT 'NaN'::numeric AS k", "k"),
        ],
    )
    def test_of_a_view_that_would_cost_a_scan_or_has_no_steps_are_not_taken(self, database, setup, column):
        database.execute(f"CREATE TABLE t AS {setup}")
        database.execute("CREATE VIEW v AS SELECT k FROM t")
        assert sampled(database, "public.v", column) is None

    def test_of_a_query_give_up_when_the_ends_take_longer_than_they_should(self, database, monkeypatch):
        monkeypatch.setattr(sample, "_BOUNDS_TIMEOUT", "20ms")
        query = "(SELECT 1 AS k FROM pg_catalog.pg_sleep(30)) AS q"
        with planning(database) as connection:
            key = query_key(describe_query(connection, query), "k")
            assert read_sample(connection, query, key, 10) is None
            # The transaction goes on, with the time-out that it had.
            assert connection.execute("SHOW statement_timeout").fetchone() != ("20ms",)

    def test_of_a_query_that_may_not_run_are_errors(self, database):
        database.execute("CREATE TABLE t AS SELECT 1 AS k")
        database.execute(
            "CREATE FUNCTION write() RETURNS int LANGUAGE sql VOLATILE AS 'INSERT INTO public.t VALUES (2) RETURNING k'"
        )
        query = "(SELECT public.write() AS k) AS q"
        with planning(database) as connection:
            key = query_key(describe_query(connection, query), "k")
            with pytest.raises(Transient, match="read-only transaction"):
                read_sample(connection, query, key, 10)

    def test_of_a_query_that_fails_on_a_row_quote_no_value(self, database):
        database.execute("CREATE TABLE t AS SELECT 'private' AS k")
        query = "(SELECT k::int AS k FROM public.t) AS q"
        with planning(database) as connection, pytest.raises(InvalidQuery) as caught:
            read_sample(connection, query, query_key(describe_query(connection, query), "k"), 10)
        assert "private" not in str(caught.value)


class TestSteps:
    @pytest.mark.parametrize(
        ("kind", "low", "high", "parts", "expected"),
        [
            ("int8", "-9223372036854775808", "9223372036854775807", 2, ("-1",)),
            ("int4", "5", "7", 100, ("6",)),
            ("int4", "5", "6", 3, ()),
            ("numeric", "-1", "1", 2, ("0e-12",)),
            ("numeric", "NaN", "1", 2, ()),
            ("date", "2020-01-01", "infinity", 2, ()),
            ("date", "0044-03-15 BC", "2020-01-01", 2, ()),
            ("timestamptz", "2020-01-01 00:00:00+00", "2020-01-01 00:00:01+00", 2, ("2020-01-01 00:00:00.500000+00",)),
        ],
    )  # fmt: skip
    def test_lie_strictly_between(self, kind, low, high, parts, expected):
        assert steps(f"pg_catalog.{kind}", low, high, parts) == expected


class TestEstimates:
    def test_follow_the_size_of_now_whatever_the_last_analyze_saw(self, database):
        database.execute("CREATE TABLE t (id int8, name text)")
        assert estimated(database, "public.t").rows == 0
        database.execute("INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 20000) AS i")
        never = estimated(database, "public.t")
        assert never.rows == pytest.approx(20000, rel=0.2)
        database.execute("ANALYZE t")
        assert estimated(database, "public.t").rows == 20000
        database.execute("INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 20000) AS i")
        assert estimated(database, "public.t").rows == pytest.approx(40000, rel=0.02)

    def test_count_the_bytes_of_the_chosen_columns_and_of_what_lies_out_of_line(self, database):
        database.execute("CREATE TABLE t (id int8, small text, big text); ALTER TABLE t ALTER big SET STORAGE EXTERNAL")
        database.execute(
            "INSERT INTO t SELECT i, repeat('x', 96), repeat('y', 20000) FROM generate_series(1, 1000) AS i"
        )
        database.execute("ANALYZE t")
        assert estimated(database, "public.t", ("id",)).bytes == 14_000
        assert not estimated(database, "public.t", ("id",)).reads_toast
        assert estimated(database, "public.t").bytes == pytest.approx(20_120_000, rel=0.1)
        assert estimated(database, "public.t", None, "id <= 100").bytes == pytest.approx(2_012_000, rel=0.2)

    def test_of_predicates_views_and_queries_are_those_of_the_planner(self, database):
        database.execute(
            "CREATE TABLE t AS SELECT i AS id, i %% 100 AS kind FROM generate_series(1, 10000) AS i".replace("%%", "%")
        )
        database.execute("CREATE VIEW v AS SELECT * FROM t WHERE kind = 7; ANALYZE t")
        assert estimated(database, "public.t", None, "kind = 7 -- seven").rows == pytest.approx(100, rel=0.2)
        assert estimated(database, "public.v").rows == pytest.approx(100, rel=0.2)
        with planning(database) as connection:
            columns = describe_query(connection, "(SELECT id FROM public.t) AS q")
            found = estimate_query(connection, "(SELECT id FROM public.t) AS q", columns)
        assert (found.rows, found.bytes) == (10000, 100_000)

    @pytest.mark.parametrize("where", ["id > 'private'", "no_such_column > 1", "id"])
    def test_of_predicates_that_the_server_refuses_are_invalid(self, database18, where):
        database18.execute("CREATE TABLE t (id int8)")
        with pytest.raises(Exception, match="where") as caught:
            estimated(database18, "public.t", None, where)
        assert type(caught.value).__name__ in {"InvalidQuery", "NotFound"}
        assert "private" not in str(caught.value)


class TestCost:
    def test_a_plan_reads_a_bounded_number_of_pages(self, large):
        options = SplitOptions(strategy="Range", column="id", target_bytes=1 << 20)
        for given in (options, SplitOptions(target_bytes=1 << 20)):
            with planning(large) as connection:
                relation = resolve_relation(connection, "public.t")
                assert relation.pages > 4 * SAMPLE_PAGES
                columns = list_columns(connection, relation)
                found = split_relation(connection, relation, columns, given, "id > 100")
                assert len(found.chunks) > 4
                [(pages,)] = connection.execute(
                    "SELECT pg_catalog.pg_stat_get_xact_blocks_fetched(%s)", [relation.oid]
                ).fetchall()
            assert pages <= (SAMPLE_PAGES * 1.3 if given.column else 0)

    def test_a_plan_asks_as_many_questions_of_a_hundred_leaves_as_of_one(self, database):
        counts = []
        for leaves in (1, 100):
            database.execute(f"CREATE TABLE p{leaves} (id int PRIMARY KEY) PARTITION BY RANGE (id)")
            for leaf in range(leaves):
                bound = f"FOR VALUES FROM ({leaf * 100}) TO ({leaf * 100 + 100})"
                database.execute(f"CREATE TABLE p{leaves}_{leaf} PARTITION OF p{leaves} {bound}")
            database.execute(f"INSERT INTO p{leaves} SELECT i FROM generate_series(0, {leaves * 100 - 1}) AS i")
            with planning(database) as connection:
                connection.execute = Mock(wraps=connection.execute)
                relation = resolve_relation(connection, f"public.p{leaves}")
                split_relation(connection, relation, list_columns(connection, relation), SplitOptions(strategy="Range"))
                counts.append(connection.execute.call_count)
        assert counts[0] == counts[1] < 15


def test_a_table_larger_than_any_test_is_sampled_by_a_share_of_its_pages():
    pages = 2**32 - 2
    leaf = Leaf(oid=1, name="public.t", relfilenode=1, pages=pages, heap=True)
    relation = sample.Relation(
        1, "public.t", RelationKind.TABLE, (leaf,) * 32, ("public.t",), (), (1,), (1,), True, True
    )
    statement = sample._sample_sql(relation, KeyFacts("k", "pg_catalog.int8", False), None).as_string(None)
    assert f"SYSTEM ({100 * SAMPLE_PAGES / (32 * pages)})" in statement
