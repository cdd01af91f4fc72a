"""What Kubernetes says about children in Warning events alone: a missing Secret, a quota, an admission policy."""

import time
from collections.abc import Callable, Iterable
from typing import Any

from extraction_operator.cluster.client import Api
from extraction_operator.cluster.kinds import CORE_EVENT

_PAGE = "50"


class Warnings:
    """The latest Warning about an object; asked for at most every ``keep`` seconds."""

    def __init__(self, api: Api, *, keep: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._keep = keep
        self._clock = clock
        self._known: dict[tuple[str, str], tuple[float, str]] = {}

    async def about(self, namespace: str, names: Iterable[str]) -> dict[str, str]:
        """Return the latest message about each of these Jobs and pods; those without one are left out.

        Raises
        ------
        ApiError, UnreachableError
        """
        now = self._clock()
        self._known = {key: entry for key, entry in self._known.items() if now - entry[0] < self._keep}
        found = {}
        for name in names:
            if (namespace, name) not in self._known:
                self._known[namespace, name] = (now, await self._ask(namespace, name))
            if message := self._known[namespace, name][1]:
                found[name] = message
        return found

    async def _ask(self, namespace: str, name: str) -> str:
        selector = f"involvedObject.name={name},type=Warning"
        async for page in self._api.pages(CORE_EVENT, namespace, fieldSelector=selector, limit=_PAGE):
            latest = max(page.items, key=_moment, default=None)
            return str(latest.get("message") or latest.get("reason") or "") if latest else ""
        return ""


def _moment(event: dict[str, Any]) -> str:
    """Return when an event happened last; text that is ordered like the times, as all are in UTC."""
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    created = event["metadata"].get("creationTimestamp")
    return max(str(moment) for moment in (*times, created) if moment)
