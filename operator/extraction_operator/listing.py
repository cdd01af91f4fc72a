"""The paged LIST that the store is compared with: the start-up barrier, and the end of what a watch didn't tell."""

import asyncio
import logging
from collections.abc import Sequence

from extraction_operator.cluster.client import Api
from extraction_operator.cluster.errors import ApiError
from extraction_operator.cluster.kinds import WATCHED, Kind
from extraction_operator.plan.values import Key
from extraction_operator.store import Store

log = logging.getLogger(__name__)

EXPIRED = 410


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
        drift = 0
        # Parents first: a child is told to its parent, which must be known by then.
        for kind in WATCHED:
            for namespace in self._namespaces:
                drift += await self._compare_again(kind, namespace)
        return drift

    async def _compare_again(self, kind: Kind, namespace: str | None) -> int:
        try:
            return await self._compare(kind, namespace)
        except ApiError as error:
            if error.status != EXPIRED:
                raise
            # The API server forgets the rest of a LIST after five minutes; such a slow one is begun again, once.
            log.warning("A LIST expired before its end.", extra={"kind": str(kind)})
            return await self._compare(kind, namespace)

    async def _compare(self, kind: Kind, namespace: str | None) -> int:
        listed: set[Key] = set()
        version, news = "", 0
        async for page in self._api.pages(kind, namespace):
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
