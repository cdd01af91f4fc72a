"""Trying again while a server is away: a migration often starts beside the database that it is for."""

import time
from collections.abc import Callable
from datetime import timedelta

import psycopg


def retry(
    work: Callable[[], None], patience: timedelta, *, clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:  # fmt: skip
    """Do the work; where the server can't be reached, again, until the time is over.

    Raises
    ------
    Exception
        What the work raised the last time.
    """
    end, pause = clock() + patience.total_seconds(), 0.5
    while True:
        try:
            work()
        except (psycopg.OperationalError, psycopg.errors.LockNotAvailable):
            if clock() + pause > end:
                raise
            sleep(pause)
            pause = min(2 * pause, 10.0)
        else:
            return
