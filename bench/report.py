"""From measurements to medians, ratios, goals and a table. Pure, but for the file at the end."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from bench.machine import Machine

MIB = 1 << 20


@dataclass(frozen=True)
class Measurement:
    """One turn of one contender.

    ``seconds`` is its own: after imports, from before the first connection until the files are closed. ``wall_seconds``
    is the whole process. ``server_cpu_seconds`` is what the server spent meanwhile.
    """

    contender: str
    round: int
    rows: int
    seconds: float
    startup_seconds: float
    wall_seconds: float
    cpu_seconds: float
    server_cpu_seconds: float
    peak_rss_bytes: int
    output_bytes: int
    output_files: int


@dataclass(frozen=True)
class Goal:
    """What is to be reached, and what was: the median of the ratios of each round, or of the value itself."""

    text: str
    wanted: float
    found: float
    met: bool


@dataclass(frozen=True)
class Result:
    """All that one benchmark found."""

    began: str
    machine: Machine
    server: str
    rows: int
    table_bytes: int
    threads: int
    titles: dict[str, str]
    measurements: tuple[Measurement, ...]

    def of(self, contender: str) -> list[Measurement]:
        """Return the turns of one contender, by round."""
        return [turn for turn in self.measurements if turn.contender == contender]

    def median(self, contender: str, value: Callable[[Measurement], float]) -> float:
        """Return the median over the rounds."""
        return median(value(turn) for turn in self.of(contender))

    def ratio(self, contender: str, peer: str, value: Callable[[Measurement], float]) -> float:
        """Return the median over the rounds of contender / peer, each pair from one round: noise that lasts cancels."""
        return median(
            value(ours) / value(theirs) for ours, theirs in zip(self.of(contender), self.of(peer), strict=True)
        )

    def goals(self) -> tuple[Goal, ...]:
        """Return the goals that the contenders of this benchmark allow to judge."""
        return tuple(self._goals())

    def _goals(self) -> Iterator[Goal]:
        ours = "ours-written"
        if not self.of(ours):
            return
        for peer, wanted in (("duckdb", 1.15), ("raw-copy", 0.5), ("cursor", 3.0)):
            if self.of(peer):
                found = self.ratio(ours, peer, speed)
                yield Goal(f"rows/s against {self.titles[peer]}: at least", wanted, found, found >= wanted)
        if self.of("duckdb"):
            found = self.ratio(ours, "duckdb", memory)
            yield Goal("peak memory against DuckDB postgres scanner: at most", 0.5, found, found <= 0.5)
        found = max(memory(turn) for turn in self.of(ours)) / MIB
        yield Goal("peak memory in MiB: under", 256, found, found < 256)

    def save(self, file: Path) -> None:
        """Write everything as JSON, with medians, ratios and goals for readers that don't compute."""
        document = asdict(self)
        document["medians"] = {name: self._medians(name) for name in self.titles}
        document["goals"] = [asdict(goal) for goal in self.goals()]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(document, indent=1) + "\n")

    def _medians(self, name: str) -> dict[str, float]:
        found = {
            "rowsPerSecond": self.median(name, speed),
            "seconds": self.median(name, lambda turn: turn.seconds),
            "wallSeconds": self.median(name, lambda turn: turn.wall_seconds),
            "cpuSeconds": self.median(name, lambda turn: turn.cpu_seconds),
            "serverCpuSeconds": self.median(name, lambda turn: turn.server_cpu_seconds),
            "peakRssBytes": self.median(name, memory),
            "outputBytes": self.median(name, lambda turn: turn.output_bytes),
        }
        if name != "ours-written" and self.of("ours-written"):
            found["oursWrittenTimesItsRowsPerSecond"] = self.ratio("ours-written", name, speed)
            found["oursWrittenTimesItsMemory"] = self.ratio("ours-written", name, memory)
        return found

    def markdown(self) -> str:
        """Return the tables for people."""
        return "\n".join([*self._heading(), "", *self._table(), "", *self._goal_lines()])

    def _heading(self) -> Iterator[str]:
        machine = self.machine
        load = ", ".join(f"{value:.1f}" for value in machine.load_average)
        rounds = max(turn.round for turn in self.measurements) + 1
        yield (
            f"{self.rows:,} rows, {self.table_bytes / MIB:,.0f} MiB of heap, {self.server}, {self.threads} threads, "
            f"median of {rounds} rounds. {machine.cpu}, {machine.cores} cores, "
            f"{machine.memory_bytes / (1 << 30):.0f} GiB, Linux {machine.kernel}, Python {machine.python}, "
            f"load average at the start {load}."
        )
        yield ", ".join(f"{name} {number}" for name, number in machine.versions.items()) + "."
        if not machine.is_quiet:
            yield ""
            yield "**The machine wasn't quiet: take none of these figures for a result.**"

    def _table(self) -> Iterator[str]:
        yield (
            "| | rows/s | seconds (min–max) | start s | whole process s | CPU s | server CPU s | peak MiB "
            "| output MB | Written: × rows/s | Written: × memory |"
        )
        yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
        for name, title in self.titles.items():
            yield f"| {' | '.join([title, *self._cells(name)])} |"

    def _cells(self, name: str) -> Iterator[str]:
        seconds = [turn.seconds for turn in self.of(name)]
        yield f"{self.median(name, speed):,.0f}"
        yield f"{median(seconds):.2f} ({min(seconds):.2f}–{max(seconds):.2f})"
        yield f"{self.median(name, lambda turn: turn.startup_seconds):.2f}"
        yield f"{self.median(name, lambda turn: turn.wall_seconds):.2f}"
        yield f"{self.median(name, lambda turn: turn.cpu_seconds):.2f}"
        yield f"{self.median(name, lambda turn: turn.server_cpu_seconds):.2f}"
        yield f"{self.median(name, memory) / MIB:.0f}"
        output = self.median(name, lambda turn: turn.output_bytes)
        yield f"{output / 1e6:.1f}" if output else "–"
        compared = name != "ours-written" and bool(self.of("ours-written"))
        yield f"{self.ratio('ours-written', name, speed):.2f}" if compared else "–"
        yield f"{self.ratio('ours-written', name, memory):.2f}" if compared else "–"

    def _goal_lines(self) -> Sequence[str]:
        return [
            f"- {'met' if goal.met else '**missed**'}: {goal.text} {goal.wanted:g}, found {goal.found:.2f}"
            for goal in self.goals()
        ]


def speed(turn: Measurement) -> float:
    """Rows a second of the contender's own time."""
    return turn.rows / turn.seconds


def memory(turn: Measurement) -> float:
    """Peak resident bytes of the largest process."""
    return turn.peak_rss_bytes
