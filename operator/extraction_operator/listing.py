"""The paged LIST that the store is compared with: the start-up barrier, and the end of what a watch didn't tell."""

import asyncio
import contextlib
import gc
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

from extraction_operator.cluster.client import Api, Page
from extraction_operator.cluster.errors import ApiError
from extraction_operator.cluster.kinds import EXTRACTION_JOB, WATCHED, Kind
from extraction_operator.plan.facts import FINAL
from extraction_operator.plan.values import Key
from extraction_operator.store import Store

log = logging.getLogger(__name__)

EXPIRED = 410
_BAD_REQUEST = 400
_OPEN = ",".join(f"status.phase!={phase}" for phase in sorted(FINAL))
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
        return await self._compare_all([_Part(kind, namespace) for kind in WATCHED for namespace in self._namespaces])

    async def compare_open(self) -> int:
        """Bring the store up to date about everything but ExtractionJobs that have ended, of which there are thousands.

        Those that had not ended as far as the store knew, and aren't among the others now, are looked up.

        Raises
        ------
        ApiError, UnreachableError
        """
        parts = [_Part(kind, namespace, kind == EXTRACTION_JOB) for kind in WATCHED for namespace in self._namespaces]
        try:
            return await self._compare_all(parts)
        except ApiError as error:
            if error.status != _BAD_REQUEST:
                raise
            log.warning("Jobs can't be selected by their phase, so all are listed: the CRDs are of an older version.")
            return await self.compare()

    async def _compare_all(self, parts: "Sequence[_Part]") -> int:
        # Parents first: a child is told to its parent, which must be known by then.
        begun = deque(self._begin(part) for part in parts[:_AHEAD])
        drift = 0
        try:
            with _without_collector():
                for number, part in enumerate(parts):
                    begun.extend(self._begin(following) for following in parts[number + _AHEAD :][:1])
                    drift += await self._compare_again(part, begun[0])
                    begun.popleft()
        finally:
            for one in begun:
                await one.close()
        return drift

    def _begin(self, part: "_Part") -> "_Begun":
        return _Begun(self._pages(part))

    def _pages(self, part: "_Part") -> AsyncGenerator[Page]:
        return self._api.pages(part.kind, part.namespace, **({"fieldSelector": _OPEN} if part.is_open else {}))

    async def _compare_again(self, part: "_Part", begun: "_Begun") -> int:
        try:
            return await self._compare(part, begun.pages())
        except ApiError as error:
            if error.status != EXPIRED:
                raise
            # The API server forgets the rest of a LIST after five minutes; such a slow one is begun again, once.
            log.warning("A LIST expired before its end.", extra={"kind": str(part.kind)})
            return await self._compare(part, self._pages(part))

    async def _compare(self, part: "_Part", pages: AsyncIterator[Page]) -> int:
        kind = part.kind
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
        absent = self._store.absent(kind, listed, version, part.namespace)
        if part.is_open:
            return news + sum([await self._look_up(key, version) for key in absent])
        for key in absent:
            self._store.gone(kind, key, version)
        return news + len(absent)

    async def _look_up(self, key: Key, version: str) -> bool:
        """Ask for an ExtractionJob that should be open and isn't; return whether there was news of it."""
        brief = self._store.brief(key)
        if brief is None or brief.is_final:
            return False
        try:
            return self._store.apply(EXTRACTION_JOB, await self._api.get(EXTRACTION_JOB, key.namespace, key.name))
        except ApiError as error:
            if not error.is_gone:
                raise
        self._store.gone(EXTRACTION_JOB, key, version)
        return True


@dataclass(frozen=True)
class _Part:
    """What one LIST asks for."""

    kind: Kind
    namespace: str | None
    is_open: bool = False
    """ExtractionJobs that haven't ended alone."""


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
