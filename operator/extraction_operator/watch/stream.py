"""kopf as a source of events.

Only ``on.event`` handlers are registered: all others make kopf write annotations or finalizers. It swallows their
errors, so a handler does nothing that could fail for a reason worth repeating. It sends no DELETED for what vanished
while a watch was down; the comparison by LIST finds those.
"""

import asyncio
import logging
import signal
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import aiohttp
import pydantic_core

from extraction_operator.cluster.kinds import WATCHED, Kind
from extraction_operator.cluster.login import Login
from extraction_operator.watch.lean import kopf

log = logging.getLogger(__name__)

_PAGE = 250
_IDLE_SECONDS = 0.2
"""After this time without an event, kopf's task for an object ends. With its default of 5 s, the tasks of thousands of
objects and what they hold of them would be in memory together after a LIST."""


class Observer(Protocol):
    """Who counts events; :class:`extraction_operator.observe.metrics.Metrics` in the operator."""

    def watched(self, kind: str) -> None:
        """Count an event that a watch sent."""

    def watch_failed(self, kind: str) -> None:
        """Count an event that couldn't be taken in."""


Apply = Callable[..., object]
"""``apply(kind, raw, deleted=…)`` of the store."""


async def watch(
    login: Login, namespaces: Sequence[str], apply: Apply, observer: Observer, stop: Callable[[], None]
) -> None:
    """Hand every event to ``apply``, for ever.

    Parameters
    ----------
    namespaces
        What to watch; empty is everything.
    stop
        What SIGINT and SIGTERM are to call.

    Raises
    ------
    RuntimeError
        kopf has ended: without events nothing should go on.
    """
    tasks = await kopf.spawn_tasks(
        registry=_registry(login, apply, observer), settings=_settings(), standalone=True,
        clusterwide=not namespaces, namespaces=list(namespaces),
        # Of no meaning without peering; kopf would look for the name of a user that a container needn't have.
        identity=cast("Any", "extraction-operator"),
    )  # fmt: skip
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        # kopf has put its own handlers there. How the process ends isn't its business.
        loop.add_signal_handler(number, stop)
    try:
        # Not kopf.run_tasks: when that ends, it cancels all tasks of the loop, ours included.
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        causes = [error for task in done if not task.cancelled() and (error := task.exception()) is not None]
        raise RuntimeError("kopf has ended.") from (causes[0] if causes else None)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=1)


def _registry(login: Login, apply: Apply, observer: Observer) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()

    async def log_in(**_: Any) -> kopf.AiohttpSession:
        return kopf.AiohttpSession(server=login.server, aiohttp_session=login.session(limit=0, response_class=_Answer))

    kopf.on.login(registry=registry)(log_in)
    for kind in WATCHED:
        kopf.on.event(
            group=kind.group, version=kind.version, plural=kind.plural, id=kind.plural, registry=registry
        )(_handler(kind, apply, observer))  # fmt: skip
    return registry


class _Answer(aiohttp.ClientResponse):
    """An answer whose JSON is read in half the time, and without a copy as text: kopf lists everything at first."""

    async def json(self, **options: Any) -> Any:
        """Return what was answered."""
        return pydantic_core.from_json(await self.read()) if self.ok else await super().json(**options)


def _handler(kind: Kind, apply: Apply, observer: Observer) -> Callable[..., Any]:
    async def handle(event: kopf.RawEvent, **_: Any) -> None:
        observer.watched(kind.name)
        try:
            apply(kind, event["object"], deleted=event["type"] == "DELETED")
        except Exception:
            observer.watch_failed(kind.name)
            log.exception("An event couldn't be taken in.", extra={"kind": kind.name})

    return handle


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    # Neither namespaces nor CRDs are watched: no permission for them is needed.
    settings.scanning.disabled = True
    settings.watching.chunk_size = _PAGE
    settings.watching.server_timeout = 270
    settings.queueing.idle_timeout = _IDLE_SECONDS
    settings.queueing.exit_timeout = 0.1
    settings.persistence.diffbase_storage = _NoEssence()
    settings.persistence.progress_storage = _NoProgress()
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 5
    # Never give up: an API server that is away for an hour is waited for.
    settings.networking.error_backoffs = _Forever()
    for kind in WATCHED:
        if kind.selector:
            settings.watching.label_selectors[kind.group, kind.version, kind.plural] = kind.selector
    return settings


class _NoEssence(kopf.DiffBaseStorage):
    """Where kopf would keep what an object was like, to find out what changed.

    Only handlers that we don't have need it, but kopf copies each object three times for it: most of what it does.
    """

    def build(self, **_: Any) -> kopf.BodyEssence:
        """Return what is compared: nothing."""
        return cast("kopf.BodyEssence", {})

    def fetch(self, **_: Any) -> kopf.BodyEssence | None:
        """Return what an object was like: nobody knows."""
        return None

    def store(self, **_: Any) -> None:
        """Keep nothing."""


class _NoProgress(kopf.StatusProgressStorage):
    """Where kopf would keep how far its handlers are; see above."""

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        """Return an object without such notes; there are none."""
        return essence


class _Forever:
    """Back-offs without an end; it can be iterated again and again."""

    def __iter__(self) -> Any:
        yield from (0.1, 0.5, 1, 2)
        while True:
            yield 5


__all__ = ["Observer", "watch"]
