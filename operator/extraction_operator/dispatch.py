"""What changed → whom to decide about anew."""

import logging
import time
from collections.abc import Callable
from typing import Protocol

from extraction_contract.models import DataSource
from extraction_operator.accounts import Accounts, Ended, ended_as
from extraction_operator.cluster.kinds import EXTRACTION_JOB, Kind
from extraction_operator.plan.budget import Budget
from extraction_operator.plan.conditions import find
from extraction_operator.plan.values import Key
from extraction_operator.store import Brief, Parent, Recorder, Ref, Store
from extraction_operator.table import Change

log = logging.getLogger(__name__)

_COUNTS_DELAY = 2.0
"""Seconds after which a source's counters follow its jobs: they are for people, and each change is a write."""
_NEXT_IN_LINE = 4
"""Waiting jobs that are looked at when there may be room. The first one that begins wakes the next ones."""


class Add(Protocol):
    """Adds a key to the queue: :meth:`extraction_operator.workers.Workers.add`."""

    def __call__(self, ref: Ref, delay: float = ..., /, *, ahead: bool = ...) -> None:
        """Have it decided about in ``delay`` seconds, ``ahead`` of others if it is new."""


class Observer(Protocol):
    """Who counts; :class:`extraction_operator.observe.metrics.Metrics` in the operator."""

    def came_into(self, phase: str) -> None:
        """Count a job that came into a phase."""

    def unreadable(self, kind: str) -> None:
        """Count an object that doesn't follow the contract."""


class Dispatch:
    """Listens to the store.

    Parameters
    ----------
    add
        Adds a key to the queue.
    gone
        Told which object was deleted.
    recorder
        Told everything that is news.
    accounts
        Told of what pods say, and of attempts that end.
    """

    def __init__(
        self, add: Add, gone: Callable[[Kind, Key], None], budget: Budget,
        observer: Observer, accounts: Accounts, *, recorder: Recorder | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._add = add
        self._gone = gone
        self._budget = budget
        self._observer = observer
        self._accounts = accounts
        self._clock = clock
        self._first_seen: dict[Key, float] = {}
        self.store = Store(
            on_job=self._on_job,
            on_source=self._on_source,
            on_child=self._on_child,
            on_broken=self._on_broken,
            recorder=recorder,
            on_pod=accounts.see,
        )

    def seen_for(self, key: Key) -> float | None:
        """Return for how long a new job has been known; None where that was answered already, or it isn't new."""
        first = self._first_seen.pop(key, None)
        return None if first is None else self._clock() - first

    def wake_group(self, group: str) -> None:
        """Have those decided about whose share of a budget changes, the next in line, and checks that wait."""
        for key in self._budget.waiting_checks():
            self._add(Ref(Parent.SOURCE, key), 0.0)
        for key in self._budget.affected(group, _NEXT_IN_LINE):
            self._add(Ref(Parent.JOB, key), 0.0)

    def _on_job(self, change: Change[Brief]) -> None:
        before, after = change.before, change.after
        # Before the changes of those that are at work, so that under load new jobs begin, and wait for it no longer.
        is_new = before is None and after is not None and not after.phase
        self._add(Ref(Parent.JOB, change.key), 0.0, ahead=is_new)
        if is_new:
            self._first_seen[change.key] = self._clock()
        if after is None:
            self._first_seen.pop(change.key, None)
            self._gone(EXTRACTION_JOB, change.key)
            if group := self._budget.release(change.key):
                self.wake_group(group)
        elif before is not None and before.phase != after.phase:
            self._observer.came_into(after.phase or "Pending")
        self._account(change)
        for source in {brief.source for brief in (before, after) if brief is not None}:
            if before is None or after is None or before.phase != after.phase:
                self._add(Ref(Parent.SOURCE, source), _COUNTS_DELAY)

    def _account(self, change: Change[Brief]) -> None:
        before, after = change.before, change.after
        if before is not None and (after is None or after.uid != before.uid):
            self._accounts.forget(before.uid)
        elif before is not None and after is not None and not before.is_final:
            if after.is_final and (job := self.store.job(change.key)) is not None:
                self._accounts.end(after.uid, after.attempt, ended_as(job))
            elif 0 < before.attempt < after.attempt:
                self._accounts.end(after.uid, before.attempt, Ended("Restarted"))

    def _on_source(self, change: Change[DataSource]) -> None:
        self._add(Ref(Parent.SOURCE, change.key), 0.0)
        if _matters(change.before) != _matters(change.after):
            for key in self.store.open_jobs(change.key):
                self._add(Ref(Parent.JOB, key), 0.0)

    def _on_child(self, parent: Ref) -> None:
        self._add(parent, 0.0)

    def _on_broken(self, kind: Kind, key: Key, problem: str) -> None:
        self._observer.unreadable(kind.name)
        log.error("An object can't be read.", extra={"kind": kind.name, "key": str(key), "problem": problem})


def _matters(source: DataSource | None) -> object:
    """Return what of a source its jobs look at; not its counters, which change with every job."""
    if source is None:
        return None
    ready = find(source.status.conditions, "Ready")
    return (
        source.metadata.uid, source.metadata.generation, source.metadata.deletion_timestamp is not None,
        source.status.observed_generation, ready and (ready.status, ready.message),
    )  # fmt: skip
