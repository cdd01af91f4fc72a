"""The process: everything wired together, started in order, stopped in order.

Standby replicas list and watch, too, so that a new leader needs one LIST and not a cold start. Writing begins only when
the Lease is held *and* everything but the jobs that have ended was listed since then: what the former leader wrote last
is known. Those that have ended follow.
"""

import asyncio
import logging
import math
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from extraction_operator.accounts import Accounts
from extraction_operator.cluster.children import Children
from extraction_operator.cluster.client import Api
from extraction_operator.cluster.errors import ClusterError
from extraction_operator.cluster.events import About, Events
from extraction_operator.cluster.fence import SLACK, Fence
from extraction_operator.cluster.kinds import Kind
from extraction_operator.cluster.leader import ApiLeases, Elector, LostLeaseError
from extraction_operator.cluster.login import USER_AGENT, Login, log_in
from extraction_operator.cluster.lookups import Lookups
from extraction_operator.cluster.own_pod import OwnPod
from extraction_operator.cluster.status import Draft, Statuses
from extraction_operator.cluster.switch import Switch
from extraction_operator.cluster.warnings import Warnings
from extraction_operator.config import Config
from extraction_operator.dispatch import Dispatch
from extraction_operator.listing import Listing
from extraction_operator.live import LiveReader
from extraction_operator.observe.http import Health, application, serve
from extraction_operator.observe.metrics import Metrics
from extraction_operator.plan.budget import Budget
from extraction_operator.plan.values import Key
from extraction_operator.queue import KeyQueue
from extraction_operator.reconcile import Hands, Reconciler
from extraction_operator.store import Parent, Ref
from extraction_operator.stores import tell_of_stores
from extraction_operator.workers import Workers, describe

if TYPE_CHECKING:
    from extraction_operator.record.recorder import Recorder

log = logging.getLogger(__name__)

_STOP_SECONDS = 2.0
"""Given to what is being worked on when the process is asked to end; the rest of 5 s is for statuses and the Lease."""


class Exit(IntEnum):
    """Exit codes."""

    STOPPED = 0
    FAILED = 1
    LOST_LEASE = 3


async def run(config: Config) -> int:
    """Run until a signal ends it; return the exit code."""
    stop = asyncio.Event()
    login = await log_in(config.kubeconfig, config.context)
    operator = Operator(config, login)
    try:
        await operator.open()
        return await operator.run(stop)
    finally:
        await operator.close()


class Operator:
    """One replica."""

    def __init__(self, config: Config, login: Login) -> None:
        self._config = config
        self._login = login
        self._tasks: set[asyncio.Task[Any]] = set()
        self._fence, self._switch = Fence(), Switch()
        self._metrics = metrics = Metrics()
        self._api = Api(login, self._fence, metrics)
        self._queue: KeyQueue[Ref] = KeyQueue()
        self._workers = Workers(self._queue, self._reconcile, metrics, count=config.workers)
        self._budget = Budget(config.max_source_connections)
        self._accounts = Accounts(metrics)
        self._recorder = self._make_recorder()
        self._dispatch = Dispatch(
            self._workers.add, self._forget, self._budget, metrics, self._accounts, recorder=self._recorder
        )
        self._store = self._dispatch.store
        self._listing = Listing(self._api, self._store, config.namespaces)
        self._events = Events(self._api, metrics, instance=config.identity)
        self._statuses = Statuses(
            self._api, self._store.apply, written=self._announce, failed=self._decide_again, flushed=metrics.flushed
        )
        self._live = LiveReader(config.redis_url_file, metrics)
        self._reconciler = Reconciler(
            self._dispatch, self._budget, config.plan,
            Hands(
                Children(self._api, self._store.apply, self._store.ended), self._statuses, self._events,
                Warnings(self._api), Lookups(self._api), self._live,
            ),
            metrics, again=self._workers.add,
        )  # fmt: skip
        self._looked = asyncio.Event()
        self._listing_lock = asyncio.Lock()
        self._listed = 0.0
        """When the LIST began that the store was compared with last."""
        self._elector = None
        if config.election is not None:
            leases = ApiLeases(self._api, config.election.lease)
            self._elector = Elector(leases, config.election.identity, self._renewed, timing=config.election.timing)
        self._health = Health(lambda: self._queue.longest_work(time.monotonic()))
        self._show_gauges()
        self._http: Any = None
        self.port = 0
        """Where metrics are served."""

    async def open(self) -> None:
        """Serve metrics and health."""
        app = application(self._metrics, self._health)
        self._http, self.port = await serve(app, self._config.metrics_host, self._config.metrics_port)
        log.info("Started.", extra={"identity": self._config.identity, "agent": USER_AGENT, "port": self.port})

    async def close(self) -> None:
        """Close everything; nothing is written any more."""
        self._fence.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)
        if self._recorder is not None:
            await self._recorder.close()
        await self._api.close()
        if self._http is not None:
            await self._http.cleanup()
        self._switch.disarm()

    async def run(self, stop: asyncio.Event) -> int:
        """Run until ``stop`` is set or a signal comes; return the exit code."""
        loop = asyncio.get_running_loop()
        stopped = self._spawn(stop.wait(), "stop")
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        self._spawn(self._beat(), "heartbeat")
        work = self._spawn(self._lead(), "lead")
        watching = self._spawn(self._watch(stop), "watch")
        await asyncio.wait({stopped, work, watching}, return_when=asyncio.FIRST_COMPLETED)
        for task in (work, watching):
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                return self._give_up(error)
        await self._stop(work)
        return Exit.STOPPED

    # Starting ----------------------------------------------------------------------------------------------------

    async def _watch(self, stop: asyncio.Event) -> None:
        """List everything, then watch."""
        # After the first look at the Lease: a replica that gets it at once has a shorter LIST to wait for.
        await self._looked.wait()
        await self._list_everything(since=0.0)
        self._health.is_ready = True
        log.info("Everything is listed.", extra={"jobs": sum(1 for _ in self._store.phases())})
        self._spawn(self._compare_for_ever(), "compare")
        # kopf takes a while to be imported, and what is decided first needs no news.
        watch = await asyncio.to_thread(_load_watch)
        await watch(self._login, self._config.namespaces, self._store.apply, self._metrics, stop.set)

    async def _lead(self) -> None:
        """Wait for the Lease, then work for as long as it is held."""
        if self._elector is None:
            self._fence.open_until(math.inf)
        else:
            self._switch.install()
            await self._elector.acquire(self._looked.set)
            log.info("This replica is the leader.")
        # Held from here on, also while the LISTs are taken in.
        holding, began = self._spawn(self._hold(), "hold"), time.monotonic()
        await self._unless(holding, self._list_open())
        self._looked.set()
        self._metrics.leads(leader=True)
        self._accounts.is_leading = True
        for ref in self._store.refs():
            self._workers.add(ref)
        self._spawn(self._statuses.run(self._config.flush_seconds), "statuses")
        self._spawn(self._events.run(), "events")
        self._spawn(self._take_in_the_rest(began), "rest")
        if self._config.pod is not None:
            own = OwnPod(self._api, self._events, self._config.pod)
            self._spawn(tell_of_stores(own, self._config, self._recorder), "own pod")
        self._spawn(self._live.run(self._store.reading, self._workers.add, self._config.live_seconds), "live")
        await self._unless(holding, self._workers.run())

    async def _hold(self) -> None:
        if self._elector is None:
            await asyncio.Event().wait()
        else:
            await self._elector.hold()

    async def _unless(self, holding: asyncio.Task[Any], work: Coroutine[Any, Any, Any]) -> None:
        """Work until it is done; raise what ends the holding of the Lease, or the work itself."""
        task = self._spawn(work, "work")
        await asyncio.wait({holding, task}, return_when=asyncio.FIRST_COMPLETED)
        if holding.done():
            self._fence.close()
            await holding
        await task

    def _renewed(self, begin: float) -> None:
        """Let writes pass until the renewal that began then is too old, and have the kernel see to it."""
        deadline = begin + (self._config.election.timing.deadline if self._config.election else math.inf)
        self._fence.open_until(deadline)
        self._switch.arm(deadline + SLACK - time.monotonic())

    async def _list_open(self) -> None:
        """Bring the store to the state of now, but for jobs that have ended: nothing depends on those."""
        async with self._listing_lock:
            await _until_listed(self._listing.compare_open)

    async def _list_everything(self, *, since: float) -> None:
        """Bring the store to a state that is not older than a moment."""
        async with self._listing_lock:
            while self._listed < since or not self._listed:
                begin = time.monotonic()
                await _until_listed(self._listing.compare)
                self._listed = begin

    async def _take_in_the_rest(self, began: float) -> None:
        """List the jobs that have ended, too; what is recorded depends on all of them."""
        await self._list_everything(since=began)
        if self._recorder is not None:
            await self._recorder.lead(self._store, self._config.flush_seconds)

    async def _compare_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._config.compare_seconds)
            try:
                drift = await self._listing.compare()
            except ClusterError as error:
                log.warning("The store wasn't compared.", extra={"error": describe(error)})
            else:
                self._metrics.drifted(drift)

    async def _beat(self) -> None:
        while True:
            self._health.beat()
            await asyncio.sleep(1)

    # Stopping ----------------------------------------------------------------------------------------------------

    def _give_up(self, error: BaseException) -> int:
        """End at once: what isn't written will be by the next leader."""
        self._fence.close()
        if isinstance(error, LostLeaseError):
            log.critical("Not the leader any more.", extra={"error": str(error)})
            return Exit.LOST_LEASE
        log.critical("This can't go on.", exc_info=error, extra={"error": describe(error)})
        return Exit.FAILED

    async def _stop(self, work: asyncio.Task[Any]) -> None:
        """End in good order: finish what is begun, write statuses, let another replica lead."""
        log.info("Stopping.")
        self._workers.stop()
        if self._fence.is_open:
            await asyncio.wait({work}, timeout=_STOP_SECONDS)
            try:
                async with asyncio.timeout(1.0):
                    await self._statuses.flush()
                    await self._events.flush()
                    if self._recorder is not None:
                        await self._recorder.flush()
            except TimeoutError:
                log.warning("Not every status was written.", extra={"left": len(self._statuses)})
        self._fence.close()
        self._metrics.leads(leader=False)
        self._accounts.is_leading = False
        # Neither acquired nor renewed any more: the release is to be the last word.
        ending = [task for task in self._tasks if task.get_name() in {"lead", "hold"}]
        for task in ending:
            task.cancel()
        if ending:
            await asyncio.wait(ending, timeout=1.0)
        if self._elector is not None:
            await self._elector.release()

    # Wiring ------------------------------------------------------------------------------------------------------

    def _make_recorder(self) -> "Recorder | None":
        if self._config.record is None:
            return None
        # The driver is imported where it is used.
        from extraction_operator.record.recorder import Recorder

        recorder = Recorder(self._config.record, self._config.namespaces, self._metrics)
        spool = recorder.spool
        self._metrics.record_of(lambda: len(spool), lambda: spool.bytes, spool.lag, lambda: float(recorder.is_up))
        return recorder

    async def _reconcile(self, ref: Ref) -> None:
        await self._reconciler.reconcile(ref)

    def _announce(self, draft: Draft) -> None:
        for event in draft.events:
            self._events.add(About(draft.kind, draft.key, draft.uid), event)

    def _decide_again(self, draft: Draft) -> None:
        self._workers.add(Ref(Parent(draft.kind.name), draft.key), self._config.flush_seconds)

    def _forget(self, kind: Kind, key: Key) -> None:
        self._statuses.forget(kind, key)

    def _spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _show_gauges(self) -> None:
        queue, metrics, clock, operator = self._queue, self._metrics, time.monotonic, "extraction_operator"
        metrics.gauge_of(f"{operator}_queue_depth", lambda: queue.depth(clock()))
        metrics.gauge_of(f"{operator}_queue_waiting", queue.waiting)
        metrics.gauge_of(f"{operator}_queue_oldest_seconds", lambda: queue.oldest(clock()))
        metrics.gauge_of(f"{operator}_queue_longest_work_seconds", lambda: queue.longest_work(clock()))
        metrics.gauge_of(f"{operator}_heartbeat_age_seconds", self._health.beat_age)
        metrics.gauge_of(f"{operator}_statuses_waiting", lambda: len(self._statuses))
        metrics.gauge_of("extraction_source_connections", lambda: self._budget.used().reserved, "reserved")
        metrics.gauge_of("extraction_source_connections", lambda: self._budget.used().limit, "limit")
        metrics.gauge_of("extraction_source_budget_used_ratio", lambda: self._budget.used().ratio)
        metrics.gauge_of("extraction_snapshot_oldest_seconds", self._oldest_snapshot)
        metrics.phases_of(self._store.phases)

    def _oldest_snapshot(self) -> float:
        """Return the age of the oldest lead that holds a snapshot."""
        began = [lead.created for lead in self._store.leads()]
        return (datetime.now(UTC) - min(began)).total_seconds() if began else 0.0


async def _until_listed(compare: Callable[[], Awaitable[int]]) -> None:
    """Compare until it succeeds: the API server may be away for long."""
    pause = 0.2
    while True:
        try:
            await compare()
        except ClusterError as error:
            log.warning("Not everything could be listed.", extra={"error": describe(error)})
            await asyncio.sleep(pause)
            pause = min(2 * pause, 5.0)
        else:
            return


def _load_watch() -> Callable[..., Coroutine[Any, Any, None]]:
    from extraction_operator.watch.stream import watch

    return watch


__all__ = ["Exit", "Operator", "run"]
