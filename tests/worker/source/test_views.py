"""Views: what lies under them, and which functions reading them calls."""

import psycopg
import pytest

from extraction_worker.errors import InvalidQuery
from extraction_worker.source.views import check_views
from support.hostile_sql import corpus_database


@pytest.fixture(scope="module")
def connection(server):
    """A superuser's session on the corpus's schema."""
    with corpus_database(server) as conninfo, psycopg.connect(conninfo, autocommit=True) as connection:
        yield connection


@pytest.fixture
def shop(connection):
    """The session in a transaction of its own, so that the views of a test go with it."""
    with connection.transaction(force_rollback=True):
        connection.execute("SET LOCAL search_path = ''")
        yield connection


def facts(connection, *relations, allow=()):
    """Check relations by their names."""
    oids = [connection.execute("SELECT %s::regclass::oid", [name]).fetchone()[0] for name in relations]
    return check_views(connection, oids, allow)


def test_base_tables_are_found_through_views_of_views_and_in_subqueries(shop):
    shop.execute('CREATE SCHEMA "Odd Schema"')
    shop.execute('CREATE TABLE "Odd Schema"."T""1" (id int)')
    shop.execute("CREATE TABLE shop.parts (id int) PARTITION BY RANGE (id)")
    shop.execute("CREATE TABLE shop.part PARTITION OF shop.parts DEFAULT")
    shop.execute("CREATE MATERIALIZED VIEW shop.kept AS SELECT id FROM shop.items, shop.orders")
    shop.execute("CREATE VIEW shop.one AS SELECT id FROM shop.orders WHERE id IN (SELECT order_id FROM shop.items)")
    shop.execute(
        'CREATE VIEW shop.two AS SELECT o.id, (SELECT max(t.id) FROM "Odd Schema"."T""1" t) AS m FROM shop.one o'
    )
    shop.execute(
        "CREATE VIEW shop.three AS WITH a AS (SELECT id FROM shop.parts) SELECT a.id FROM a JOIN shop.kept k USING (id)"
    )
    found = facts(shop, "shop.two", "shop.three", "shop.orders")
    assert {base.name for base in found.base} == {
        '"Odd Schema"."T""1"',
        "shop.items",
        "shop.kept",
        "shop.orders",
        "shop.parts",
    }
    assert {base.kind for base in found.base} == {"r", "p", "m"}
    assert set(found.views) == {"shop.one", "shop.two", "shop.three"}
    assert found.chunk_reason.startswith("view shop.two uses an aggregate")


def test_a_table_is_its_own_base_and_a_plain_view_can_be_chunked(shop):
    shop.execute(
        "CREATE VIEW shop.plain AS SELECT id, upper(customer) AS u, 'new'::shop.status = status AS n FROM shop.orders"
    )
    assert facts(shop, "shop.orders").chunk_reason == ""
    assert facts(shop, "shop.plain").chunk_reason == ""
    assert [base.name for base in facts(shop, "shop.plain").base] == ["shop.orders"]


@pytest.mark.parametrize(
    "body",
    [
        "SELECT pg_notify('a', 'b')::text",
        "SELECT pg_logical_emit_message(true, 'a', 'b')",
        "SELECT pg_advisory_lock(1)::text",
        "SELECT set_config('default_transaction_read_only', 'off', false)",
        "SELECT shop.roll()",
        "SELECT shop.twice(id) FROM shop.orders",
        "SELECT 1 OPERATOR(shop.+) 2",
        "SELECT customer::shop.loud FROM shop.orders",
        "SELECT (5::bigint).pg_advisory_lock::text",
        "SELECT id FROM shop.orders WHERE pg_sleep(0) IS NULL",
        "SELECT * FROM (SELECT random() AS x) a",
        "SELECT id FROM shop.orders FOR UPDATE",
        "SELECT statement_timestamp()",
    ],
)
def test_functions_in_views_are_refused_and_the_view_is_named(shop, body):
    shop.execute(f"CREATE VIEW shop.bad AS {body}")
    shop.execute('CREATE VIEW shop."Upon" AS SELECT 1 AS one FROM shop.bad')
    with pytest.raises(InvalidQuery, match=r"view shop\.bad: .*(isn't allowed|safeguards|lock rows)"):
        facts(shop, 'shop."Upon"')


def test_functions_in_views_are_allowed_by_the_same_names(shop):
    shop.execute("CREATE VIEW shop.double AS SELECT shop.twice(id) AS d, shop.roll() AS r FROM shop.orders")
    found = facts(shop, "shop.double", allow=["shop.twice", "shop.roll"])
    assert found.chunk_reason.startswith("view shop.double calls the volatile function shop.roll")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("SELECT id FROM shop.orders WHERE created < now()", "reads the clock"),
        ("SELECT CURRENT_DATE AS d", "reads the clock"),
        ("SELECT id FROM shop.orders LIMIT 3", "LIMIT"),
        ("SELECT DISTINCT customer FROM shop.orders", "DISTINCT"),
        ("SELECT row_number() OVER () AS n FROM shop.orders", "a window function"),
        ("SELECT id FROM shop.orders UNION ALL SELECT order_id FROM shop.items", "UNION"),
        ("SELECT customer, count(*) AS n FROM shop.orders GROUP BY customer", "GROUP BY"),
    ],
)
def test_views_that_chunks_would_change_say_why(shop, body, reason):
    shop.execute(f"CREATE VIEW shop.under AS {body}")
    shop.execute("CREATE VIEW shop.over AS SELECT * FROM shop.under")
    found = facts(shop, "shop.over")
    assert "view shop.under" in found.chunk_reason
    assert reason in found.chunk_reason


def test_columns_named_like_functions_are_columns_in_views(shop):
    shop.execute(
        "CREATE VIEW shop.named AS SELECT i.count, (ROW(i.count)).f1 AS f, o.age FROM shop.items i, shop.orders o"
    )
    assert facts(shop, "shop.named").chunk_reason == ""


def test_the_server_s_own_views_are_read_in_one_piece_and_not_looked_into(shop):
    shop.execute("CREATE VIEW shop.busy AS SELECT pid FROM pg_catalog.pg_stat_activity")
    for relation in ("shop.busy", "pg_catalog.pg_stat_activity", "pg_catalog.pg_settings", "information_schema.tables"):
        found = facts(shop, relation)
        assert "shows the server's state" in found.chunk_reason
        assert found.base == ()


def test_what_lies_under_a_materialised_view_is_not_read(shop):
    shop.execute("CREATE MATERIALIZED VIEW shop.rolled AS SELECT shop.roll() AS r FROM shop.orders")
    found = facts(shop, "shop.rolled")
    assert [base.name for base in found.base] == ["shop.rolled"]
    assert found.chunk_reason == ""
