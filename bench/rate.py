"""Whether the pods of a job keep its bytes a second together: ``python -m bench.rate``; see docs/performance.md.

*hold*, *plan*, *publish* and the workers run as the processes that pods run, and workers are begun as by the Job
controller: as many at a time as there may be pods, one bundle after the other. A relay in front of a real PostgreSQL
counts what the server sends, in real time: what its network would see, with all buffers in between.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bench.compare import RESULTS
from bench.machine import this_machine
from bench.measure import RunFailed
from bench.server import bench_source
from bench.tap import tap
from extraction_contract.messages import PlanMessage, PublishMessage

sys.path.append(str(Path(__file__).parents[1] / "tests"))

_WIRE_BYTES = 1906
"""Of a row."""
_TABLE = """
CREATE TABLE public.records AS
SELECT i::int8 AS id, repeat(md5(i::text), 59) AS word FROM generate_series(1, {rows}) AS i;
"""
"""Wide rows, of which many bytes are little work."""
_TICKS = 10
"""Counts a second."""
_WINDOW = 10
"""Seconds over which a rate is looked at."""
_ROWS_COME = 1 << 16
"""Bytes in a tick that are no longer answers of the catalog."""
_PATIENCE = 60
"""Seconds within which a process that has nothing to wait for must end."""


@dataclass
class Meter:
    """Bytes by the tenth of a second in which they came."""

    ticks: dict[int, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, data: bytes) -> None:
        """Count."""
        with self._lock:
            tick = int(time.monotonic() * _TICKS)
            self.ticks[tick] = self.ticks.get(tick, 0) + len(data)


@dataclass(frozen=True)
class Work:
    """One worker pod's life, on the monotonic clock."""

    bundle: int
    began: float
    ended: float


@dataclass(frozen=True)
class Window:
    """A span of ten seconds."""

    at: float
    """When it begins, in seconds after the first worker began."""
    share: float
    """Bytes that came, of those that were allowed."""


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.rate", description="Bytes a second of several pods.")
    parser.add_argument("--pods", type=int, default=3, help="worker pods at a time (default: %(default)s)")
    parser.add_argument("--pool", type=int, default=2, help="connections of each (default: %(default)s)")
    parser.add_argument("--mebibytes", type=int, default=8, help="a second, of all together (default: %(default)s)")
    parser.add_argument("--chunk", default="16Mi", help="partitioning.targetBytes (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=90, help="that it takes at this rate (default: %(default)s)")
    parser.add_argument("--name", default="rate.local", help="of the file in bench/results (default: %(default)s)")
    return parser.parse_args()


def _ended(process: subprocess.Popen[str], seconds: float) -> None:
    """Wait for a process that must end well."""
    try:
        _, log = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise RunFailed(f"{process.args} didn't end within {seconds:g} s.") from None
    if process.returncode != 0:
        raise RunFailed(f"{process.args} ended with {process.returncode}: {log[-2000:]}")


def _work(pods: Any, plan: PlanMessage, at_a_time: int, pool: int, seconds: float) -> list[Work]:
    """Work all bundles, so many at a time; a pod that has ended is followed by the next at once."""
    done: list[Work] = []
    left = iter(range(plan.bundles))
    errors: list[BaseException] = []

    def follow() -> None:
        try:
            for bundle in left:
                began = time.monotonic()
                environment = pods.worker(bundle, EXTRACTION_BUNDLES=plan.bundles, EXTRACTION_POOL=pool)
                _ended(pods.start("work", f"pod-{bundle}", **environment), seconds)
                done.append(Work(bundle, began, time.monotonic()))
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)

    threads = [threading.Thread(target=follow) for _ in range(at_a_time)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return done


@contextmanager
def _held(pods: Any) -> Iterator[None]:
    """Have *hold* run meanwhile, as a process."""
    holder = pods.start("hold")
    try:
        deadline = time.monotonic() + _PATIENCE
        while pods.lead().read_snapshot() is None:
            if time.monotonic() > deadline:
                raise RunFailed("hold took no snapshot.")
            time.sleep(0.05)
        yield
    finally:
        holder.send_signal(signal.SIGTERM)
        holder.communicate(timeout=_PATIENCE)


def _windows(meter: Meter, rate: int, first: float, last: float, start: float) -> list[Window]:
    """Return every window between two moments, by tenths of a second."""
    begin, end = int(first * _TICKS) + 1, int(last * _TICKS)
    counts = [meter.ticks.get(tick, 0) for tick in range(begin, end)]
    size = _WINDOW * _TICKS
    return [
        Window(round((begin + at) / _TICKS - start, 1), sum(counts[at : at + size]) / (_WINDOW * rate))
        for at in range(len(counts) - size + 1)
    ]


def _steady(works: list[Work], settled: float) -> Iterator[tuple[float, float]]:
    """Yield the spans in which no worker begins or ends, without the first seconds of each."""
    moments = sorted({moment for work in works for moment in (work.began, work.ended)})
    for first, last in pairwise(moments):
        if last - first > settled + _WINDOW:
            yield first + settled, last


def measure(options: argparse.Namespace) -> dict[str, object]:
    """Run the job, and return what was found."""
    from support.pods import Pods

    rate = options.mebibytes << 20
    rows = rate * options.seconds // _WIRE_BYTES
    meter = Meter()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        script = Path(folder) / "table.sql"
        script.write_text(_TABLE.format(rows=rows))
        source = stack.enter_context(bench_source(rows, script, "public.records", "id"))
        relay = stack.enter_context(tap(source.server.folder / f".s.PGSQL.{source.server.port}", meter))
        pods = Pods(
            Path(folder) / "pods", SimpleNamespace(server=source.server, name="postgres"),
            spec={"table": source.table, "partitioning": {"targetBytes": options.chunk}, "parallelism": options.pods},
            source={
                "connection": {"port": relay.port}, "pool": {"size": options.pool},
                "limits": {
                    "maxConnections": 1 + options.pods * options.pool, "bytesPerSecond": f"{options.mebibytes}Mi",
                },
            },
        )  # fmt: skip
        told = {"EXTRACTION_BUNDLES": "", "EXTRACTION_POOL": options.pool, "EXTRACTION_PARALLELISM": options.pods}
        with _held(pods):
            _ended(pods.start("plan", **told), _PATIENCE)
            plan = pods.last_words("plan")
            if not isinstance(plan, PlanMessage) or plan.bundles < options.pods:
                raise RunFailed(f"The plan has too few bundles for {options.pods} pods: {plan}")
            publishing = pods.start("publish", **told)
            before = time.process_time()
            works = _work(pods, plan, options.pods, options.pool, 10 * options.seconds)
            _ended(publishing, _PATIENCE)
            cpu = time.process_time() - before
        published = pods.last_words("publish")
        if not isinstance(published, PublishMessage) or published.rows != source.rows:
            raise RunFailed(f"{source.rows} rows were wanted, and published: {published}")
        more = {"relay_cpu_seconds": round(cpu, 2), "server": source.server_version}
        return _found(options, meter, plan, works) | more


def _found(options: argparse.Namespace, meter: Meter, plan: PlanMessage, works: list[Work]) -> dict[str, object]:
    rate = options.mebibytes << 20
    start, end = min(work.began for work in works), max(work.ended for work in works)
    # What comes before are answers to a worker that looks around.
    first = min(tick for tick, size in meter.ticks.items() if tick > start * _TICKS and size > _ROWS_COME) / _TICKS
    # From then on there is less to do than pods that could do it.
    short = min(work.ended for work in works if work.bundle >= plan.bundles - options.pods)
    everything = _windows(meter, rate, first, end, start)
    handed_out = _windows(meter, rate, first, short, start)
    spans = [(max(begin, first), stop) for begin, stop in _steady(works, settled=3.0) if stop <= short]
    steady = [window for span in spans for window in _windows(meter, rate, *span, start)]
    total = sum(count for tick, count in meter.ticks.items() if tick >= start * _TICKS)
    return {
        "mebibytes_a_second": options.mebibytes, "pods": options.pods, "pool": options.pool, "chunk": options.chunk,
        "chunks": plan.chunks, "bundles": plan.bundles, "window_seconds": _WINDOW,
        "first_row_at": round(first - start, 1), "seconds": round(end - first, 1),
        "mean": round(total / (end - first) / rate, 3),
        "highest": _extreme(max, everything),
        "lowest_while_no_pod_begins_or_ends": _extreme(min, steady), "steady_windows": len(steady),
        "lowest_while_bundles_are_left": _extreme(min, handed_out),
        "by_second": [
            round(sum(meter.ticks.get(tick, 0) for tick in range(second, second + _TICKS)) / rate, 3)
            for second in range(int(start * _TICKS), int(end * _TICKS), _TICKS)
        ],
        "works": [(work.bundle, round(work.began - start, 1), round(work.ended - start, 1)) for work in works],
    }  # fmt: skip


def _extreme(choose: Any, windows: list[Window]) -> dict[str, float] | None:
    if not windows:
        return None
    found = choose(windows, key=lambda window: window.share)
    return {"share": round(found.share, 3), "at": found.at}


def main() -> int:
    """Measure, print what was found, and keep it."""
    options = _parse()
    machine = this_machine()
    document = {"machine": asdict(machine), **measure(options)}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{options.name}.json").write_text(json.dumps(document, indent=1) + "\n")
    shown = {name: value for name, value in document.items() if name not in {"machine", "by_second", "works"}}
    print(json.dumps({"load": machine.load_average[0], **shown}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
