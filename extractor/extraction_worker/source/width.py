"""A guard that the server evaluates: a row wider than we may hold is refused before it is sent.

The client can't refuse a row in time: libpq takes a whole row into memory first. So where wide values are possible
(a TOAST table with pages, or no storage that we know) the first column's expression carries a check of the row's
width. A row over the limit makes the server fail with our own words in its message, which name the row's place.
"""

import re
from dataclasses import dataclass

from psycopg import sql

from extraction_worker.model import ColumnPlan, PgType, Plan
from extraction_worker.source.failures import ROW_TOO_WIDE

_FOUND = re.compile(ROW_TOO_WIDE + r" bytes=(?P<bytes>\d+) at=(?P<at>\([0-9]+,[0-9]+\) of [^\"]{1,200}|the query)")

# Never wider than a few bytes: their width needs no look. Whatever isn't here is looked at.
_FIXED = frozenset(
    {"bool", "int2", "int4", "int8", "oid", "float4", "float8", "money", "uuid", "name", "char"}
    | {"date", "time", "timetz", "timestamp", "timestamptz", "interval", "pg_lsn", "tid", "xid", "xid8", "cid"}
    | {"inet", "cidr", "macaddr", "macaddr8", "point", "lseg", "box", "circle", "line"}
)
_LOOK_CLOSER = 2000
"""Stored bytes over which a value's exact width is computed where that isn't free. A stored value may decompress to
255 times its size at the most, so what isn't looked at stays under half a MiB."""


@dataclass(frozen=True)
class WideRow:
    """A row that the guard refused: its bytes, and where it is."""

    bytes: int
    place: str


def may_be_wide(plan: Plan) -> bool:
    """Whether any row of the plan could be wider than a page."""
    if not any(_is_looked_at(column) for column in plan.columns):
        return False
    return not plan.leaves or any(leaf.toast_pages or not leaf.heap for leaf in plan.leaves)


def guard_width(plan: Plan, limit: int) -> Plan:
    """Return the plan with the guard in its first column's expression: rows over ``limit`` bytes make it fail."""
    if not may_be_wide(plan):
        return plan
    widths = sql.SQL(" + ").join(_width(column) for column in plan.columns if _is_looked_at(column))
    place = (
        sql.SQL("ctid::pg_catalog.text || ' of ' || tableoid::pg_catalog.regclass::pg_catalog.text")
        if plan.ctid_readable
        else sql.Literal("the query")
    )
    first = plan.columns[0]
    guarded = sql.SQL(
        "CASE WHEN (CASE WHEN ({widths}) > {limit} THEN ({mark} || ' bytes=' || ({widths}) || ' at=' || {place})"
        "::pg_catalog.bool ELSE true END) THEN {expression} END"
    ).format(
        widths=widths,
        limit=sql.SQL(str(int(limit))),
        mark=sql.Literal(ROW_TOO_WIDE),
        place=place,
        expression=sql.SQL(first.expression),
    )
    columns = (first.model_copy(update={"expression": guarded.as_string(None)}), *plan.columns[1:])
    return plan.model_copy(update={"columns": columns})


def find_wide_row(message: str) -> WideRow | None:
    """Return what the guard said in a server's message, if it was the guard."""
    found = _FOUND.search(message)
    return WideRow(int(found["bytes"]), found["at"]) if found else None


def _is_looked_at(column: ColumnPlan) -> bool:
    is_read = column.mask is None or column.mask.reads
    return is_read and _base(column.type).name not in _FIXED


def _base(kind: PgType) -> PgType:
    while kind.base is not None:
        kind = kind.base
    return kind


def _width(column: ColumnPlan) -> sql.Composable:
    name = sql.Identifier(column.name)
    base = _base(column.type)
    if base.name == "bytea":
        return sql.SQL("COALESCE(pg_catalog.octet_length({}::pg_catalog.bytea)::pg_catalog.int8, 0)").format(name)
    if base.name in ("text", "varchar", "bpchar", "json"):
        # The length of a stored text is known without reading it.
        return sql.SQL("COALESCE(pg_catalog.octet_length({}::pg_catalog.text)::pg_catalog.int8, 0)").format(name)
    return sql.SQL(
        "COALESCE((CASE WHEN pg_catalog.pg_column_size({0}) > {1} "
        "THEN pg_catalog.octet_length({0}::pg_catalog.text) ELSE pg_catalog.pg_column_size({0}) END)"
        "::pg_catalog.int8, 0)"
    ).format(name, sql.SQL(str(_LOOK_CLOSER)))
