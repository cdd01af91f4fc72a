"""Local mode: hold, plan, work and publish in one process, for a laptop and for ``extraction run``.

The same stages as in the cluster, the same files, the same manifest. What a run leaves in the sink's staging is
found by the next one through a small document at a fixed place, so that an interrupted run under ``PerPartition`` is
resumed, and one under ``Snapshot``, whose snapshot ended with its process, begins anew and says so.
"""

import contextlib
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from extraction_contract.resolve import ResolvedJob
from extraction_worker.cache.connection import RedisConnection
from extraction_worker.cache.store import Cache
from extraction_worker.errors import (
    DeadlineExceeded,
    ExtractionError,
    Interrupted,
    InvalidManifest,
    SnapshotLost,
    SourceInDanger,
)
from extraction_worker.model import ChunkResult, Consistency, Manifest, Plan, SnapshotIdentity
from extraction_worker.report.progress import Phase, Progress
from extraction_worker.sink.abc import Sink
from extraction_worker.sink.open import open_sink
from extraction_worker.source.slots import patiently
from extraction_worker.stages.owner import Owner
from extraction_worker.stages.plan import Reading, read_job
from extraction_worker.stages.results import ChunkResults, finished_results, put_result
from extraction_worker.stages.settings import LocalOptions, cache_scope, plan_memory
from extraction_worker.stages.source import JobSource

if TYPE_CHECKING:
    from extraction_worker.source.pool import SourcePool
    from extraction_worker.stages.extraction import Extraction
    from extraction_worker.stages.reuse import Results, Taken

_Result = TypeVar("_Result")

MAX_RESTARTS = 3
"""How often ``snapshot.onLoss: Restart`` begins anew."""


@dataclass
class _Attempt:
    """What one attempt has: its plan, and the results so far."""

    plan: Plan
    results: ChunkResults = field(default_factory=ChunkResults)
    continues: frozenset[str] = frozenset()
    taken: "Taken | None" = None
    """The result of an earlier job, in the place of results."""


class LocalRun:
    """One run of one job. :meth:`run` in one thread, :meth:`stop` from any, also from a signal handler's.

    Parameters
    ----------
    resolved
        The job, its source and its secrets.
    progress
        Counts that somebody shows.
    """

    def __init__(self, resolved: ResolvedJob, options: LocalOptions, progress: Progress) -> None:
        self._resolved = resolved
        self._job = resolved.job
        self._options = options
        self._progress = progress
        self._stopped = threading.Event()
        self._stop_reason: ExtractionError | None = None
        self._lock = threading.Lock()
        self._extraction: Extraction | None = None
        self._pool: Future[SourcePool] | None = None
        self._namespace = self._job.metadata.namespace or "default"
        self._name = f"local-{uuid.uuid4().hex}"
        redis = RedisConnection.of_file(options.redis_url_file, progress.say)
        self._cache = Cache(redis, cache_scope(resolved.source)) if redis is not None else None
        self._source = JobSource(resolved, self._name, cache=self._cache)
        self._memory = plan_memory(resolved, options)

    @property
    def uri(self) -> str:
        """Where readers find the result."""
        return self._open_sink(self._staging_key()).uri

    @property
    def connections(self) -> int:
        """Connections to the source at the most: one holds the snapshot, the others read."""
        return self._memory.threads + 1

    def run(self) -> Manifest:
        """Extract, prove and publish; return the manifest that readers now find.

        Raises
        ------
        Interrupted
            :meth:`stop` was called; nothing was published.
        ExtractionError
            Why nothing was published.
        """
        self._refuse_held_back()
        planned_at = datetime.now(UTC)
        reading = read_job(self._job, self._resolved.source, planned_at)
        index = self._open_sink(self._staging_key())
        previous = self._previous(index)
        run_id = previous.run_id if previous is not None and self._resumes else self._new_run_id()
        sink = self._open_sink(run_id)
        sink.probe()
        Owner.write(index, run_id)
        deadline = threading.Timer(self._job.spec.active_deadline_seconds, self._on_deadline)
        deadline.daemon = True
        deadline.start()
        keep = False
        try:
            manifest = self._attempts(reading, planned_at, run_id, sink)
        except BaseException:
            # Under PerPartition finished chunks stay good: a second run takes them from staging.
            keep = self._resumes
            raise
        finally:
            deadline.cancel()
            self._close_pool()
            with contextlib.suppress(ExtractionError):
                if keep:
                    Owner.write(index, run_id, interrupted=True)
                else:
                    sink.discard()
                    if self._stop_reason is not None:
                        # So that the next run can say that it begins anew.
                        Owner.write(index, run_id, interrupted=True)
                    else:
                        index.discard()
        self._progress.phase(Phase.SUCCEEDED)
        return manifest

    def plan(self) -> Plan:
        """Return the plan that a run would follow; nothing is extracted, and the snapshot ends at once.

        Raises
        ------
        ExtractionError
            What would make the run impossible.
        """
        planned_at = datetime.now(UTC)
        reading = read_job(self._job, self._resolved.source, planned_at)
        lease = self._source.lease(reading, lambda _: None)
        try:
            identity = self._patiently(lease.acquire)
            return self._patiently(
                lambda: self._source.make_plan(
                    reading, identity, run_id=self._new_run_id(), planned_at=planned_at, threads=self._memory.threads
                )
            )
        finally:
            lease.release()

    def stop(self, reason: ExtractionError | None = None) -> None:
        """Stop as soon as possible; the first reason is the one that :meth:`run` raises."""
        with self._lock:
            if self._stop_reason is None:
                self._stop_reason = reason or Interrupted("Stopped before anything was published.")
        self._stopped.set()
        self._stop_extraction()

    # Attempts --------------------------------------------------------------------------------------------------------

    def _attempts(self, reading: Reading, planned_at: datetime, run_id: str, sink: Sink) -> Manifest:
        on_loss = self._job.spec.snapshot.on_loss
        restarts = 0
        attempt: _Attempt | None = None
        while True:
            try:
                if self._resumes or attempt is not None:
                    if attempt is None:
                        self._progress.phase(Phase.PLANNING)
                        fresh = self._patiently(lambda: self._make_plan(reading, None, run_id, planned_at))
                        attempt = self._resume(fresh, sink)
                    self._work(attempt, sink)
                else:
                    attempt = self._hold_and_work(reading, planned_at, run_id, sink)
                return self._publish(attempt, sink)
            except _LeaseLost as lost:
                self._check_stopped()
                if on_loss == "Restart" and restarts < MAX_RESTARTS:
                    restarts += 1
                    attempt = None
                    # A new holder, perhaps on another server, comes before readers: they would keep it from its slots.
                    self._close_pool()
                    self._source.pin("")
                    self._progress.say(f"{lost.reason} Beginning anew ({restarts} of {MAX_RESTARTS}).")
                elif on_loss == "Degrade" and lost.attempt is not None:
                    attempt = _degraded(lost.attempt)
                    done, total = len(attempt.results), len(attempt.plan.chunks)
                    self._progress.say(
                        f"{lost.reason} Going on with a snapshot for each chunk ({done} of {total} chunks are done)."
                    )
                else:
                    raise lost.reason from None

    def _hold_and_work(self, reading: Reading, planned_at: datetime, run_id: str, sink: Sink) -> _Attempt:
        attempt: _Attempt | None = None
        lease = self._source.lease(reading, lambda _: self._stop_extraction(), self._progress.say)
        try:
            self._progress.phase(Phase.PLANNING)
            identity = self._patiently(lease.acquire)
            self._source.pin(lease.address)
            attempt = _Attempt(self._patiently(lambda: self._make_plan(reading, identity, run_id, planned_at)))
            if (known := self._known_results()) is not None:
                attempt.taken = known.take(attempt.plan, sink, writer=self._name)
            if attempt.taken is None:
                self._work(attempt, sink)
            # As soon as every chunk has its result: publishing needs nothing of the source.
            lease.finish()
        except ExtractionError as error:
            reason = lease.lost or (error if isinstance(error, SnapshotLost) else None)
            if reason is not None and not self._stopped.is_set():
                raise _LeaseLost(reason, attempt) from None
            raise
        finally:
            lease.release()
        return attempt

    def _make_plan(
        self, reading: Reading, identity: SnapshotIdentity | None, run_id: str, planned_at: datetime
    ) -> Plan:
        """Plan, and open the first sessions that read beside it."""
        return self._source.make_plan(
            reading,
            identity,
            run_id=run_id,
            planned_at=planned_at,
            threads=self._memory.threads,
            connected=self._opened_pool,
        )

    def _patiently(self, call: Callable[[], _Result]) -> _Result:
        """Repeat a call until the budget of the source has room for it."""

        def wait(seconds: float) -> None:
            self._stopped.wait(seconds)
            self._check_stopped()

        return patiently(call, wait=wait, say=self._progress.say)

    def _work(self, attempt: _Attempt, sink: Sink) -> None:
        # Here, and in _publish: Arrow takes a while to import, and nothing before needs it.
        from extraction_worker.stages.extraction import Extraction
        from extraction_worker.stream.allocation import prepare_allocators

        prepare_allocators()
        limit = self._resolved.source.spec.limits.bytes_per_second
        extraction = Extraction(
            attempt.plan,
            sink,
            self._opened_pool().result(),
            self._source.settings,
            self._memory,
            worker=self._name,
            bytes_per_second=int(limit) if limit is not None else None,
            progress=self._progress,
            masks=self._source.masks(attempt.plan),
            yielding=self._source.yielding(attempt.plan),
        )
        with self._lock:
            self._extraction = extraction

        def on_result(result: ChunkResult) -> None:
            if attempt.plan.consistency is Consistency.PER_PARTITION:
                put_result(sink, result)
            attempt.results.put(result)

        try:
            self._check_stopped()
            extraction.run(attempt.plan.chunks, attempt.results, on_result)
        except ExtractionError:
            self._check_stopped()
            raise
        finally:
            with self._lock:
                self._extraction = None

    def _publish(self, attempt: _Attempt, sink: Sink) -> Manifest:
        from extraction_worker.stages.publish import publish, publish_taken

        self._check_stopped()
        self._progress.phase(Phase.PUBLISHING)
        if attempt.taken is not None:
            return publish_taken(attempt.taken.manifest, sink)
        job = f"{self._namespace}/{self._job.metadata.name}"
        manifest = publish(attempt.plan, job, attempt.results, sink, writer=self._name, continues=attempt.continues)
        if (known := self._known_results()) is not None:
            known.remember(attempt.plan, manifest)
        return manifest

    def _known_results(self) -> "Results | None":
        if self._cache is None or self._job.spec.reuse is None:
            return None
        # Here and not above: most jobs don't.
        from extraction_worker.stages.reuse import Results

        return Results(self._resolved, self._cache, self._options.volumes_dir, self._progress.say, self._check_stopped)

    # Resuming --------------------------------------------------------------------------------------------------------

    @property
    def _resumes(self) -> bool:
        return self._job.spec.consistency == "PerPartition"

    def _resume(self, fresh: Plan, sink: Sink) -> _Attempt:
        """Take over what an interrupted run left, as far as its plan still holds; otherwise begin with ``fresh``."""
        attempt = _Attempt(fresh)
        stored = sink.get_state("plan.json")
        if stored is not None:
            old: Plan | None = None
            with contextlib.suppress(ValueError):
                old = Plan.from_json(stored)
            # Chunks may be cut otherwise now (the table grew); the old ones are open at the end, so they still hold.
            if old is not None and fresh.model_copy(update={"chunks": old.chunks}).plan_digest() == old.plan_digest():
                attempt = _Attempt(old, finished_results(sink, old, old.chunks, self._progress.say))
                self._progress.say(
                    f"Resuming an interrupted run: {len(attempt.results)} of {len(old.chunks)} chunks are done."
                )
            else:
                self._progress.say("An interrupted run left chunks of another plan: beginning anew.")
                sink.discard()
        sink.put_state("plan.json", attempt.plan.to_json())
        return attempt

    def _previous(self, index: Sink) -> Owner | None:
        owner = Owner.read(index)
        if owner is not None and not self._resumes:
            self._progress.say("An earlier run was interrupted. Its snapshot ended with it: beginning anew.")
            with contextlib.suppress(ExtractionError):
                self._open_sink(owner.run_id).discard()
        return owner

    def _staging_key(self) -> str:
        return f"local-{self._namespace}-{self._job.metadata.name}"

    def _new_run_id(self) -> str:
        return f"{self._staging_key()}-{uuid.uuid4().hex[:12]}"

    # The rest --------------------------------------------------------------------------------------------------------

    def _refuse_held_back(self) -> None:
        for name, held in (("suspend", self._job.spec.suspend), ("cancel", self._job.spec.cancel)):
            if held:
                raise InvalidManifest(f"spec.{name} is true: the job isn't to run.", hint=f"Remove spec.{name}.")

    def _open_sink(self, run_id: str) -> Sink:
        return open_sink(self._resolved, volumes_dir=self._options.volumes_dir, run_id=run_id)

    def _opened_pool(self) -> "Future[SourcePool]":
        """Return the pool of this run, which opens its first sessions in a thread of its own, beside the planning."""
        if self._pool is None:
            self._pool = Future()
            threading.Thread(target=self._open_pool, args=(self._pool,), name="pool", daemon=True).start()
        return self._pool

    def _open_pool(self, opened: "Future[SourcePool]") -> None:
        try:
            opened.set_result(self._source.open_pool(self._memory.threads, self._progress.say))
        except BaseException as error:  # noqa: BLE001 - raised where the pool is asked for
            opened.set_exception(error)

    def _close_pool(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None and pool.exception() is None:
            pool.result().dispose()

    def _on_deadline(self) -> None:
        seconds = self._job.spec.active_deadline_seconds
        self.stop(DeadlineExceeded(f"activeDeadlineSeconds ({seconds} s) passed before the job was done."))

    def _stop_extraction(self) -> None:
        with self._lock:
            extraction = self._extraction
        if extraction is not None:
            extraction.stop()

    def _check_stopped(self) -> None:
        if self._stopped.is_set():
            raise self._stop_reason or Interrupted("Stopped before anything was published.")


class _LeaseLost(Exception):
    """The snapshot is gone; ``onLoss`` decides."""

    def __init__(self, reason: ExtractionError, attempt: _Attempt | None) -> None:
        super().__init__(str(reason))
        self.reason = reason if isinstance(reason, SnapshotLost | SourceInDanger) else SnapshotLost(str(reason))
        self.attempt = attempt


def _degraded(attempt: _Attempt) -> _Attempt:
    """Return the attempt as it goes on without its snapshot: finished chunks stay, the rest have one each."""
    plan = attempt.plan.model_copy(update={"consistency": Consistency.PER_PARTITION})
    return _Attempt(plan, attempt.results, attempt.continues | {attempt.plan.plan_digest()})
