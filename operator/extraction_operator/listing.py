"""The paged LIST that the store is compared with: the start-up barrier, and the end of what a watch didn't tell."""

import asyncio
import contextlib
import gc
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence

from extraction_operator.cluster.client import Api, Page
from extraction_operator.cluster.errors import ApiError
from extraction_operator.cluster.kinds import WATCHED, Kind
from extraction_operator.plan.values import Key
from extraction_operator.store import Store

log = logging.getLogger(__name__)

EXPIRED = 410
_AHEAD = 1
"""LISTs whose first page is under way while one is taken in, as the API server takes a while; each takes memory."""


class Listing:
    """Compares the store with the API server.

    Parameters
    ----------
    namespaces
        What is watched; empty is everything.
    """

    def __init__(self, api: Api, store: Store, namespaces: Sequence[str]) -> None:
        self._api = api
        self._store = store
        self._namespaces: tuple[str | None, ...] = tuple(namespaces) or (None,)

    async def compare(self) -> int:
        """Bring the store up to date; return how many objects were news, or gone without that we knew.

        Raises
        ------
        ApiError, UnreachableError
        """
        # Parents first: a child is told to its parent, which must be known by then.
        places = [(kind, namespace) for kind in WATCHED for namespace in self._namespaces]
        begun = deque(self._begin(*place) for place in places[:_AHEAD])
        drift = 0
        try:
            with _without_collector():
                for number, place in enumerate(places):
                    begun.extend(self._begin(*following) for following in places[number + _AHEAD :][:1])
                    drift += await self._compare_again(*place, begun[0])
                    begun.popleft()
        finally:
            for one in begun:
                await one.close()
        return drift

    def _begin(self, kind: Kind, namespace: str | None) -> "_Begun":
        return _Begun(self._api.pages(kind, namespace))

    async def _compare_again(self, kind: Kind, namespace: str | None, begun: "_Begun") -> int:
        try:
            return await self._compare(kind, namespace, begun.pages())
        except ApiError as error:
            if error.status != EXPIRED:
                raise
            # The API server forgets the rest of a LIST after five minutes; such a slow one is begun again, once.
            log.warning("A LIST expired before its end.", extra={"kind": str(kind)})
            return await self._compare(kind, namespace, self._api.pages(kind, namespace))

    async def _compare(self, kind: Kind, namespace: str | None, pages: AsyncIterator[Page]) -> int:
        listed: set[Key] = set()
        version, news = "", 0
        async for page in pages:
            version = page.version
            for raw in page.items:
                listed.add(Key(raw["metadata"]["namespace"], raw["metadata"]["name"]))
                news += self._store.apply(kind, raw)
                # Thousands of objects are parsed in a row: the Lease must be renewed meanwhile.
                if len(listed) % 50 == 0:
                    await asyncio.sleep(0)
        for key in (absent := self._store.absent(kind, listed, version, namespace)):
            self._store.gone(kind, key, version)
        return news + len(absent)


class _Begun:
    """A LIST whose first page is asked for already."""

    def __init__(self, pages: AsyncGenerator[Page]) -> None:
        self._pages = pages
        self._first = asyncio.create_task(self._read_first())

    async def pages(self) -> AsyncIterator[Page]:
        """Yield all pages."""
        yield await self._first
        async for page in self._pages:
            yield page

    async def close(self) -> None:
        """Ask for no more."""
        self._first.cancel()
        await asyncio.gather(self._first, return_exceptions=True)
        await self._pages.aclose()

    async def _read_first(self) -> Page:
        return await anext(self._pages)


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Keep Python from looking for cycles again and again while thousands of objects without any are parsed."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
