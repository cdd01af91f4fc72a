"""The files by which the containers of the lead agree: who holds the snapshot, and until when.

::

    snapshot.json   from hold: the snapshot that it keeps
    error.json      from hold: why it keeps none, or no longer; the first reason stays
    done            from publish: every chunk has its result
    released        from hold: the lease was held until then; nothing that was read under it lacks a row

Each is written whole or not at all. The folder outlives a container, not the pod.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from extraction_contract.messages import FailureMessage
from extraction_worker.errors import ExtractionError, SnapshotLost
from extraction_worker.model import SnapshotIdentity, Value
from extraction_worker.stages.pod.failures import error_of
from extraction_worker.stages.pod.stop import Stop

_WAIT_SECONDS = 0.05
_WATCH_SECONDS = 0.25
_EXPLAIN_SECONDS = 2.0


class HeldSnapshot(Value):
    """The snapshot that ``hold`` keeps."""

    identity: SnapshotIdentity
    address: str = ""
    """Where its server is reached, whatever the DataSource's name leads to."""
    taken_at: datetime
    """Just before it was taken; the clock of the user's SQL."""


@dataclass(frozen=True)
class LeadFiles:
    """The files in one folder. Readers and writers are different containers."""

    folder: Path

    def write_snapshot(self, held: HeldSnapshot) -> None:
        """Say that the snapshot is held."""
        self._write("snapshot.json", held.to_json())

    def read_snapshot(self) -> HeldSnapshot | None:
        """Return the snapshot, also when it is lost meanwhile."""
        data = self._read("snapshot.json")
        return HeldSnapshot.from_json(data) if data is not None else None

    def write_error(self, failure: FailureMessage) -> None:
        """Say why there is no snapshot, unless a reason is there already."""
        if self._read("error.json") is None:
            self._write("error.json", failure.model_dump_json(by_alias=True, exclude_none=True).encode())

    def read_error(self) -> ExtractionError | None:
        """Return why there is no snapshot."""
        data = self._read("error.json")
        if data is None:
            return None
        try:
            return error_of(FailureMessage.model_validate_json(data))
        except ValueError:
            return SnapshotLost("The holder's error can't be read.")

    def write_done(self) -> None:
        """Say that the snapshot isn't needed any more."""
        self._write("done", b"")

    @property
    def is_done(self) -> bool:
        """Whether the snapshot isn't needed any more."""
        return self._read("done") is not None

    def write_released(self) -> None:
        """Say that the lease was held until ``done``."""
        self._write("released", b"")

    @property
    def is_released(self) -> bool:
        """Whether the lease was held until ``done``."""
        return self._read("released") is not None

    def _write(self, name: str, data: bytes) -> None:
        temporary = self.folder / f".{name}.{os.getpid()}"
        temporary.write_bytes(data)
        temporary.rename(self.folder / name)

    def _read(self, name: str) -> bytes | None:
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None


class Holder:
    """The holder, as the other containers of the lead see it."""

    def __init__(self, files: LeadFiles, stop: Stop) -> None:
        self._files = files
        self._stop = stop

    def snapshot(self) -> HeldSnapshot:
        """Wait for the snapshot.

        Raises
        ------
        Interrupted
            A stop was requested.
        ExtractionError
            Why there is none.
        """
        while True:
            self.check()
            held = self._files.read_snapshot()
            if held is not None:
                return held
            self._stop.wait(_WAIT_SECONDS)

    def check(self) -> None:
        """Raise why the snapshot is lost, if it is."""
        error = self._files.read_error()
        if error is not None:
            raise error

    def explain(self, error: ExtractionError) -> ExtractionError:
        """Return why the snapshot is lost, where an error may come from that; otherwise the error.

        A session notices the loss before the holder has written its reason, so this waits a moment.
        """
        deadline = time.monotonic() + _EXPLAIN_SECONDS
        while (reason := self._files.read_error()) is None:
            if not isinstance(error, SnapshotLost) or time.monotonic() > deadline:
                return error
            if self._stop.event.wait(_WAIT_SECONDS):
                return error
        return reason

    def release(self) -> None:
        """Let the holder end, and wait until it has confirmed that it held the lease until now.

        Raises
        ------
        Interrupted
            A stop was requested.
        SnapshotLost, SourceInDanger
            It hadn't: what was read may lack rows.
        """
        self._files.write_done()
        while not self._files.is_released:
            self.check()
            self._stop.wait(_WAIT_SECONDS)

    @contextlib.contextmanager
    def watched(self, on_lost: Callable[[], None]) -> Iterator[None]:
        """Call ``on_lost``, from another thread, when the snapshot is lost within the block."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(_WATCH_SECONDS):
                if self._files.read_error() is not None:
                    on_lost()
                    return

        thread = threading.Thread(target=watch, name="holder", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
