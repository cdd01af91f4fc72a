"""Rows for people: columns of text; numbers with separators, times in UTC."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from extraction_record.history import Whole

Row = Mapping[str, Any]

JOBS = (
    "namespace", "name", "source", "table_name", "phase", "started_at", "duration_seconds", "rows", "rows_per_second",
)  # fmt: skip
FAILURES = ("finished_at", "namespace", "name", "attempt", "reason", "failed_pods", "failed_because", "message")
SLOWEST = ("namespace", "name", "source", "table_name", "finished_at", "duration_seconds", "rows", "rows_per_second")
STATS = (
    "day", "namespace", "source", "jobs", "succeeded", "failed", "rows", "bytes", "p50_seconds", "p95_seconds",
    "max_seconds",
)  # fmt: skip
ATTEMPTS = (
    "attempt", "outcome", "started_at", "plan_seconds", "duration_seconds", "strategy", "chunks", "bundles", "rows",
    "files", "failed_pods", "failed_because", "reason",
)  # fmt: skip
BUNDLES = (
    "attempt", "bundle", "outcome", "node", "duration_seconds", "rows", "bytes", "rows_per_second", "retries",
    "sessions", "session_checkouts", "session_reuses", "session_waits", "sessions_evicted", "sessions_leaked", "reason",
)  # fmt: skip
_TITLES = {
    "duration_seconds": "seconds", "table_name": "table", "rows_per_second": "rows/s",
    "session_checkouts": "checkouts", "session_reuses": "reuses", "session_waits": "waits",
    "sessions_evicted": "evicted", "sessions_leaked": "leaked", "failed_because": "because",
}  # fmt: skip
_LONGEST = 80


def table(rows: Sequence[Row], columns: Sequence[str]) -> Iterator[str]:
    """Yield a line for the titles and one for each row."""
    cells = [[_TITLES.get(name, name).upper() for name in columns]]
    cells += [[text(row[name]) for name in columns] for row in rows]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    numbers = [bool(rows) and all(isinstance(row[name], int | float | None) for row in rows) for name in columns]
    for line in cells:
        parts = (
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(line, widths, numbers, strict=True)
        )
        yield "  ".join(parts).rstrip()


def whole(found: Whole) -> Iterator[str]:
    """Yield everything about one job."""
    width = max(len(name) for name in found.job)
    yield from (
        f"{name:{width}}  {text(value, longest=None)}" for name, value in found.job.items() if value is not None
    )
    for title, rows, columns in (("Attempts", found.attempts, ATTEMPTS), ("Bundles", found.bundles, BUNDLES)):
        if rows:
            yield ""
            yield f"{title}:"
            yield from table(rows, columns)


def text(value: object, longest: int | None = _LONGEST) -> str:
    """Return a value as people read it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.1f}"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    shown = _counts(value) if isinstance(value, Mapping) else str(value)
    return shown if longest is None or len(shown) <= longest else f"{shown[: longest - 1]}…"


def _counts(found: Mapping[str, int]) -> str:
    """Return how often each was counted, the most frequent first."""
    items = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} × {name}" for name, count in items)
