"""A process that runs a job's sessions over and over, as a pod or a laptop does: hold, plan, read; for test_slots.

Arguments: host, port, database, user, the budget's group, and the limits to try one after the other. The password
comes by standard input. It writes ``done LIMIT`` after each.
"""

import sys
import threading
import time
from contextlib import closing

from extraction_worker.source.lease import LeaseLimits, LockTarget, SnapshotLease
from extraction_worker.source.session import connect, planning_transaction
from extraction_worker.source.settings import Credentials, SourceSettings
from extraction_worker.source.slots import SlotBudget, patiently

READERS = 2


def run_job(settings: SourceSettings) -> None:
    """Hold a snapshot, plan under it, read it with as many sessions as get a slot, one at least."""
    target = LockTarget(('"public"."t"',), (), (), ())
    lease = patient(lambda: held(settings, target))
    with closing(patient(lambda: connect(settings))) as planner, planning_transaction(planner, settings):
        planner.execute("SELECT pg_catalog.count(*) FROM public.t").fetchall()
    readers = [threading.Thread(target=read, args=(settings,)) for _ in range(READERS)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    lease.finish()


def held(settings: SourceSettings, target: LockTarget) -> SnapshotLease:
    lease = SnapshotLease(settings, lambda _: target, LeaseLimits(), lambda _: None)
    lease.acquire()
    return lease


def read(settings: SourceSettings) -> None:
    with closing(patient(lambda: connect(settings))) as reader, planning_transaction(reader, settings):
        reader.execute("SELECT pg_catalog.pg_sleep(0.05)").fetchall()


def patient(call):
    return patiently(call, wait=lambda seconds: time.sleep(seconds / 8), say=lambda _: None)


def main() -> None:
    host, port, database, user, run, *limits = sys.argv[1:]
    credentials = Credentials(user, sys.stdin.readline().rstrip("\n"))
    for limit in limits:
        settings = SourceSettings(
            host, int(port), database, lambda: credentials, ssl_mode="disable",
            application_name=f"extraction/busy/{limit}", slots=SlotBudget(f"busy-{limit}", int(limit), run),
        )  # fmt: skip
        run_job(settings)
        sys.stdout.write(f"done {limit}\n")


if __name__ == "__main__":
    main()
