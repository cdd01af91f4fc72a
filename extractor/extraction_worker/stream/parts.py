"""Writing the rows of one chunk into parts: encoding, rolling to the next file, and the check of what was encoded.

Under ``Decoded`` a part is first encoded into a spool file, decoded from there, compared column by column with what
was read, and only then sent to the sink.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from extraction_worker.errors import SinkFull, VerificationFailed
from extraction_worker.model import Chunk, ColumnDigest, Part, Plan
from extraction_worker.sink.abc import PartStream, Sink, StagedPart, part_name
from extraction_worker.sink.formats import Encoder, decode, extension, open_encoder
from extraction_worker.sink.wire import to_wire, wire_schema
from extraction_worker.verify.columns import ColumnDigester, compare

if TYPE_CHECKING:
    import pyarrow as pa

_COPY_BYTES = 1024 * 1024


class _Spool:
    """A stream into an unnamed temporary file, later sent to the sink."""

    def __init__(self, folder: Path | None) -> None:
        # Not a context manager: it lives as long as the part, and abort() closes it.
        self.file: IO[bytes] = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115

    def write(self, data: bytes | memoryview) -> int:
        try:
            view = memoryview(data)
            while view:
                view = view[self.file.write(view) :]
        except OSError as error:
            raise SinkFull(f"The spool for verification Decoded can't be written: {error.strerror}.") from None
        return len(data)

    def tell(self) -> int:
        return self.file.tell()

    def close(self) -> StagedPart:
        raise NotImplementedError("a spool is sent, not closed")

    def send(self, stream: PartStream) -> StagedPart:
        """Copy everything to the sink's stream and close that."""
        self.file.seek(0)
        while data := self.file.read(_COPY_BYTES):
            stream.write(data)
        self.file.close()
        return stream.close()

    def abort(self) -> None:
        self.file.close()


class PartWriter:
    """Writes one chunk. Call :meth:`finish` when every row was written, :meth:`abort` in any other case.

    Parameters
    ----------
    schema
        Of the batches that come: the plan's target schema.
    wide
        Whether rows are so wide that the encoder should spare memory.
    decoded
        Whether each part is decoded and compared before it goes to the sink.
    evidence
        Whether to digest the columns of the chunk for the manifest; implied by ``decoded``.
    """

    def __init__(
        self,
        sink: Sink,
        plan: Plan,
        plan_digest: str,
        chunk: Chunk,
        worker: str,
        schema: "pa.Schema",
        *,
        wide: bool,
        decoded: bool,
        spool_folder: Path | None = None,
    ) -> None:
        self._sink = sink
        self._format = plan.format
        self._chunk = chunk
        self._schema = schema
        self._wire = wire_schema(schema, plan.format)
        self._wide = wide
        self._spool_folder = spool_folder
        self._name: Callable[[int], str] = lambda sequence: part_name(
            plan_digest, worker, chunk.index, sequence, extension(plan.format)
        )
        self._decoded = decoded
        self._evidence = ColumnDigester(self._wire) if decoded else None
        self._part_read: ColumnDigester | None = None
        self._stream: PartStream | None = None
        self._spool: _Spool | None = None
        self._encoder: Encoder | None = None
        self._part_rows = 0
        self._parts: list[Part] = []

    def write(self, batch: "pa.RecordBatch") -> None:
        """Encode a batch; block while the sink is slow.

        Raises
        ------
        SinkFull, SinkUnavailable, SinkRefused
            From the sink.
        VerificationFailed
            A part that was completed by this batch didn't decode to what was read.
        """
        for piece in self._pieces(batch):
            limit = self._format.target_file_bytes
            if self._encoder is not None and limit is not None and self._encoder.tell() >= limit:
                self._complete()
            encoder = self._encoder or self._open()
            wire = to_wire(piece, self._format)
            if self._evidence is not None:
                self._evidence.update(wire)
            if self._part_read is not None:
                self._part_read.update(wire)
            encoder.write(wire)
            self._part_rows += piece.num_rows

    def _pieces(self, batch: "pa.RecordBatch") -> "Iterator[pa.RecordBatch]":
        """Cut a batch that is much larger than a file may be, so that files end near their size."""
        limit = self._format.target_file_bytes
        if limit is None or batch.nbytes <= limit // 4:
            yield batch
            return
        rows = max(1, batch.num_rows * (limit // 4) // batch.nbytes)
        for first in range(0, batch.num_rows, rows):
            yield batch.slice(first, rows)

    def finish(self) -> tuple[tuple[Part, ...], tuple[ColumnDigest, ...]]:
        """Complete the last part; return the parts and, if asked for, the digests of the chunk's columns.

        A chunk without rows has no part.
        """
        if self._encoder is not None:
            self._complete()
        return tuple(self._parts), self._evidence.finish() if self._evidence is not None else ()

    def abort(self) -> None:
        """Leave nothing of the part being written. Idempotent; never raises."""
        if self._encoder is not None:
            self._encoder.abort()
        for stream in (self._spool, self._stream):
            if stream is not None:
                stream.abort()
        self._encoder = self._stream = self._spool = None

    def write_empty(self) -> tuple[Part, ...]:
        """Write one part without rows: an empty result still tells its schema."""
        self._open()
        parts, _ = self.finish()
        return parts

    def _open(self) -> Encoder:
        stream: PartStream
        if self._decoded:
            stream = self._spool = _Spool(self._spool_folder)
            # The chunk's digests serve as the part's while there is one part.
            rolls = self._format.target_file_bytes is not None
            self._part_read = ColumnDigester(self._wire) if rolls else None
        else:
            stream = self._stream = self._sink.open_part(self._name(len(self._parts)))
        self._encoder = open_encoder(self._format, self._wire, stream, wide=self._wide)
        self._part_rows = 0
        return self._encoder

    def _complete(self) -> None:
        if self._encoder is None:
            return
        footer = self._encoder.finish()
        if footer.rows != self._part_rows:
            raise VerificationFailed(
                f"Chunk {self._chunk.index}: {self._part_rows} rows were written and the footer counts {footer.rows}."
            )
        if self._spool is not None:
            self._compare_decoded(self._spool.file)
            self._stream = self._sink.open_part(self._name(len(self._parts)))
            staged = self._spool.send(self._stream)
        elif self._stream is not None:
            staged = self._stream.close()
        self._encoder = self._stream = self._spool = None
        self._parts.append(
            Part(
                name=staged.name,
                chunk=self._chunk.index,
                rows=self._part_rows,
                bytes=staged.bytes,
                xxh3_128=staged.xxh3_128,
                crc32=staged.crc32,
                upload_id=staged.upload_id,
                upload_parts=staged.upload_parts,
            )
        )

    def _compare_decoded(self, file: IO[bytes]) -> None:
        read = self._part_read or self._evidence
        if read is None:
            return
        file.seek(0)
        digester = ColumnDigester(self._wire)
        rows = 0
        for batch in decode(self._format, file, self._wire):
            digester.update(batch)
            rows += batch.num_rows
        if rows != self._part_rows:
            raise VerificationFailed(
                f"Chunk {self._chunk.index}: {self._part_rows} rows were encoded and {rows} decoded."
            )
        compare(self._chunk.index, read.finish(), digester.finish())
