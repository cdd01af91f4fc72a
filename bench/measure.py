"""What a process costs: time, CPU, peak memory; and what a server spent meanwhile."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


class RunFailed(Exception):
    """A measured process failed or took too long; the message has the end of its output."""


@dataclass(frozen=True)
class Usage:
    """What one process and its children took.

    ``started`` is on the machine's monotonic clock, ``peak_rss_bytes`` that of the largest of them.
    """

    started: float
    wall_seconds: float
    user_seconds: float
    system_seconds: float
    peak_rss_bytes: int
    exit_code: int

    @property
    def cpu_seconds(self) -> float:
        """CPU time in user and kernel mode."""
        return self.user_seconds + self.system_seconds


@dataclass(frozen=True)
class Finished:
    """A measured process that ended well: its cost, and its standard output."""

    usage: Usage
    output: str


def measure(command: Sequence[str], environment: Mapping[str, str], *, timeout: float = 3600) -> Finished:
    """Run a command to its end.

    Parameters
    ----------
    command
        The first is the absolute path of a program.
    environment
        On top of our own.

    Raises
    ------
    RunFailed
        It ended with another code than 0, or not within ``timeout`` seconds; then its whole group is killed.
    """
    launcher = [sys.executable, "-I", "-S", str(Path(__file__).with_name("_launch.py"))]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        result = Path(folder) / "usage.json"
        with subprocess.Popen(
            [*launcher, str(result), *command],
            env={**_inherited(), **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                output, errors = process.communicate(timeout=timeout)
            except BaseException as error:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                if isinstance(error, subprocess.TimeoutExpired):
                    raise RunFailed(f"{' '.join(command)} took more than {timeout:g} s.") from None
                raise
        if process.returncode:
            raise RunFailed(f"{' '.join(command)} could not be started: {errors[-2000:]}")
        usage = Usage(**json.loads(result.read_text()))
    if usage.exit_code:
        raise RunFailed(f"{' '.join(command)} ended with {usage.exit_code}: {(errors or output)[-2000:]}")
    return Finished(usage, output)


def _inherited() -> dict[str, str]:
    """Return our environment, without what would keep Python from its compiled modules, as they are where installed."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


@dataclass(frozen=True)
class ServerCpu:
    """The CPU time of a server and all its processes, dead or alive, by its postmaster's pid."""

    postmaster: int

    def seconds(self) -> float:
        """Return the seconds so far; wait until the processes of closed connections are counted."""
        deadline = time.monotonic() + 5
        previous = None
        while True:
            children = self._children()
            # Twice the same processes: none is on its way from the living to the dead, where it would be in neither.
            if children == previous or time.monotonic() > deadline:
                ticks = sum(_ticks(pid, dead=False) for pid in children) + _ticks(self.postmaster, dead=True)
                return ticks / _TICKS
            previous = children
            time.sleep(0.1)

    def _children(self) -> frozenset[int]:
        return frozenset(
            pid
            for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
            if (fields := _stat(pid)) and int(fields[1]) == self.postmaster
        )


def _stat(pid: int) -> list[str]:
    """Return the fields of ``/proc/PID/stat`` from the third, the state, on; see proc_pid_stat(5)."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


def _ticks(pid: int, *, dead: bool) -> int:
    """Return utime and stime of a process, and of its waited-for children if asked."""
    fields = _stat(pid)
    return sum(int(field) for field in fields[11 : 15 if dead else 13])
