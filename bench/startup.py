"""How long until something happens: ``python -m bench.startup``; see docs/performance.md.

The time until ``extraction --help`` has ended, and from the start of the process of ``extraction run`` until the first
row of the table leaves the server, which a relay in between sees.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from bench.compare import RESULTS
from bench.contenders import Place, extraction_command
from bench.machine import this_machine
from bench.measure import RunFailed, measure
from bench.server import Source, bench_source
from bench.tap import tap

_MARKER = b"customer-"
"""Begins a value of each row of the data set, and comes in nothing else that the server sends."""
_SHOWN_IMPORTS = 25
_PROGRAM = Path(sys.executable).with_name("extraction")


@dataclass(frozen=True)
class Starts:
    """Seconds of each try."""

    name: str
    seconds: tuple[float, ...]
    cpu_seconds: tuple[float, ...]


@dataclass
class _Sight:
    """When a text first came, on the monotonic clock. One that a block's end cuts isn't seen."""

    text: bytes
    at: float | None = None

    def __call__(self, data: bytes) -> None:
        if self.at is None and self.text in data:
            self.at = time.monotonic()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.startup", description="The time until something happens.")
    parser.add_argument("--tries", type=int, default=7, help="of each (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=50_000, help="of the data set (default: %(default)s)")
    parser.add_argument("--imports", action="store_true", help="print only what importing takes, and from where")
    parser.add_argument("--name", default="startup.local", help="of the file in bench/results (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("build/bench"), help="(default: %(default)s)")
    return parser.parse_args()


def _help() -> tuple[float, float]:
    usage = measure([str(_PROGRAM), "--help"], {}).usage
    return usage.wall_seconds, usage.cpu_seconds


def _as_people_run_it(command: Sequence[str]) -> list[str]:
    """Return the program itself in place of the module that imports everything first, to count imports apart."""
    return [str(_PROGRAM), *command[command.index("run") :]]


def _first_row(source: Source, folder: Path) -> tuple[float, float]:
    """Return seconds until the first row left the server, and the CPU seconds of the whole run."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    row = _Sight(_MARKER)
    try:
        with tap(source.server.folder / f".s.PGSQL.{source.server.port}", row) as relay:
            place = Place(source, folder, 2, port=relay.port)
            usage = measure(_as_people_run_it(extraction_command("Written")(place)), place.environment).usage
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if row.at is None:
        raise RunFailed("No row passed the relay.")
    return row.at - usage.started, usage.cpu_seconds


def _tries(name: str, count: int, one: Callable[[], tuple[float, float]]) -> Starts:
    one()
    seconds, cpu = zip(*(one() for _ in range(count)), strict=True)
    return Starts(name, seconds, cpu)


def _starts(options: argparse.Namespace) -> Iterator[Starts]:
    yield _tries("extraction --help", options.tries, _help)
    with bench_source(options.rows, None, "public.records", "id") as source:
        folder = options.folder.absolute() / "startup"
        yield _tries("first row of extraction run", options.tries, lambda: _first_row(source, folder))


def _print_imports() -> None:
    command = [sys.executable, "-X", "importtime", "-c", "import extraction_worker.cli.run"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stderr.splitlines()[1:]
    found = sorted(((int(line.split("|")[1]), line.split("|")[2]) for line in lines), reverse=True)
    for microseconds, module in found[:_SHOWN_IMPORTS]:
        print(f"{microseconds / 1e3:8.1f} ms {module.strip()}")


def main() -> int:
    options = _parse()
    if options.imports:
        _print_imports()
        return 0
    machine = this_machine()
    print("| | median s | min–max s | CPU s |\n|---|--:|--:|--:|")
    starts = []
    for start in _starts(options):
        starts.append(start)
        print(
            f"| {start.name} | {median(start.seconds):.2f} | {min(start.seconds):.2f}–{max(start.seconds):.2f} "
            f"| {median(start.cpu_seconds):.2f} |",
            flush=True,
        )
    RESULTS.mkdir(exist_ok=True)
    document = {"machine": asdict(machine), "starts": [asdict(start) for start in starts]}
    (RESULTS / f"{options.name}.json").write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
