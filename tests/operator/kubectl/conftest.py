"""A program in the place of kubectl that says what a test has written down; the real one is used in e2e/."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

_PROGRAM = """#!{python}
import json, sys, pathlib
folder = pathlib.Path({folder!r})
with (folder / "calls").open("a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
number = len((folder / "calls").read_text().splitlines())
answer = json.loads((folder / f"answer-{{number}}").read_text())
sys.stdout.write(answer["out"])
sys.stderr.write(answer["err"])
sys.exit(answer["code"])
"""


@dataclass(frozen=True)
class Scripted:
    """Answers of kubectl, in the order of the calls."""

    folder: Path

    def answer(self, out: str | dict[str, Any] = "", *, err: str = "", code: int = 0) -> "Scripted":
        """Add an answer."""
        number = len(list(self.folder.glob("answer-*"))) + 1
        text = out if isinstance(out, str) else json.dumps(out)
        (self.folder / f"answer-{number}").write_text(json.dumps({"out": text, "err": err, "code": code}))
        return self

    def watch(self, *events: tuple[str, dict[str, Any]], err: str = "", code: int = 0) -> "Scripted":
        """Add a watch with these events."""
        lines = [json.dumps({"type": kind, "object": found}) + "\n" for kind, found in events]
        return self.answer("".join(lines), err=err, code=code)

    @property
    def calls(self) -> list[list[str]]:
        """Arguments of each call until now."""
        return [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """The program, which the commands find."""
    program = tmp_path / "kubectl"
    program.write_text(_PROGRAM.format(python=sys.executable, folder=str(tmp_path)))
    program.chmod(0o755)
    monkeypatch.setenv("KUBECTL", str(program))
    return Scripted(tmp_path)


@pytest.fixture
def job() -> Callable[..., dict[str, Any]]:
    """Make ExtractionJobs as the API server writes them."""

    def make(
        phase: str = "Running", reason: str = "", message: str = "", *, spec: Any = (), status: Any = ()
    ) -> dict[str, Any]:
        conditions = [{"type": "Ready", "status": "False", "reason": reason, "message": message}] if reason else []
        return {
            "metadata": {"name": "orders", "uid": "u-1", "resourceVersion": "7"},
            "spec": {"suspend": False, "cancel": False, "retry": 0} | dict(spec),
            "status": ({"phase": phase, "attempt": 1, "conditions": conditions} if phase else {}) | dict(status),
        }

    return make
