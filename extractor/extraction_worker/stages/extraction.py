"""Several chunks of a plan, by the threads of one process: all of them in local mode, a bundle in a pod."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from extraction_worker.errors import ExtractionError, SourceBusy
from extraction_worker.model import Chunk, ChunkResult, Plan
from extraction_worker.report.progress import Phase, Progress
from extraction_worker.sink.abc import Sink
from extraction_worker.source.danger import Pacer
from extraction_worker.source.giving_way import GivingWay, Yielding
from extraction_worker.source.rate import ByteRate
from extraction_worker.source.reader import Watchdog, ask_server
from extraction_worker.source.settings import SourceSettings
from extraction_worker.source.shares import LockBoard, RateShare, weight_of
from extraction_worker.stages.work import ChunkWorker
from extraction_worker.stream.admission import MemoryPlan
from extraction_worker.stream.masks import Masks
from extraction_worker.stream.workers import run_chunks

if TYPE_CHECKING:
    from extraction_worker.source.pool import SourcePool


class Extraction:
    """One extraction: :meth:`run` once, in one thread; :meth:`stop` from any, before it, too.

    Parameters
    ----------
    settings
        Of the source, to ask the server what a silent session does.
    memory
        How many threads read, and how large their batches are.
    worker
        Who we are: the pod's uid, or the local process.
    bytes_per_second
        Of the whole job; None is as fast as the source can send.
    alone
        Whether no other process reads for the job: otherwise they share the rate.
    bundle
        What this process works of the job.
    masks
        Of the plan's columns, with their keys: :meth:`JobSource.masks`.
    yielding
        When to end sessions for which DDL waits; None where the holder of a snapshot does that.
    """

    def __init__(
        self,
        plan: Plan,
        sink: Sink,
        pool: "SourcePool",
        settings: SourceSettings,
        memory: MemoryPlan,
        *,
        worker: str,
        bytes_per_second: int | None,
        alone: bool = True,
        bundle: int = 0,
        progress: Progress,
        masks: Masks,
        yielding: Yielding | None = None,
    ) -> None:
        self._pool = pool
        self._progress = progress
        self._threads = memory.threads
        self._said: set[str] = set()
        self._watchdog = Watchdog(settings.stall_timeout, lambda pid: ask_server(settings, pid))
        rate = ByteRate(bytes_per_second, readers=memory.threads)
        self._rate = rate
        self._shared: RateShare | None = None
        if not alone and bytes_per_second is not None and settings.slots is not None:
            board = LockBoard(settings.slots)
            self._shared = RateShare(board, rate, weight_of(bundle), pool.session, memory.threads)

        def slow(slowed: bool) -> None:
            # Half of the sessions; where there is one only, half of its time.
            pool.bound(memory.threads // 2 if slowed else memory.threads)
            rate.halve(slowed and memory.threads == 1)

        self._worker = ChunkWorker(
            plan=plan,
            sink=sink,
            pool=pool,
            memory=memory,
            worker=worker,
            watchdog=self._watchdog,
            rate=rate,
            progress=progress,
            masks=masks,
            pacer=Pacer(settings.protection, slow, progress.say),
            shared=self._shared,
        )
        self._giving_way: GivingWay | None = None
        if yielding is not None:
            self._giving_way = GivingWay(settings, yielding, lambda: self._worker.oldest, progress.say)

    def run(
        self,
        chunks: Sequence[Chunk],
        finished: Mapping[int, ChunkResult],
        on_result: Callable[[ChunkResult], None],
    ) -> None:
        """Extract the chunks that aren't finished; return when each has its result.

        Parameters
        ----------
        finished
            Results that are there already, by the chunk's index.
        on_result
            Called from the threads that read.

        Raises
        ------
        Interrupted
            :meth:`stop` was called.
        ExtractionError
            The first error that wasn't retried, or that outlived its retries; it names its chunk.
        """
        progress = self._progress
        progress.planned(
            len(chunks),
            sum(chunk.estimated_rows for chunk in chunks),
            sum(chunk.estimated_bytes for chunk in chunks),
        )
        progress.phase(Phase.RUNNING)
        for result in finished.values():
            progress.read(result.rows, result.source_bytes)
            progress.chunk_done()

        def take(result: ChunkResult) -> None:
            on_result(result.model_copy(update={"connections": self._pool.did_since()}))
            progress.chunk_done()

        def again(chunk: Chunk, error: ExtractionError) -> None:
            if isinstance(error, SourceBusy):
                self._say_once(f"Waiting for a connection: {error}")
            else:
                progress.retry(f"Chunk {chunk.index} is read again: {error}")

        todo = [chunk for chunk in chunks if chunk.index not in finished]
        self._watchdog.start()
        if self._giving_way is not None:
            self._giving_way.start()
        if self._shared is not None:
            self._shared.start()
        try:
            run_chunks(
                todo,
                self._extract,
                threads=self._threads,
                stopped=self._worker.stopped,
                on_result=take,
                on_retry=again,
                stop=self._worker.stop,
            )
        finally:
            if self._shared is not None:
                self._shared.stop()
            if self._giving_way is not None:
                self._giving_way.stop()
            self._watchdog.stop()

    def stop(self) -> None:
        """Stop every read now, and each one that would begin."""
        self._rate.stop()
        self._worker.stop()

    def _say_once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            self._progress.say(message)

    def _extract(self, chunk: Chunk) -> ChunkResult:
        try:
            return self._worker.extract(chunk)
        except ExtractionError as error:
            error.chunk = chunk.index
            raise
