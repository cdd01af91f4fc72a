"""The shape of a relation: which one its name means, its columns, what lies under it. Compared where no lock keeps it.

Names are of no help alone: two columns may swap theirs, a schema may be renamed and another take its name. A storage
number isn't enough either: a partition that is detached keeps it.
"""

from collections.abc import Iterable, Sequence
from typing import Any, cast

import psycopg
from psycopg import sql

from extraction_worker.errors import SchemaDrift
from extraction_worker.model import Pin, Plan

_HINT = "Run the job again; under consistency Snapshot a lock prevents this."


def pin(connection: psycopg.Connection[Any], oid: int, names: Iterable[str]) -> Pin:
    """Return the relation and its columns as the transaction sees them."""
    row = connection.execute(f"SELECT {_columns(oid, names)}".encode()).fetchone()
    return Pin(oid=oid, columns=tuple(row[0]) if row else ())


def shape_sql(plan: Plan, pinned: Pin) -> str:
    """Return a SELECT of one row: what the relation's name means, its planned columns, its descendants."""
    descendants = "NULL"
    if any(leaf.oid != pinned.oid for leaf in plan.leaves):
        descendants = f"""(
            WITH RECURSIVE tree(oid) AS (
                SELECT {pinned.oid}::pg_catalog.oid
                UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits AS i JOIN tree AS t ON i.inhparent = t.oid
            ) SELECT pg_catalog.array_agg(oid::pg_catalog.int8) FROM tree)"""
    name = sql.Literal(plan.relation).as_string(None)
    columns = _columns(pinned.oid, (column.name for column in plan.columns))
    return f"SELECT pg_catalog.to_regclass({name})::pg_catalog.oid::pg_catalog.int8, {columns}, {descendants}"


def check_shape(plan: Plan, pinned: Pin, found: Sequence[object]) -> None:
    """Compare a row of :func:`shape_sql` with what was planned; raises SchemaDrift, which names what has changed."""
    oid, columns, descendants = found
    if oid != pinned.oid:
        raise SchemaDrift(f"{plan.relation} isn't the relation any more that was planned.", hint=_HINT)
    now = cast("list[str | None]", columns)
    for column, planned, current in zip(plan.columns, pinned.columns, now, strict=True):
        if planned != current:
            raise SchemaDrift(
                f"Column {column.name} of {plan.relation} was dropped, replaced or given another type after the plan "
                "was made.",
                hint=_HINT,
            )
    if descendants is not None:
        present = set(cast("list[int]", descendants))
        for leaf in plan.leaves:
            if leaf.oid not in present:
                raise SchemaDrift(f"{leaf.name} was detached from {plan.relation} after the plan was made.", hint=_HINT)


def check_storage(plan: Plan, found: Sequence[int | None]) -> None:
    """Compare the storage numbers of the plan's leaves, in their order; raises SchemaDrift, which names the leaf."""
    for leaf, filenode in zip(plan.leaves, found, strict=True):
        if (filenode or 0) != leaf.relfilenode:
            raise SchemaDrift(f"{leaf.name} was rewritten, truncated or replaced after the plan was made.", hint=_HINT)


def _columns(oid: int, names: Iterable[str]) -> str:
    """Return an expression: an array of number, type, modifier and name of each column; NULL where there is none."""
    listed = sql.Literal(list(names)).as_string(None)
    return f"""(
        SELECT pg_catalog.array_agg(
            a.attnum || ' ' || a.atttypid || ' ' || a.atttypmod || ' ' || a.attname ORDER BY u.position)
        FROM pg_catalog.unnest({listed}::text[]) WITH ORDINALITY AS u(name, position)
        LEFT JOIN pg_catalog.pg_attribute AS a
            ON a.attrelid = {oid} AND a.attname = u.name AND a.attnum > 0 AND NOT a.attisdropped)"""
