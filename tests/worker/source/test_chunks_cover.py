"""Whatever a table holds and however it is split, the chunks cover every row exactly once."""

import dataclasses
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import Database
from extraction_worker.model import Plan
from extraction_worker.source import chunks, sample
from extraction_worker.source.catalog import describe_query, list_columns, resolve_relation
from extraction_worker.source.chunks import ChunkPlan, SplitOptions
from extraction_worker.source.render import aggregate_sql
from extraction_worker.source.split import split_query, split_relation
from support.planning import planning
from support.plans import make_plan

PAGE = chunks.BLOCK_BYTES


def as_plan(from_sql: str, split: ChunkPlan, where: str | None = None) -> Plan:
    return make_plan(
        from_sql=from_sql,
        where_sql=where,
        strategy=split.strategy,
        strategy_reason=split.reason,
        warnings=split.warnings,
        chunks=split.chunks,
    )


def split(database, name: str, options: SplitOptions, where: str | None = None) -> Plan:
    with planning(database) as connection:
        relation = resolve_relation(connection, name)
        columns = list_columns(connection, relation)
        return as_plan(relation.name, split_relation(connection, relation, columns, options, where), where)


def assert_exact(database, plan: Plan, row: str = "tableoid, ctid") -> None:
    """Every row of the source is in exactly one chunk; ``row`` is what identifies one."""
    pieces = " UNION ALL ".join(f"({aggregate_sql(plan, chunk, row)})" for chunk in plan.chunks)
    where = f" WHERE ({plan.where_sql}\n)" if plan.where_sql else ""
    whole = f"SELECT {row} FROM {plan.from_sql}{where}"
    with planning(database) as connection:
        lost, doubled = connection.execute(
            f"SELECT (SELECT count(*) FROM (({whole}) EXCEPT ALL ({pieces})) AS l), "
            f"(SELECT count(*) FROM (({pieces}) EXCEPT ALL ({whole})) AS d)".encode()
        ).fetchone()
    assert (lost, doubled) == (0, 0), f"{lost} rows lost, {doubled} rows read twice by {plan.strategy}"


@pytest.fixture
def small(monkeypatch) -> None:
    """Sizes at which a table of some hundred rows is split as a large one would be."""
    monkeypatch.setattr(chunks, "BYTES_PER_LEAF", 1)
    monkeypatch.setattr(chunks, "MAX_GROWTH", 1)
    monkeypatch.setattr(chunks, "HEAVY", 2)
    monkeypatch.setattr(sample, "SAMPLE_PAGES", 24)


bounded = settings(
    max_examples=10, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip

# Each key type, with values at its limits; equal values in different clothes (1.0 and 1.00) among them.
KEYS = {
    "int2": st.integers(-32768, 32767).map(str),
    "int8": st.one_of(st.integers(0, 300), st.integers(-(2**63), 2**63 - 1)).map(str),
    "numeric": st.one_of(
        st.sampled_from(["NaN", "Infinity", "-Infinity", "1.0", "1.00", "1", "0", "-0.000", "1e100", "1e-30"]),
        st.decimals(allow_nan=False, allow_infinity=False, places=15, min_value=-(10**20), max_value=10**20).map(str),
    ),
    "date": st.one_of(st.dates().map(str), st.sampled_from(["infinity", "-infinity", "0044-03-15 BC", "294276-12-31"])),
    "timestamptz": st.one_of(
        st.datetimes().map(str), st.sampled_from(["infinity", "-infinity", "0044-03-15 BC", "294276-12-31 23:59"])
    ),
    "uuid": st.uuids().map(str),
    'text COLLATE "C"': st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8),
    "varchar(9)": st.sampled_from(["a", "A", "b ", "b", "é", "\\", "'", "E'\\''", "", " ", "zz", "ß", "ss"]),
    "char(4)": st.sampled_from(["a", "A", "b ", "b", "\\", "'", "", "zz"]),
}
ICU_KEYS = {
    'text COLLATE "en-x-icu"': st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5),
    'text COLLATE "und-x-icu"': st.sampled_from(["a", "A", "b", "B", "é", "e\u0301", "e", "f", "Z", "z", "-a", "a-"]),
    # Digits in the order of their numbers, so that a10 comes after a9; then capitals first.
    "text COLLATE public.numbered": st.one_of(
        st.integers(0, 12000).map(lambda number: f"a{number}"),
        st.sampled_from(["a", "a01", "a1", "a1b", "b", "9", "10"]),
    ),
    "text COLLATE public.capitals": st.text(st.sampled_from("aAbBéÉß -"), max_size=4),
    "text COLLATE public.folded": st.sampled_from(
        ["a", "A", "á", "b", "B", "e", "é", "e\u0301", "E", "zz", "ZZ", "Zz"]
    ),
}


@st.composite
def tables(draw, keys=KEYS):
    """Key type and values in the order of the rows: uniform, skewed or sorted, some of them NULL."""
    kind = draw(st.sampled_from(sorted(keys)))
    distinct = draw(st.lists(st.one_of(keys[kind], keys[kind], keys[kind], st.none()), min_size=8, max_size=40))
    rows, skew = draw(st.integers(60, 240)), draw(st.sampled_from([1, 1, 2, 9]))
    # The golden ratio spreads evenly, and the same way each time.
    return kind, [distinct[int(len(distinct) * (row * 0.618034 % 1) ** skew)] for row in range(rows)]


@st.composite
def situations(draw):
    """What happened to the table before it is planned."""
    return draw(
        st.fixed_dictionaries(
            {"indexed": st.sampled_from([True, True, False]), "analyzed": st.booleans(),
             "deleted": st.sampled_from([0, 2, 3]), "updated": st.booleans(), "vacuumed": st.booleans()}
        )
    )  # fmt: skip


def fill(database, kind: str, values: list[str | None], table: str = "t") -> None:
    database.execute(
        f"INSERT INTO {table} SELECT v::{kind.split(' COLLATE', maxsplit=1)[0]}, repeat('x', 300) "
        "FROM unnest(%s::text[]) AS v",
        values,
    )


def make(database, kind: str, values: list[str | None], situation: dict[str, object]) -> None:
    database.execute("DROP TABLE IF EXISTS t")
    database.execute(f"CREATE TABLE t (k {kind}, pad text) WITH (fillfactor = 20)")
    fill(database, kind, values[: len(values) // 2])
    if situation["analyzed"]:
        database.execute("ANALYZE t")
    # So statistics are stale where there are any.
    fill(database, kind, values[len(values) // 2 :])
    if situation["deleted"]:
        database.execute(f"DELETE FROM t WHERE (ctid::text::point)[0]::int % {situation['deleted']} = 0")
    if situation["vacuumed"]:
        database.execute("VACUUM t")
    if situation["updated"]:
        database.execute("UPDATE t SET pad = 'y' WHERE (ctid::text::point)[1]::int = 2")
    if situation["indexed"]:
        database.execute("CREATE INDEX ON t (k)")


@pytest.mark.usefixtures("small")
class TestTables:
    @given(
        table=tables(),
        situation=situations(),
        strategy=st.sampled_from(["Auto", "Range", "Range", "Range"]),
        pages=st.integers(1, 9),
    )
    @bounded
    def test_every_row_is_in_exactly_one_chunk_before_and_after_the_table_grows(
        self, database, table, situation, strategy, pages
    ):
        kind, values = table
        make(database, kind, values, situation)
        plan = split(database, "public.t", SplitOptions(strategy=strategy, column="k", target_bytes=pages * PAGE))
        assert_exact(database, plan)
        fill(database, kind, [*values, None])
        assert_exact(database, plan)

    @given(table=tables(), situation=situations(), pages=st.integers(1, 5))
    @bounded
    def test_every_row_is_in_exactly_one_range_where_pages_cannot_be_split(
        self, database, monkeypatch, table, situation, pages
    ):
        monkeypatch.setattr(chunks, "TID_RANGE_VERSION", 999999)
        kind, values = table
        make(database, kind, values, situation)
        plan = split(database, "public.t", SplitOptions(strategy="Range", column="k", target_bytes=pages * PAGE))
        assert plan.strategy in {"range", "none"}
        assert_exact(database, plan)

    @given(table=tables(ICU_KEYS), situation=situations(), pages=st.integers(1, 5))
    @bounded
    def test_texts_that_a_collation_orders_its_own_way_or_holds_equal_are_in_exactly_one_range(
        self, postgres15, icu_database, table, situation, pages
    ):
        kind, values = table
        make(icu_database, kind, values, situation | {"indexed": True})
        plan = split(icu_database, "public.t", SplitOptions(strategy="Range", column="k", target_bytes=pages * PAGE))
        assert_exact(icu_database, plan)
        fill(icu_database, kind, [*values, None])
        assert_exact(icu_database, plan)

    @given(
        leaves=st.lists(st.sampled_from([0, 1, 3, 40, 150]), min_size=1, max_size=5), pages=st.integers(1, 60),
        inherited=st.booleans(), options=st.sampled_from([SplitOptions(), SplitOptions(strategy="Range", column="k")]),
    )  # fmt: skip
    @bounded
    def test_every_row_of_unequal_leaves_is_in_exactly_one_chunk(self, database, leaves, pages, inherited, options):
        database.execute("DROP TABLE IF EXISTS p CASCADE")
        database.execute(
            f"CREATE TABLE p (leaf int, k int, pad text) {'' if inherited else 'PARTITION BY LIST (leaf)'}"
        )
        database.execute("CREATE INDEX ON p (k)")
        for leaf, rows in enumerate(leaves):
            bound = "() INHERITS (p)" if inherited else f"PARTITION OF p FOR VALUES IN ({leaf})"
            database.execute(f"CREATE TABLE p{leaf} {bound} WITH (fillfactor = 20)")
            for table in [f"p{leaf}", *(["p"] if inherited else [])]:
                database.execute(
                    f"INSERT INTO {table} SELECT {leaf}, nullif(i % 50, 7), repeat('x', 300) "
                    f"FROM generate_series(1, {rows}) AS i"
                )
            if inherited:
                database.execute(f"CREATE INDEX ON p{leaf} (k)")
        assert_exact(database, split(database, "public.p", dataclasses.replace(options, target_bytes=pages * PAGE)))

    @given(
        pages=st.integers(1, 60),
        where=st.sampled_from(["k > 30 -- and so on", "p.k <> 7 OR false", "false", "k IS NULL"]),
    )
    @bounded
    def test_every_row_of_a_predicate_is_in_exactly_one_chunk(self, numbered, pages, where):
        for strategy in ("Auto", "Range"):
            options = SplitOptions(strategy=strategy, column="k", target_bytes=pages * PAGE)
            assert_exact(numbered, split(numbered, "public.p", options, where))

    @pytest.mark.parametrize("rows", [0, 1])
    @pytest.mark.parametrize("strategy", ["Auto", "Range", "Ctid", "None"])
    def test_an_empty_table_and_one_row_are_one_chunk(self, database, rows, strategy):
        database.execute(f"CREATE TABLE t AS SELECT i AS k FROM generate_series(1, {rows}) AS i")
        column = "k" if strategy == "Range" else None
        plan = split(database, "public.t", SplitOptions(strategy=strategy, column=column))
        assert len(plan.chunks) == 1
        assert_exact(database, plan)
        database.execute("INSERT INTO t SELECT i FROM generate_series(1, 5000) AS i")
        assert_exact(database, plan)

    @pytest.mark.parametrize("old_server", [False, True])
    def test_a_hot_value_and_many_nulls_are_split_by_pages_if_possible(self, database, monkeypatch, old_server):
        if old_server:
            monkeypatch.setattr(chunks, "TID_RANGE_VERSION", 999999)
        database.execute("CREATE TABLE t (k int, pad text) WITH (fillfactor = 20)")
        database.execute(
            "INSERT INTO t SELECT CASE WHEN i % 5 < 2 THEN 42 WHEN i % 5 > 2 THEN i END, repeat('x', 300) "
            "FROM generate_series(1, 1500) AS i"
        )
        database.execute("CREATE INDEX ON t (k)")
        plan = split(database, "public.t", SplitOptions(strategy="Range", column="k", target_bytes=10 * PAGE))
        assert_exact(database, plan)
        assert plan.strategy == "range"
        pieces = [chunk.read for chunk in plan.chunks if chunk.read.pages is not None]
        assert ({piece.only_null for piece in pieces} == {True, False}) is not old_server
        assert bool(plan.warnings) is old_server

    @pytest.mark.parametrize("column", ["k", "u", "d", "name"])
    def test_every_row_of_a_query_or_view_is_in_exactly_one_chunk(self, numbered, column):
        query = "(SELECT k, u, d, name, i FROM public.p WHERE i > 3 -- the last line\n) AS q"
        options = SplitOptions(strategy="Auto", column=column, target_bytes=PAGE)
        with planning(numbered) as connection:
            plan = as_plan(query, split_query(connection, query, describe_query(connection, query), options))
        assert_exact(numbered, plan, "i")
        view = split(numbered, "public.v", options)
        assert_exact(numbered, view, "i")
        assert view.strategy == ("none" if column == "name" else "range")

    def test_a_foreign_table_is_split_by_its_statistics_and_not_read(self, database):
        foreign_table(database)
        before = split(database, "public.f", SplitOptions(strategy="Range", column="k", target_bytes=PAGE))
        assert before.strategy == "none"
        database.execute("ANALYZE f")
        plan = split(database, "public.f", SplitOptions(strategy="Range", column="k", target_bytes=PAGE))
        assert plan.strategy == "range"
        assert len(plan.chunks) > 3
        assert_exact(database, plan, "k, name")


def foreign_table(database) -> None:
    server = database.server
    database.execute("CREATE EXTENSION postgres_fdw")
    database.execute("CREATE TABLE far (k int NOT NULL, name text)")
    database.execute("INSERT INTO far SELECT nullif(i, 0), md5(i::text) FROM generate_series(1, 2000) AS i")
    database.execute(
        "CREATE SERVER here FOREIGN DATA WRAPPER postgres_fdw OPTIONS "
        f"(host '{server.host}', port '{server.port}', dbname '{database.name}')"
    )
    database.execute(
        f"CREATE USER MAPPING FOR CURRENT_USER SERVER here OPTIONS (user '{server.user}', password '{server.password}')"
    )
    database.execute("CREATE FOREIGN TABLE f (k int NOT NULL, name text) SERVER here OPTIONS (table_name 'far')")


@pytest.fixture
def icu_database(postgres15) -> Iterator[Database]:
    """A database with collations that order in ways of their own; in one, case and accents make no difference."""
    value = Database(postgres15)
    value.execute("CREATE COLLATION public.folded (provider = icu, locale = 'und-u-ks-level1', deterministic = false)")
    value.execute("CREATE COLLATION public.numbered (provider = icu, locale = 'en-u-kn-true')")
    value.execute("CREATE COLLATION public.capitals (provider = icu, locale = 'und-u-kf-upper')")
    yield value
    value.drop()


@pytest.fixture
def numbered(database):
    """A table ``p`` of 600 rows with keys of several types, an index on each, and a view of it."""
    database.execute("CREATE TABLE p (i int, k int, u uuid, d date, name text, pad text) WITH (fillfactor = 20)")
    database.execute(
        "INSERT INTO p SELECT i, nullif(i % 90, 7), md5(i::text)::uuid, date '2020-01-01' + i % 400, 'n' || i % 77, "
        "repeat('x', 300) FROM generate_series(1, 600) AS i"
    )
    for column in ("k", "u", "d", "name"):
        database.execute(f"CREATE INDEX ON p ({column})")
    database.execute("CREATE VIEW v AS SELECT * FROM p WHERE i > 5")
    return database
