"""A part being written to a file in staging."""

import contextlib
import os
from collections.abc import Iterator
from typing import Final

from extraction_worker.errors import SinkRefused
from extraction_worker.sink import tree
from extraction_worker.sink.abc import StagedPart
from extraction_worker.sink.digests import Digester

BUFFER: Final = 512 << 10
"""Smaller writes are gathered up to this many bytes: a system call and two digests for each would cost more."""


class FileStream:
    """A part being written to a file in staging (see :class:`extraction_worker.sink.abc.PartStream`).

    After any error the file can't be closed any more, only aborted.
    """

    def __init__(self, name: str, folder: int) -> None:
        self._name = name
        self._folder = os.dup(folder)
        self._file = -1
        self._buffer = bytearray()
        self._digester = Digester()
        self._sound = True
        self._gone = False
        # A restarted container has its pod's uid and so the same names: what is there was ours, and is unfinished.
        tree.remove_tree(folder, name)
        self._file = tree.create_file(folder, name)

    def write(self, data: bytes | memoryview) -> int:
        """Take the next bytes; raises SinkFull, SinkRefused, SinkUnavailable."""
        view = memoryview(data).cast("B")
        if view.nbytes < BUFFER:
            self._buffer += view
            if len(self._buffer) >= BUFFER:
                self._flush()
        else:
            self._flush()
            self._put(view)
        return view.nbytes

    def tell(self) -> int:
        """Return the number of bytes taken so far."""
        return self._digester.bytes + len(self._buffer)

    def close(self) -> StagedPart:
        """Write what is left, make it durable and return the digests."""
        self._flush()
        with self._guarded("Closing"):
            os.fsync(self._file)
            os.fsync(self._folder)
            # Lets check_part read the disk and not our own memory, which a pod is charged for besides.
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(self._file)
        self._file = -1
        held = self._digester.digest()
        return StagedPart(self._name, held.bytes, held.xxh3_128, held.crc32)

    def abort(self) -> None:
        """Remove the file, closed or not. Idempotent; never raises."""
        if self._gone:
            return
        self._gone, self._sound = True, False
        with contextlib.suppress(OSError):
            os.unlink(self._name, dir_fd=self._folder)
        self._release()

    def _flush(self) -> None:
        if self._buffer:
            self._put(memoryview(self._buffer))
            self._buffer = bytearray()

    def _put(self, view: memoryview) -> None:
        with self._guarded("Writing"):
            tree.write_all(self._file, view)
        self._digester.update(view)

    @contextlib.contextmanager
    def _guarded(self, doing: str) -> Iterator[None]:
        if not self._sound or self._file < 0:
            raise SinkRefused(f"{doing} {self._name}: the part was closed, aborted or failed before.")
        self._sound = False
        with tree.sink_errors(f"{doing} {self._name}"):
            yield
        self._sound = True

    def _release(self) -> None:
        for file in (self._file, self._folder):
            if file >= 0:
                os.close(file)
        self._file = self._folder = -1

    def __del__(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            self._release()
