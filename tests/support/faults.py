"""Faults from a seed: what goes wrong, when, and for how long. The chaos of processes and of a cluster share it."""

import json
import os
import platform
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong.

    ``inject`` does the harm and returns what was hit, or "" where there was nothing to hit; it draws from the generator
    that it gets which of several victims that is. Where a fault lasts, ``heal`` ends it after at most ``longest``
    seconds; until then the same fault isn't injected again.
    """

    name: str
    inject: Callable[[random.Random], str]
    heal: Callable[[], None] | None = None
    longest: float = 0.0


@dataclass(frozen=True)
class Strike:
    """When a fault is injected, in seconds since the beginning, and how long it lasts."""

    at: float
    fault: str
    lasts: float
    seed: int
    """Of the generator that ``inject`` gets."""


def schedule(seed: object, faults: Sequence[Fault], count: int, seconds: float) -> tuple[Strike, ...]:
    """Return so many strikes within so many seconds, the same ones for the same arguments.

    Every fault comes as often as any other, but for one: they are dealt from a shuffled deck. A fault that still lasts
    leaves its turn to the next one.
    """
    generator = random.Random(f"{seed}")
    times = sorted(generator.uniform(0, seconds) for _ in range(count))
    deck: list[Fault] = []
    busy: dict[str, float] = {}
    strikes = []
    for at in times:
        if not any(busy.get(fault.name, 0) <= at for fault in deck):
            deck += generator.sample(list(faults), len(faults))
        free = [fault for fault in deck if busy.get(fault.name, 0) <= at]
        if not free:
            continue
        deck.remove(free[0])
        lasts = generator.uniform(0.3, 1) * free[0].longest
        busy[free[0].name] = at + lasts
        strikes.append(Strike(at, free[0].name, lasts, generator.getrandbits(32)))
    return tuple(strikes)


def sequence(seed: object, faults: Sequence[Fault], names: Sequence[str], seconds: float) -> tuple[Strike, ...]:
    """Return a strike of each named fault, in this order and evenly within so many seconds.

    How long each lasts, and whom it hits, are the same for the same arguments.
    """
    generator = random.Random(f"{seed}")
    longest = {fault.name: fault.longest for fault in faults}
    return tuple(
        Strike(
            seconds * number / len(names), name, generator.uniform(0.3, 1) * longest[name], generator.getrandbits(32)
        )
        for number, name in enumerate(names)
    )


@dataclass
class Happened:
    """A fault that was injected: when, in seconds since the beginning, and what it hit."""

    at: float
    fault: str
    hit: str
    lasts: float


class Storm:
    """Carries out a schedule as its driver lets time pass: :meth:`advance` again and again, then :meth:`end`."""

    def __init__(self, faults: Sequence[Fault], strikes: Sequence[Strike]) -> None:
        self._faults = {fault.name: fault for fault in faults}
        self._waiting = sorted(strikes, key=lambda strike: strike.at)
        self._lasting: list[tuple[float, Fault]] = []
        self.happened: list[Happened] = []

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens, nor lasts."""
        return not self._waiting and not self._lasting

    def advance(self, now: float) -> None:
        """Heal and inject what is due, ``now`` seconds after the beginning."""
        for due in [one for one in self._lasting if one[0] <= now]:
            self._heal(due)
        while self._waiting and self._waiting[0].at <= now:
            self._inject(self._waiting.pop(0), now)

    def end(self) -> None:
        """Heal what still lasts; nothing more happens."""
        self._waiting.clear()
        for lasting in list(self._lasting):
            self._heal(lasting)

    def _inject(self, strike: Strike, now: float) -> None:
        fault = self._faults[strike.fault]
        hit = fault.inject(random.Random(strike.seed))
        if hit:
            self.happened.append(Happened(round(now, 1), fault.name, hit, round(strike.lasts, 1)))
            if fault.heal is not None:
                self._lasting.append((now + strike.lasts, fault))

    def _heal(self, lasting: tuple[float, Fault]) -> None:
        self._lasting.remove(lasting)
        assert lasting[1].heal is not None
        lasting[1].heal()


@dataclass
class Run:
    """A run, or a job of one: what happened to it, and how it ended."""

    name: str
    seed: int
    published: bool
    """Whether it published the set of an undisturbed run; otherwise nothing."""
    reasons: list[str]
    """Why attempts ended, the last one last; none where the first succeeded."""
    attempts: int
    seconds: float


def this_machine() -> str:
    """Return what the faults happen on: processors and their load, as of now."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    return f"{os.cpu_count()} × {model}, load average {os.getloadavg()[0]:.1f}"


@dataclass
class Report:
    """What was done and how it ended, for a machine and for people."""

    title: str
    faults: list[Happened] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    seconds: float = 0.0
    machine: str = field(default_factory=this_machine)
    violations: list[str] = field(default_factory=list)
    """What wasn't as it has to be."""

    def write(self, folder: Path, name: str) -> None:
        """Write ``NAME.json`` and ``NAME.md``."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(asdict(self), indent=1) + "\n")
        (folder / f"{name}.md").write_text("\n".join(self._lines()) + "\n")

    def _lines(self) -> list[str]:
        good = sum(run.published for run in self.runs)
        seeds = sorted({run.seed for run in self.runs})
        faults = Counter(happened.fault for happened in self.faults)
        reasons = Counter(reason for run in self.runs for reason in run.reasons)
        return [
            f"# {self.title}", "",
            f"{len(self.faults)} faults, {len(self.runs)} jobs from the seeds {', '.join(map(str, seeds))}:",
            f"{good} published the same set, {len(self.runs) - good} nothing.",
            f"It took {self.seconds:.0f} s on {self.machine}.", "",
            *(f"**Violated:** {violation}\n" for violation in self.violations),
            "| fault | times |", "|---|--:|", *(f"| {name} | {count} |" for name, count in faults.most_common()), "",
            "| an attempt ended by | times |", "|---|--:|",
            *(f"| {name} | {count} |" for name, count in reasons.most_common()), "",
            "| seed | job | attempts | seconds | published | ended by |", "|--:|---|--:|--:|---|---|",
            *(
                f"| {run.seed} | {run.name} | {run.attempts} | {run.seconds:.0f} | {'yes' if run.published else 'no'} "
                f"| {', '.join(run.reasons)} |"
                for run in self.runs
            ), "",
            "| at | fault | hit | seconds |", "|--:|---|---|--:|",
            *(f"| {one.at} | {one.fault} | {one.hit} | {one.lasts or ''} |" for one in self.faults),
        ]  # fmt: skip
