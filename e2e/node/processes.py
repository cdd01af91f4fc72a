"""Processes recorded by id and start time: an id that the kernel gave to another process is never signalled."""

import contextlib
import json
import os
import signal
from dataclasses import asdict, dataclass
from pathlib import Path

from e2e.node.commands import wait_until


@dataclass(frozen=True)
class Process:
    """A process of this machine: its id, and its start in clock ticks since boot, of which boot."""

    pid: int
    start: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> "Process":
        """Record a running process.

        Raises
        ------
        ProcessLookupError
            If no such process runs.
        """
        state = _stat(pid)
        if state is None:
            raise ProcessLookupError(pid)
        return cls(pid, int(state[19]), _boot())

    @classmethod
    def read(cls, file: Path) -> "Process | None":
        """Read a record; None if there is none, or a crash left half of it."""
        try:
            return cls(**json.loads(file.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def write(self, file: Path) -> None:
        """Write the record whole or not at all."""
        draft = file.with_suffix(".draft")
        draft.write_text(json.dumps(asdict(self)))
        draft.replace(file)

    @property
    def runs(self) -> bool:
        """Whether this very process is still there (a zombie is not)."""
        state = _stat(self.pid)
        return state is not None and state[0] not in "ZX" and int(state[19]) == self.start and self.boot == _boot()

    def send(self, number: signal.Signals) -> None:
        """Signal the process, if it still runs."""
        if self.runs:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self, seconds: float = 30) -> None:
        """End the process at once and wait until it is gone.

        Raises
        ------
        NodeError
            If the kernel does not end it in time.
        """
        self.send(signal.SIGKILL)
        wait_until(lambda: not self.runs, f"the end of process {self.pid}", seconds)

    def children(self) -> "dict[str, Process]":
        """Return the direct children by the name of their program."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and (state := _stat(int(entry.name))) and int(state[1]) == self.pid:
                with contextlib.suppress(OSError, ProcessLookupError):
                    program = (entry / "cmdline").read_bytes().split(b"\0")[0].decode()
                    found[Path(program).name] = Process.of(int(entry.name))
        return found


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the state on (field 3 of proc(5) is index 0 here)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name stands in parentheses and may itself hold spaces and parentheses.
    return text[text.rindex(")") + 2 :].split()


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
