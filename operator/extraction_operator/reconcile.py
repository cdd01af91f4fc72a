"""One key: gather what is observed, have ``plan`` decide, carry it out. Doing so twice is harmless."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

from extraction_contract.models import DataSource, ExtractionJob
from extraction_operator.cluster.children import Children
from extraction_operator.cluster.errors import ApiError, ForeignObjectError
from extraction_operator.cluster.events import About, Events
from extraction_operator.cluster.kinds import DATA_SOURCE, EXTRACTION_JOB, Kind
from extraction_operator.cluster.lookups import Lookups
from extraction_operator.cluster.status import Draft, Statuses
from extraction_operator.cluster.warnings import Warnings
from extraction_operator.dispatch import Dispatch
from extraction_operator.live import LiveReader
from extraction_operator.plan.admission import wants_budget
from extraction_operator.plan.budget import Budget
from extraction_operator.plan.claims import claim_of
from extraction_operator.plan.job import decide_job
from extraction_operator.plan.settings import Settings
from extraction_operator.plan.source import check_claim, decide_source
from extraction_operator.plan.values import (
    Action,
    AddFinalizer,
    ChildJob,
    CreateJob,
    DeleteJob,
    Event,
    Grant,
    JobDecision,
    Key,
    LookForWarnings,
    ObservedJob,
    ObservedSource,
    RemoveFinalizer,
    Role,
    ScaleJob,
    SourceDecision,
)
from extraction_operator.store import Parent, Ref

_FORBIDDEN = 403
_STEPS = 3
"""Decisions about a new job in a row: its finalizer, its lead, and what is said of it."""


class Observer(Protocol):
    """Who counts; :class:`extraction_operator.observe.metrics.Metrics` in the operator."""

    def lead_created(self, seconds: float) -> None:
        """Take note that a job's first lead Job was created so long after the job was seen."""


@dataclass(frozen=True)
class Hands:
    """What a decision is carried out with."""

    children: Children
    statuses: Statuses
    events: Events
    warnings: Warnings
    lookups: Lookups
    live: LiveReader


class Reconciler:
    """Works on keys.

    Parameters
    ----------
    again
        Adds a key to the queue, with a delay in seconds.
    now
        The time of day.
    """

    def __init__(
        self, dispatch: Dispatch, budget: Budget, settings: Settings, hands: Hands, observer: Observer, *,
        again: Callable[[Ref, float], None], now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:  # fmt: skip
        self._dispatch = dispatch
        self._store = dispatch.store
        self._budget = budget
        self._settings = settings
        self._hands = hands
        self._observer = observer
        self._again = again
        self._now = now

    async def reconcile(self, ref: Ref) -> None:
        """Bring one object a step further.

        Raises
        ------
        ClusterError
            Something couldn't be carried out; try again later.
        """
        if ref.kind is Parent.JOB:
            await self._reconcile_job(ref)
        else:
            await self._reconcile_source(ref)

    async def _reconcile_job(self, ref: Ref) -> None:
        # A new job goes on as soon as it has its finalizer, and not behind all others in the queue. What is said of it
        # is that it has a lead, and not before that it waits for one: a write less for each.
        for _ in range(_STEPS):
            if not _goes_on(await self._decide_job(ref)):
                break

    async def _decide_job(self, ref: Ref) -> tuple[Action, ...]:
        """Decide about a job, and carry it out; return what was done."""
        observed = await self._observe_job(ref.key)
        if observed is None:
            return ()
        decision = decide_job(observed, self._settings)
        if names := _asked(decision.actions):
            warnings = await self._hands.warnings.about(ref.key.namespace, names)
            observed = await self._observe_job(ref.key)
            if observed is None:
                return ()
            decision = decide_job(replace(observed, warnings=warnings), self._settings)
        await self._carry_out(ref, EXTRACTION_JOB, observed.job, decision)
        return decision.actions

    async def _reconcile_source(self, ref: Ref) -> None:
        observed = self._observe_source(ref.key)
        if observed is None:
            return
        decision = decide_source(observed, self._settings)
        if names := _asked(decision.actions):
            warnings = await self._hands.warnings.about(ref.key.namespace, names)
            observed = self._observe_source(ref.key)
            if observed is None:
                return
            decision = decide_source(replace(observed, warnings=warnings), self._settings)
        await self._carry_out(ref, DATA_SOURCE, observed.source, decision)

    # Observing ---------------------------------------------------------------------------------------------------

    async def _observe_job(self, key: Key) -> ObservedJob | None:
        brief = self._store.brief(key)
        if brief is None:
            return None
        lookups = self._hands.lookups
        terminating = lookups.is_known_terminating(key.namespace) or (
            brief.deleting and await lookups.is_terminating(key.namespace)
        )
        modes = await lookups.claim_modes(key.namespace, brief.claim) if brief.claim and not brief.is_final else ()
        # From here on nothing is awaited: what is observed is of one moment.
        job = self._store.job(key)
        if job is None:
            return None
        now, uid = self._now(), job.metadata.uid or ""
        source = self._store.source(brief.source)
        jobs = self._store.children(uid)
        return ObservedJob(
            job=job,
            now=now,
            source=source,
            grant=self._ask(key, job, source, jobs, now),
            jobs=jobs,
            pods=self._store.pods(uid),
            namespace_terminating=terminating,
            claim_modes=modes,
            live=self._hands.live.of(uid, job.status.attempt),
        )

    def _ask(
        self, key: Key, job: ExtractionJob, source: DataSource | None, jobs: tuple[ChildJob, ...], now: datetime
    ) -> Grant:
        """Ask for a part of the budget, or give it back."""
        if source is None or not wants_budget(job, source, jobs, now):
            if group := self._budget.release(key):
                self._dispatch.wake_group(group)
            return Grant(admitted=False, reason="It doesn't want to begin.")
        before = self._budget.state(source.budget_group)
        grant = self._budget.ask(claim_of(job, source, jobs, now, self._budget.cap), now)
        if self._budget.state(source.budget_group) != before:
            # Others may begin, or grow, or have to make room.
            self._dispatch.wake_group(source.budget_group)
        return grant

    def _observe_source(self, key: Key) -> ObservedSource | None:
        source = self._store.source(key)
        if source is None:
            self._release_check(key)
            return None
        uid = source.metadata.uid or ""
        # Counted from the store: the ledger of an operator that has just started isn't complete, and the source's
        # finalizer depends on it.
        briefs = [self._store.brief(job) for job in self._store.open_jobs(key)]
        active = sum(1 for brief in briefs if brief and (brief.is_begun or self._store.children(brief.uid)))
        seen = ObservedSource(
            source=source,
            now=self._now(),
            jobs=self._store.children(uid),
            pods=self._store.pods(uid),
            active_jobs=active,
        )
        grant = self._ask_check(key, seen)
        return replace(
            seen,
            grant=grant,
            waiting_jobs=self._budget.waiting(key),
            reserved_connections=self._budget.reserved(source.budget_group),
        )

    def _ask_check(self, key: Key, seen: ObservedSource) -> Grant:
        """Ask for the connection of a check, or give it back."""
        claim = check_claim(seen, self._settings)
        if claim is None:
            self._release_check(key)
            return Grant(admitted=True)
        before = self._budget.state(claim.group)
        grant = self._budget.ask_check(claim, seen.now)
        if self._budget.state(claim.group) != before:
            self._dispatch.wake_group(claim.group)
        return grant

    def _release_check(self, key: Key) -> None:
        if group := self._budget.release_check(key):
            self._dispatch.wake_group(group)

    # Carrying out ------------------------------------------------------------------------------------------------

    async def _carry_out(
        self, ref: Ref, kind: Kind, declared: ExtractionJob | DataSource, decision: JobDecision | SourceDecision
    ) -> None:
        if decision.again_at is not None:
            self._again(ref, (decision.again_at - self._now()).total_seconds())
        uid = declared.metadata.uid or ""
        draft = Draft(kind, ref.key, uid, decision.status, decision.events)
        offer = partial(self._hands.statuses.offer, draft, declared.status)
        goes_on = _goes_on(decision.actions)
        if decision.urgent:
            await self._hands.statuses.write(draft, declared.status)
        elif not goes_on:
            offer()
        try:
            for action in decision.actions:
                await self._act(ref, kind, uid, action)
        except BaseException:
            if goes_on and not decision.urgent:
                # What would have been said after the next decision has to wait.
                offer()
            raise

    async def _act(self, ref: Ref, kind: Kind, uid: str, action: Action) -> None:
        children, namespace = self._hands.children, ref.key.namespace
        match action:
            case CreateJob():
                await self._create(ref.key, kind, uid, action)
            case DeleteJob():
                await children.delete(namespace, action)
            case ScaleJob():
                await children.scale(namespace, action)
            case AddFinalizer() | RemoveFinalizer():
                await self._set_finalizer(ref, kind, uid, present=isinstance(action, AddFinalizer))
            case LookForWarnings():
                pass  # done before the decision

    async def _set_finalizer(self, ref: Ref, kind: Kind, uid: str, *, present: bool) -> None:
        # Not the object that was decided about: its status may have been written since, and only the newest version
        # may be changed.
        newest = self._store.job(ref.key) if ref.kind is Parent.JOB else self._store.source(ref.key)
        if newest is None or newest.metadata.uid != uid:
            return
        await self._hands.children.set_finalizer(
            kind, ref.key, uid=uid, version=newest.metadata.resource_version or "",
            finalizers=newest.metadata.finalizers, present=present,
        )  # fmt: skip

    async def _create(self, key: Key, kind: Kind, uid: str, action: CreateJob) -> None:
        try:
            await self._hands.children.create(key.namespace, uid, action)
        except (ApiError, ForeignObjectError) as error:
            if isinstance(error, ApiError) and "NamespaceTerminating" in error.causes:
                # Pods go first; the objects that own them aren't deleted before.
                self._hands.lookups.note_terminating(key.namespace)
            elif isinstance(error, ForeignObjectError) or error.is_invalid or error.status == _FORBIDDEN:
                # A quota, an admission policy, a name that is taken: only people can help, so tell them.
                message = f"Job {action.name} can't be created: {error}"
                self._hands.events.add(About(kind, key, uid), Event("ChildRefused", message, warning=True))
            raise
        if action.role is Role.LEAD and (seconds := self._dispatch.seen_for(key)) is not None:
            self._observer.lead_created(seconds)


def _goes_on(actions: tuple[Action, ...]) -> bool:
    """Whether what was done is the first half of a step."""
    return any(
        isinstance(action, AddFinalizer) or (isinstance(action, CreateJob) and action.role is Role.LEAD)
        for action in actions
    )


def _asked(actions: tuple[Action, ...]) -> tuple[str, ...]:
    """Return the names of children whose events a decision wants to know."""
    return tuple(name for action in actions if isinstance(action, LookForWarnings) for name in action.names)
