"""Who works on a job in local mode, and where in staging: a small document at a fixed place of the sink.

A run finds by it what an earlier one left, and that another process is at it.
"""

import contextlib
import os
import socket
from pathlib import Path
from typing import Self

from extraction_worker.errors import SinkRefused
from extraction_worker.model import Value
from extraction_worker.sink.abc import Sink

_CURRENT = "current.json"


class Owner(Value):
    """The run that staging belongs to, and its process."""

    run_id: str
    host: str
    pid: int
    process_started: str
    """In ticks since boot; empty once the run was interrupted."""
    interrupted: bool = False

    @classmethod
    def read(cls, index: Sink) -> Self | None:
        """Return what an earlier run left; None when there is nothing, or nothing that can be read.

        Parameters
        ----------
        index
            The sink, opened with the run id that is the fixed place.

        Raises
        ------
        SinkRefused
            The process that it names still runs on this host.
        """
        data = index.get_state(_CURRENT)
        if data is None:
            return None
        try:
            owner = cls.from_json(data)
        except ValueError:
            return None
        if owner.is_alive():
            raise SinkRefused(f"Process {owner.pid} is running this job already.", hint="Wait for it, or stop it.")
        return owner

    @classmethod
    def write(cls, index: Sink, run_id: str, *, interrupted: bool = False) -> None:
        """Say that this process works on ``run_id``, or was interrupted at it."""
        pid = os.getpid()
        owner = cls(
            run_id=run_id,
            host=socket.gethostname(),
            pid=pid,
            process_started="" if interrupted else _process_start(pid),
            interrupted=interrupted,
        )
        index.put_state(_CURRENT, owner.to_json())

    def is_alive(self) -> bool:
        """Whether that process still runs on this host; one on another host can't be asked."""
        return self.host == socket.gethostname() and _process_start(self.pid) == self.process_started != ""


def _process_start(pid: int) -> str:
    """Return when a process started, in ticks since boot; empty when there is none."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""
