"""Statuses, written in batches: the newest of each object, once a second, and only where something differs."""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from extraction_contract.source import DataSourceStatus
from extraction_contract.status import ExtractionJobStatus
from extraction_operator.cluster.client import Api
from extraction_operator.cluster.errors import ApiError, ClusterError
from extraction_operator.cluster.kinds import Kind
from extraction_operator.plan.values import Event, Key
from extraction_operator.workers import describe

log = logging.getLogger(__name__)

Status = ExtractionJobStatus | DataSourceStatus


@dataclass(frozen=True)
class Draft:
    """A status that is to be written, and the Events that are true once it is."""

    kind: Kind
    key: Key
    uid: str
    status: Status
    events: tuple[Event, ...] = ()
    number: int = field(default=0, compare=False)
    """Given to it by :class:`Statuses`: of two of one object, the greater is newer."""


class Statuses:
    """Holds statuses until they are written.

    Parameters
    ----------
    merge
        Takes what a write returned into the store.
    written
        Told what was written, or needn't be: its Events are true now.
    failed
        Told what couldn't be written, and why. It isn't kept: deciding again makes a newer one.
    parallel
        How many are written at the same time.
    flushed
        Told how many were in a batch, and for how long the oldest of them had waited.
    """

    def __init__(
        self, api: Api, merge: Callable[[Kind, dict[str, Any]], object], *,
        written: Callable[[Draft], None], failed: Callable[[Draft], None], parallel: int = 8,
        flushed: Callable[[int, float], None] = lambda _number, _seconds: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._flushed = flushed
        self._clock = clock
        self._since = 0.0
        """When the oldest that waits was offered."""
        self._api = api
        self._merge = merge
        self._written = written
        self._failed = failed
        self._waiting: dict[tuple[Kind, Key], Draft] = {}
        # A batch that is under way must not put an older status over one that was written meanwhile. Numbers, as the
        # statuses of thousands of objects would take more memory than all else that is known of them.
        self._newest: dict[tuple[Kind, Key], int] = {}
        self._numbers = itertools.count(1)
        self._turns: dict[tuple[Kind, Key], asyncio.Lock] = {}
        self._slots = asyncio.Semaphore(parallel)

    def __len__(self) -> int:
        return len(self._waiting)

    def offer(self, draft: Draft, stored: Status) -> None:
        """Have a status written with the next batch, in place of an older one; skip it where nothing differs."""
        draft = self._take_over(draft)
        if draft.status == stored:
            self._written(draft)
        else:
            if not self._waiting:
                self._since = self._clock()
            self._waiting[draft.kind, draft.key] = draft

    async def write(self, draft: Draft, stored: Status) -> None:
        """Write a status now.

        Raises
        ------
        ClusterError
            It couldn't be written.
        """
        draft = self._take_over(draft)
        if draft.status == stored:
            self._written(draft)
        else:
            await self._write(draft)

    def forget(self, kind: Kind, key: Key) -> None:
        """Drop what waits for an object that is gone."""
        for known in (self._waiting, self._newest, self._turns):
            known.pop((kind, key), None)

    async def flush(self) -> None:
        """Write what waits."""
        drafts, self._waiting = tuple(self._waiting.values()), {}
        if drafts:
            self._flushed(len(drafts), self._clock() - self._since)
        await asyncio.gather(*(self._try(draft) for draft in drafts))

    async def run(self, interval: float = 1.0) -> None:
        """Write what waits, again and again."""
        while True:
            await asyncio.sleep(interval)
            await self.flush()

    def _take_over(self, draft: Draft) -> Draft:
        """Drop what waits of the same object; its Events belong to the newer one."""
        older = self._waiting.pop((draft.kind, draft.key), None)
        if older is not None and older.uid == draft.uid and older.events:
            draft = replace(draft, events=_unique((*older.events, *draft.events)))
        number = self._newest[draft.kind, draft.key] = next(self._numbers)
        return replace(draft, number=number)

    async def _try(self, draft: Draft) -> None:
        try:
            await self._write(draft)
        except ClusterError as error:
            log.warning(
                "A status wasn't written.",
                extra={"kind": str(draft.kind), "key": str(draft.key), "error": describe(error)},
            )
            self._failed(draft)

    async def _write(self, draft: Draft) -> None:
        # Fields that are None become null and so are removed: what is stored before doesn't matter. The uid is a
        # precondition: another object of this name shall not get it.
        patch = {"metadata": {"uid": draft.uid}, "status": draft.status.model_dump(mode="json", by_alias=True)}
        place = (draft.kind, draft.key)
        async with self._turns.setdefault(place, asyncio.Lock()), self._slots:
            if self._newest.get(place, draft.number) != draft.number:
                return
            try:
                answer = await self._api.merge(draft.kind, draft.key.namespace, draft.key.name, patch, "status")
            except ApiError as error:
                if error.is_gone or error.is_conflict:
                    return
                raise
        self._merge(draft.kind, answer)
        self._written(draft)


def _unique(events: Iterable[Event]) -> tuple[Event, ...]:
    return tuple(dict.fromkeys(events))
