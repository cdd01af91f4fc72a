"""How much planning learns anew: ``python -m bench.cache`` replays jobs over tables, with some DDL in between.

A real PostgreSQL and a real Redis; each job is planned in a connection of its own, as its pod does, by what is
remembered. A tenth of the jobs have a predicate, so they aren't all the same; every hundredth job one of the tables is
altered. Each plan of the first hundred is compared with one that is made without a cache. The server of tests is on
loopback, so what a round trip to a distant one would cost is told apart: by the number of statements.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from bench.machine import this_machine
from extraction_contract.redis_url import RedisUrl
from extraction_worker.cache.connection import RedisConnection
from extraction_worker.cache.store import Cache
from extraction_worker.demo.postgres import postgres_server
from extraction_worker.stages.plan import read_job
from extraction_worker.stages.settings import cache_scope
from extraction_worker.stages.source import JobSource

sys.path.append(str(Path(__file__).parents[1] / "tests"))

_AT = datetime(2026, 1, 1, tzinfo=UTC)


def main() -> int:
    """Replay, and print what was found as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--tables", type=int, default=50)
    arguments = parser.parse_args()
    from support.redis_server import RedisServer

    with postgres_server() as server, RedisServer() as redis, tempfile.TemporaryDirectory() as folder:
        found = replay(server, redis, Path(folder), arguments.jobs, arguments.tables)
    print(json.dumps({"machine": asdict(this_machine()), **found}, indent=2, default=str))
    return 0


def replay(server, redis, folder: Path, jobs: int, tables: int) -> dict[str, object]:
    """Return the figures of a replay."""
    from support.jobs import resolve_job, write_job

    class Database:
        name = "postgres"

        def __init__(self) -> None:
            self.server = server

    random.seed(7)
    uses: Counter[tuple[str, str]] = Counter()
    seconds: dict[str, list[float]] = {"cached": [], "uncached": []}
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        for number in range(tables):
            connection.execute(f"CREATE TABLE t{number} (id int8 PRIMARY KEY, name text, amount numeric(12,2))")
            connection.execute(f"INSERT INTO t{number} SELECT i, md5(i::text), i FROM generate_series(1, 2000) AS i")
        connection.execute("VACUUM ANALYZE")
        for job in range(jobs):
            table = random.randrange(tables)
            if job % 100 == 99:
                connection.execute(f"ALTER TABLE t{random.randrange(tables)} ADD COLUMN c{job} int4")
            spec = {"table": f"public.t{table}", "partitioning": {"targetBytes": "64Ki"}}
            if random.random() < 0.1:
                spec["where"] = "amount > 10"
            resolved = resolve_job(write_job(folder, Database(), spec=spec))
            cache = Cache(RedisConnection(RedisUrl(redis.url)), cache_scope(resolved.source))
            plan = timed(seconds["cached"], resolved, cache)
            if job < 100 and timed(seconds["uncached"], resolved, None) != plan:
                raise AssertionError(f"The plan of job {job} isn't the one without a cache.")
            for use in cache.uses():
                uses[use.cache, "hits"] += use.hits
                uses[use.cache, "misses"] += use.misses
                uses[use.cache, "errors"] += use.errors
    hits = sum(number for (_, result), number in uses.items() if result == "hits")
    return {
        "jobs": jobs,
        "tables": tables,
        "hit_rate": round(hits / sum(uses.values()), 4),
        "lookups": {f"{cache} {result}": number for (cache, result), number in sorted(uses.items())},
        "median_planning_milliseconds": {
            name: round(statistics.median(values) * 1000, 1) for name, values in seconds.items()
        },
        "redis_bytes": redis.client().info("memory")["used_memory_dataset"],
        "redis_keys": redis.client().dbsize(),
    }


def timed(into: list[float], resolved, cache: Cache | None):
    """Plan a job; return what decides of the plan."""
    source = JobSource(resolved, "run", cache=cache)
    reading = read_job(resolved.job, resolved.source, _AT)
    started = time.perf_counter()
    plan = source.make_plan(reading, None, run_id="run", planned_at=_AT, threads=4)
    into.append(time.perf_counter() - started)
    return plan.columns, plan.chunks, plan.locks


if __name__ == "__main__":
    sys.exit(main())
