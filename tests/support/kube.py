"""An API server in this process: versions, conflicts, preconditions, pages, watches, and every way in which they fail.

It keeps objects in memory and knows no schema. What has to be true of the real one is tested in e2e/operator.
"""

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from extraction_operator.cluster.kinds import (
    CLAIM,
    CORE_EVENT,
    DATA_SOURCE,
    EVENT,
    EXTRACTION_JOB,
    JOB,
    LEASE,
    NAMESPACE,
    POD,
    Kind,
)  # fmt: skip
from extraction_operator.cluster.login import Login

Object = dict[str, Any]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Fault = Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]

KINDS = (CLAIM, CORE_EVENT, DATA_SOURCE, EVENT, EXTRACTION_JOB, JOB, LEASE, NAMESPACE, POD)


class Refusal(Exception):
    """An answer of the API server that isn't a success."""

    def __init__(self, code: int, reason: str, message: str = "", causes: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.body = {
            "kind": "Status", "reason": reason, "message": message or reason, "code": code,
            "details": {"causes": [{"reason": cause} for cause in causes]},
        }  # fmt: skip


@dataclass(frozen=True)
class Call:
    """A request that came in."""

    method: str
    path: str
    query: dict[str, str]
    agent: str
    body: Any
    content: str


class Kube:
    """The API server. :attr:`fault` may answer in its place."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.version = 100
        self.calls: list[Call] = []
        self.fault: Fault | None = None
        self.port = 0
        self.forgotten = 0
        """Watches from versions up to this one are told that it is too old."""
        self._history: list[tuple[int, str, str, Object]] = []
        self._changed = asyncio.Condition()

    # For tests ---------------------------------------------------------------------------------------------------

    @property
    def login(self) -> Login:
        """How to get here."""
        import ssl

        async def nobody() -> None:
            return None

        return Login(f"http://127.0.0.1:{self.port}", ssl.create_default_context(), nobody)

    def writes(self) -> list[Call]:
        """Return the calls that wanted to change something."""
        return [call for call in self.calls if call.method != "GET"]

    def get(self, kind: Kind, namespace: str, name: str) -> Object:
        """Return an object."""
        return self.objects[kind.plural, namespace, name]

    def has(self, kind: Kind, namespace: str, name: str) -> bool:
        """Whether there is an object."""
        return (kind.plural, namespace, name) in self.objects

    async def put(self, kind: Kind, raw: Object, namespace: str = "default") -> Object:
        """Store an object as somebody else would."""
        metadata = {"namespace": namespace} | raw["metadata"]
        key = (kind.plural, metadata["namespace"], metadata["name"])
        known = self.objects.get(key)
        if known is None:
            metadata = {"uid": str(uuid.uuid4()), "creationTimestamp": now(), "generation": 1} | metadata
            return await self._store("ADDED", key, raw | {"metadata": metadata})
        return await self._store("MODIFIED", key, raw | {"metadata": known["metadata"] | metadata})

    async def remove(self, kind: Kind, namespace: str, name: str, *, silently: bool = False) -> None:
        """Delete an object as somebody else would; ``silently``, no watch is told."""
        await self._remove((kind.plural, namespace, name), silently=silently)

    @contextlib.contextmanager
    def failing(self, fault: Fault) -> Iterator[None]:
        """Let something go wrong for a while."""
        self.fault = fault
        try:
            yield
        finally:
            self.fault = None

    # Serving -----------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator["Kube"]:
        """Serve on a free port of loopback."""
        app = web.Application(middlewares=[self._answer])
        app.router.add_route("GET", "/{tail:.*}", self._read)
        app.router.add_route("*", "/{tail:.*}", self._write)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            await runner.cleanup()

    @web.middleware
    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        text = await request.text()
        body = json.loads(text) if text else None
        agent, content = request.headers.get("User-Agent", ""), request.headers.get("Content-Type", "")
        self.calls.append(Call(request.method, request.path, dict(request.query), agent, body, content))
        try:
            return await (self.fault(request, handler) if self.fault else handler(request))
        except Refusal as refusal:
            return web.json_response(refusal.body, status=refusal.code)

    async def _read(self, request: web.Request) -> web.StreamResponse:
        if (found := _discovery(request.path)) is not None:
            return web.json_response(found)
        kind, namespace, name, _ = _route(request.path)
        if name:
            return web.json_response(self._existing(kind, namespace, name))
        if request.query.get("watch"):
            return await self._watch(request, kind, namespace)
        return web.json_response(self._list(request, kind, namespace))

    def _list(self, request: web.Request, kind: Kind, namespace: str) -> Object:
        items = [
            raw for (plural, where, _), raw in sorted(self.objects.items())
            if plural == kind.plural and namespace in {"", where} and _selected(raw, request)
        ]  # fmt: skip
        begin, limit = int(request.query.get("continue", 0)), int(request.query.get("limit", len(items) or 1))
        metadata = {"resourceVersion": str(self.version)}
        if begin + limit < len(items):
            metadata["continue"] = str(begin + limit)
        return {"kind": f"{kind.name}List", "metadata": metadata, "items": items[begin : begin + limit]}

    async def _watch(self, request: web.Request, kind: Kind, namespace: str) -> web.StreamResponse:
        since = int(request.query["resourceVersion"])
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        if since <= self.forgotten:
            await _send(response, "ERROR", {"code": 410, "reason": "Expired"})
            return response
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda seen=since: self.version > seen)
                news, since = [entry for entry in self._history if entry[0] > since], self.version
            for _, what, plural, raw in news:
                if (
                    plural == kind.plural
                    and namespace in {"", raw["metadata"]["namespace"]}
                    and _selected(raw, request)
                ):
                    await _send(response, what, raw)

    async def _write(self, request: web.Request) -> web.StreamResponse:
        kind, namespace, name, subresource = _route(request.path)
        body = json.loads(await request.text() or "{}")
        if request.method == "POST":
            key = (kind.plural, namespace, body["metadata"]["name"])
            if key in self.objects:
                raise Refusal(409, "AlreadyExists")
            return web.json_response(await self.put(kind, body, namespace), status=201)
        known = self._existing(kind, namespace, name)
        if request.method == "DELETE":
            _check(known, body.get("preconditions") or {})
            if known["metadata"].get("finalizers"):
                metadata = known["metadata"] | {"deletionTimestamp": now()}
                return web.json_response(
                    await self._store("MODIFIED", _key(kind, known), known | {"metadata": metadata})
                )
            await self._remove(_key(kind, known))
            return web.json_response({"kind": "Status", "status": "Success"})
        wanted = body if request.method == "PUT" else merged(known, body)
        if request.content_type == "application/strategic-merge-patch+json" and "status" in wanted:
            # The only list of ours that is patched like that; the API server merges it by the type of each.
            conditions = {entry["type"]: entry for raw in (known, wanted) for entry in _conditions(raw)}
            wanted["status"] = wanted["status"] | {"conditions": list(conditions.values())}
        _check(known, body.get("metadata") or {})
        if subresource == "status":
            wanted = known | {"status": wanted["status"]}
        elif wanted.get("spec") != known.get("spec"):
            wanted["metadata"] = wanted["metadata"] | {"generation": known["metadata"]["generation"] + 1}
        if request.method == "PUT":
            wanted["metadata"] = known["metadata"] | wanted["metadata"]
        if wanted["metadata"].get("deletionTimestamp") and not wanted["metadata"].get("finalizers"):
            await self._remove(_key(kind, known))
            return web.json_response(wanted)
        return web.json_response(await self._store("MODIFIED", _key(kind, known), wanted))

    def _existing(self, kind: Kind, namespace: str, name: str) -> Object:
        try:
            return self.objects[kind.plural, namespace, name]
        except KeyError:
            raise Refusal(404, "NotFound", f"{kind.plural} {name} not found") from None

    async def _store(self, what: str, key: tuple[str, str, str], raw: Object) -> Object:
        async with self._changed:
            self.version += 1
            raw = raw | {"metadata": raw["metadata"] | {"resourceVersion": str(self.version)}}
            self.objects[key] = raw
            self._history.append((self.version, what, key[0], raw))
            self._changed.notify_all()
        return raw

    async def _remove(self, key: tuple[str, str, str], *, silently: bool = False) -> None:
        async with self._changed:
            self.version += 1
            raw = self.objects.pop(key)
            raw = raw | {"metadata": raw["metadata"] | {"resourceVersion": str(self.version)}}
            if not silently:
                self._history.append((self.version, "DELETED", key[0], raw))
            self._changed.notify_all()


def merged(target: Any, patch: Any) -> Any:
    """Apply a JSON merge patch (RFC 7386)."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def now() -> str:
    """Return the time as the API server writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _conditions(raw: Object) -> list[Object]:
    return (raw.get("status") or {}).get("conditions") or []


def _check(known: Object, wanted: Object) -> None:
    for field in ("uid", "resourceVersion"):
        if field in wanted and wanted[field] != known["metadata"][field]:
            raise Refusal(409, "Conflict", f"{field} differs")


def _key(kind: Kind, raw: Object) -> tuple[str, str, str]:
    return kind.plural, raw["metadata"].get("namespace", ""), raw["metadata"]["name"]


def _selected(raw: Object, request: web.Request) -> bool:
    labels = raw["metadata"].get("labels") or {}
    selector = request.query.get("labelSelector", "")
    fields = [part for part in request.query.get("fieldSelector", "").split(",") if part]
    return all(
        labels.get(key) == value for key, value in (part.split("=") for part in selector.split(",") if part)
    ) and all(_has_field(raw, part) for part in fields)


def _has_field(raw: Object, requirement: str) -> bool:
    """Whether an object meets ``path=value`` or ``path!=value``; a field that isn't there is empty."""
    path, value = requirement.split("=")
    return ((_field(raw, path.removesuffix("!")) or "") == value) != path.endswith("!")


def _field(raw: Any, path: str) -> Any:
    for step in path.split("."):
        raw = (raw or {}).get(step)
    return raw


def _route(path: str) -> tuple[Kind, str, str, str]:
    parts = path.strip("/").split("/")
    group = "" if parts[0] == "api" else parts[1]
    rest = parts[2:] if parts[0] == "api" else parts[3:]
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    plural, name, subresource = (*rest, "", "")[:3]
    for kind in KINDS:
        if (kind.group, kind.plural) == (group, plural):
            return kind, namespace, name, subresource
    raise Refusal(404, "NotFound", path)


def _discovery(path: str) -> Object | None:
    groups = sorted({(kind.group, kind.version) for kind in KINDS if kind.group})
    if path == "/api":
        return {"versions": ["v1"]}
    if path == "/apis":
        return {
            "groups": [
                {"name": group, "versions": [{"version": version}], "preferredVersion": {"version": version}}
                for group, version in groups
            ]
        }
    for group, version in (("", "v1"), *groups):
        if path == (f"/apis/{group}/{version}" if group else "/api/v1"):
            return {
                "resources": [
                    {
                        "name": kind.plural, "singularName": kind.name.lower(), "kind": kind.name, "namespaced": True,
                        "verbs": ["get", "list", "watch", "create", "patch", "delete"],
                    }
                    for kind in KINDS if kind.group == group
                ]
            }  # fmt: skip
    return None


async def _send(response: web.StreamResponse, what: str, raw: Object) -> None:
    await response.write(json.dumps({"type": what, "object": raw}).encode() + b"\n")


# Faults ----------------------------------------------------------------------------------------------------------


async def lose_the_answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Do what is asked for, then break the connection."""
    await handler(request)
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def swallow(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Never answer."""
    await asyncio.Event().wait()
    raise AssertionError


def refuse(
    code: int, reason: str, *, when: Callable[[web.Request], bool] = lambda _: True, causes: tuple[str, ...] = ()
) -> Fault:
    """Return a fault: such requests are refused."""

    async def fault(request: web.Request, handler: Handler) -> web.StreamResponse:
        if when(request):
            raise Refusal(code, reason, causes=causes)
        return await handler(request)

    return fault
