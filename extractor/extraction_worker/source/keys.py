"""What a column is worth as the key of ranges: its type, whether an index serves it, how it lies in the table."""

from collections.abc import Container

from extraction_worker.errors import InvalidPartitioning
from extraction_worker.model import Column, PgType, RelationKind
from extraction_worker.source.catalog import Connection, Relation, list_columns
from extraction_worker.source.chunks import KeyFacts

KEY_TYPES = (
    "int2", "int4", "int8", "numeric", "date", "timestamp", "timestamptz", "uuid", "text", "varchar", "bpchar",
)  # fmt: skip
"""Types of ``pg_catalog`` with a total order whose values survive being printed and read again."""
_FOR_PEOPLE = "smallint, integer, bigint, numeric, date, timestamp, timestamptz, uuid, text, varchar, char"

# The index must serve `<` and `>=` as planned: a btree of the type's own order and of the column's collation, whole.
_INDEXED = """
SELECT coalesce(pg_catalog.bool_and(EXISTS (
           SELECT FROM pg_catalog.pg_attribute AS a
           JOIN pg_catalog.pg_index AS i ON i.indrelid = a.attrelid AND i.indkey[0] = a.attnum
           JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
           JOIN pg_catalog.pg_am AS m ON m.oid = c.relam AND m.amname = 'btree'
           JOIN pg_catalog.pg_opclass AS o ON o.oid = i.indclass[0] AND o.opcdefault
           WHERE a.attrelid = leaf.oid AND a.attname = %(column)s
             AND i.indisvalid AND i.indpred IS NULL AND i.indcollation[0] = a.attcollation)), true),
       (SELECT pg_catalog.format('%%I.%%I', n.nspname, c.collname)
        FROM pg_catalog.pg_attribute AS a
        JOIN pg_catalog.pg_collation AS c ON c.oid = a.attcollation
        JOIN pg_catalog.pg_namespace AS n ON n.oid = c.collnamespace
        WHERE a.attrelid = %(oid)s AND a.attname = %(column)s),
       ({correlation})
FROM pg_catalog.unnest(%(leaves)s::oid[]) AS leaf(oid)
"""
_CORRELATION = """
        SELECT s.correlation::float8
        FROM pg_catalog.pg_class AS c
        JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
        JOIN pg_catalog.pg_stats AS s ON s.schemaname = n.nspname AND s.tablename = c.relname
        WHERE c.oid = %(largest)s AND s.attname = %(column)s AND NOT s.inherited"""

# The primary key before others, narrow types before wide ones.
_DEFAULT_KEY = """
SELECT a.attname::text
FROM pg_catalog.pg_index AS i
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid AND t.typnamespace = 'pg_catalog'::pg_catalog.regnamespace
WHERE i.indrelid = %(oid)s AND i.indisunique AND i.indisvalid AND i.indnkeyatts = 1 AND i.indpred IS NULL
  AND a.attnotnull AND t.typname = ANY(%(types)s)
  AND pg_catalog.has_column_privilege(a.attrelid, a.attnum, 'SELECT')
ORDER BY i.indisprimary DESC, pg_catalog.array_position(%(types)s::text[], t.typname::text), a.attnum
"""


def key_facts(connection: Connection, relation: Relation, column: str) -> KeyFacts:
    """Return what is known of a column as a key.

    Raises
    ------
    InvalidPartitioning
        Its type has no order that ranges can be made of.
    NotFound, PermissionDenied
        As :func:`list_columns`.
    """
    (found,) = list_columns(connection, relation, (column,))
    key_type = _key_type(found)
    # An empty leaf needs no index, and a foreign one has pages elsewhere.
    leaves = [leaf.oid for leaf in relation.leaves if leaf.pages]
    row = connection.execute(
        _INDEXED.replace("{correlation}", _CORRELATION).encode(),
        {"oid": relation.oid, "column": column, "leaves": leaves, "largest": relation.largest},
    ).fetchone()
    indexed, collation, correlation = row or (False, None, None)
    stored = relation.kind not in {RelationKind.VIEW, RelationKind.FOREIGN}
    return KeyFacts(column, key_type, found.nullable, bool(indexed) and stored, collation, correlation)


def correlation_of(connection: Connection, relation: Relation, column: str) -> float | None:
    """Return how the order of a column follows that of the pages, -1 to 1; None when it was never analysed."""
    row = connection.execute(_CORRELATION.encode(), {"largest": relation.largest, "column": column}).fetchone()
    return row[0] if row else None


def default_key(connection: Connection, relation: Relation, secret: Container[str] = frozenset()) -> KeyFacts | None:
    """Return the single-column primary key, or a unique NOT NULL column, that ranges can be made of; None without.

    Parameters
    ----------
    secret
        Columns that can't be it.
    """
    rows = connection.execute(_DEFAULT_KEY, {"oid": relation.oid, "types": list(KEY_TYPES)}).fetchall()
    found = next((name for (name,) in rows if name not in secret), None)
    return key_facts(connection, relation, found) if found is not None else None


def query_key(columns: tuple[Column, ...], column: str) -> KeyFacts:
    """Return the facts of a query's column: its type, and nothing about indexes.

    Raises
    ------
    InvalidPartitioning
        The query has no such column, or its type has no order that ranges can be made of.
    """
    for found in columns:
        if found.name == column:
            return KeyFacts(column, _key_type(found), nullable=True)
    raise InvalidPartitioning(f"partitioning.column: the query returns no column {column}.")


def _key_type(column: Column) -> str:
    base: PgType = column.type
    while base.base is not None:
        base = base.base
    if base.namespace != "pg_catalog" or base.name not in KEY_TYPES:
        raise InvalidPartitioning(
            f"partitioning.column: {column.name} is of type {column.type.formatted}, which can't be split into ranges.",
            hint=f"Choose a column of type {_FOR_PEOPLE}.",
        )
    return f"pg_catalog.{base.name}"
