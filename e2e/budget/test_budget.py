"""Jobs of two operators on one server: what it sees of them, ten times a second, and what the ledgers promise."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import pytest

from e2e.operator.conftest import promise_many
from e2e.support.api import Object
from e2e.support.cluster import HOST_NAME, Cluster
from e2e.support.extraction import Extraction
from e2e.support.jobs import SOURCE, Job, is_source_ready
from e2e.support.servers import Postgres, Store
from extraction_worker.source.slots import SlotBudget

LIMIT, POOL = 6, 2
GROUP = "the-one-server"
MANY, FEW = 15_000, 10_000
"""Rows: of a table for several worker pods, as its statistics promise more, and of one that the lead reads itself."""
JOBS = ("many", "few", "few", "few", "few")
"""What each operator is to extract."""
EVERY = 0.1
PATIENCE = 500
"""Seconds for all of it, which takes a tenth of that on a machine of its own."""
BUSY = 10.0
"""Seconds that an operator may take, on a busy machine, to give to the next job what another one gave back."""

# A session without a slot is one that knocks: it closes when it finds none, and begins no transaction.
SESSIONS = """
WITH mine AS (
  SELECT pid, objid FROM pg_locks
  WHERE locktype = 'advisory' AND objsubid = 2 AND granted AND classid::int8 = %s
)
SELECT count(*) FILTER (WHERE pid IN (SELECT pid FROM mine)),
       count(*) FILTER (WHERE pid NOT IN (SELECT pid FROM mine)
                        AND xact_start < now() - interval '3 seconds'),
       (SELECT count(DISTINCT objid) FROM mine)
FROM pg_stat_activity WHERE application_name LIKE 'extraction/%%'
"""


class Look(NamedTuple):
    """What the server had at one moment."""

    sessions: int
    """With a slot."""
    strangers: int
    """Without one, and at work."""
    slots: int
    """Taken; a holder has two, one of which is for whoever reads for it."""


class Promise(NamedTuple):
    """What an operator said of its ledger."""

    at: float
    """Seconds."""
    waiting: int
    """Jobs."""
    reserved: int
    """Connections."""


@contextmanager
def in_background(watch: Callable[[], None]) -> Iterator[None]:
    """Run a function, which has to end by itself, beside the block; raise what it raised."""
    with ThreadPoolExecutor(1) as executor:
        running = executor.submit(watch)
        yield
        running.result()


@contextmanager
def watched(postgres: Postgres) -> Iterator[list[Look]]:
    """Look at the server until the block ends."""
    looks: list[Look] = []
    ending = threading.Event()

    def watch() -> None:
        with postgres.connect() as connection:
            while not ending.wait(EVERY):
                row = connection.execute(SESSIONS, [SlotBudget(GROUP, LIMIT).group_key]).fetchone()
                assert row is not None
                looks.append(Look(*row))

    with in_background(watch):
        try:
            yield looks
        finally:
            ending.set()


@contextmanager
def followed(namespace: Cluster) -> Iterator[list[Promise]]:
    """Follow the ledger of the operator of a namespace until no job of its source is left."""
    promises: list[Promise] = []

    def note(source: Object) -> bool:
        status: dict[str, Any] = source.get("status", {})
        waiting, active = status.get("waitingJobs", 0), status.get("activeJobs", 0)
        reserved = status.get("reservedConnections", 0)
        promises.append(Promise(time.monotonic(), waiting, reserved))
        # A job that may begin isn't active yet. More than one: that may be of a check, which isn't over.
        return waiting == active == reserved == 0 and any(promise.reserved > 1 for promise in promises)

    def watch() -> None:
        namespace.wait_for(SOURCE, "shop", note, PATIENCE)

    with in_background(watch):
        yield promises


@pytest.fixture
def tables(postgres: Postgres) -> Iterator[dict[str, tuple[str, int]]]:
    """A table for several pods and one for a single pod, by their names, with their rows."""
    with postgres.connect() as connection:
        for name, rows, width in (("many", MANY, 59), ("few", FEW, 1)):
            table = f"public.budget_{name}"
            connection.execute(f"DROP TABLE IF EXISTS {table}")
            connection.execute(
                f"CREATE UNLOGGED TABLE {table} AS"
                f" SELECT i AS id, repeat(md5(i::text), {width}) AS word FROM generate_series(1, {rows}) AS i"
            )
            connection.execute(f"ANALYZE {table}")
            connection.execute(f"GRANT SELECT ON {table} TO reader")
        promise_many(connection, "public.budget_many")
        yield {"many": ("public.budget_many", MANY), "few": ("public.budget_few", FEW)}
        connection.execute("DROP TABLE public.budget_many, public.budget_few")


@pytest.mark.timeout(600)
def test_ten_jobs_of_two_operators_stay_within_the_limit_use_it_and_all_end(
    two_operators: list[Cluster], postgres: Postgres, store: Store, bucket: str, tables: dict[str, tuple[str, int]]
) -> None:
    jobs: list[tuple[Job, int]] = []
    for namespace in two_operators:
        for number, name in enumerate(JOBS):
            table, rows = tables[name]
            prefix = f"{namespace.namespace}/{number}"
            spec = {"verification": "Written", "parallelism": 2}
            extraction = Extraction(
                namespace.namespace, postgres, table, HOST_NAME, store, bucket, prefix, spec=spec
            )  # fmt: skip
            jobs.append((Job(namespace, extraction, name=f"job-{number}"), rows))
    with ExitStack() as stack:
        looks = stack.enter_context(watched(postgres))
        for job, _ in jobs[:: len(JOBS)]:
            job.apply_source(limits={"maxConnections": LIMIT}, budgetGroup=GROUP, pool={"size": POOL})
        for namespace in two_operators:
            # A check needs a slot, too, and isn't what this is about.
            namespace.wait_for(SOURCE, "shop", is_source_ready, PATIENCE / 4)
        ledgers = [stack.enter_context(followed(namespace)) for namespace in two_operators]
        for job, _ in jobs:
            job.apply_alone()
        for job, rows in jobs:
            assert job.succeed(PATIENCE)["rows"] == rows
    assert max(look.sessions for look in looks) <= LIMIT
    assert max(look.slots for look in looks) == LIMIT, "all of it is used, and no more"
    assert not any(look.strangers for look in looks)
    for promises in ledgers:
        assert max(promise.reserved for promise in promises) <= LIMIT
        assert max(promise.waiting for promise in promises) > 0, "there was demand"
        unused = [
            (after.at - now.at, now)
            for now, after in pairwise(promises)
            if now.waiting and LIMIT - now.reserved >= POOL
        ]
        assert all(seconds < BUSY for seconds, _ in unused), unused
