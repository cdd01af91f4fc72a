"""Introspection: what a name in FROM is, what lies under it, its columns and their types. SQL in, values out.

A fixed number of catalog queries whatever the relation: recursion over partitions, views and types happens in the
server. Everything runs in a transaction under the session contract, so names are qualified.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import psycopg

from extraction_worker.errors import (
    InvalidManifest,
    InvalidQuery,
    NotFound,
    PermissionDenied,
    RowSecurity,
    UnsupportedSource,
)
from extraction_worker.model import Column, Leaf, PgType, RelationKind
from extraction_worker.source.failures import translate

Connection = psycopg.Connection[tuple[Any, ...]]

_KINDS = {
    "r": RelationKind.TABLE,
    "p": RelationKind.PARTITIONED,
    "v": RelationKind.VIEW,
    "m": RelationKind.MATERIALIZED_VIEW,
    "f": RelationKind.FOREIGN,
}
_OTHER_KINDS = {"S": "a sequence", "i": "an index", "I": "an index", "c": "a composite type", "t": "a TOAST table"}
_LOCKABLE = frozenset("rpv")
_CHILDREN_UNCHECKED = 130000
"""Since PostgreSQL 13 LOCK TABLE asks for privileges on the named table alone, not on its partitions."""


@dataclass(frozen=True)
class ServerFacts:
    """What planning needs to know about the server."""

    version: int
    """``server_version_num``."""
    encoding: str


@dataclass(frozen=True)
class Relation:
    """A relation that this role can read without losing rows, and everything that is read through it."""

    oid: int
    name: str
    """``schema.name``, quoted where SQL needs it; what stands behind FROM."""
    kind: RelationKind
    leaves: tuple[Leaf, ...]
    """The tables with rows that ``FROM name`` reads; none for a view, whose pages aren't ours to split."""
    lockable: tuple[str, ...]
    """What to LOCK: the relation's ancestors, as far as the role may read them, and the relation.

    LOCK TABLE goes on to descendants and to the tables under a view by itself. Ancestors are included because the
    planner may open the parent of a partition: it would wait behind DDL that waits for us.
    """
    readable: tuple[str, ...]
    """What LOCK TABLE refuses (materialised views, foreign tables, tables of which the role may read only columns),
    and is locked by a SELECT that reads no row."""
    oids: tuple[int, ...]
    """Every relation that those locks cover."""
    stored: tuple[int, ...]
    """The ones of them with storage that a rewrite would replace."""
    table_privilege: bool
    """Whether the role may SELECT from the whole relation; otherwise from some columns."""
    ctid_readable: bool

    @property
    def pages(self) -> int:
        """Blocks of all leaves."""
        return sum(leaf.pages for leaf in self.leaves)

    @property
    def alone(self) -> bool:
        """Whether the relation is its only leaf: what is read FROM ONLY it. A view may have anything under it."""
        return [leaf.oid for leaf in self.leaves] == [self.oid]

    @property
    def closed(self) -> bool:
        """Whether it can be read so that a table which is attached meanwhile isn't read."""
        return self.alone or (self.kind is not RelationKind.VIEW and self.table_privilege)

    @property
    def largest(self) -> int:
        """OID of the largest leaf, whose statistics stand for all; of a view, its own."""
        return max(self.leaves, key=lambda leaf: leaf.pages).oid if self.leaves else self.oid

    @property
    def inherits(self) -> bool:
        """Whether plain inheritance is at work: children then may allow NULLs and lack indexes that the parent has."""
        return self.kind is RelationKind.TABLE and len(self.leaves) > 1


def server_facts(connection: Connection) -> ServerFacts:
    """Return what the server said of itself when the session began.

    Raises
    ------
    UnsupportedSource
        The database's encoding is SQL_ASCII: nobody knows what its bytes mean.
    """
    encoding = connection.info.parameter_status("server_encoding") or ""
    facts = ServerFacts(connection.info.server_version, encoding)
    if facts.encoding == "SQL_ASCII":
        raise UnsupportedSource(
            "The database's encoding is SQL_ASCII: the server doesn't know what its texts mean.",
            hint="Extract from a copy of the database with the encoding that its texts really have.",
        )
    return facts


# Relations -------------------------------------------------------------------------------------------------------

_FIND = """
SELECT p.parts, n.oid, pg_catalog.has_schema_privilege(n.oid, 'USAGE'),
       c.oid, c.relkind::text, c.relpersistence::text, pg_catalog.row_security_active(c.oid),
       pg_catalog.has_table_privilege(c.oid, 'SELECT'), pg_catalog.has_any_column_privilege(c.oid, 'SELECT'),
       pg_catalog.has_column_privilege(c.oid, (-1)::int2, 'SELECT'),
       pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname),
       current_user::text, pg_catalog.pg_is_in_recovery()
FROM (SELECT pg_catalog.parse_ident(%(name)s) AS parts) AS p
LEFT JOIN pg_catalog.pg_namespace AS n ON n.nspname = p.parts[1]
LEFT JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = p.parts[2]
"""

# Down to partitions, children and the tables under views; up to parents.
_TREE = """
WITH RECURSIVE tree(oid, up) AS (
    SELECT u.oid, u.up FROM (VALUES (%(oid)s::oid, false), (%(oid)s::oid, true)) AS u(oid, up)
    UNION
    SELECT next.oid, t.up FROM tree AS t CROSS JOIN LATERAL (
        SELECT i.inhrelid FROM pg_catalog.pg_inherits AS i WHERE NOT t.up AND i.inhparent = t.oid
        UNION ALL
        SELECT i.inhparent FROM pg_catalog.pg_inherits AS i WHERE t.up AND i.inhrelid = t.oid
        UNION ALL
        SELECT d.refobjid
        FROM pg_catalog.pg_class AS v
        JOIN pg_catalog.pg_rewrite AS r ON r.ev_class = v.oid
        JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = r.oid
            AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
        WHERE NOT t.up AND v.oid = t.oid AND v.relkind = 'v'
    ) AS next(oid)
)
SELECT c.oid, pg_catalog.format('%%I.%%I', n.nspname, c.relname), c.relkind::text, t.up,
       pg_catalog.has_table_privilege(c.oid, 'SELECT'), coalesce(a.amname = 'heap', false),
       coalesce(pg_catalog.pg_relation_filenode(c.oid), 0)::int8,
       CASE WHEN c.relkind IN ('r', 'm') THEN coalesce(pg_catalog.pg_relation_size(c.oid), 0) ELSE 0 END / b.size,
       CASE WHEN c.reltoastrelid <> 0 THEN coalesce(pg_catalog.pg_relation_size(c.reltoastrelid), 0) ELSE 0 END / b.size
FROM (SELECT pg_catalog.current_setting('block_size')::int8) AS b(size)
CROSS JOIN tree AS t
JOIN pg_catalog.pg_class AS c ON c.oid = t.oid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_am AS a ON a.oid = c.relam
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
ORDER BY t.up, c.oid
"""


def resolve_relation(connection: Connection, name: str) -> Relation:
    """Return the relation that ``SCHEMA.TABLE`` names, folded and quoted as in SQL.

    Raises
    ------
    InvalidManifest
        The name can't be parsed, or names something that isn't a relation with rows.
    NotFound
        No such schema or relation; names that are near are told.
    PermissionDenied, RowSecurity
        The role can't read it, or would see only some of its rows.
    UnsupportedSource
        A temporary table, or an unlogged one on a standby.
    """
    try:
        row = connection.execute(_FIND, {"name": name}).fetchone()
    except psycopg.errors.InvalidParameterValue:
        row = None
    if row is None or len(row[0]) != 2:
        raise InvalidManifest(
            f"table: {name} isn't SCHEMA.TABLE.", hint='Quote names as in SQL, e.g. "Sales"."Order Lines".'
        )
    parts, schema, usage, oid, kind, persistence, secured, whole, some, ctid, quoted, role, recovery = row
    if schema is not None and not usage:
        raise PermissionDenied(
            f"Role {role} may not use schema {parts[0]}.", hint=f"GRANT USAGE ON SCHEMA {parts[0]} TO {role}."
        )
    if oid is None:
        raise _not_found(connection, parts[0], parts[1], schema is None)
    if kind not in _KINDS:
        raise InvalidManifest(f"table: {quoted} is {_OTHER_KINDS.get(kind, 'no table')}, it has no rows to extract.")
    if persistence == "t":
        raise UnsupportedSource(f"{quoted} is a temporary table: other sessions can't read it.")
    if persistence == "u" and recovery:
        raise UnsupportedSource(f"{quoted} is unlogged: a standby can't read it.", hint="Extract from the primary.")
    if not some:
        raise PermissionDenied(f"Role {role} may not read {quoted}.", hint=f"GRANT SELECT ON {quoted} TO {role}.")
    if secured:
        raise RowSecurity(
            f"Row-level security on {quoted} would hide rows from role {role}.",
            hint="Use a role with BYPASSRLS, or the table's owner.",
        )
    tree = connection.execute(_TREE, {"oid": oid}).fetchall()
    return _relation(connection.info.server_version, oid, quoted, _KINDS[kind], tree, whole, ctid)


def _relation(
    server_version: int,
    oid: int,
    name: str,
    kind: RelationKind,
    tree: list[tuple[Any, ...]],
    whole: bool,
    ctid: bool,
) -> Relation:
    below = [row for row in tree if not row[3]]
    # Nearest to the root first, as DDL locks them, too.
    above = [row for row in tree if row[3] and row[0] != oid and row[4]]
    leaves = () if kind is RelationKind.VIEW else tuple(
        Leaf(
            oid=leaf, name=leaf_name, relfilenode=filenode, pages=pages,
            heap=heap and leaf_kind in "rm", toast_pages=toast,
        )
        for leaf, leaf_name, leaf_kind, _, _, heap, filenode, pages, toast in below
        if leaf_kind in "rmf"
    )  # fmt: skip
    own_kind = next(row[2] for row in below if row[0] == oid)
    children_too = server_version >= _CHILDREN_UNCHECKED or all(row[4] for row in below)
    lockable = own_kind in _LOCKABLE and whole and (children_too or kind is RelationKind.VIEW)
    return Relation(
        oid=oid,
        name=name,
        kind=kind,
        leaves=leaves,
        lockable=(*(row[1] for row in above), *((name,) if lockable else ())),
        readable=() if lockable and all(row[2] in _LOCKABLE for row in below) else (name,),
        oids=tuple(sorted({row[0] for row in (*below, *above)})),
        stored=tuple(row[0] for row in below if row[2] in "rm"),
        table_privilege=whole,
        ctid_readable=bool(ctid),
    )


def _not_found(connection: Connection, schema: str, table: str, no_schema: bool) -> NotFound:
    rows = connection.execute(
        """
        SELECT n.nspname::text, c.relname::text, pg_catalog.format('%%I.%%I', n.nspname, c.relname)
        FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
          AND (pg_catalog.lower(n.nspname::text) = pg_catalog.lower(%(schema)s)
               OR pg_catalog.lower(c.relname::text) = pg_catalog.lower(%(table)s))
          AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
          AND pg_catalog.has_any_column_privilege(c.oid, 'SELECT')
        ORDER BY pg_catalog.lower(n.nspname::text) <> pg_catalog.lower(%(schema)s), 1, 2
        LIMIT 10000
        """,
        {"schema": schema, "table": table},
    ).fetchall()
    what = f'Schema "{schema}"' if no_schema else f'Table "{schema}"."{table}"'
    elsewhere = [written for _, name, written in rows if name.lower() == table.lower()]
    return NotFound(f"{what} doesn't exist.", hint=_hint([*elsewhere, *_near(table, {row[1]: row[2] for row in rows})]))


def _near(name: str, candidates: dict[str, str]) -> list[str]:
    """Return how the candidates that are near to ``name`` are written; ``candidates`` is by name."""
    folded = {candidate.lower(): written for candidate, written in candidates.items()}
    return [folded[match] for match in difflib.get_close_matches(name.lower(), folded, n=3, cutoff=0.7)]


def _hint(names: list[str]) -> str:
    return f"Did you mean {' or '.join(list(dict.fromkeys(names))[:3])}?" if names else ""


# Columns ---------------------------------------------------------------------------------------------------------

# A NOT NULL may be declared and not hold: in children of plain inheritance, in foreign tables, and while its
# constraint is NOT VALID (PostgreSQL 18 sets attnotnull for those, too).
_RELATION_COLUMNS = """
    SELECT a.attnum::int8, a.attname::text, a.atttypid, a.atttypmod,
           %(unenforced)s OR EXISTS (
               SELECT FROM pg_catalog.unnest(%(tables)s::oid[]) AS child(oid)
               JOIN pg_catalog.pg_attribute AS own ON own.attrelid = child.oid AND own.attname = a.attname
               WHERE NOT own.attnotnull OR EXISTS (
                   SELECT FROM pg_catalog.pg_constraint AS k
                   WHERE k.conrelid = child.oid AND k.contype = 'n' AND NOT k.convalidated
                     AND k.conkey = ARRAY[own.attnum])),
           a.attgenerated <> '',
           pg_catalog.has_column_privilege(a.attrelid, a.attnum, 'SELECT')
    FROM pg_catalog.pg_attribute AS a
    WHERE a.attrelid = %(oid)s AND a.attnum > 0 AND NOT a.attisdropped
"""
_QUERY_COLUMNS = """
    SELECT u.position, u.name, u.oid, u.typmod, true, false, true
    FROM ROWS FROM (pg_catalog.unnest(%(names)s::text[]), pg_catalog.unnest(%(oids)s::oid[]),
                    pg_catalog.unnest(%(typmods)s::int4[])) WITH ORDINALITY AS u(name, oid, typmod, position)
"""
# Each type's chain down to what it is made of, the innermost first. An array is what its element names as its array:
# int2vector, point and others have a typelem, too. A column's typmod belongs to an array's element.
_TYPES = """
WITH RECURSIVE roots(position, name, oid, typmod, nullable, generated, selectable) AS ({roots}),
chain(position, depth, link, oid, typmod) AS (
    SELECT position, 0, '', oid, typmod FROM roots
    UNION ALL
    SELECT c.position, c.depth + 1, next.link, next.oid, next.typmod
    FROM chain AS c
    JOIN pg_catalog.pg_type AS t ON t.oid = c.oid
    CROSS JOIN LATERAL (
        SELECT 'base', t.typbasetype, t.typtypmod WHERE t.typtype = 'd'
        UNION ALL
        SELECT 'element', e.oid, c.typmod FROM pg_catalog.pg_type AS e WHERE e.oid = t.typelem AND e.typarray = t.oid
    ) AS next(link, oid, typmod)
)
SELECT r.position, r.name, r.nullable, r.generated, r.selectable, c.link, c.oid, n.nspname::text, t.typname::text,
       t.typtype::text, c.typmod, pg_catalog.format_type(c.oid, c.typmod)
FROM roots AS r
JOIN chain AS c ON c.position = r.position
JOIN pg_catalog.pg_type AS t ON t.oid = c.oid
JOIN pg_catalog.pg_namespace AS n ON n.oid = t.typnamespace
ORDER BY r.position, c.depth DESC
"""


def list_columns(
    connection: Connection, relation: Relation, wanted: tuple[str, ...] | None = None
) -> tuple[Column, ...]:
    """Return the columns of a relation: all in their order, or the wanted ones in the order wanted.

    Parameters
    ----------
    wanted
        Exact names, as the catalog has them: not folded, not quoted.

    Raises
    ------
    NotFound
        A wanted column isn't there; names that are near are told.
    InvalidManifest
        A column is wanted twice, or there is none at all.
    PermissionDenied
        The role may not read a column; the message names all of them.
    """
    unenforced = relation.kind is RelationKind.FOREIGN or any(
        not leaf.relfilenode and not leaf.heap for leaf in relation.leaves
    )
    tables = [relation.oid, *(leaf.oid for leaf in relation.leaves)] if relation.inherits else [relation.oid]
    rows = connection.execute(
        _TYPES.format(roots=_RELATION_COLUMNS).encode(),
        {"oid": relation.oid, "tables": tables, "unenforced": unenforced},
    ).fetchall()
    found = {column.name: column for column in _columns(rows)}
    names = tuple(found) if wanted is None else wanted
    if not names:
        raise InvalidManifest(f"{relation.name} has no columns to extract.")
    for name in names:
        if name not in found:
            hint = _hint(_near(name, {other: other for other in found})) or "Names are exact: case counts."
            raise NotFound(f"columns: {relation.name} has no column {name}.", hint=hint)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidManifest(f"columns: {', '.join(twice)} is there more than once.")
    selectable = {row[1] for row in rows if row[4]}
    if denied := [name for name in names if name not in selectable]:
        raise PermissionDenied(
            f"The role may not read {', '.join(denied)} of {relation.name}.",
            hint="GRANT SELECT on them, or leave them out in columns.",
        )
    return tuple(found[name] for name in names)


def describe_query(connection: Connection, from_sql: str) -> tuple[Column, ...]:
    """Return the columns of a query; every one may be NULL, as far as anybody knows.

    Parameters
    ----------
    from_sql
        The checked query, wrapped and with its alias.

    Raises
    ------
    InvalidQuery
        The server refuses it, or columns have no name, or the same.
    NotFound, PermissionDenied, RowSecurity
        What it reads isn't there, or not for this role.
    """
    try:
        cursor = connection.execute(f"SELECT * FROM {from_sql} LIMIT 0".encode())
    except psycopg.Error as error:
        raise translate(error, "query") from None
    description, result = cursor.description or [], cursor.pgresult
    names = [column.name for column in description]
    if not names:
        raise InvalidQuery("query: it returns no columns.")
    if "?column?" in names:
        raise InvalidQuery(f"query: column {names.index('?column?') + 1} has no name.", hint="Add AS and a name.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidQuery(f"query: more than one column is named {', '.join(twice)}.", hint="Rename them with AS.")
    typmods = [result.fmod(index) if result else -1 for index in range(len(names))]
    rows = connection.execute(
        _TYPES.format(roots=_QUERY_COLUMNS).encode(),
        {"names": names, "oids": [column.type_code for column in description], "typmods": typmods},
    ).fetchall()
    return tuple(_columns(rows))


def _columns(rows: list[tuple[Any, ...]]) -> Iterable[Column]:
    for _, chain in groupby(rows, key=lambda row: row[0]):
        inner: dict[str, PgType] = {}
        for _, name, nullable, generated, _, link, oid, namespace, typname, kind, typmod, formatted in chain:
            built = PgType(
                oid=oid, namespace=namespace, name=typname, kind=kind, typmod=typmod, formatted=formatted,
                element=inner.get("element"), base=inner.get("base"),
            )  # fmt: skip
            inner = {link: built}
            if not link:
                yield Column(name=name, type=built, nullable=nullable, generated=generated)
