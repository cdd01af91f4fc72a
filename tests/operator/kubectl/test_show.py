"""A job on a terminal and elsewhere."""

import io
import sys
from collections.abc import Callable
from typing import Any

import pytest

from extraction_operator.kubectl.show import Bar, Lines, display
from extraction_operator.kubectl.view import JobView

Job = Callable[..., dict[str, Any]]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def running(job: Job, done: int) -> JobView:
    progress = {"summary": f"{done}/40", "chunks": done, "rows": done * 1000, "rowsPerSecond": 500}
    status = {"plan": {"chunks": 40}, "progress": progress}
    return JobView.of(job("Running", "Planned", "40 [bold] chunks.", status=status))


def test_a_terminal_gets_a_bar_and_what_is_said_stays_above_it(job: Job) -> None:
    stream = Terminal()
    with display(stream) as shown:
        assert isinstance(shown, Bar)
        shown.show(JobView.of(job("")))
        shown.show(running(job, 12))
        shown.show(running(job, 20))
    text = stream.getvalue()
    assert text.count("Planned: 40 [bold] chunks.") == 1
    assert "orders Running" in text
    assert "20/40" in text
    assert "20,000 rows  500 rows/s" in text


def test_elsewhere_each_change_is_a_line(job: Job) -> None:
    stream = io.StringIO()
    with display(stream) as shown:
        assert isinstance(shown, Lines)
        shown.show(running(job, 12))
        shown.show(running(job, 12))
        shown.show(running(job, 13))
    assert len(stream.getvalue().splitlines()) == 2


def test_without_rich_a_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with display(Terminal()) as shown:
        assert isinstance(shown, Lines)
