"""Compare with peers: ``python -m bench.compare``; see docs/performance.md."""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from bench.contenders import CONTENDERS, DEFAULT, Contender, Place
from bench.machine import this_machine
from bench.plot import plot
from bench.report import Measurement, Result
from bench.server import Source, bench_source
from bench.turn import take_turn

RESULTS = Path(__file__).with_name("results")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description="Compare with peers, in turns.")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the data set (default: %(default)s)")
    parser.add_argument("--sql", type=Path, metavar="FILE", help="make the table with this script for psql instead")
    parser.add_argument("--table", default="public.records", help="what is extracted (default: %(default)s)")
    parser.add_argument("--key", default="id", help="an integer column to split by and to sum (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contender (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="threads or connections of each (default: %(default)s)")
    parser.add_argument(
        "--only", nargs="+", choices=sorted(CONTENDERS), default=list(DEFAULT), metavar="NAME",
        help=f"contenders, of {', '.join(CONTENDERS)} (default: {' '.join(DEFAULT)})",
    )  # fmt: skip
    parser.add_argument("--name", default="compare.local", help="of the files in bench/results (default: %(default)s)")
    parser.add_argument(
        "--folder", type=Path, default=Path("build/bench"), help="where contenders write (default: %(default)s)"
    )
    return parser.parse_args()


def main() -> int:
    options = _parse()
    contenders = [CONTENDERS[name] for name in dict.fromkeys(options.only)]
    machine = this_machine()
    began = datetime.now(UTC).isoformat(timespec="seconds")
    if not machine.is_quiet:
        print(f"Load average {machine.load_average[0]:.1f}: this machine isn't quiet, figures will be noise.")
    print("Starting a server and loading the data set …", flush=True)
    with bench_source(options.rows, options.sql, options.table, options.key) as source:
        measurements = _rounds(contenders, source, options)
        result = Result(
            began=began,
            machine=machine,
            server=source.server_version,
            rows=source.rows,
            table_bytes=source.heap_bytes,
            threads=options.threads,
            titles={contender.name: contender.title for contender in contenders},
            measurements=tuple(measurements),
        )
    file = RESULTS / f"{options.name}.json"
    result.save(file)
    file.with_suffix(".md").write_text(result.markdown() + "\n")
    drawn = plot(result, file.with_suffix(".png"))
    print(f"\n{result.markdown()}\n\nWritten to {file}, .md{' and .png' if drawn else ''}.")
    return 0


def _rounds(contenders: list[Contender], source: Source, options: argparse.Namespace) -> list[Measurement]:
    """Take all turns. The order rotates by one each round, so that nobody always follows the same one."""
    place = Place(source, options.folder.absolute(), options.threads)
    for contender in contenders:
        # Programs and libraries come from the disk once; the table, too.
        take_turn(contender, place)
        print(f"warmed up {contender.title}", flush=True)
    measurements = []
    for number in range(options.rounds):
        first = number % len(contenders)
        for contender in contenders[first:] + contenders[:first]:
            turn = take_turn(contender, place)
            measurements.append(
                Measurement(
                    contender=contender.name,
                    round=number,
                    rows=source.rows,
                    seconds=turn.outcome.seconds,
                    startup_seconds=turn.outcome.startup_seconds,
                    wall_seconds=turn.usage.wall_seconds,
                    cpu_seconds=turn.usage.cpu_seconds,
                    server_cpu_seconds=turn.server_cpu_seconds,
                    peak_rss_bytes=turn.usage.peak_rss_bytes,
                    output_bytes=turn.written.bytes,
                    output_files=turn.written.files,
                )
            )
            print(
                f"round {number + 1}: {contender.title}: {turn.outcome.seconds:.2f} s, "
                f"{turn.usage.cpu_seconds:.2f} CPU s, {turn.usage.peak_rss_bytes >> 20} MiB",
                flush=True,
            )
    return measurements


if __name__ == "__main__":
    sys.exit(main())
