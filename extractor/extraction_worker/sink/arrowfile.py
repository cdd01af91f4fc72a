"""Arrow IPC files: record batches cut by rows and bytes alone, buffers compressed one by one."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from pyarrow import ipc

from extraction_worker.sink.gate import Gate
from extraction_worker.sink.groups import Groups
from extraction_worker.sink.wire import require_schema

_BATCH_BYTES = 8 << 20
_BATCH_ROWS = 1 << 16


class ArrowEncoder:
    """Writes one Arrow IPC file; see :class:`extraction_worker.sink.formats.Encoder`."""

    def __init__(self, schema: pa.Schema, gate: Gate, compression: str) -> None:
        # One thread: the pipeline has its own, and counts them.
        options = ipc.IpcWriteOptions(compression=None if compression == "none" else compression, use_threads=False)
        self._gate = gate
        self._groups = Groups(_BATCH_BYTES, _BATCH_ROWS)
        self._writer = ipc.new_file(pa.PythonFile(gate, "w"), schema, options=options)

    def write(self, batch: pa.RecordBatch) -> None:
        """Take the next rows."""
        for group in self._groups.add(batch):
            self._write_group(group)

    def tell(self) -> int:
        """Return the bytes written, and those that the pending rows will take by the ratio so far."""
        return self._groups.estimate(self._gate.tell())

    def finish(self) -> None:
        """Write the pending rows and the footer."""
        self._write_group(self._groups.rest())
        self._writer.close()

    def abort(self) -> None:
        """Forget the pending rows."""
        self._groups.rest()

    def _write_group(self, batches: list[pa.RecordBatch]) -> None:
        if batches:
            # A copy even of one slice: the bits behind the end of a slice's bitmap are another row's.
            batch = pa.concat_batches(batches)
            self._writer.write_batch(batch)


def decode_arrow(source: Any, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield the record batches of an Arrow IPC file, one in memory.

    Raises
    ------
    VerificationFailed
        The file has another schema.
    """
    reader = ipc.open_file(source, options=ipc.IpcReadOptions(use_threads=False))
    require_schema(reader.schema, schema)
    for index in range(reader.num_record_batches):
        batch = reader.get_batch(index)
        # Offsets in a damaged file may point anywhere; whoever follows them would crash.
        batch.validate(full=True)
        yield batch


def arrow_rows(source: Any) -> int:
    """Return the rows that the batches' headers count; their bodies aren't read."""
    return int(ipc.open_file(source).count_rows())
