"""What stages do with a job's source: hold its snapshot, plan under it, open the sessions that read."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

import psycopg

from extraction_contract.resolve import ResolvedJob
from extraction_worker.cache.store import Cache
from extraction_worker.errors import ExtractionError
from extraction_worker.model import Consistency, Plan, SnapshotIdentity
from extraction_worker.source.failures import translate
from extraction_worker.source.giving_way import Yielding
from extraction_worker.source.lease import LockTarget, SnapshotLease
from extraction_worker.source.session import connect, planning_transaction, read_identity
from extraction_worker.stages.masks import declared_masks, open_masks
from extraction_worker.stages.plan import Reading, lock_target, make_plan
from extraction_worker.stages.settings import application_name, lease_limits, source_settings

if TYPE_CHECKING:
    from extraction_worker.source.pool import SourcePool
    from extraction_worker.stream.masks import Masks


class JobSource:
    """The source of one job, as one process reaches it.

    Parameters
    ----------
    run
        Names this attempt, the same in every process of it.
    pod
        Name of the pod, for what the server shows of our sessions; empty in local mode.
    cache
        What is remembered of the source.
    """

    def __init__(self, resolved: ResolvedJob, run: str, pod: str = "", cache: Cache | None = None) -> None:
        self._cache = cache
        self._job = resolved.job
        self._source = resolved.source
        self._resolved = resolved
        self._limits = lease_limits(resolved)
        self.settings = source_settings(resolved.of_source(), application_name(resolved.job, pod), run)

    def pin(self, address: str) -> None:
        """Reach the server that holds the snapshot at this address from now on, see :class:`SourceSettings`."""
        self.settings = replace(self.settings, address=address)

    def lease(
        self,
        reading: Reading,
        on_lost: Callable[[ExtractionError], None],
        say: Callable[[str], object] = lambda _: None,
    ) -> SnapshotLease:
        """Return the lease of a snapshot of what the job reads; nothing is acquired yet."""

        def resolve(connection: psycopg.Connection[tuple[object, ...]]) -> LockTarget:
            return lock_target(connection, reading)

        return SnapshotLease(self.settings, resolve, self._limits, on_lost, say, application_name(self._job))

    def make_plan(
        self,
        reading: Reading,
        identity: SnapshotIdentity | None,
        *,
        run_id: str,
        planned_at: datetime,
        threads: int,
        connected: Callable[[], object] = lambda: None,
    ) -> Plan:
        """Plan under the lease's snapshot; without one, under a snapshot that ends with the planning.

        Parameters
        ----------
        threads
            How many will read at the same time, over all pods.
        connected
            Called once planning has its connection: others of this run can't take its slot any more.

        Raises
        ------
        SourceBusy
            It has to wait for its turn (:func:`source.slots.patiently`).
        ExtractionError
            What makes the job impossible.
        """
        try:
            with contextlib.closing(connect(self.settings)) as connection:
                connected()
                with planning_transaction(connection, self.settings, identity.snapshot_id if identity else None):
                    return make_plan(
                        connection,
                        self._job,
                        self._source,
                        reading,
                        identity or read_identity(connection, ""),
                        run_id=run_id,
                        planned_at=planned_at,
                        threads=threads,
                        masks=declared_masks(self._resolved),
                        cache=self._cache,
                    )
        except psycopg.Error as error:
            raise translate(error, "Planning") from None

    def yielding(self, plan: Plan) -> Yielding | None:
        """Return when those who read give way to DDL; None where the holder of the plan's snapshot does."""
        if plan.consistency is Consistency.SNAPSHOT:
            return None
        return Yielding(application_name(self._job), self._limits.yield_to_ddl_after)

    def masks(self, plan: Plan) -> "Masks":
        """Return the masks of a plan's columns, with their keys; raises InvalidManifest where those were changed."""
        return open_masks(self._resolved, plan.columns)

    def open_pool(self, threads: int, say: Callable[[str], object] | None = None) -> "SourcePool":
        """Return a pool of as many sessions as there are threads, some of them open already. Takes a moment."""
        # Here and not above: it takes time to import, and not every stage reads.
        from extraction_worker.source.pool import PoolSettings, SourcePool

        bounds = self._source.spec.pool
        settings = PoolSettings(
            size=threads,
            min_idle=min(bounds.min_idle, threads),
            acquire_timeout=bounds.acquire_timeout.total_seconds(),
            idle_timeout=bounds.idle_timeout.total_seconds(),
            max_lifetime=bounds.max_lifetime.total_seconds(),
        )
        pool = SourcePool(self.settings, settings, say)
        # What fails now fails again, and is retried, when the first chunk asks for a session.
        with contextlib.suppress(ExtractionError):
            pool.open_idle()
        return pool
