"""How many rows and bytes will come, without reading them: from the catalog, or from the planner's EXPLAIN.

Numbers for people and for the balance of chunks; no row depends on them.
"""

import math
from dataclasses import dataclass
from typing import Any

import psycopg

from extraction_worker.errors import InvalidQuery
from extraction_worker.model import Column, RelationKind, Value
from extraction_worker.source.catalog import Connection, Relation
from extraction_worker.source.chunks import BLOCK_BYTES, Estimate
from extraction_worker.source.failures import translate
from extraction_worker.source.render import identifier

_UNKNOWN_WIDTH = 32
"""What PostgreSQL's planner assumes of a column of variable length without statistics (get_typavgwidth)."""
_TUPLE_OVERHEAD = 24 + 4
"""Header and line pointer of a row on a page."""
_PAGE_OVERHEAD = 24
_FIELD_BYTES, _ROW_BYTES = 4, 2
"""What COPY's binary format adds to each value and row."""

# Rows as PostgreSQL's planner estimates them: the density of the last VACUUM or ANALYZE times the pages there are now.
# reltuples is -1 (before PostgreSQL 14: 0) as long as there was none.
_DENSITIES = """
SELECT CASE WHEN c.reltuples > 0 AND c.relpages > 0 THEN c.reltuples::float8 / c.relpages END
FROM pg_catalog.unnest(%(oids)s::oid[]) WITH ORDINALITY AS leaf(oid, position)
JOIN pg_catalog.pg_class AS c ON c.oid = leaf.oid
ORDER BY leaf.position
"""
_WIDTHS = """
SELECT a.attname::text, a.attlen, a.atttypmod, a.attstorage::text,
       (SELECT max(s.avg_width * (1 - s.null_frac))
        FROM pg_catalog.pg_class AS c
        JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
        JOIN pg_catalog.pg_stats AS s ON s.schemaname = n.nspname AND s.tablename = c.relname
        WHERE c.oid IN (%(oid)s, %(largest)s) AND s.attname = a.attname)::float8
FROM pg_catalog.pg_attribute AS a
WHERE a.attrelid = %(oid)s AND a.attnum > 0 AND NOT a.attisdropped
"""


@dataclass(frozen=True)
class _Widths:
    row: float
    """Bytes of a whole row as it is stored."""
    sent: float
    """Bytes of the chosen columns of a row as they are sent."""
    out_of_line: bool
    """Whether a chosen column may be stored out of line."""


class Shape(Value):
    """What VACUUM and ANALYZE found out about a relation, as far as sizes need it. No value of a row is in it."""

    widths: tuple[tuple[str, int, int, str, float | None], ...]
    """Of each column: name, declared length, typmod, storage, average bytes (None is unknown)."""
    densities: tuple[float | None, ...]
    """Rows on a page of each leaf; None is unknown."""
    correlation: float | None = None
    """Between the order of the key and that of the pages."""


def read_shape(connection: Connection, relation: Relation) -> Shape:
    """Return what is known of the sizes of a relation that isn't a view."""
    stored = connection.execute(_WIDTHS, {"oid": relation.oid, "largest": relation.largest}).fetchall()
    densities = connection.execute(_DENSITIES, {"oids": [leaf.oid for leaf in relation.leaves]}).fetchall()
    return Shape(widths=tuple(stored), densities=tuple(row[0] for row in densities))


def estimate_relation(
    connection: Connection,
    relation: Relation,
    columns: tuple[Column, ...],
    where_sql: str | None = None,
    shape: Shape | None = None,
) -> Estimate:
    """Return what the columns of a relation come to; with a predicate, or for a view, as EXPLAIN says.

    Parameters
    ----------
    shape
        What is known already, from :func:`read_shape`.

    Raises
    ------
    InvalidQuery
        The server refuses the predicate.
    PermissionDenied, RowSecurity
        A table under a view isn't for this role, or not all of it.
    """
    if relation.kind is RelationKind.VIEW:
        return estimate_query(connection, relation.name, columns, where_sql)
    shape = shape or read_shape(connection, relation)
    widths = _widths(shape, {column.name for column in columns})
    leaves = tuple(zip(relation.leaves, shape.densities, strict=True))
    known = sum(rows * leaf.pages for leaf, rows in leaves if rows is not None)
    unknown_pages = sum(leaf.pages for leaf, rows in leaves if rows is None)
    density = (BLOCK_BYTES - _PAGE_OVERHEAD) / (math.ceil(widths.row / 8) * 8 + _TUPLE_OVERHEAD)
    stored_rows = known + unknown_pages * density
    rows = float(stored_rows)
    if where_sql or relation.kind is RelationKind.FOREIGN:
        rows, _ = _explain(connection, relation.name, columns, where_sql)
    toast = sum(leaf.toast_pages for leaf in relation.leaves) * BLOCK_BYTES if widths.out_of_line else 0
    share = min(1.0, rows / stored_rows) if stored_rows else 1.0
    return Estimate(round(rows), round(rows * widths.sent + toast * share), reads_toast=widths.out_of_line)


def estimate_query(
    connection: Connection, from_sql: str, columns: tuple[Column, ...], where_sql: str | None = None
) -> Estimate:
    """Return what EXPLAIN says about a query; nothing is run.

    Raises
    ------
    InvalidQuery, PermissionDenied, RowSecurity
        The server refuses it.
    """
    rows, width = _explain(connection, from_sql, columns, where_sql)
    return Estimate(round(rows), round(rows * (width + _ROW_BYTES + _FIELD_BYTES * len(columns))))


def explain(connection: Connection, statement: str, doing: str) -> dict[str, Any]:
    """Return the root of the plan that EXPLAIN prints as JSON.

    Raises
    ------
    InvalidQuery
        The statement meets a wrong value while it is planned; the server's words may quote it, so they are left out.
    Transient, Terminal
        As the SQLSTATE says.
    """
    try:
        row = connection.execute(f"EXPLAIN (FORMAT JSON) {statement}".encode()).fetchone()
    except psycopg.errors.DataError as error:
        raise InvalidQuery(f"{doing}: a value can't be converted (SQLSTATE {error.sqlstate}).") from None
    except psycopg.Error as error:
        raise translate(error, doing) from None
    plan: dict[str, Any] = row[0][0]["Plan"] if row else {}
    return plan


def _explain(
    connection: Connection, from_sql: str, columns: tuple[Column, ...], where_sql: str | None
) -> tuple[float, float]:
    names = ", ".join(identifier(column.name) for column in columns)
    where = f" WHERE ({where_sql}\n)" if where_sql else ""
    plan = explain(connection, f"SELECT {names} FROM {from_sql}{where}", "where" if where_sql else "query")
    return float(plan["Plan Rows"]), float(plan["Plan Width"])


def _widths(shape: Shape, chosen: set[str]) -> _Widths:
    stored, sent, out_of_line = 0.0, float(_ROW_BYTES), False
    for name, length, typmod, storage, average in shape.widths:
        if average is not None:
            width = average
        elif length > 0:
            width = float(length)
        else:
            width = float(min(_UNKNOWN_WIDTH, typmod)) if typmod > 4 else float(_UNKNOWN_WIDTH)
        stored += width
        if name in chosen:
            sent += width + _FIELD_BYTES
            out_of_line = out_of_line or (length == -1 and storage != "p")
    return _Widths(stored, sent, out_of_line)
