"""How a contender is called and what it says: options in, one line of JSON at the end of its output."""

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

STARTED = "BENCH_STARTED"
"""Environment variable: when the process was started, on the machine's monotonic clock."""


@dataclass(frozen=True)
class Task:
    """What to extract. The connection is in libpq's environment variables.

    ``table`` is ``schema.name`` of plain names, ``key`` an integer column, ``folder`` empty and there.
    """

    table: str
    key: str
    folder: Path
    threads: int
    binaries: Path


@dataclass(frozen=True)
class Outcome:
    """What a contender says of itself.

    ``startup_seconds`` is from the start of its process until its imports are done, ``seconds`` from then, before its
    first connection, until its files are closed.

    ``rows`` is None where the files tell.
    """

    startup_seconds: float
    seconds: float
    rows: int | None = None

    def say(self) -> None:
        """Print it as the last line."""
        print(json.dumps(asdict(self)), flush=True)

    @classmethod
    def parse(cls, output: str) -> "Outcome":
        """Read what :meth:`say` printed."""
        return cls(**json.loads(output.strip().splitlines()[-1]))


def clocked(extract: Callable[[], int | None]) -> None:
    """Run ``extract`` after all imports, and print the outcome."""
    imported = time.monotonic()
    rows = extract()
    Outcome(imported - float(os.environ[STARTED]), time.monotonic() - imported, rows).say()


def parse_task() -> Task:
    """Parse the command line of a peer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--table", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--binaries", type=Path, required=True)
    return Task(**vars(parser.parse_args()))
