"""Plan + chunk → SQL text. Pure.

COPY takes no parameters, so bounds are rendered as typed literals. Types are qualified: sessions run with an empty
``search_path``, in which operators are those of ``pg_catalog`` alone. A bound carries no COLLATE: next to a column,
whose collation is part of its declaration, the server uses the column's, and with it the order in which the bounds
were made. The user's SQL is wrapped, never rewritten; the line feeds close a trailing comment.
"""

from psycopg import sql

from extraction_worker.model import Chunk, CtidRead, Plan, RangeRead, Read


def identifier(*names: str) -> str:
    """Return a quoted identifier: ``"schema"."name"``."""
    return sql.Identifier(*names).as_string(None)


def literal(value: str, type_name: str = "") -> str:
    """Return ``value`` as a literal of the type, e.g. ``'42'::pg_catalog.int8``; untyped when there is none.

    A backslash makes it an ``E'…'`` literal, so that it reads the same under any ``standard_conforming_strings``.
    """
    quoted = sql.Literal(value).as_string(None).strip()
    return f"{quoted}::{type_name}" if type_name else quoted


def select_sql(plan: Plan, chunk: Chunk) -> str:
    """Return the SELECT that reads a chunk: the plan's columns in order, then their guards."""
    # Types are Arrow's: who only renders names, as the holder of the snapshot does, doesn't wait for that library.
    from extraction_worker.source.types import select_list

    return f"SELECT {select_list(plan.columns)}{_from_where(plan, chunk)}"


def aggregate_sql(plan: Plan, chunk: Chunk, aggregates: str) -> str:
    """Return a SELECT of aggregates over exactly the rows that :func:`select_sql` reads."""
    return f"SELECT {aggregates}{_from_where(plan, chunk)}"


def predicate(read: Read) -> str:
    """Return the condition of a chunk, empty when it reads everything."""
    if isinstance(read, CtidRead):
        return _pages(read)
    if isinstance(read, RangeRead):
        return _range(read)
    return ""


def _from_where(plan: Plan, chunk: Chunk) -> str:
    conditions = [f"({plan.where_sql}\n)"] if plan.where_sql else []
    if plan.leaves_alone:
        oids = ",".join(str(leaf.oid) for leaf in plan.leaves)
        conditions.append(f"tableoid = ANY ('{{{oids}}}'::pg_catalog.oid[])")
    if condition := predicate(chunk.read):
        conditions.append(f"({condition})")
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return f" FROM {plan.from_sql}{where}"


def _pages(read: CtidRead) -> str:
    # Line pointers are numbered from 1, so (n,0) is before the first row of page n and after the last one of n - 1.
    conditions = []
    if read.first_page is not None:
        conditions.append(f"ctid >= '({read.first_page},0)'::pg_catalog.tid")
    if read.end_page is not None:
        conditions.append(f"ctid < '({read.end_page},0)'::pg_catalog.tid")
    return " AND ".join(conditions)


def _range(read: RangeRead) -> str:
    key = identifier(read.column)
    conditions = [f"{key} IS NULL"] if read.only_null else []
    if read.lower is not None:
        conditions.append(f"{key} >= {literal(read.lower, read.type)}")
    if read.upper is not None:
        conditions.append(f"{key} < {literal(read.upper, read.type)}")
    if not conditions:
        conditions.append(f"{key} IS NOT NULL")
    if read.pages is not None and (pages := _pages(read.pages)):
        conditions.append(pages)
    return " AND ".join(conditions)
