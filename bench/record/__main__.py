"""``python -m bench.record``: the command line. Prints a table; writes it and JSON to bench/results."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click

from bench.machine import this_machine

_RESULTS = Path(__file__).parents[1] / "results"


@click.group(context_settings={"show_default": True})
@click.option("--name", default="", help="Of the results. Default: record-COMMAND.local, which stays out of git.")
@click.pass_context
def main(ctx: click.Context, *, name: str) -> None:
    """Measure the analytics record."""
    ctx.obj = name or f"record-{ctx.invoked_subcommand}.local"


@main.command()
@click.option("--jobs", default=5_000_000)
@click.option("--sources", default=200_000)
@click.option("--months", default=12)
@click.option("--rounds", default=5, help="Of each query with its index; it is asked half as often without.")
@click.pass_obj
def queries(name: str, *, jobs: int, sources: int, months: int, rounds: int) -> None:
    """Each reference query with and without its index, and the size of a million jobs."""
    from bench.record.queries import run

    _save(name, run(jobs=jobs, sources=sources, months=months, rounds=rounds))


@main.command()
@click.option("--jobs", default=20_000, help="Jobs that live at the same time.")
@click.option("--changes", default=8, help="Of each of them.")
@click.option("--singly", default=2_000, help="Changes that are written one by one, for comparison.")
@click.option("--history", default=1_000_000, help="Jobs that the record has already.")
@click.pass_obj
def writes(name: str, *, jobs: int, changes: int, singly: int, history: int) -> None:
    """Count changes a second through the spool, and transactions for them."""
    from bench.record.writes import run

    _save(name, run(jobs=jobs, changes=changes, singly=singly, history=history))


def _save(name: str, lines: tuple[list[str], dict[str, object]]) -> None:
    machine = this_machine()
    shown, details = lines
    head = [
        f"{datetime.now(UTC):%Y-%m-%d}. {machine.cpu}, {machine.cores} cores, {machine.memory_bytes >> 30} GiB.",
        f"Load average at the end {machine.load_average[0]:.1f}.",
        *([] if machine.is_quiet else ["", "**The machine wasn't quiet: absolute figures are no results.**"]),
        "",
    ]  # fmt: skip
    text = "\n".join([*head, *shown])
    click.echo(text)
    _RESULTS.mkdir(exist_ok=True)
    (_RESULTS / f"{name}.md").write_text(text + "\n")
    (_RESULTS / f"{name}.json").write_text(json.dumps({"machine": asdict(machine), **details}, indent=2) + "\n")


if __name__ == "__main__":
    main()
