"""The *work* stage: one chunk from the source's snapshot to durable, invisible parts and a result."""

import time
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING

import xxhash

from extraction_worker.errors import (
    ExtractionError,
    Interrupted,
    InvalidQuery,
    NotFound,
    RowTooLarge,
    SchemaDrift,
)
from extraction_worker.model import Chunk, ChunkResult, Plan, Verification
from extraction_worker.report.progress import Progress
from extraction_worker.sink.abc import Sink
from extraction_worker.source.danger import Pacer
from extraction_worker.source.rate import ByteRate
from extraction_worker.source.reader import Watchdog, read_batches
from extraction_worker.source.render import aggregate_sql, select_sql
from extraction_worker.source.session import ReadSession
from extraction_worker.source.shares import RateShare
from extraction_worker.source.types import target_schema
from extraction_worker.source.width import WideRow, find_wide_row, guard_width
from extraction_worker.stream.admission import Admission, MemoryPlan, memory_for_row
from extraction_worker.stream.convert import BatchConverter
from extraction_worker.stream.masks import Masks
from extraction_worker.stream.parts import PartWriter
from extraction_worker.verify.server import ServerProof

if TYPE_CHECKING:
    from extraction_worker.source.pool import SourcePool

_WIDE_BATCH_BYTES = 1


class _TooWide(Exception):
    """The guard found a row over the limit of this reading."""

    def __init__(self, row: WideRow) -> None:
        super().__init__()
        self.row = row


@dataclass
class ChunkWorker:
    """Extracts chunks of one plan; shared by the threads of a process.

    Parameters
    ----------
    worker
        Who we are: the pod's uid, or the local process; part of every part's name.
    spool_folder
        Where ``Decoded`` spools; None is the system's temporary folder.
    pacer
        Looks, now and then, how the source is.
    shared
        The part of the rate, and of the sessions, where other pods read, too.
    masks
        Of the plan's columns.
    """

    plan: Plan
    sink: Sink
    pool: "SourcePool"
    memory: MemoryPlan
    worker: str
    watchdog: Watchdog
    rate: ByteRate
    progress: Progress
    masks: Masks
    spool_folder: Path | None = None
    pacer: Pacer | None = None
    shared: RateShare | None = None
    stopped: Event = field(default_factory=Event)

    def __post_init__(self) -> None:
        self._digest = self.plan.plan_digest()
        self._schema = target_schema(self.plan.columns)
        self._admission = Admission(self.memory.threads)
        self._reading: dict[ReadSession, float] = {}
        """Since when each is in the transaction of a chunk."""
        self._lock = Lock()

    @property
    def plan_digest(self) -> str:
        """Digest of the plan that is worked."""
        return self._digest

    @property
    def oldest(self) -> float | None:
        """Since when, by the monotonic clock, the chunk is read that has been read for longest; None where none is."""
        with self._lock:
            return min(self._reading.values(), default=None)

    def stop(self) -> None:
        """Stop every read now, and each one that would begin. From any thread."""
        self.stopped.set()
        with self._lock:
            reading = list(self._reading)
        for session in reading:
            session.cancel()

    def extract(self, chunk: Chunk) -> ChunkResult:
        """Read a chunk, write its parts, prove what the plan wants proven of it.

        A chunk with a row wider than a batch may be is read again alone, row by row.

        Raises
        ------
        RowTooLarge
            A row needs more memory than the process may use.
        Interrupted
            :meth:`stop` was called.
        Transient, Terminal
            From the source, the sink or the proof; nothing of the chunk is left in the sink's staging.
        """
        try:
            with self._admission.ordinary():
                return self._extract(chunk, self.memory.ordinary_row_bytes, self.memory.batch_bytes, wide=False)
        except _TooWide as found:
            self._refuse_beyond_memory(chunk, found.row)
        try:
            with self._admission.wide():
                return self._extract(chunk, self.memory.wide_row_bytes, _WIDE_BATCH_BYTES, wide=True)
        except _TooWide as found:
            self._refuse_beyond_memory(chunk, found.row)
            raise

    def _refuse_beyond_memory(self, chunk: Chunk, row: WideRow) -> None:
        limit = self.memory.wide_row_bytes
        if row.bytes > limit:
            raise RowTooLarge(
                f"Chunk {chunk.index}: the row at {row.place} has {row.bytes:,} bytes; with "
                f"{self.memory.limit:,} bytes of memory the widest that can be read has {limit:,}.",
                hint=f"Give the process {memory_for_row(row.bytes):,} bytes, or leave the wide column out.",
            )

    def _extract(self, chunk: Chunk, row_limit: int, batch_bytes: int, *, wide: bool) -> ChunkResult:
        started = time.monotonic()
        plan = self.plan
        guarded = guard_width(plan, row_limit)
        level = plan.verification
        proof = (
            ServerProof(plan.columns, plan.on_unrepresentable)
            if level is Verification.SOURCE and self._is_sampled(chunk)
            else None
        )
        converter = BatchConverter(plan.columns, plan.on_unrepresentable)
        writer = PartWriter(
            self.sink,
            plan,
            self._digest,
            chunk,
            self.worker,
            self._schema,
            wide=wide,
            decoded=level in (Verification.DECODED, Verification.SOURCE),
            spool_folder=self.spool_folder,
        )
        rows = size = 0
        doing = f"Reading chunk {chunk.index} of {plan.relation}"
        try:
            with self._session() as session:
                session.begin(plan)
                if self.pacer is not None:
                    session.look(self.pacer)
                # Not before begin(), which forgets an earlier cancel: a stop that came meanwhile is seen here.
                self._enter(session)
                try:
                    batches = read_batches(
                        session,
                        select_sql(guarded, chunk),
                        batch_bytes=batch_bytes,
                        watchdog=self.watchdog,
                        rate=self.rate,
                        doing=doing,
                    )
                    with closing(batches):
                        for batch in batches:
                            self._refuse_stopped()
                            rows += batch.num_rows
                            size += batch.nbytes
                            self.progress.read(batch.num_rows, batch.nbytes)
                            converted = converter.convert(batch)
                            if proof is not None:
                                proof.update(converted)
                            # Here, and nowhere later: all that is written, digested or spooled is masked.
                            writer.write(self.masks.apply(converted))
                    # A cancelled session may end its stream without an error.
                    self._refuse_stopped()
                    session.check_drift(plan)
                    if proof is not None:
                        found = session.row(aggregate_sql(plan, chunk, proof.select_list()))
                        proof.compare(found, chunk=chunk.index)
                    session.end()
                finally:
                    self._leave(session)
            parts, columns = writer.finish()
        except BaseException as error:  # noqa: BLE001 - raised again, in our words
            writer.abort()
            self.progress.read(-rows, -size)
            raise self._explain(error, doing) from (error if not isinstance(error, ExtractionError) else None)
        if proof is not None:
            evidence = proof.evidence()
            columns = tuple(column.model_copy(update={"source": evidence.get(column.name)}) for column in columns)
        return ChunkResult(
            plan_digest=self._digest,
            worker=self.worker,
            chunk=chunk.index,
            rows=rows,
            source_bytes=size,
            parts=parts,
            columns=columns,
            replaced=converter.replaced,
            verified=level,
            seconds=time.monotonic() - started,
        )

    def _session(self) -> AbstractContextManager[ReadSession]:
        return self.pool.session() if self.shared is None else self.shared.session(self._wait)

    def _wait(self, seconds: float) -> None:
        self.stopped.wait(seconds)
        self._refuse_stopped()

    def _is_sampled(self, chunk: Chunk) -> bool:
        """Whether the server proves this chunk: a choice seeded by the plan, the same in every pod."""
        draw = xxhash.xxh3_64_intdigest(f"{self._digest}/{chunk.index}".encode()) / 2**64
        return draw < self.plan.proof_sample

    def _explain(self, error: BaseException, doing: str) -> BaseException:
        if self.stopped.is_set() and not isinstance(error, KeyboardInterrupt):
            return Interrupted(f"{doing}: stopped.")
        if isinstance(error, InvalidQuery) and (row := find_wide_row(str(error))):
            return _TooWide(row)
        if isinstance(error, NotFound):
            # It was there when the plan was made.
            return SchemaDrift(f"{error.message} It was there when the plan was made.")
        return error

    def _refuse_stopped(self) -> None:
        if self.stopped.is_set():
            raise Interrupted("Stopped.")

    def _enter(self, session: ReadSession) -> None:
        with self._lock:
            self._reading[session] = time.monotonic()
            self._refuse_stopped()

    def _leave(self, session: ReadSession) -> None:
        with self._lock:
            self._reading.pop(session, None)


def empty_result(plan: Plan, sink: Sink, worker: str) -> ChunkResult:
    """Return a result of the first chunk with one part that has a schema and no row, for a result that is empty."""
    chunk, digest = plan.chunks[0], plan.plan_digest()
    schema = target_schema(plan.columns)
    writer = PartWriter(sink, plan, digest, chunk, f"{worker}/empty", schema, wide=False, decoded=False)
    try:
        parts = writer.write_empty()
    except BaseException:
        writer.abort()
        raise
    return ChunkResult(
        plan_digest=digest,
        worker=worker,
        chunk=chunk.index,
        rows=0,
        source_bytes=0,
        parts=parts,
        verified=plan.verification,
        seconds=0.0,
    )
