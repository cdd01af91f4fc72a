"""Peak memory as tables grow, and with rows of a megabyte: ``python -m bench.memory``; see docs/performance.md."""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.compare import RESULTS
from bench.contenders import Contender, Place, extraction_command
from bench.machine import this_machine
from bench.report import MIB
from bench.server import bench_source
from bench.turn import take_turn

_LEVELS = ("Written", "Decoded")
_WIDE = """
CREATE TABLE records AS
SELECT i AS id, (SELECT string_agg(md5((i * 32768 + j)::text), '') FROM generate_series(1, 32768) AS j) AS payload
FROM generate_series(1::int8, {rows}) AS i;
"""
"""Rows of 1 MiB of text that doesn't compress: stored out of line."""


@dataclass(frozen=True)
class Peak:
    """The peak of one run of a table. ``rows`` and what they are, verification, resident bytes."""

    table: str
    rows: int
    verification: str
    threads: int
    peak_rss_bytes: int
    seconds: float


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description="Peak memory of extraction run.")
    parser.add_argument(
        "--rows",
        type=int,
        nargs="*",
        default=[1_000_000, 4_000_000],
        help="sizes of the data set (default: %(default)s)",
    )
    parser.add_argument(
        "--wide-rows", type=int, default=300, help="rows of 1 MiB in a table of their own; 0 is none (default: 300)"
    )
    parser.add_argument("--threads", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--memory", metavar="BYTES", help="passed on to extraction run, e.g. 256Mi")
    parser.add_argument("--name", default="memory.local", help="of the file in bench/results (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("build/bench"), help="(default: %(default)s)")
    return parser.parse_args()


def _peaks(options: argparse.Namespace) -> Iterator[Peak]:
    for rows in options.rows:
        yield from _peaks_of("500-byte rows", rows, None, options)
    if options.wide_rows:
        script = options.folder / "wide.sql"
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(_WIDE.format(rows=options.wide_rows))
        yield from _peaks_of("1 MiB rows", options.wide_rows, script, options)


def _peaks_of(table: str, rows: int, script: Path | None, options: argparse.Namespace) -> Iterator[Peak]:
    memory = ["--memory", options.memory] if options.memory else []
    with bench_source(rows, script, "public.records", "id") as source:
        place = Place(source, options.folder.absolute(), options.threads)
        for level in _LEVELS:
            contender = Contender(f"memory-{level.lower()}", level, extraction_command(level, *memory))
            turn = take_turn(contender, place)
            yield Peak(table, rows, level, options.threads, turn.usage.peak_rss_bytes, turn.outcome.seconds)


def main() -> int:
    options = _parse()
    machine = this_machine()
    peaks = []
    print("| table | rows | verification | peak MiB | seconds |\n|---|--:|---|--:|--:|")
    for peak in _peaks(options):
        peaks.append(peak)
        print(
            f"| {peak.table} | {peak.rows:,} | {peak.verification} | {peak.peak_rss_bytes / MIB:.0f} "
            f"| {peak.seconds:.1f} |",
            flush=True,
        )
    RESULTS.mkdir(exist_ok=True)
    document = {"machine": asdict(machine), "memory": options.memory, "peaks": [asdict(peak) for peak in peaks]}
    (RESULTS / f"{options.name}.json").write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
