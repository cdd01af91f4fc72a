"""How old live progress is when somebody looks: ``python -m bench.live`` has many jobs tell it, and reads all of it.

Each job is told as its pod does (``cache.live.told``: a thread and a connection of its own, to a real Redis on
loopback), from as many processes as there are cores. A reader asks for all jobs at once, as the operator and ``watch``
do, ten times a second, and notes how long ago each was written. Starts are spread over the interval, as jobs' are.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from bench.machine import this_machine
from extraction_contract.live import WRITE_SECONDS, LiveProgress, PodProgress, Promised, live_key
from extraction_worker.cache.connection import RedisConnection
from extraction_worker.cache.live import told

sys.path.append(str(Path(__file__).parents[1] / "tests"))

_READS_A_SECOND = 10


def main() -> int:
    """Measure, and print what was found as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    from support.redis_server import RedisServer

    with RedisServer() as redis, tempfile.TemporaryDirectory() as folder:
        file = redis.url_file(Path(folder))
        found = measure(redis, file, arguments.jobs, arguments.seconds, arguments.processes)
    print(json.dumps({"machine": asdict(this_machine()), **found}, indent=2, default=str))
    return 0


def measure(redis, file: Path, jobs: int, seconds: float, processes: int) -> dict[str, object]:
    """Return the figures."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    tellers = [
        context.Process(target=tell, args=(file, range(first, jobs, processes), stop)) for first in range(processes)
    ]
    for teller in tellers:
        teller.start()
    ages: list[float] = []
    reads: list[float] = []
    client = redis.client()
    try:
        while len(read(client, jobs)) < jobs or any(not one.pods for one in read(client, jobs)):
            time.sleep(0.05)
        commands = client.info("stats")["total_commands_processed"]
        begin = time.monotonic()
        while time.monotonic() - begin < seconds:
            started = time.monotonic()
            found = read(client, jobs)
            now = time.time()
            reads.append(time.monotonic() - started)
            ages += [now - one.updated for one in found]
            time.sleep(max(0.0, 1 / _READS_A_SECOND - (time.monotonic() - started)))
        took = time.monotonic() - begin
        commands = client.info("stats")["total_commands_processed"] - commands
    finally:
        stop.set()
        for teller in tellers:
            teller.join(10)
    ordered = sorted(ages)
    return {
        "jobs": jobs,
        "interval_seconds": WRITE_SECONDS,
        "looked_at": len(ages),
        "age_seconds": {
            "median": round(statistics.median(ordered), 3),
            "p99": round(ordered[int(len(ordered) * 0.99)], 3),
            "max": round(ordered[-1], 3),
        },
        "older_than_a_second": sum(age >= 1 for age in ages),
        "median_read_milliseconds": round(statistics.median(reads) * 1000, 2),
        # A write is two commands, a read one for each job.
        "writes_a_second_and_job": round((commands / took - jobs * len(reads) / took) / 2 / jobs, 2),
    }


def tell(file: Path, numbers: range, stop) -> None:
    """Tell how far some jobs are, until asked to stop."""
    with ExitStack() as stack:
        for number in numbers:
            connection = RedisConnection.of_file(file)
            promised = Promised(100, 1, 10**6, 10**8)
            stack.enter_context(told(connection, f"job-{number}", 0, promised, progress(number)))
            stop.wait(WRITE_SECONDS / len(numbers))
        stop.wait()


def progress(number: int):
    """Return what a pod would tell: a count that grows."""
    started = time.monotonic()

    def now() -> PodProgress:
        rows = int((time.monotonic() - started) * 50_000)
        return PodProgress(f"pod-{number}", rows, 100 * rows, rows // 10_000, 100, 50_000.0, round(time.time(), 3))

    return now


def read(client, jobs: int) -> list[LiveProgress]:
    """Return all jobs, by one round trip."""
    pipeline = client.pipeline(transaction=False)
    for number in range(jobs):
        pipeline.hgetall(live_key(f"job-{number}"))
    return [found for found in map(LiveProgress.of, pipeline.execute()) if found is not None]


if __name__ == "__main__":
    sys.exit(main())
