"""What people see: a progress bar on a terminal, plain lines elsewhere, the plan, the result."""

import sys
import threading
import time
from collections.abc import Iterator

from extraction_worker.model import Manifest, Plan
from extraction_worker.report.progress import Phase, Progress, Snapshot

_BAR_SECONDS = 0.2
_LINE_SECONDS = 5.0


def follow(progress: Progress, thread: threading.Thread) -> None:
    """Show progress on standard error until the thread ends: a bar on a terminal, a line every few seconds else."""
    if sys.stderr.isatty():
        _follow_bar(progress, thread)
    else:
        _follow_lines(progress, thread)


def _follow_bar(progress: Progress, thread: threading.Thread) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:10}"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[text]}"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console) as bars:
        task = bars.add_task("Planning", total=None, text="")
        while True:
            alive = thread.is_alive()
            for message in progress.take_messages():
                bars.console.print(message, highlight=False)
            now = progress.now()
            # The estimate may be short of the truth, and the bar mustn't be full before the end is.
            total = max(now.estimated_rows, now.read_rows + (now.done_chunks < now.total_chunks)) or None
            bars.update(task, description=now.phase.value, total=total, completed=now.read_rows, text=_counts(now))
            if not alive:
                return
            thread.join(_BAR_SECONDS)


def _follow_lines(progress: Progress, thread: threading.Thread) -> None:
    shown, phase = time.monotonic(), Phase.PLANNING
    while True:
        alive = thread.is_alive()
        for message in progress.take_messages():
            print(message, file=sys.stderr, flush=True)
        now = progress.now()
        if now.phase is not phase or time.monotonic() - shown >= _LINE_SECONDS:
            shown, phase = time.monotonic(), now.phase
            print(f"{now.phase.value}: {_counts(now)}", file=sys.stderr, flush=True)
        if not alive:
            return
        thread.join(_BAR_SECONDS)


def _counts(now: Snapshot) -> str:
    return (
        f"{now.read_rows:,} rows, {now.rows_per_second:,.0f} rows/s, {size(now.read_bytes)}, "
        f"{now.done_chunks}/{now.total_chunks} chunks"
    )


def print_plan(plan: Plan, connections: int, output: str) -> None:
    """Print a plan for people, or as JSON. Bounds of ranges are row data: they aren't printed.

    Parameters
    ----------
    connections
        To the source at the most, while the plan is worked in this process.
    """
    if output == "json":
        import orjson

        document = {
            "source": plan.source,
            "relation": plan.relation,
            "strategy": plan.strategy,
            "reason": plan.strategy_reason,
            "warnings": plan.warnings,
            "consistency": plan.consistency.value,
            "verification": plan.verification.value,
            "connections": connections,
            "chunks": len(plan.chunks),
            "estimatedRows": plan.estimated_rows,
            "estimatedBytes": plan.estimated_bytes,
            "columns": [
                {"name": column.name, "source": column.type.formatted, "arrow": column.arrow} for column in plan.columns
            ],
            "digest": plan.plan_digest(),
        }
        print(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())
        return
    for line in _plan_lines(plan, connections):
        print(line)


def _plan_lines(plan: Plan, connections: int) -> Iterator[str]:
    rows = [chunk.estimated_rows for chunk in plan.chunks]
    yield f"{plan.relation} of {plan.source}, {len(plan.columns)} columns"
    yield f"  strategy      {plan.strategy}: {plan.strategy_reason}"
    spread = f", {min(rows):,} to {max(rows):,} rows each" if len(rows) > 1 else ""
    yield f"  chunks        {len(rows):,}{spread} (estimated)"
    yield f"  rows, bytes   about {plan.estimated_rows:,}, {size(plan.estimated_bytes)}"
    yield f"  connections   {connections} at the most"
    yield f"  consistency   {plan.consistency.value}"
    yield f"  verification  {plan.verification.value}"
    for warning in plan.warnings:
        yield f"  warning       {warning}"
    width = max(len(column.name) for column in plan.columns)
    for column in plan.columns:
        yield f"    {column.name:{width}}  {column.type.formatted} → {column.arrow}"


def print_manifest(manifest: Manifest, uri: str, now: Snapshot, output: str) -> None:
    """Print what was published, for people or as JSON."""
    if output == "json":
        import orjson

        document = {
            "uri": uri,
            "rows": manifest.rows,
            "bytes": manifest.bytes,
            "files": len(manifest.parts),
            "digest": manifest.digest,
            "consistency": manifest.consistency.value,
            "verification": manifest.verification.value,
            "replaced": [entry.model_dump(by_alias=True) for entry in manifest.replaced],
            "seconds": round(now.seconds, 3),
        }
        print(orjson.dumps(document).decode())
        return
    rate = manifest.rows / max(now.seconds, 1e-9)
    print(
        f"Published {manifest.rows:,} rows in {len(manifest.parts)} files ({size(manifest.bytes)}) to {uri}\n"
        f"  digest {manifest.digest}, consistency {manifest.consistency.value}, "
        f"verified {manifest.verification.value}, {now.seconds:.1f} s, {rate:,.0f} rows/s"
    )
    for entry in manifest.replaced:
        print(f"  {entry.count:,} values of {entry.column} became NULL: {entry.kind}")


def size(count: int) -> str:
    """Return a number of bytes for people, e.g. ``12.3 MiB``."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
