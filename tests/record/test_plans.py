"""The reference queries find their rows by an index: no table that holds anything is read as a whole."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from extraction_record.history import Filter, History
from extraction_record.queries import REFERENCE, Query
from support.history import NAMESPACES, generate, parameters

END = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def generated(postgres18, record_template) -> Iterator[psycopg.Connection]:
    """A history of some months."""
    name = "test_record_plans"
    with psycopg.connect(postgres18.conninfo(), autocommit=True) as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        admin.execute(f"CREATE DATABASE {name} TEMPLATE {record_template}")
        with psycopg.connect(postgres18.conninfo(name), autocommit=True) as connection:
            generate(connection, jobs=10_000, sources=3_000, months=3, end=END)
            yield connection
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every node of a plan."""
    yield plan
    for inner in plan.get("Plans", ()):
        yield from nodes(inner)


def explain(connection: psycopg.Connection, query: Query, given: dict[str, Any]) -> list[dict[str, Any]]:
    found = connection.execute(f"EXPLAIN (FORMAT JSON) {query.text}", given).fetchone()
    assert found is not None
    return list(nodes(found[0][0]["Plan"]))


def scanned(connection: psycopg.Connection, plan: list[dict[str, Any]]) -> list[str]:
    """Return the tables that a plan reads as a whole, except those without a single page."""
    tables = {node["Relation Name"] for node in plan if node["Node Type"] in {"Seq Scan", "Parallel Seq Scan"}}
    filled = connection.execute(
        "SELECT relname::text FROM pg_class WHERE relname = ANY (%s) AND pg_relation_size(oid) > 0", (list(tables),)
    )
    return [name for (name,) in filled.fetchall()]


@pytest.mark.parametrize("query", REFERENCE, ids=lambda query: query.name)
def test_a_reference_query_reads_no_table_as_a_whole(generated: psycopg.Connection, query: Query):
    plan = explain(generated, query, parameters(END))
    assert scanned(generated, plan) == []
    # Of a partitioned table it is the partition's index, whose name the server made.
    used = {node["Index Name"] for node in plan if "Index Name" in node}
    parents = generated.execute(
        "WITH RECURSIVE up AS (SELECT oid, oid AS top FROM pg_class WHERE relname = ANY (%s)"
        " UNION ALL SELECT inhparent, up.top FROM up JOIN pg_inherits ON inhrelid = up.oid)"
        " SELECT DISTINCT relname::text FROM up JOIN pg_class USING (oid)",
        (list(used),),
    ).fetchall()
    assert query.index in {name for (name,) in parents}
    assert generated.execute(query.text, parameters(END)).fetchone() is not None, "it finds something"


def test_without_its_index_a_query_would_read_tables_as_a_whole(generated: psycopg.Connection):
    """The check above can fail."""
    with generated.transaction(force_rollback=True):
        generated.execute("DROP INDEX extraction.jobs_source")
        generated.execute("DROP INDEX extraction.jobs_name")
        plan = explain(generated, REFERENCE[0], parameters(END))
        assert scanned(generated, plan) != []


class Asking(psycopg.Cursor[Any]):
    """Keeps what is asked."""

    asked: ClassVar[list[tuple[Any, Any]]] = []

    def execute(self, query: Any, params: Any = None, **more: Any) -> "Asking":
        """Keep it, and go on."""
        Asking.asked.append((query, params))
        return super().execute(query, params, **more)


def test_failed_pods_are_counted_by_index(generated: psycopg.Connection):
    Asking.asked.clear()
    # Of a job whose bundles are in the history: of the last month.
    (name,) = generated.execute("SELECT name FROM extraction.jobs ORDER BY created_at DESC LIMIT 1").fetchone() or ()
    with psycopg.connect(generated.info.dsn, password=generated.info.password, row_factory=dict_row,
                         cursor_factory=Asking) as connection:  # fmt: skip
        history = History(connection)
        assert history.failures(Filter(since=END - timedelta(days=3)), 20)
        assert history.show(name, f"team-{int(name.removeprefix('job-')) % NAMESPACES}") is not None
    counting = [(query, given) for query, given in Asking.asked if "failed_pods" in query.as_string(None)]
    assert len(counting) == 2
    for query, given in counting:
        found = generated.execute(sql.SQL("EXPLAIN (FORMAT JSON) {}").format(query), given).fetchone()
        assert found is not None
        plan = list(nodes(found[0][0]["Plan"]))
        assert any(node.get("Relation Name", "").startswith("bundles_") for node in plan)
        assert scanned(generated, plan) == []
