"""Calls to the API server: JSON in, JSON out, bounded in time, counted; writes behind the fence."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp
import pydantic_core

from extraction_operator.cluster.errors import ApiError, UnreachableError
from extraction_operator.cluster.fence import LINGER, Fence, socket_factory
from extraction_operator.cluster.kinds import Kind
from extraction_operator.cluster.login import Login

Raw = dict[str, Any]

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
"""Of the API server's own kinds alone: it knows by which key their lists are merged."""
_JSON = "application/json"

READ_SECONDS = 10.0
WRITE_SECONDS = 2 * LINGER + 0.5
"""Longest wait for the answer to a write: as long as it may travel and be worked on, and a little for the answer."""
PAGE = 500
"""Objects of a LIST in one answer."""


class Observer(Protocol):
    """Who counts calls; :class:`extraction_operator.observe.metrics.Metrics` in the operator."""

    def called(self, verb: str, kind: str, code: str, seconds: float) -> None:
        """Count a call that ended; ``code`` is the HTTP status or the class of the error."""


@dataclass(frozen=True)
class Page:
    """A part of a LIST."""

    items: list[Raw]
    version: str
    """Of the LIST; the same for all pages of it."""


class Api:
    """The API server.

    Parameters
    ----------
    login
        Who we are.
    fence
        Whether writes may pass.
    """

    def __init__(self, login: Login, fence: Fence, observer: Observer) -> None:
        self._server = login.server
        self._fence = fence
        self._observer = observer
        self._reads = login.session()
        # Connections of their own: their sockets are fenced, and a LIST doesn't make a write wait.
        self._writes = login.session(socket_factory(fence))
        # Candidates for leadership write a Lease, too: it alone is written without the fence.
        self._election = login.session(limit=2)

    async def close(self) -> None:
        """Close all connections."""
        for session in (self._reads, self._writes, self._election):
            await session.close()

    # Reading -----------------------------------------------------------------------------------------------------

    async def get(self, kind: Kind, namespace: str, name: str) -> Raw:
        """Return an object.

        Raises
        ------
        ApiError, UnreachableError
        """
        return await self._call(self._reads, "get", kind, kind.path(namespace, name), READ_SECONDS)

    async def get_unscoped(self, kind: Kind, name: str) -> Raw:
        """Return an object of a kind without namespaces.

        Raises
        ------
        ApiError, UnreachableError
        """
        return await self._call(self._reads, "get", kind, kind.path(None, name), READ_SECONDS)

    async def pages(self, kind: Kind, namespace: str | None, **query: str) -> AsyncGenerator[Page]:
        """List objects, page by page: one is in memory at a time, and the next one under way meanwhile.

        Raises
        ------
        ApiError
            Among others 410: the LIST took so long that the rest of it is forgotten; begin anew.
        UnreachableError
        """
        parameters = {"limit": str(PAGE), **query}
        if kind.selector:
            parameters["labelSelector"] = kind.selector

        def ask(more: Mapping[str, str]) -> asyncio.Task[Raw]:
            path, query = kind.path(namespace), {**parameters, **more}
            return asyncio.create_task(self._call(self._reads, "list", kind, path, READ_SECONDS, query=query))

        asked: asyncio.Task[Raw] | None = ask({})
        try:
            while asked is not None:
                answer = await asked
                following = answer["metadata"].get("continue")
                asked = ask({"continue": following}) if following else None
                yield Page(answer.get("items") or [], str(answer["metadata"]["resourceVersion"]))
        finally:
            if asked is not None:
                asked.cancel()

    # Writing -----------------------------------------------------------------------------------------------------

    async def create(self, kind: Kind, namespace: str, body: Mapping[str, Any]) -> Raw:
        """Create an object; return it as it is now.

        Raises
        ------
        ApiError, UnreachableError, NotLeaderError
        """
        return await self._write("create", kind, kind.path(namespace), body)

    async def merge(
        self, kind: Kind, namespace: str, name: str, patch: Mapping[str, Any], subresource: str = ""
    ) -> Raw:
        """Apply a JSON merge patch (RFC 7386); return the object as it is now.

        Raises
        ------
        ApiError, UnreachableError, NotLeaderError
        """
        return await self._write("patch", kind, kind.path(namespace, name, subresource), patch, MERGE)

    async def merge_status(self, kind: Kind, namespace: str, name: str, status: Mapping[str, Any]) -> Raw:
        """Merge into the status of one of Kubernetes' own objects, its lists by their keys; return the object.

        Raises
        ------
        ApiError, UnreachableError, NotLeaderError
        """
        return await self._write("patch", kind, kind.path(namespace, name, "status"), {"status": status}, STRATEGIC)

    async def delete(self, kind: Kind, namespace: str, name: str, options: Mapping[str, Any]) -> Raw:
        """Delete an object.

        Raises
        ------
        ApiError, UnreachableError, NotLeaderError
        """
        return await self._write("delete", kind, kind.path(namespace, name), options)

    async def elect(self, verb: str, kind: Kind, namespace: str, name: str = "", body: Raw | None = None) -> Raw:
        """Read or write the Lease of the election: ``get``, ``create`` or ``update``.

        Raises
        ------
        ApiError, UnreachableError
        """
        return await self._call(
            self._election, verb, kind, kind.path(namespace, name), LINGER, body, query={"timeout": _SERVER_TIMEOUT}
        )

    async def _write(self, verb: str, kind: Kind, path: str, body: Mapping[str, Any], content: str = _JSON) -> Raw:
        self._fence.check()
        try:
            return await self._call(
                self._writes, verb, kind, path, WRITE_SECONDS, body, content, query={"timeout": _SERVER_TIMEOUT}
            )
        except UnreachableError:
            # A socket that the fence has stopped looks like a broken one; say which it was.
            self._fence.check()
            raise

    async def _call(
        self, session: aiohttp.ClientSession, verb: str, kind: Kind, path: str, seconds: float,
        body: Mapping[str, Any] | None = None, content: str = _JSON, *, query: Mapping[str, str] | None = None,
    ) -> Raw:  # fmt: skip
        loop = asyncio.get_running_loop()
        begin, code = loop.time(), "Cancelled"
        what = f"{verb} {path}"
        try:
            async with (
                asyncio.timeout(seconds),
                session.request(
                    _METHODS[verb], self._server + path, params=query,
                    data=None if body is None else pydantic_core.to_json(body),
                    headers={"Accept": _JSON} | ({} if body is None else {"Content-Type": content}),
                ) as response,
            ):  # fmt: skip
                code = str(response.status)
                answer = await _decode(response)
                if response.status >= 400:
                    raise ApiError(response.status, answer, what)
                return answer
        except TimeoutError:
            code = "Timeout"
            raise UnreachableError(f"{what}: no answer within {seconds:g} s.") from None
        except (aiohttp.ClientError, OSError) as error:
            code = type(error).__name__
            raise UnreachableError(f"{what}: {str(error) or type(error).__name__}") from None
        finally:
            self._observer.called(verb, kind.plural, code, loop.time() - begin)


async def _decode(response: aiohttp.ClientResponse) -> Raw:
    text = await response.read()
    try:
        # In half the time of the standard library: most of what a call costs here.
        found = pydantic_core.from_json(text)
    except ValueError:
        # A proxy between may answer in plain text.
        found = {"message": text[:200].decode(errors="replace")}
    return found if isinstance(found, dict) else {"message": "not an object"}


_METHODS = {"get": "GET", "list": "GET", "create": "POST", "update": "PUT", "patch": "PATCH", "delete": "DELETE"}
_SERVER_TIMEOUT = f"{LINGER * 1000:.0f}ms"
