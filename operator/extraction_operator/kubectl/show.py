"""A job on the screen: a bar on a terminal, lines elsewhere."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import TYPE_CHECKING, TextIO

from extraction_contract.live import LiveProgress
from extraction_operator.kubectl.follow import Display
from extraction_operator.kubectl.view import JobView

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Lines:
    """A line for each change, for logs and pipes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last = self._last_live = ""

    def show(self, job: JobView) -> None:
        """Print a line, unless it would repeat the last one."""
        if (line := job.line()) != self._last:
            self._last = line
            self.say(f"{job.name} {line}")

    def show_live(self, live: LiveProgress) -> None:
        """Print how far the pods are, where it is news."""
        done = f"{live.chunks}/{live.total} chunks"
        text = f"{live.percentage:g} %, {done}, {live.rows:,} rows, {round(live.rate):,} rows/s"
        if text != self._last_live:
            self._last_live = text
            self.say(text)

    def end_live(self) -> None:
        """Print nothing: the status goes on by itself."""

    def say(self, text: str) -> None:
        """Print a line."""
        print(text, file=self._stream, flush=True)


_SHOWN_PODS = 16
"""Bars of pods at the most; those that read come first."""


class Bar:
    """A bar that moves, and one for each pod below it; what a job says stays above them.

    Two threads call it: of who follows the status, and of who reads what pods tell.
    """

    def __init__(self, progress: "Progress") -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None, rows="")
        self._said = ""
        self._lock = RLock()
        self._job: JobView | None = None
        self._has_live = False
        """Whether the bar shows what pods tell, and not the status."""
        self._pods: dict[int, TaskID] = {}

    def show(self, job: JobView) -> None:
        """Move the bar."""
        with self._lock:
            self._job = job
            if job.phase != "Running":
                self._clear_pods()
            self._progress.update(self._task, description=f"{job.name} {job.phase}")
            if not self._has_live:
                self._show_status(job)
            said = ": ".join(part for part in (job.reason, job.message) if part)
            if said and said != self._said:
                self._said = said
                self.say(said)

    def show_live(self, live: LiveProgress) -> None:
        """Move the bar, and those of pods that read."""
        with self._lock:
            if self._job is None or self._job.phase != "Running":
                return  # it was read before the phase changed
            self._has_live = True
            rate = f"{round(live.rate):,} rows/s" if live.rate else ""
            self._progress.update(
                self._task, completed=live.chunks, total=live.total or None,
                rows="  ".join(part for part in (f"{live.percentage:g} %", f"{live.rows:,} rows", rate) if part),
            )  # fmt: skip
            self._show_pods(live)

    def end_live(self) -> None:
        """Show the status again."""
        with self._lock:
            self._clear_pods()
            if self._job is not None:
                self._show_status(self._job)

    def _show_status(self, job: JobView) -> None:
        rows = f"{job.rows:,} rows" if job.rows else ""
        rate = f"{job.rows_per_second:,} rows/s" if job.rows_per_second else ""
        self._progress.update(
            self._task, completed=job.done, total=job.chunks or None,
            rows="  ".join(part for part in (rows, rate) if part),
        )  # fmt: skip

    def _show_pods(self, live: LiveProgress) -> None:
        at_work = [(bundle, pod) for bundle, pod in live.pods if pod.chunks < pod.of][:_SHOWN_PODS]
        for bundle in self._pods.keys() - {bundle for bundle, _ in at_work}:
            self._progress.remove_task(self._pods.pop(bundle))
        for bundle, pod in at_work:
            if bundle not in self._pods:
                self._pods[bundle] = self._progress.add_task("", total=None, rows="")
            self._progress.update(
                self._pods[bundle], description=f"  {pod.pod}", completed=pod.chunks, total=pod.of or None,
                rows=f"{pod.rows:,} rows  {round(pod.rate):,} rows/s",
            )  # fmt: skip

    def _clear_pods(self) -> None:
        self._has_live = False
        while self._pods:
            self._progress.remove_task(self._pods.popitem()[1])

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
