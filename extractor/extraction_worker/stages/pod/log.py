"""What a pod logs: one line an event, JSON unless somebody reads it on a terminal."""

import contextlib
import json
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TextIO

from extraction_worker.report.progress import Progress, Snapshot

_MESSAGES_EVERY = 1.0
_COUNTS_EVERY = 10.0


class EventLog:
    """Writes events to standard error. Safe for threads; never raises, whatever became of the stream.

    Parameters
    ----------
    fields
        Of every event, e.g. the command.
    """

    def __init__(self, stream: TextIO | None = None, **fields: str) -> None:
        self._stream = stream or sys.stderr
        self._fields = fields
        self._lock = threading.Lock()

    def info(self, event: str, **fields: object) -> None:
        """Write what happened."""
        self._write("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Write what happened and may be of interest to who looks for causes."""
        self._write("warning", event, fields)

    def failure(self, event: str, **fields: object) -> None:
        """Write why the command ends without a result."""
        self._write("error", event, fields)

    def _write(self, level: str, event: str, fields: dict[str, object]) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        # A container's log may be closed before its last words.
        with self._lock, contextlib.suppress(OSError, ValueError):
            if self._stream.isatty():
                shown = " ".join(f"{name}={value}" for name, value in fields.items())
                line = f"{now} {level:7} {event} {shown}".rstrip()
            else:
                line = json.dumps({"time": now, "level": level, "event": event} | self._fields | fields, default=str)
            self._stream.write(line + "\n")
            self._stream.flush()


@contextlib.contextmanager
def logged(progress: Progress, log: EventLog) -> Iterator[None]:
    """Log what is said of a run within the block, and its counts, every 10 seconds where they changed."""
    ended = threading.Event()
    thread = threading.Thread(target=_follow, args=(progress, log, ended.wait), name="log", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(_MESSAGES_EVERY)
        _say(progress, log)


def _follow(progress: Progress, log: EventLog, wait: Callable[[float], bool]) -> None:
    shown: Snapshot = progress.now()
    while not wait(_MESSAGES_EVERY):
        _say(progress, log)
        now = progress.now()
        if now.seconds - shown.seconds >= _COUNTS_EVERY and now.read_rows != shown.read_rows:
            shown = now
            log.info("progress", rows=now.read_rows, bytes=now.read_bytes, chunks=now.done_chunks, of=now.total_chunks)


def _say(progress: Progress, log: EventLog) -> None:
    for message in progress.take_messages():
        log.warning("said", message=message)
