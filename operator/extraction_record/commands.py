"""``record`` and ``history``, part of ``extraction`` and ``extraction-operator``.

Imports click alone until one is called.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from extraction_record.connection import Place
    from extraction_record.history import Filter, History

Command = Callable[..., None]
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class _Span(click.ParamType[timedelta]):
    """A length of time: ``90d``."""

    name = "span"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> timedelta:
        """Return the length of time."""
        if isinstance(value, timedelta):
            return value
        match = re.fullmatch(r"(\d{1,6})([smhdw])", str(value))
        if match is None:
            self.fail(f"{value!r} isn't a number with s, m, h, d or w, e.g. 90d.", parameter, context)
        return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _placed(command: Command) -> Command:
    """Give a command the place of the record."""

    @click.option(
        "--url", required=True, envvar="EXTRACTION_RECORD_URL", metavar="URL",
        help="postgresql://HOST[:PORT]/DATABASE[?sslmode=…]; no password. [EXTRACTION_RECORD_URL]",
    )  # fmt: skip
    @click.option(
        "--credentials", envvar="EXTRACTION_RECORD_CREDENTIALS", metavar="FOLDER",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="With the files username and password. Default: PGUSER, PGPASSWORD. [EXTRACTION_RECORD_CREDENTIALS]",
    )  # fmt: skip
    @wraps(command)
    def run(url: str, credentials: Path | None, **options: Any) -> None:
        with _told():
            from extraction_record.connection import Place

            command(Place(url, credentials), **options)

    return run


@contextmanager
def _told() -> Iterator[None]:
    """Say what went wrong in one line."""
    try:
        import psycopg

        from extraction_record.connection import PlaceError
    except ModuleNotFoundError as error:
        raise click.ClickException(_missing(error)) from None
    try:
        yield
    except ModuleNotFoundError as error:
        raise click.ClickException(_missing(error)) from None
    except (PlaceError, psycopg.Error) as error:
        raise click.ClickException(f"The record: {str(error).strip() or type(error).__name__}") from None


def _missing(error: ModuleNotFoundError) -> str:
    return f"{error.name} isn't installed: pip install 'extraction-operator[record]'"


@click.group()
def record() -> None:
    """Keep the analytics record, a PostgreSQL database of what has happened."""


@record.command()
@_placed
@click.option("--revision", default="head", show_default=True, help="An older one is gone down to; base drops all.")
@click.option("--down", is_flag=True, help="Allow going down, which drops what later versions recorded.")
@click.option("--wait", type=_Span(), default="0s", help="Try again for so long while the server is away, e.g. 2m.")
def migrate(place: "Place", revision: str, *, down: bool, wait: timedelta) -> None:
    """Bring the schema to a version; two at once are safe."""
    from extraction_record import migrate as migrations
    from extraction_record.patience import retry

    def go() -> None:
        if down:
            migrations.downgrade(place, revision)
        else:
            migrations.upgrade(place, revision)

    retry(go, wait)
    click.echo(f"The record is at version {migrations.current(place)[0] or 'base'}.")


@record.command()
@_placed
def version(place: "Place") -> None:
    """Show the version of the schema, and the newest."""
    from extraction_record import migrate as migrations

    there, newest = migrations.current(place)
    click.echo(f"{there or 'base'} (newest: {newest})")


@record.command()
@_placed
@click.option("--ahead", type=click.IntRange(1, 120), default=3, show_default=True, help="Months to make ahead.")
def partitions(place: "Place", ahead: int) -> None:
    """Make the partitions of the next months, and move into them what the default partitions have."""
    import psycopg

    from extraction_record.partitions import make

    with psycopg.connect(**place.parameters(), autocommit=True) as connection:
        made = make(connection, months=ahead)
    click.echo(f"Made {len(made)} partitions.")


@record.command()
@_placed
@click.option("--keep", type=_Span(), required=True, metavar="SPAN", help="E.g. 400d: what was created before goes.")
@click.option("--ahead", type=click.IntRange(1, 120), default=3, show_default=True, help="Months to make ahead.")
def prune(place: "Place", keep: timedelta, ahead: int) -> None:
    """Drop months that are older than SPAN as a whole, and make the next ones. A month in which a job runs stays."""
    import psycopg

    from extraction_record.partitions import make
    from extraction_record.partitions import prune as drop

    with psycopg.connect(**place.parameters(), autocommit=True) as connection:
        make(connection, months=ahead)
        done = drop(connection, keep=keep)
    click.echo(f"Dropped {len(done.dropped)} partitions and {done.rows} rows beside them.")
    for name in done.kept:
        click.echo(f"Kept {name}: a job of it hasn't ended.")


# Reading -------------------------------------------------------------------------------------------------------------


@click.group()
def history() -> None:
    """Ask the analytics record what has happened, also when pods and objects are gone."""


def _filtered(since: str | None) -> Callable[[Command], Command]:
    """Give a command a reader, a filter and how to print."""

    def decorate(command: Command) -> Command:
        @_placed
        @click.option("-n", "--namespace", metavar="NAME", help="Of this namespace.")
        @click.option("--source", metavar="NAME", help="Of this DataSource.")
        @click.option("--table", metavar="SCHEMA.TABLE", help="Of this table.")
        @click.option("--schedule", metavar="NAME", help="Made by this schedule.")
        @click.option(
            "--since", type=_Span(), default=since, show_default=True, metavar="SPAN", help="Not older, e.g. 7d."
        )
        @click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
        @wraps(command)
        def run(
            place: "Place", namespace: str | None, source: str | None, table: str | None, schedule: str | None,
            since: timedelta | None, output: str, **options: Any,
        ) -> None:  # fmt: skip
            from extraction_record.history import Filter, History

            begin = datetime.now(UTC) - since if since is not None else None
            which = Filter(namespace=namespace, source=source, table=table, schedule=schedule, since=begin)
            with History.open(place) as reader:
                command(reader, which, output, **options)

        return run

    return decorate


_limit = click.option("--limit", type=click.IntRange(1, 100_000), default=20, show_default=True, help="So many jobs.")


@history.command("list")
@_filtered(since=None)
@click.option("--phase", metavar="PHASE", help="In this phase.")
@click.option("--running", is_flag=True, help="That haven't ended.")
@_limit
def list_jobs(reader: "History", which: "Filter", output: str, *, phase: str | None, running: bool, limit: int) -> None:
    """List jobs, the newest first."""
    from dataclasses import replace

    from extraction_record.show import JOBS

    _print(reader.jobs(replace(which, phase=phase, running=running), limit), JOBS, output)


@history.command()
@_filtered(since="7d")
@_limit
def failures(reader: "History", which: "Filter", output: str, limit: int) -> None:
    """List jobs that failed, the last first, and why."""
    from extraction_record.show import FAILURES

    _print(reader.failures(which, limit), FAILURES, output)


@history.command()
@_filtered(since="7d")
@_limit
def slowest(reader: "History", which: "Filter", output: str, limit: int) -> None:
    """List the jobs that took the longest."""
    from extraction_record.show import SLOWEST

    _print(reader.slowest(which, limit), SLOWEST, output)


@history.command()
@_filtered(since="7d")
def stats(reader: "History", which: "Filter", output: str) -> None:
    """Show jobs, rows, bytes and durations by day and source."""
    from extraction_record.show import STATS

    _print(reader.stats(which), STATS, output)


@history.command()
@_placed
@click.argument("name", metavar="NAME|UID")
@click.option("-n", "--namespace", default="default", show_default=True, metavar="NAME", help="Its namespace.")
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def show(place: "Place", name: str, namespace: str, output: str) -> None:
    """Show one job: the newest of its name, its attempts and bundles."""
    from extraction_record.history import History
    from extraction_record.show import whole

    with History.open(place) as reader:
        found = reader.show(name, namespace)
    if found is None:
        raise click.ClickException(f"The record has no job {name if '-' in name else f'{namespace}/{name}'}.")
    if output == "json":
        _json({**found.job, "spec": found.spec, "attempts": found.attempts, "bundles": found.bundles})
    else:
        click.echo("\n".join(whole(found)))


def _print(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], output: str) -> None:
    if output == "json":
        _json(rows)
    else:
        from extraction_record.show import table

        click.echo("\n".join(table(rows, columns)))


def _json(value: object) -> None:
    from extraction_record.history import plain

    click.echo(json.dumps(value, default=plain, indent=2))
