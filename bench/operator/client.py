"""What the benchmarks themselves ask of the API server: many requests at a time, and watches."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import aiohttp
from e2e.support.api_server import ApiServer

Raw = dict[str, Any]
Seen = Callable[[str, Raw], None]
"""``seen(type, object)`` of a watch."""

GROUP = "/apis/extraction-operator.io/v1alpha1"
BATCH = "/apis/batch/v1"
CORE = "/api/v1"


class Client:
    """Requests to the API server as its administrator."""

    def __init__(self, session: aiohttp.ClientSession, server: str) -> None:
        self._session = session
        self._server = server

    async def call(self, method: str, path: str, body: object = None, content: str = "application/json") -> Raw:
        """Send a request that must succeed, but for DELETE of what is gone; return the answer."""
        async with self._session.request(
            method, self._server + path, data=None if body is None else json.dumps(body),
            headers={"Content-Type": content},
        ) as response:  # fmt: skip
            answer: Raw = await response.json()
            if response.status >= 400 and not (method == "DELETE" and response.status == 404):
                raise RuntimeError(f"{method} {path}: {response.status} {answer.get('message')}")
            return answer

    async def create(self, path: str, body: Raw) -> Raw:
        """Create an object in a collection."""
        return await self.call("POST", path, body)

    async def merge(self, path: str, patch: Raw) -> Raw:
        """Apply a merge patch."""
        return await self.call("PATCH", path, patch, "application/merge-patch+json")

    async def namespace(self, name: str) -> str:
        """Create a namespace; return its name."""
        await self.create(f"{CORE}/namespaces", {"metadata": {"name": name}})
        return name

    async def count(self, path: str, query: str = "") -> int:
        """Return how many objects a collection has."""
        answer = await self.call("GET", f"{path}?limit=1&{query}")
        return len(answer["items"]) + int(answer["metadata"].get("remainingItemCount") or 0)

    async def clear(self, namespace: str, seconds: float = 300) -> None:
        """Delete what a turn has left, and wait until it is gone: the next one shall not pay for it."""
        jobs, pods = f"{BATCH}/namespaces/{namespace}/jobs", f"{CORE}/namespaces/{namespace}/pods"
        ours = f"{GROUP}/namespaces/{namespace}/extractionjobs"
        async with asyncio.timeout(seconds):
            # In this order: a clean-up is made when an ExtractionJob goes, and outlives it.
            for path, left in ((ours, (ours,)), (jobs, (jobs, pods))):
                await self.call("DELETE", path, {"propagationPolicy": "Background"})
                while any([await self.count(path) for path in left]):
                    await asyncio.sleep(0.5)
        await self.call("DELETE", f"{CORE}/namespaces/{namespace}/events")

    @contextlib.asynccontextmanager
    async def watching(self, path: str, selector: str, seen: Seen) -> AsyncIterator[None]:
        """Tell ``seen`` of every change from now on, for the length of the block."""
        began = asyncio.Event()
        task = asyncio.create_task(self._watch(path, selector, seen, began))
        try:
            await began.wait()
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _watch(self, path: str, selector: str, seen: Seen, began: asyncio.Event) -> None:
        query = {"labelSelector": selector} if selector else {}
        async with self._session.get(self._server + path, params=query | {"limit": "1"}) as response:
            version = (await response.json())["metadata"]["resourceVersion"]
        query |= {"watch": "true", "resourceVersion": version, "timeoutSeconds": "3600"}
        async with self._session.get(self._server + path, params=query) as response:
            began.set()
            # Not by readline: a line may be longer than aiohttp's buffer.
            rest = b""
            async for data in response.content.iter_any():
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise RuntimeError(f"the watch of {path} has ended: {event['object'].get('message')}")
                    seen(event["type"], event["object"])


@contextlib.asynccontextmanager
async def client(api: ApiServer) -> AsyncIterator[Client]:
    """Open a client of an API server."""
    tls = ssl.create_default_context(cafile=api.certificate)
    headers = {"Authorization": f"Bearer {api.token}", "User-Agent": "bench"}
    connector = aiohttp.TCPConnector(ssl=tls, limit=64)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
    async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as session:
        yield Client(session, f"https://127.0.0.1:{api.port}")


async def all_of(work: Iterable[Callable[[], Awaitable[object]]], *, parallel: int = 16) -> None:
    """Do everything, so much of it at a time."""
    slots = asyncio.Semaphore(parallel)

    async def one(do: Callable[[], Awaitable[object]]) -> None:
        async with slots:
            await do()

    async with asyncio.TaskGroup() as group:
        for do in work:
            group.create_task(one(do))


def has_condition(found: Raw, *kinds: str) -> bool:
    """Whether one of these conditions is true."""
    conditions = found.get("status", {}).get("conditions") or ()
    return any(condition["type"] in kinds and condition["status"] == "True" for condition in conditions)
