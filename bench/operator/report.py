"""What a benchmark found: a table for people, JSON for programs, both with the machine it ran on."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.machine import Machine, this_machine

_PACKAGES = ("extraction-operator", "kopf", "kubernetes", "aiohttp", "pydantic")


@dataclass(frozen=True)
class Figure:
    """One figure, with what was wanted of it."""

    text: str
    found: float
    unit: str
    most: float | None = None
    """What it may be at most; None where nothing was promised."""

    @property
    def met(self) -> bool | None:
        """Whether the promise is kept."""
        return None if self.most is None else self.found <= self.most


@dataclass
class Report:
    """What one benchmark found."""

    name: str
    kubernetes: str
    began: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    machine: Machine = field(default_factory=this_machine)
    settings: dict[str, Any] = field(default_factory=dict)
    figures: list[Figure] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, text: str, found: float, unit: str, *, most: float | None = None) -> None:
        """Add a figure."""
        self.figures.append(Figure(text, round(found, 4), unit, most))

    def markdown(self) -> str:
        """Return it for people."""
        machine = self.machine
        load = ", ".join(f"{value:.1f}" for value in machine.load_average)
        packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
        lines = [
            f"{self.name}: {', '.join(f'{name} {value}' for name, value in self.settings.items())}.",
            f"{machine.cpu}, {machine.cores} cores, {machine.memory_bytes >> 30} GiB, Linux {machine.kernel}.",
            f"Python {machine.python}, Kubernetes {self.kubernetes}, {packages}.",
            f"Load average at the start {load}, at the end {os.getloadavg()[0]:.1f}.",
            *([] if machine.is_quiet else ["", "**The machine wasn't quiet: absolute figures are no results.**"]),
            "", "| figure | found | at most | |", "|---|--:|--:|---|",
        ]  # fmt: skip
        for figure in self.figures:
            most = "" if figure.most is None else f"{figure.most:g} {figure.unit}"
            met = {None: "", True: "met", False: "**missed**"}[figure.met]
            lines.append(f"| {figure.text} | {figure.found:,.4g} {figure.unit} | {most} | {met} |")
        for title, table in self.details.items():
            lines += ["", f"{title}:", "", *_lines(table)]
        return "\n".join([*lines, *(f"\n- {note}" for note in self.notes)])

    def save(self, folder: Path) -> None:
        """Write both files."""
        folder.mkdir(parents=True, exist_ok=True)
        document = asdict(self) | {"packages": {name: version(name) for name in _PACKAGES}}
        document["figures"] = [asdict(figure) | {"met": figure.met} for figure in self.figures]
        (folder / f"{self.name}.json").write_text(json.dumps(document, indent=1) + "\n")
        (folder / f"{self.name}.md").write_text(self.markdown() + "\n")


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that so large a share of all doesn't exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


def _lines(table: Any) -> list[str]:
    if not isinstance(table, dict):
        return [str(table)]
    return [f"- {name}: {_counts(value)}" for name, value in table.items()]


def _counts(value: Any) -> str:
    return ", ".join(f"{what} {count:g}" for what, count in value.items()) if isinstance(value, dict) else str(value)
