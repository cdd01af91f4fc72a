"""The API server as tests ask it: without what kubectl adds, and without its start, which takes longer than answers."""

import functools
import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3
from kubernetes.client import Configuration
from kubernetes.config import load_kube_config

Object = dict[str, Any]
"""An object as the API server writes it."""

MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"
_DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
_ERRORS = (urllib3.exceptions.HTTPError, OSError)


class Unreachable(Exception):
    """The API server doesn't answer."""


@dataclass(frozen=True)
class Answer:
    """What the API server has answered."""

    code: int
    body: dict[str, Any]

    @property
    def refusal(self) -> str:
        """Its message, if it has refused."""
        return str(self.body.get("message", "")) if self.code >= 400 else ""


@dataclass(frozen=True)
class Resource:
    """Where objects of a kind are."""

    prefix: str
    plural: str
    namespaced: bool

    def path(self, namespace: str | None, name: str = "") -> str:
        """Return the path of an object, or without a name of a collection; of all namespaces without one."""
        within = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return f"{self.prefix}{within}/{self.plural}" + (f"/{name}" if name else "")


class Api:
    """An API server, asked as the user of a kubeconfig, or by that user in the name of another."""

    def __init__(self, kubeconfig: Path, user: str | None = None) -> None:
        found = Configuration()
        load_kube_config(str(kubeconfig), client_configuration=found)
        self._server = found.host
        self._headers = {"User-Agent": "e2e"} | ({"Impersonate-User": user} if user else {})
        if token := found.get_api_key_with_prefix("authorization"):
            self._headers["Authorization"] = token
        # Without proxies: the server is on this machine.
        # What isn't answered is asked once more, as a server that was stopped may be back.
        self._pool = urllib3.PoolManager(
            ca_certs=found.ssl_ca_cert, cert_file=found.cert_file, key_file=found.key_file, maxsize=16,
            retries=urllib3.Retry(1),
        )  # fmt: skip
        self._by_name: dict[str, Resource] = {}
        self._by_kind: dict[tuple[str, str], Resource] = {}

    def request(
        self, method: str, path: str, body: object = None, content: str = "application/json", *, accept: str = ""
    ) -> Answer:
        """Send a request; whatever is answered is returned.

        Raises
        ------
        Unreachable
        """
        headers = self._headers | {"Content-Type": content} | ({"Accept": accept} if accept else {})
        data = None if body is None else json.dumps(body)
        try:
            response = self._pool.request(method, self._server + path, body=data, headers=headers, timeout=60)
        except _ERRORS as error:
            raise Unreachable(f"{method} {path}: {error}") from error
        return Answer(response.status, json.loads(response.data))

    def merge(self, path: str, patch: object) -> Answer:
        """Send a JSON merge patch."""
        return self.request("PATCH", path, patch, MERGE)

    def watch(self, path: str, seconds: float) -> Generator[Object, None, None]:
        """Yield the objects of a collection, which has a query, as they are and whenever one has changed.

        Ends after some seconds, and whenever the server ends it or is away.
        """
        whole = f"{self._server}{path}&watch=true&timeoutSeconds={max(1, round(seconds))}"
        timeout = urllib3.Timeout(connect=5, read=seconds + 5)
        try:
            response = self._pool.request("GET", whole, headers=self._headers, preload_content=False, timeout=timeout)
        except _ERRORS:
            return
        try:
            rest = b""
            for data in response.stream(1 << 16) if response.status == 200 else ():
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    if event["type"] in {"ADDED", "MODIFIED"}:
                        yield event["object"]
        except _ERRORS:
            return
        finally:
            # Not to be used again: the rest of the answer is unread.
            response.close()

    def resource(self, name: str) -> Resource | None:
        """Return a resource by what people call it: ``pods``, ``pod``, ``po``, ``deployments.apps``."""
        if name not in self._by_name:
            self._discover()
        return self._by_name.get(name)

    def resource_of(self, found: Object) -> Resource | None:
        """Return where an object belongs, by its ``apiVersion`` and ``kind``."""
        kind = (found["apiVersion"], found["kind"])
        if kind not in self._by_kind:
            self._discover()
        return self._by_kind.get(kind)

    def _discover(self) -> None:
        self._by_name.clear()
        self._by_kind.clear()
        for root in ("/api", "/apis"):
            for group in self.request("GET", root, accept=_DISCOVERY).body["items"]:
                group_name = group["metadata"].get("name", "")
                # The preferred one is first.
                for version in group["versions"]:
                    self._know(root, group_name, version)

    def _know(self, root: str, group: str, version: Mapping[str, Any]) -> None:
        full = f"{group}/{version['version']}" if group else version["version"]
        for entry in version.get("resources", ()):
            found = Resource(f"{root}/{full}", entry["resource"], entry["scope"] == "Namespaced")
            self._by_kind[full, entry["responseKind"]["kind"]] = found
            for name in (entry["resource"], entry.get("singularResource", ""), *entry.get("shortNames", ())):
                self._by_name.setdefault(name, found)
                self._by_name.setdefault(f"{name}.{group}", found)


@functools.cache
def api_of(kubeconfig: Path, user: str | None = None) -> Api:
    """Return the API server of a kubeconfig, which stays the same."""
    return Api(kubeconfig, user)
