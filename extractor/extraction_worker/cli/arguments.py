"""What ``run`` and ``plan`` take, once: as options for people, and as one value for the code. Imports click alone."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

Command = Callable[..., None]


@dataclass(frozen=True)
class JobArguments:
    """Which job, where its secrets and volumes are, and what it may use. Names are those of the options."""

    files: tuple[Path, ...]
    job: str | None
    secrets_dir: Path | None
    volumes_dir: Path
    threads: int | None
    memory: str | None
    redis_url_file: Path | None
    output: str


def output_option(command: Command) -> Command:
    """Add ``--output text|json``."""
    formats = click.Choice(["text", "json"])
    option = click.option("--output", type=formats, default="text", show_default=True, help="What to print.")
    return option(command)


def files_argument(command: Command) -> Command:
    """Add ``FILE...``: one or more files that exist."""
    path = click.Path(exists=True, dir_okay=False, path_type=Path)
    return click.argument("files", nargs=-1, required=True, type=path, metavar="FILE...")(command)


_OPTIONS: tuple[Callable[[Command], Command], ...] = (
    files_argument,
    click.option("--job", metavar="NAME", help="Which ExtractionJob of the files: NAME or NAMESPACE/NAME."),
    click.option(
        "--secrets-dir",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        metavar="DIR",
        help="Secrets that no file has, laid out as mounted ones: DIR/NAME/KEY.",
    ),
    click.option(
        "--volumes-dir",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path("volumes"),
        show_default=True,
        metavar="DIR",
        help="Where a volume CLAIM is the folder DIR/CLAIM.",
    ),
    click.option(
        "--threads",
        type=click.IntRange(1, 256),
        metavar="N",
        help="Threads that read; default: by processors and limits.",
    ),
    click.option(
        "--memory",
        metavar="BYTES",
        help="Memory to stay below, e.g. 256Mi; default: the cgroup's limit, or half of what is free.",
    ),
    click.option(
        "--redis-url-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Where the URL of a Redis is that remembers what planning learned; default: none.",
    ),
    output_option,
)


def job_arguments(command: Callable[[JobArguments], None]) -> Command:
    """Give a command the options of :class:`JobArguments`, and call it with them as one value."""

    def collect(**given: Any) -> None:
        command(JobArguments(**given))

    collect.__name__, collect.__doc__ = command.__name__, command.__doc__
    decorated: Command = collect
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated
