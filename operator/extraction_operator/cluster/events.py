"""Events for ``kubectl describe``: best effort, rate limited, repeats counted; a decision never waits for one."""

import asyncio
import logging
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from extraction_operator.cluster.client import Api
from extraction_operator.cluster.errors import ApiError, ClusterError
from extraction_operator.cluster.kinds import EVENT, Kind
from extraction_operator.plan.names import MANAGER
from extraction_operator.plan.values import Event, Key

log = logging.getLogger(__name__)

_NOTE = 1024
"""Bytes of a note that the API server takes."""


class Observer(Protocol):
    """Who counts what is dropped."""

    def event_dropped(self) -> None:
        """Count an Event that wasn't written."""


@dataclass(frozen=True)
class Limits:
    """How many Events are written, and what counts as a repeat."""

    per_second: float = 10.0
    burst: float = 50.0
    waiting: int = 1000
    """What comes on top of these is dropped."""
    repeat_within: float = 600.0
    """Seconds within which the same Event about the same object is a repeat."""
    known: int = 2000
    """Events of which repeats are recognised."""


@dataclass(frozen=True)
class About:
    """The object that an Event is about."""

    kind: Kind
    key: Key
    uid: str


@dataclass
class _Series:
    """An Event that was written, and its repeats."""

    name: str
    since: float
    count: int = 1


class Events:
    """Writes Events in the background."""

    def __init__(
        self, api: Api, observer: Observer, *, instance: str, limits: Limits = Limits(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._api = api
        self._observer = observer
        self._instance = instance
        self._limits = limits
        self._clock = clock
        self._waiting: deque[tuple[About, Event]] = deque()
        self._added = asyncio.Event()
        self._series: OrderedDict[tuple[str, Event], _Series] = OrderedDict()
        self._tokens = limits.burst
        self._refilled = clock()

    def add(self, about: About, event: Event) -> None:
        """Have an Event written."""
        if len(self._waiting) >= self._limits.waiting:
            self._observer.event_dropped()
            return
        self._waiting.append((about, event))
        self._added.set()

    async def run(self) -> None:
        """Write Events, as fast as they may be written."""
        while True:
            await self._added.wait()
            await self.flush()
            self._added.clear()
            if self._waiting:
                self._added.set()
                await asyncio.sleep(1 / self._limits.per_second)

    async def flush(self) -> None:
        """Write those that may be written now."""
        while self._waiting and self._take_token():
            about, event = self._waiting.popleft()
            try:
                await self._write(about, event)
            except ClusterError as error:
                self._observer.event_dropped()
                log.info("An Event wasn't written.", extra={"key": str(about.key), "error": str(error)})

    def _take_token(self) -> bool:
        now = self._clock()
        gained = (now - self._refilled) * self._limits.per_second
        self._tokens, self._refilled = min(self._limits.burst, self._tokens + gained), now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    async def _write(self, about: About, event: Event) -> None:
        known = self._series.get((about.uid, event))
        if known is not None and self._clock() - known.since < self._limits.repeat_within:
            known.count += 1
            series = {"count": known.count, "lastObservedTime": _now()}
            try:
                await self._api.merge(EVENT, about.key.namespace, known.name, {"series": series})
            except ApiError as error:
                if not error.is_gone:
                    raise
            else:
                return
        name = f"{about.key.name}.{uuid.uuid4().hex[:16]}"
        await self._api.create(EVENT, about.key.namespace, self._manifest(name, about, event))
        self._series[about.uid, event] = _Series(name, self._clock())
        self._series.move_to_end((about.uid, event))
        if len(self._series) > self._limits.known:
            self._series.popitem(last=False)

    def _manifest(self, name: str, about: About, event: Event) -> dict[str, Any]:
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": about.key.namespace},
            "eventTime": _now(),
            "type": "Warning" if event.warning else "Normal",
            "reason": event.reason,
            "note": _cut(event.message),
            "action": event.reason,
            "reportingController": MANAGER,
            "reportingInstance": self._instance[:128],
            "regarding": {
                "apiVersion": about.kind.api_version,
                "kind": about.kind.name,
                "namespace": about.key.namespace,
                "name": about.key.name,
                "uid": about.uid,
            },
        }


def _cut(text: str) -> str:
    data = text.encode()
    return text if len(data) <= _NOTE else data[: _NOTE - 3].decode(errors="ignore") + "…"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
