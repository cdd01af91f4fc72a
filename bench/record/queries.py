"""Each reference query with and without its index: the index is dropped in a transaction that is rolled back."""

import statistics
import time
from datetime import UTC, datetime
from typing import Any

import psycopg
from tests.support.history import generate, parameters

from bench.record.server import recorded
from extraction_record.queries import REFERENCE, Query

_END = datetime(2026, 11, 1, tzinfo=UTC)
Db = psycopg.Connection[tuple[Any, ...]]


def run(*, jobs: int, sources: int, months: int, rounds: int) -> tuple[list[str], dict[str, object]]:
    """Measure; return lines for people, and everything."""
    with recorded() as (_, connection):
        begin = time.monotonic()
        generate(connection, jobs=jobs, sources=sources, months=months, end=_END)
        print(f"Generated {jobs:,} jobs in {time.monotonic() - begin:.0f} s.", flush=True)
        lines = ["| query | index | with, ms | without, ms | × |", "|---|---|--:|--:|--:|"]
        found: dict[str, object] = {}
        for query in REFERENCE:
            # In the same run, one after the other, so that both have the same neighbours and the same warm pages.
            fast = _median(connection, query, rounds)
            with connection.transaction(force_rollback=True):
                connection.execute(f"DROP INDEX extraction.{query.index}".encode())
                slow = _median(connection, query, max(1, rounds // 2))
            found[query.name] = {"with": fast, "without": slow}
            lines.append(f"| {query.name} | {query.index} | {fast:.2f} | {slow:.1f} | {slow / fast:.0f} |")
            print(lines[-1], flush=True)
        sizes = _sizes(connection)
    lines += ["", "| table | bytes a row | with its indexes |", "|---|--:|--:|"]
    lines += [f"| {table} | {heap:.0f} | {total:.0f} |" for table, (heap, total) in sizes.items()]
    per_million = sum(
        sizes[table][1] * count for table, count in (("jobs", 1), ("job_specs", 1), ("attempts", 1), ("bundles", 4))
    )
    lines += ["", f"A million jobs of one attempt and four bundles: {per_million / 1000:.2f} GB."]
    return lines, {"jobs": jobs, "queries": found, "bytes": sizes}


def _median(connection: Db, query: Query, rounds: int) -> float:
    """Return the milliseconds of a query, the median after one that isn't counted."""
    taken = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        connection.execute(query.text, parameters(_END)).fetchall()
        taken.append((time.perf_counter() - begin) * 1000)
    return statistics.median(taken[1:])


def _sizes(connection: Db) -> dict[str, tuple[float, float]]:
    """Return the bytes of a row of each table, without and with its indexes."""
    found = {}
    for table in ("jobs", "job_specs", "attempts", "bundles"):
        row = connection.execute(
            "SELECT sum(pg_table_size(inhrelid)), sum(pg_total_relation_size(inhrelid)),"
            f" (SELECT count(*) FROM extraction.{table}) FROM pg_inherits"
            f" WHERE inhparent = 'extraction.{table}'::regclass".encode()
        ).fetchone()
        if row is not None:
            found[table] = (float(row[0] / row[2]), float(row[1] / row[2]))
    return found
