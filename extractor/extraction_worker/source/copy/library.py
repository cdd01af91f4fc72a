"""The compiled library under ctypes, which lets other threads run meanwhile, on the libpq that psycopg uses."""

import ctypes
import functools
import sys
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any

import psycopg.pq
import pyarrow as pa

from extraction_worker.errors import SourceUnavailable, UnsupportedSource
from extraction_worker.source.copy.columns import WireColumn

LIBRARY = Path(__file__).with_name("_pgcopy.so")
_INTERFACE = 1
_ARROW_ARRAY_BYTES = 80
_REBUILD = "Install the project again: pip install --editable ."


class Status(IntEnum):
    """``enum pgcopy_status``."""

    MORE = 0
    BATCH = 1
    END = 2
    LOST = 3
    MALFORMED = 4
    NO_MEMORY = 5


_FAULTS = {
    1: "the stream doesn't begin as PostgreSQL's binary COPY does",
    2: "the stream announces an extension of the format that isn't known",
    3: "a row has another number of fields than the query has columns",
    4: "a message ends within a row",
    5: "a field has another width than its type",
    6: "a field has a value that its type can't have",
    7: "an array isn't laid out as PostgreSQL does it",
    8: "an array has several dimensions or a lower bound other than 1",
    9: "an array has elements of another type than its own",
    10: "something follows the end of the stream",
    11: "the stream ended without the mark of its end",
}
"""``enum pgcopy_fault``."""


class _Column(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int32), ("element_oid", ctypes.c_uint32))


class _Libpq(ctypes.Structure):
    _fields_ = (
        ("get_copy_data", ctypes.c_void_p),
        ("consume_input", ctypes.c_void_p),
        ("socket", ctypes.c_void_p),
        ("free_memory", ctypes.c_void_p),
    )


def _psycopgs_libpq() -> ctypes.CDLL:
    """Return a handle through which the dynamic linker finds the libpq that made psycopg's connections."""
    if psycopg.pq.__impl__ == "python":
        loaded: ctypes.CDLL = sys.modules["psycopg.pq._pq_ctypes"].pq
        return loaded
    # Names are looked up in psycopg's extension module and in what it is linked with.
    path = sys.modules[psycopg.pq.PGconn.__module__].__file__
    return ctypes.CDLL(path)


@functools.cache
def _libpq() -> _Libpq:
    try:
        handle = _psycopgs_libpq()
        functions = (handle.PQgetCopyData, handle.PQconsumeInput, handle.PQsocket, handle.PQfreemem)
    except (OSError, AttributeError, KeyError) as error:
        raise UnsupportedSource(
            f"The libpq of psycopg ({psycopg.pq.__impl__}) can't be reached: {error}.",
            hint="Install psycopg[binary], or psycopg[c] with the system's libpq.",
        ) from None
    return _Libpq(*(ctypes.cast(function, ctypes.c_void_p).value for function in functions))


@functools.cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(LIBRARY))
    except OSError as error:
        raise UnsupportedSource(f"The reader's library isn't there: {error}.", hint=_REBUILD) from None
    if (found := library.pgcopy_interface()) != _INTERFACE:
        raise UnsupportedSource(f"The reader's library has interface {found}, {_INTERFACE} is needed.", hint=_REBUILD)
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    signatures: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "pgcopy_new": (pointer, (ctypes.POINTER(_Column), ctypes.c_int32, ctypes.c_int64)),
        "pgcopy_free": (None, (pointer,)),
        "pgcopy_take": (ctypes.c_int, (pointer, ctypes.c_char_p, size, ctypes.POINTER(size))),
        "pgcopy_export": (ctypes.c_int, (pointer, pointer)),
        "pgcopy_finish": (ctypes.c_int, (pointer,)),
        "pgcopy_read": (ctypes.c_int, (pointer, ctypes.POINTER(_Libpq), pointer, ctypes.c_int32, pointer)),
        "pgcopy_fault": (ctypes.c_int, (pointer, ctypes.POINTER(ctypes.c_int32))),
        "pgcopy_rows": (ctypes.c_int64, (pointer,)),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class Decoder:
    """Decodes one stream. Not for several threads at once; :meth:`close` frees it.

    Parameters
    ----------
    columns
        The columns that the stream has, in order.
    batch_bytes
        After how many bytes of Arrow's buffers a batch is full; it has one row at least.

    Raises
    ------
    UnsupportedSource
        The library isn't there, or is another version's.
    """

    def __init__(self, columns: Sequence[WireColumn], batch_bytes: int) -> None:
        self._library = _library()
        self._names = [column.name for column in columns]
        self._schema = pa.schema([(column.name, column.arrow) for column in columns])
        described = (_Column * len(columns))(*(_Column(column.kind, column.element_oid) for column in columns))
        self._copy = self._library.pgcopy_new(described, len(columns), batch_bytes)
        if not self._copy:
            raise MemoryError

    @property
    def rows(self) -> int:
        """Rows decoded so far."""
        return int(self._library.pgcopy_rows(self._copy))

    def read(self, connection: int, timeout: float) -> pa.RecordBatch | Status:
        """Return the next batch of a connection in COPY OUT state, or why there is none.

        Parameters
        ----------
        connection
            Address of libpq's connection.
        timeout
            Seconds without anything to read after which ``MORE`` is returned.

        Raises
        ------
        UnsupportedSource
            The stream can't be decoded; the message names the column.
        """
        batch = ctypes.create_string_buffer(_ARROW_ARRAY_BYTES)
        status = Status(
            self._library.pgcopy_read(self._copy, _libpq(), connection, round(timeout * 1000), ctypes.addressof(batch))
        )
        return self._imported(batch) if self._checked(status) is Status.BATCH else status

    def decode(self, message: bytes) -> list[pa.RecordBatch]:
        """Return the batches that a part of the stream fills; the last one needn't be full.

        Raises
        ------
        UnsupportedSource
            As :meth:`read`.
        """
        batches = []
        while True:
            used = ctypes.c_size_t()
            taken = self._checked(Status(self._library.pgcopy_take(self._copy, message, len(message), used)))
            batch = ctypes.create_string_buffer(_ARROW_ARRAY_BYTES)
            exported = Status(self._library.pgcopy_export(self._copy, ctypes.addressof(batch)))
            if self._checked(exported) is Status.BATCH:
                batches.append(self._imported(batch))
            if taken is not Status.BATCH:
                return batches
            message = message[used.value :]

    def finish(self) -> None:
        """Say that the stream has ended.

        Raises
        ------
        SourceUnavailable
            It ended without the mark of its end.
        """
        if Status(self._library.pgcopy_finish(self._copy)) is not Status.END:
            raise SourceUnavailable(f"The rows can't be complete: {self._fault()}.")

    def close(self) -> None:
        """Free what the decoder holds; batches that it gave out live on. Idempotent."""
        copy, self._copy = self._copy, None
        self._library.pgcopy_free(copy)

    def _imported(self, batch: ctypes.Array[ctypes.c_char]) -> pa.RecordBatch:
        return pa.RecordBatch._import_from_c(ctypes.addressof(batch), self._schema)

    def _checked(self, status: Status) -> Status:
        if status is Status.MALFORMED:
            raise UnsupportedSource(f"What the server sent can't be decoded: {self._fault()}.")
        if status is Status.NO_MEMORY:
            raise MemoryError
        return status

    def _fault(self) -> str:
        column = ctypes.c_int32()
        fault = _FAULTS[self._library.pgcopy_fault(self._copy, column)]
        return fault if column.value < 0 else f"column {self._names[column.value]!r}: {fault}"
