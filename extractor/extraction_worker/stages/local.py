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
from typing import TYPE_CHECKING

import psycopg

from extraction_contract.resolve import ResolvedJob
from extraction_worker.errors import (
    DeadlineExceeded,
    ExtractionError,
    Interrupted,
    InvalidManifest,
    SnapshotLost,
    SourceInDanger,
    VerificationFailed,
)
from extraction_worker.model import ChunkResult, Consistency, Manifest, Plan, SnapshotIdentity
from extraction_worker.report.progress import Phase, Progress
from extraction_worker.sink.abc import Sink
from extraction_worker.sink.open import open_sink
from extraction_worker.source.failures import translate
from extraction_worker.source.lease import LockTarget, SnapshotLease
from extraction_worker.source.reader import ByteRate, Watchdog, ask_server
from extraction_worker.source.session import connect, planning_transaction, read_identity
from extraction_worker.stages.owner import Owner
from extraction_worker.stages.plan import Reading, lock_target, make_plan, read_job
from extraction_worker.stages.publish import publish
from extraction_worker.stages.settings import LocalOptions, lease_limits, plan_memory, source_settings
from extraction_worker.stages.work import ChunkWorker
from extraction_worker.stream.workers import run_chunks

if TYPE_CHECKING:
    from extraction_worker.source.pool import SourcePool

MAX_RESTARTS = 3
"""How often ``snapshot.onLoss: Restart`` begins anew."""


@dataclass
class _Attempt:
    """What one attempt has: its plan, and the results so far."""

    plan: Plan
    results: dict[int, ChunkResult] = field(default_factory=dict)
    continues: frozenset[str] = frozenset()


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
        self._worker: ChunkWorker | None = None
        self._pool: Future[SourcePool] | None = None
        self._namespace = self._job.metadata.namespace or "default"
        self._settings = source_settings(resolved)
        self._limits = lease_limits(resolved)
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
        lease = self._lease(reading, lambda _: None)
        try:
            identity = lease.acquire()
            return self._make_plan(reading, planned_at, self._new_run_id(), identity)
        finally:
            lease.release()

    def stop(self, reason: ExtractionError | None = None) -> None:
        """Stop as soon as possible; the first reason is the one that :meth:`run` raises."""
        with self._lock:
            if self._stop_reason is None:
                self._stop_reason = reason or Interrupted("Stopped before anything was published.")
            worker = self._worker
        self._stopped.set()
        if worker is not None:
            worker.stop()

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
                        attempt = self._resume(self._make_plan(reading, planned_at, run_id, None), sink)
                    self._work(attempt, sink)
                else:
                    attempt = self._hold_and_work(reading, planned_at, run_id, sink)
                return self._publish(attempt, sink)
            except _LeaseLost as lost:
                self._check_stopped()
                if on_loss == "Restart" and restarts < MAX_RESTARTS:
                    restarts += 1
                    attempt = None
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
        lease = self._lease(reading, lambda _: self._stop_worker())
        try:
            self._progress.phase(Phase.PLANNING)
            identity = lease.acquire()
            self._opened_pool()
            attempt = _Attempt(self._make_plan(reading, planned_at, run_id, identity))
            self._work(attempt, sink)
        except ExtractionError as error:
            reason = lease.lost or (error if isinstance(error, SnapshotLost) else None)
            if reason is not None and not self._stopped.is_set():
                raise _LeaseLost(reason, attempt) from None
            raise
        finally:
            # As soon as every chunk has its result: publishing needs nothing of the source.
            lease.release()
        return attempt

    def _work(self, attempt: _Attempt, sink: Sink) -> None:
        plan = attempt.plan
        self._progress.planned(len(plan.chunks), plan.estimated_rows, plan.estimated_bytes)
        self._progress.phase(Phase.RUNNING)
        for result in attempt.results.values():
            self._progress.read(result.rows, result.source_bytes)
            self._progress.chunk_done()
        pool = self._opened_pool().result()
        watchdog = Watchdog(self._settings.stall_timeout, lambda pid: ask_server(self._settings, pid))
        limit = self._resolved.source.spec.limits.bytes_per_second
        worker = ChunkWorker(
            plan=plan,
            sink=sink,
            pool=pool,
            memory=self._memory,
            worker=f"local-{uuid.uuid4().hex}",
            watchdog=watchdog,
            rate=ByteRate(int(limit) if limit is not None else None),
            progress=self._progress,
        )
        with self._lock:
            self._worker = worker
        self._check_stopped()

        def on_result(result: ChunkResult) -> None:
            if plan.consistency is Consistency.PER_PARTITION:
                sink.put_state(f"results/{result.chunk:05d}-{result.worker}.json", result.to_json())
            attempt.results[result.chunk] = result
            self._progress.chunk_done()

        watchdog.start()
        try:
            run_chunks(
                [chunk for chunk in plan.chunks if chunk.index not in attempt.results],
                worker.extract,
                threads=self._memory.threads,
                stopped=worker.stopped,
                on_result=on_result,
                on_retry=lambda chunk, error: self._progress.retry(f"Chunk {chunk.index} is read again: {error}"),
                stop=worker.stop,
            )
            if not any(result.parts for result in attempt.results.values()):
                attempt.results[plan.chunks[0].index] = worker.empty_part()
        except ExtractionError:
            self._check_stopped()
            raise
        finally:
            watchdog.stop()
            with self._lock:
                self._worker = None

    def _publish(self, attempt: _Attempt, sink: Sink) -> Manifest:
        self._check_stopped()
        self._progress.phase(Phase.PUBLISHING)
        job = f"{self._namespace}/{self._job.metadata.name}"
        return publish(attempt.plan, job, attempt.results.values(), sink, continues=attempt.continues)

    # Planning --------------------------------------------------------------------------------------------------------

    def _lease(self, reading: Reading, on_lost: Callable[[ExtractionError], None]) -> SnapshotLease:
        def resolve(connection: psycopg.Connection[tuple[object, ...]]) -> LockTarget:
            return lock_target(connection, reading)

        return SnapshotLease(self._settings, resolve, self._limits, on_lost)

    def _make_plan(
        self, reading: Reading, planned_at: datetime, run_id: str, identity: SnapshotIdentity | None
    ) -> Plan:
        """Plan under the lease's snapshot; without one, under a snapshot that ends with the planning."""
        try:
            with (
                contextlib.closing(connect(self._settings)) as connection,
                planning_transaction(connection, self._settings, identity.snapshot_id if identity else None),
            ):
                return make_plan(
                    connection,
                    self._job,
                    self._resolved.source,
                    reading,
                    identity or read_identity(connection, ""),
                    run_id=run_id,
                    planned_at=planned_at,
                    threads=self._memory.threads,
                )
        except psycopg.Error as error:
            raise translate(error, "Planning") from None

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
                attempt = _Attempt(old, self._finished(old, sink))
                self._progress.say(
                    f"Resuming an interrupted run: {len(attempt.results)} of {len(old.chunks)} chunks are done."
                )
            else:
                self._progress.say("An interrupted run left chunks of another plan: beginning anew.")
                sink.discard()
        sink.put_state("plan.json", attempt.plan.to_json())
        return attempt

    def _finished(self, plan: Plan, sink: Sink) -> dict[int, ChunkResult]:
        """Return the good results in staging; a bad one is named, and its chunk read again."""
        digest = plan.plan_digest()
        results: dict[int, ChunkResult] = {}
        for name in sorted(sink.list_state("results/")):
            data = sink.get_state(name)
            try:
                result = ChunkResult.from_json(data or b"")
            except ValueError:
                self._progress.say(f"{name} in staging isn't a result: its chunk is read again.")
                continue
            if result.plan_digest != digest or result.chunk in results:
                continue
            try:
                for part in result.parts:
                    sink.check_part(part)
            except VerificationFailed as error:
                self._progress.say(f"Chunk {result.chunk} is read again: {error}")
                continue
            results[result.chunk] = result
        return results

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
            # Here and not above: SQLAlchemy takes long to import, and meanwhile the server plans.
            from extraction_worker.source.pool import PoolSettings, SourcePool

            bounds = self._resolved.source.spec.pool
            settings = PoolSettings(
                size=self._memory.threads,
                min_idle=min(bounds.min_idle, self._memory.threads),
                acquire_timeout=bounds.acquire_timeout.total_seconds(),
                idle_timeout=bounds.idle_timeout.total_seconds(),
                max_lifetime=bounds.max_lifetime.total_seconds(),
            )
            pool = SourcePool(self._settings, settings)
            # What fails now fails again, and is retried, when the first chunk asks for a session.
            with contextlib.suppress(ExtractionError):
                pool.open_idle()
            opened.set_result(pool)
        except BaseException as error:  # noqa: BLE001 - raised where the pool is asked for
            opened.set_exception(error)

    def _close_pool(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None and pool.exception() is None:
            pool.result().dispose()

    def _on_deadline(self) -> None:
        seconds = self._job.spec.active_deadline_seconds
        self.stop(DeadlineExceeded(f"activeDeadlineSeconds ({seconds} s) passed before the job was done."))

    def _stop_worker(self) -> None:
        with self._lock:
            worker = self._worker
        if worker is not None:
            worker.stop()

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
