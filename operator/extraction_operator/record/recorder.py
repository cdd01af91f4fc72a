"""Between the store, which tells what is news, and the writer: spools on every replica, writes where this one leads."""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, Protocol

from extraction_contract.models import DataSource
from extraction_operator.config import RecordConfig
from extraction_operator.plan.values import Pod
from extraction_operator.record.rows import AnyRow, Json, job_rows, pod_rows, source_rows
from extraction_operator.record.spool import Batch, Spool
from extraction_operator.record.writer import UnavailableError, Writer

log = logging.getLogger(__name__)

_ROWS = 5_000
"""Of one transaction."""
_LONGEST_PAUSE = 10.0
"""Seconds between two tries while the record is away, at the most: what waits is written so soon after it is back."""
_JOBS = 20_000
"""Jobs whose creation is remembered after they are gone: the last events of their pods may come later."""


class Observer(Protocol):
    """Who counts; :class:`extraction_operator.observe.metrics.Metrics` in the operator."""

    def record_flushed(self, rows: Mapping[str, int], seconds: float) -> None:
        """Count a transaction that was committed, and its rows by table."""

    def record_failed(self, seconds: float) -> None:
        """Count an attempt to write that failed."""

    def record_lost(self, tables: Iterable[str], reason: str) -> None:
        """Count rows that will never be written, by their tables: ``SpoolFull``, ``Rejected``, ``Unreadable``."""


class Known(Protocol):
    """What is there now; :class:`extraction_operator.store.Store` in the operator."""

    def tell(self, recorder: "Recorder") -> None:
        """Tell everything anew."""

    def uids(self) -> tuple[Sequence[str], Sequence[str]]:
        """Return the uids of jobs and of sources."""


@dataclass(frozen=True)
class KeepingUp:
    """Whether everything that happens gets into the record, sooner or later."""

    status: bool
    reason: Literal["RecordKeepsUp", "RecordSpoolFull", "RecordWrittenAgain"]
    message: str


class Recorder:
    """Records what the store tells.

    Parameters
    ----------
    namespaces
        What is watched; empty is everything. What is recorded of others isn't ours to end.
    """

    def __init__(
        self, config: RecordConfig, namespaces: Sequence[str], observer: Observer, *,
        clock: Callable[[], float] = time.monotonic, now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:  # fmt: skip
        self._config = config
        self._namespaces = namespaces
        self._observer = observer
        self._clock = clock
        self._now = now
        self.spool = Spool(config.spool_bytes, self._overflowed, clock=clock)
        self._writer = Writer(config.place, self._rejected)
        self._writing = asyncio.Lock()
        """One at a time: an operator that ends flushes, too, while its leading task may be at it."""
        self._created: OrderedDict[str, str] = OrderedDict()
        self._leads = False
        self._has_dropped = False
        self._pause = 0.0
        self._not_before = 0.0
        self.is_up = False
        """Whether the last attempt to write succeeded."""
        self._verdict = KeepingUp(True, "RecordKeepsUp", "Every change was recorded, or waits for it.")
        self._has_turned = asyncio.Event()
        self._dropped = 0

    @property
    def keeping_up(self) -> KeepingUp:
        """What is told of this recorder as a condition; it turns when changes are dropped, and when that is over."""
        return self._verdict

    async def turned(self, verdict: object) -> None:
        """Return as soon as :attr:`keeping_up` is another one than this. One task waits at a time."""
        while self._verdict is verdict:
            self._has_turned.clear()
            await self._has_turned.wait()

    def _turn(self, verdict: KeepingUp) -> None:
        self._verdict = verdict
        self._has_turned.set()

    # Told by the store -----------------------------------------------------------------------------------------------

    def job(self, job: Json, *, gone: bool = False) -> None:
        """Record an ExtractionJob, as the store trims it."""
        uid = job["metadata"]["uid"]
        self._created[uid] = job["metadata"]["creationTimestamp"]
        self._created.move_to_end(uid)
        if len(self._created) > _JOBS:
            self._created.popitem(last=False)
        self._take("jobs", job_rows(job, cluster=self._config.cluster, seen=self._now, gone=gone))

    def source(self, source: DataSource, *, gone: bool = False) -> None:
        """Record a DataSource."""
        self._take("data_sources", source_rows(source, cluster=self._config.cluster, seen=self._now(), gone=gone))

    def pod(self, owner: str, pod: Pod) -> None:
        """Record what a pod tells; a pod that isn't of a job, or of one that nobody remembers, tells nothing."""
        if (created := self._created.get(owner)) is not None:
            self._take("bundles", pod_rows(pod, owner, created))

    # Writing ---------------------------------------------------------------------------------------------------------

    async def lead(self, known: Known, interval: float = 1.0) -> None:
        """Write what waits, again and again, for as long as this replica leads."""
        self._leads = True
        self.spool.forget()
        known.tell(self)
        is_complete = False
        while True:
            await asyncio.sleep(interval)
            done = False
            try:
                done = await self.flush()
            except Exception as error:
                # Nobody else would go on with it, and one that has ended says nothing.
                log.exception("The record wasn't written.")
                self._back_off(UnavailableError(type(error).__name__))
            if self.is_up and self._has_dropped:
                # What was dropped is as it is now in the store, unless it is gone by now.
                self._has_dropped = False
                log.warning("The record is written again; what is there is recorded anew.")
                self._turn(KeepingUp(
                    True, "RecordWrittenAgain",
                    f"The record is written again, and what is there recorded anew. {self._dropped:,} changes were "
                    f"dropped until {self._now():%Y-%m-%dT%H:%M:%SZ}: jobs that came and went meanwhile are missing.",
                ))  # fmt: skip
                self.spool.forget()
                known.tell(self)
            elif self.is_up and done and not is_complete:
                is_complete = await self._end_absent(known)

    async def flush(self) -> bool:
        """Write what waits, unless the record was away a moment ago; return whether all that waited then is written.

        What comes meanwhile waits for the next time, unless it is a whole transaction.
        """
        async with self._writing:
            if self._clock() < self._not_before:
                return False
            waiting = len(self.spool)
            batch = await self._gather(0, waiting)
            while batch:
                waiting -= len(batch)
                begin = self._clock()
                try:
                    following = await self._write(batch, waiting)
                except UnavailableError as error:
                    self._observer.record_failed(self._clock() - begin)
                    self._back_off(error)
                    return False
                self.spool.written(batch)
                self._observer.record_flushed(batch.counts(), self._clock() - begin)
                if not self.is_up:
                    log.info("The record is written.", extra={"rows": len(batch), "left": len(self.spool)})
                self.is_up, self._pause = True, 0.0
                batch = following
            return True

    async def _write(self, batch: Batch, waiting: int) -> Batch:
        """Write a batch, and have the next one ready by then: the server needn't wait for it."""
        gathering = asyncio.create_task(self._gather(len(batch), waiting))
        try:
            await self._writer.write(batch)
        except BaseException:
            gathering.cancel()
            raise
        return await gathering

    async def _gather(self, after: int, waiting: int) -> Batch:
        """Return what comes after so many rows: a whole transaction, or what is left of those that waited."""
        there = len(self.spool) - after
        batch = self.spool.batch(_ROWS if there >= _ROWS else max(0, min(waiting, there)), after=after)
        if batch:
            # Elsewhere, because the operator's own work mustn't wait for it.
            await asyncio.to_thread(batch.texts)
        return batch

    async def close(self) -> None:
        """Close the connection; what waits is lost, and is told anew to the next leader, but for ended pods."""
        await self._writer.close()

    def _take(self, table: str, rows: Iterable[AnyRow]) -> None:
        try:
            for row in rows:
                self.spool.offer(row)
        except Exception as error:  # noqa: BLE001 -- what can't be recorded mustn't keep the store from knowing it
            log.error(  # noqa: TRY400 -- a traceback may show values
                "Something can't be recorded.", extra={"table": table, "error": type(error).__name__}
            )
            self._observer.record_lost((table,), "Unreadable")

    async def _end_absent(self, known: Known) -> bool:
        jobs, sources = known.uids()
        async with self._writing:
            try:
                ended = await self._writer.end_absent(
                    cluster=self._config.cluster, namespaces=self._namespaces, jobs=jobs, sources=sources
                )
            except UnavailableError as error:
                self._back_off(error)
                return False
        if ended:
            log.info("Jobs went while nobody watched; the record says so now.", extra={"jobs": ended})
        return True

    def _back_off(self, error: UnavailableError) -> None:
        if self.is_up or not self._pause:
            log.warning("The record can't be written; changes wait.", extra={"error": str(error)})
        self.is_up = False
        self._pause = min(max(1.0, 2 * self._pause), _LONGEST_PAUSE)
        self._not_before = self._clock() + self._pause

    def _overflowed(self, tables: Sequence[str]) -> None:
        if not self._leads:
            # The leader writes them.
            return
        if not self._has_dropped:
            log.error(
                "The record has been away for too long: the oldest changes are dropped.",
                extra={"waiting": len(self.spool), "bytes": self._config.spool_bytes},
            )
            mebibytes = self._config.spool_bytes / 1024 / 1024
            self._turn(KeepingUp(
                False, "RecordSpoolFull",
                f"The record has been away for so long that {mebibytes:g} MiB of changes wait; the oldest are dropped. "
                "See why in this pod's log, or give it more by record.spoolMebibytes.",
            ))  # fmt: skip
        self._has_dropped = True
        self._dropped += len(tables)
        self._observer.record_lost(tables, "SpoolFull")

    def _rejected(self, table: str, error: str) -> None:
        log.error("The record refuses a row.", extra={"table": table, "error": error})
        self._observer.record_lost((table,), "Rejected")
