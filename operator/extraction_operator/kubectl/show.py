"""A job on the screen: a bar on a terminal, lines elsewhere."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from extraction_operator.kubectl.follow import Display
from extraction_operator.kubectl.view import JobView

if TYPE_CHECKING:
    from rich.progress import Progress


class Lines:
    """A line for each change, for logs and pipes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last = ""

    def show(self, job: JobView) -> None:
        """Print a line, unless it would repeat the last one."""
        if (line := job.line()) != self._last:
            self._last = line
            self.say(f"{job.name} {line}")

    def say(self, text: str) -> None:
        """Print a line."""
        print(text, file=self._stream, flush=True)


class Bar:
    """A bar that moves; what a job says stays above it."""

    def __init__(self, progress: "Progress") -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None, rows="")
        self._said = ""

    def show(self, job: JobView) -> None:
        """Move the bar."""
        rows = f"{job.rows:,} rows" if job.rows else ""
        rate = f"{job.rows_per_second:,} rows/s" if job.rows_per_second else ""
        self._progress.update(
            self._task, description=f"{job.name} {job.phase}", completed=job.done, total=job.chunks or None,
            rows="  ".join(part for part in (rows, rate) if part),
        )  # fmt: skip
        said = ": ".join(part for part in (job.reason, job.message) if part)
        if said and said != self._said:
            self._said = said
            self.say(said)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(text, markup=False, highlight=False)


@contextmanager
def display(stream: TextIO | None = None) -> Iterator[Display]:
    """Show a job as suits the stream; that is stderr if none is given."""
    stream = stream or sys.stderr
    if not stream.isatty():
        yield Lines(stream)
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    except ModuleNotFoundError:
        yield Lines(stream)
        return
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[rows]}"), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(file=stream)) as progress:
        yield Bar(progress)
