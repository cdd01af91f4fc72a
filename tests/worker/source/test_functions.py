"""User SQL against real servers: functions, operators, types, views, and the wrapped text's rows."""

from collections import Counter
from datetime import UTC, datetime

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extraction_worker.errors import InvalidQuery
from extraction_worker.source.contract import BEGIN, contract_settings, contract_sql
from extraction_worker.source.functions import check_functions
from extraction_worker.source.query import check_predicate, check_query
from extraction_worker.source.vocabulary import AGGREGATES, ONCE_VOLATILE, REVIEWED, SETS
from support.hostile_sql import ACCEPTED_PREDICATES, ACCEPTED_QUERIES, NESTINGS, REFUSED_CALLS, SCHEMA, corpus_database

AT = datetime(2026, 11, 22, 22, 30, 0, 123456, tzinfo=UTC)


def under_contract(conninfo):
    """Connect, and begin a transaction as the worker does."""
    connection = psycopg.connect(conninfo, autocommit=True)
    connection.execute(BEGIN)
    connection.execute(
        contract_sql(contract_settings(connection.info.server_version, statement_timeout=60, lock_timeout=5))
    )
    return connection


@pytest.fixture(scope="module")
def shop(server):
    """A session under the contract on the corpus's schema."""
    with corpus_database(server) as conninfo, under_contract(conninfo) as connection:
        connection.execute("SET LOCAL IntervalStyle = postgres")  # the only one that psycopg reads
        yield connection


def check(connection, text, allow=()):
    """Check a query as the planner does; return both and the reasons against chunks."""
    checked = check_query(text, planned_at=AT)
    return checked, check_functions(connection, checked.references, allow)


def major(connection):
    return connection.info.server_version // 10000


def rows(connection, text):
    """Return the columns' names and the rows, in no order."""
    with connection.transaction():
        cursor = connection.execute(text)
        return [column.name for column in cursor.description], Counter(map(repr, cursor.fetchall()))


# Refused ------------------------------------------------------------------------------------------------------------

REASONS = r"isn't allowed|there is no|safeguards|runs functions of its own"


@pytest.mark.parametrize("group", REFUSED_CALLS)
def test_hostile_calls_are_refused_wherever_an_expression_may_stand(shop, group):
    for index, call in enumerate(REFUSED_CALLS[group]):
        for nesting in ("SELECT {}", NESTINGS[(index + len(group)) % len(NESTINGS)]):
            with pytest.raises(InvalidQuery, match=REASONS):
                check(shop, nesting.format(call))
        predicate = check_predicate(f"({call}) IS NOT NULL", planned_at=AT)
        with pytest.raises(InvalidQuery, match=REASONS):
            check_functions(shop, predicate.references, field="spec.where")


@pytest.mark.parametrize("nesting", NESTINGS)
@pytest.mark.parametrize(
    "call",
    [
        "pg_notify('a', 'b')",
        "pg_logical_emit_message(true, 'a', 'b')",
        "pg_advisory_lock(1)",
        "set_config('default_transaction_read_only', 'off', false)",
    ],
)
def test_functions_that_read_only_does_not_stop_are_refused_at_any_nesting(shop, nesting, call):
    with pytest.raises(InvalidQuery, match=REASONS):
        check(shop, nesting.format(call))


def test_a_column_that_is_a_function_would_have_run(shop):
    """Shows that the trick is real: without the check the lock would have been taken."""
    with shop.transaction(force_rollback=True):
        shop.execute("SELECT (815::bigint).pg_advisory_xact_lock_shared")
        (held,) = shop.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 815").fetchone()
    assert held == 1


def test_the_message_names_the_function_and_how_to_allow_it(shop):
    with pytest.raises(
        InvalidQuery, match=r"function shop\.roll isn't allowed.*add shop\.roll to policy\.allowFunctions"
    ):
        check(shop, "SELECT shop.roll()")
    with pytest.raises(InvalidQuery, match=r"function random isn't allowed.*add random to policy"):
        check(shop, "SELECT random()")
    with pytest.raises(InvalidQuery, match=r"Use now\(\)"):
        check(shop, "SELECT clock_timestamp()")


# Allowed ------------------------------------------------------------------------------------------------------------


def test_a_function_is_allowed_by_its_schema_and_name_and_by_nothing_less(shop):
    check(shop, 'SELECT shop.twice(1), shop.TWICE(2), "shop".twice(3)', ["shop.twice"])
    for entries in (["twice"], ["other.twice"], ["shop.roll"], ["shop"]):
        with pytest.raises(InvalidQuery, match=r"shop\.twice isn't allowed"):
            check(shop, "SELECT shop.twice(1)", entries)


@pytest.mark.parametrize("entry", ["random", "pg_catalog.random"])
def test_a_plain_entry_allows_a_built_in_function(shop, entry):
    assert "pg_catalog.random" in check(shop, "SELECT random()", [entry])[1].chunk_reason


def test_nothing_allows_what_would_end_the_session_contract(shop):
    for entry in ("set_config", "pg_catalog.set_config"):
        with pytest.raises(InvalidQuery, match="safeguards"):
            check(shop, "SELECT set_config('row_security', 'on', true)", [entry])


@pytest.mark.parametrize(
    ("text", "entry", "reason"),
    [
        ("SELECT shop.roll()", "shop.roll", "volatile function shop.roll"),
        ("SELECT 1 OPERATOR(shop.+) 2", "shop.loud_sum", "volatile function shop.loud_sum"),
        ("SELECT shop.total(id) FROM shop.orders", "shop.total", "aggregate shop.total"),
        ("SELECT shop.several(3)", "shop.several", "set-returning function shop.several"),
        ("SELECT * FROM shop.several(3)", "shop.several", ""),
        ("SELECT shop.twice(3)", "shop.twice", ""),
        ("SELECT 'a'::shop.loud", "shop.shout", "volatile function shop.shout"),
        ("SELECT 'a'::shop.loud", "shop.loud", ""),
        ("SELECT ROW(1, 'a')::shop.pair, NULL::shop.pair[]", "shop.pair", ""),
    ],
)
def test_allowed_functions_that_chunks_would_call_anew_are_named(shop, text, entry, reason):
    found = check(shop, text, [entry])[1].chunk_reason
    assert reason in found
    assert bool(found) == bool(reason)


@pytest.mark.parametrize("column", ["age", "count", "date", "id", "key", "max", "name", "now", "random", "rank", "sum",
                                    "text", "time", "type", "user", "value", "version", "year"])  # fmt: skip
def test_columns_named_like_functions_may_be_written_with_their_table(shop, column):
    check(shop, f'SELECT t."{column}", public.t."{column}" FROM public.t')


def test_a_cast_function_of_an_allowed_kind_of_type_is_checked_too(database):
    database.execute(SCHEMA)
    database.execute(
        "CREATE FUNCTION shop.cast_it(int) RETURNS shop.status LANGUAGE sql AS $$SELECT 'new'::shop.status$$"
    )
    database.execute("CREATE CAST (int AS shop.status) WITH FUNCTION shop.cast_it(int)")
    with under_contract(database.conninfo) as connection:
        with pytest.raises(InvalidQuery, match=r"shop\.cast_it of a cast to shop\.status"):
            check(connection, "SELECT 1::shop.status")
        check(connection, "SELECT 1::shop.status", ["shop.cast_it"])


def test_what_somebody_put_into_pg_catalog_is_not_built_in(database):
    database.execute("SET allow_system_table_mods = on")
    database.execute("CREATE FUNCTION pg_catalog.intruder(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1'")
    database.execute("CREATE FUNCTION pg_catalog.upper(int) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT 1'")
    database.execute("CREATE OPERATOR pg_catalog.<<>> (LEFTARG = int, RIGHTARG = int, FUNCTION = int4pl)")
    database.execute("CREATE FUNCTION pg_catalog.two(int, int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1'")
    database.execute("CREATE OPERATOR pg_catalog.<<<>>> (LEFTARG = int, RIGHTARG = int, FUNCTION = pg_catalog.two)")
    with under_contract(database.conninfo) as connection:
        for text in ("intruder(1)", "(1).intruder", "upper(1)", "1 <<<>>> 2"):
            with pytest.raises(InvalidQuery, match="isn't allowed"):
                check(connection, f"SELECT {text}")
        check(connection, "SELECT 1 <<>> 2")


def test_modern_numbers_are_refused_where_the_server_reads_them_otherwise(shop):
    for number in ("0x1F", "1_000"):
        if major(shop) >= 16:
            check(shop, f"SELECT {number}")
        else:
            with pytest.raises(InvalidQuery, match="doesn't read"):
                check(shop, f"SELECT {number}")


@pytest.mark.parametrize("setting", ["search_path = shop", "standard_conforming_strings = off"])
def test_a_session_outside_the_contract_is_not_asked(server, setting):
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        connection.execute("SET search_path = ''")
        connection.execute(f"SET {setting}")
        with pytest.raises(RuntimeError, match="contract"):
            check(connection, "SELECT abs(1)")


def test_one_query_answers_for_any_number_of_names(shop, monkeypatch):
    asked = []
    execute = shop.execute
    monkeypatch.setattr(shop, "execute", lambda *a, **k: asked.append(a) or execute(*a, **k))
    check(
        shop,
        "SELECT upper(lower(customer)), id + age * 2, 1::int8, 'new'::shop.status, '{}'::jsonb FROM shop.orders",
    )
    assert len(asked) == 1


# The reviewed lists against the servers ------------------------------------------------------------------------------

BUILT_IN = "oid < 16384 AND pronamespace = 'pg_catalog'::regnamespace"


def names_of(connection, condition):
    found = connection.execute(f"SELECT DISTINCT proname FROM pg_catalog.pg_proc WHERE {BUILT_IN} AND {condition}")
    return {name for (name,) in found.fetchall()}


def test_every_built_in_aggregate_is_known_as_one(shop):
    found = names_of(shop, "prokind = 'a'")
    assert found <= AGGREGATES
    assert major(shop) < 18 or found == AGGREGATES


def test_every_set_that_may_be_called_is_known_as_one(shop):
    volatile = names_of(shop, "provolatile = 'v'")
    found = names_of(shop, "proretset AND provolatile = 'i'") | names_of(shop, "proretset") & REVIEWED
    assert found - volatile <= SETS
    assert names_of(shop, "proretset") >= SETS


def test_no_reviewed_function_is_volatile(shop):
    assert names_of(shop, "provolatile = 'v'") & REVIEWED <= ONCE_VOLATILE


def test_every_reviewed_function_is_there_and_not_immutable_anyway(shop):
    if major(shop) >= 18:
        assert names_of(shop, "provolatile <> 'i'") >= REVIEWED
    else:
        assert "to_char" in names_of(shop, "provolatile = 's'")


def test_built_in_immutable_functions_with_alarming_names_were_looked_at(shop):
    """IMMUTABLE is trusted for built-in functions; a new one that acts would show itself by its name here."""
    acting = "notify|lock|emit|sleep|terminat|cancel|reload|rotat|file|port|reset|^lo_|nextval|setval|config|backend"
    found = names_of(
        shop, f"provolatile = 'i' AND proname ~ '{acting}' AND NOT 'internal'::regtype = ANY (proargtypes)"
    )
    assert found <= {
        # LSN → name of a log file, as text; block functions of text search and statistics
        "pg_walfile_name", "pg_walfile_name_offset", "pg_split_walfile_name", "regconfigsend", "regconfigrecv",
    }  # fmt: skip


# Accepted ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ACCEPTED_QUERIES, ids=lambda case: case.text[:60])
def test_accepted_queries_return_the_same_wrapped_and_bare(shop, case):
    if major(shop) < case.since:
        with pytest.raises((psycopg.Error, InvalidQuery)):
            rows(shop, check(shop, case.text)[0].text)
        return
    checked, facts = check(shop, case.text)
    assert facts.chunk_reason == ""
    assert rows(shop, f"SELECT * FROM {checked.from_sql}") == rows(shop, case.text)


@pytest.mark.parametrize("text", ACCEPTED_PREDICATES)
def test_accepted_predicates_split_a_table_into_the_same_rows(shop, text):
    checked = check_predicate(text, planned_at=AT)
    assert check_functions(shop, checked.references, field="spec.where").chunk_reason == ""
    whole = rows(shop, f"SELECT * FROM shop.orders WHERE {checked.where_sql}")[1]
    if "now()" not in text and "CURRENT" not in text:
        assert whole == rows(shop, f"SELECT * FROM shop.orders WHERE {text}\n")[1]
    chunks = [
        rows(shop, f"SELECT * FROM shop.orders WHERE {checked.where_sql} AND id {half} 30")[1] for half in ("<", ">=")
    ]
    assert chunks[0] + chunks[1] == whole


@pytest.mark.parametrize(
    "column",
    ["now()", "now()::date", "CURRENT_DATE", "CURRENT_TIMESTAMP(2)", "LOCALTIMESTAMP", "coalesce(now())", "(now())",
     "ARRAY[now()]", "1 + extract(day FROM now())", "CASE WHEN false THEN NULL ELSE now() END",
     "(SELECT now())", "pg_catalog.now()", "transaction_timestamp()", "to_char(now(), 'YYYY')",
     "now() AT TIME ZONE 'UTC'",
     "date_trunc('day', LOCALTIMESTAMP(0))", "CURRENT_TIMESTAMP(9)"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_a_fixed_clock_keeps_names_and_types_of_columns(shop, column):
    text = (
        f"SELECT {column}, {column} AS named FROM shop.orders WHERE created < {column if '(9)' in column else 'now()'}"
    )
    fixed = check(shop, text)[0].text

    def described(statement):
        with shop.transaction():
            cursor = shop.execute(f"SELECT * FROM (\n{statement}\n) q LIMIT 0")
            return [(c.name, c.type_code) for c in cursor.description]

    assert "now()" not in fixed
    assert described(fixed) == described(text)


def test_a_fixed_clock_is_the_plan_s_moment_in_every_form(shop):
    fixed = check(
        shop,
        "SELECT now() = CURRENT_TIMESTAMP AND now() = '2026-11-22 22:30:00.123456+00' AND CURRENT_DATE = '2026-11-22' "
        "AND LOCALTIMESTAMP = '2026-11-22 22:30:00.123456' AND CURRENT_TIMESTAMP(2) = '2026-11-22 22:30:00.12+00' "
        "AND transaction_timestamp() = now() AND pg_catalog.now() = now() "
        "AND LOCALTIMESTAMP(0) = '2026-11-22 22:30:00'",
    )[0].text
    assert shop.execute(fixed).fetchone() == (True,)


TERMS = st.sampled_from(
    ["id > 20", "id % 3 = 0", "customer LIKE '%1'", "age IS NULL", "status = 'paid'", "tags @> ARRAY['b1']",
     "customer = ')'", "id IN (SELECT order_id FROM shop.items WHERE count > 2)", "created > now()", "NULL",
     "true -- )\n", "/* ( */ id = 7"]
)  # fmt: skip
PREDICATES = st.recursive(
    TERMS,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from([" AND ", " OR ", "\nOR\n"]), inner).map("".join),
        inner.map("NOT ({})".format),
        inner.map("({})".format),
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(text=PREDICATES)
def test_any_accepted_predicate_and_a_chunk_s_bounds_split_a_table_exactly(shop, text):
    where = check_predicate(text, planned_at=AT).where_sql
    (whole, low, high) = shop.execute(
        f"SELECT count(*) FILTER (WHERE {where}), count(*) FILTER (WHERE {where} AND id < 30), "
        f"count(*) FILTER (WHERE {where} AND id >= 30) FROM shop.orders"
    ).fetchone()
    assert whole == low + high
    assert (
        whole
        == shop.execute(
            f"SELECT count(*) FROM shop.orders WHERE {check_predicate(text, planned_at=AT).text}"
        ).fetchone()[0]
    )
