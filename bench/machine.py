"""On what a benchmark ran: results without it can't be compared."""

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = (
    "extraction-operator", "pyarrow", "duckdb", "duckdb-extension-postgres-scanner",
    "connectorx", "psycopg", "xxhash",
)  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """Hardware, load and versions when a benchmark began."""

    cpu: str
    cores: int
    memory_bytes: int
    kernel: str
    python: str
    load_average: tuple[float, float, float]
    versions: dict[str, str]

    @property
    def is_quiet(self) -> bool:
        """Whether little else ran: a load of less than a quarter of the cores."""
        return self.load_average[0] < self.cores / 4


def this_machine() -> Machine:
    """Look at the machine now."""
    return Machine(
        cpu=_first("/proc/cpuinfo", "model name"),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=int(_first("/proc/meminfo", "MemTotal").split()[0]) * 1024,
        kernel=platform.release(),
        python=platform.python_version(),
        load_average=os.getloadavg(),
        versions={name: _version(name) for name in _PACKAGES},
    )


def _first(file: str, name: str) -> str:
    for line in Path(file).read_text().splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return "0"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
