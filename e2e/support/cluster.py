"""A cluster in the words of the tests, which ask its API server themselves; kubectl for all that isn't asked often."""

import json
import subprocess
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from e2e.support.api import APPLY, MERGE, Answer, Api, Object, Resource, Unreachable, api_of
from e2e.support.pods import BUSYBOX, pod

HOST_NAME = "host.extraction.internal"


class Refused(Exception):
    """The API server, or kubectl, has refused; the message is its own."""


@dataclass(frozen=True)
class Cluster:
    """A running cluster, or one namespace of it."""

    name: str
    kind: Path
    kubectl_path: Path
    kubeconfig: Path
    namespace: str = "default"
    user: str | None = None

    @property
    def is_stand_in(self) -> bool:
        """Whether this is the node of e2e/node: some tests look into it, or need what kind hasn't got."""
        return self.kind.parent.name == "node"

    def within(self, namespace: str) -> "Cluster":
        """Return the same cluster with another default namespace."""
        return replace(self, namespace=namespace)

    @contextmanager
    def fresh_namespace(self) -> "Iterator[Cluster]":
        """Make a namespace; yield the cluster with it as default; delete it without waiting for its end."""
        name = f"e2e-{uuid.uuid4().hex[:8]}"
        self._ask("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        try:
            yield self.within(name)
        finally:
            self.api.request("DELETE", f"/api/v1/namespaces/{name}")

    def acting_as(self, user: str) -> "Cluster":
        """Return the same cluster, where another user asks."""
        return replace(self, user=user)

    @property
    def api(self) -> Api:
        """Its API server."""
        return api_of(self.kubeconfig, self.user)

    def command(self, *words: str) -> list[str]:
        """Return a kubectl command line."""
        options = ["--kubeconfig", str(self.kubeconfig), "--namespace", self.namespace]
        return [str(self.kubectl_path), *options, *([f"--as={self.user}"] if self.user else []), *words]

    def kubectl(self, *words: str, stdin: str | None = None, timeout: float = 120) -> str:
        """Run kubectl; return what it printed.

        Raises
        ------
        Refused
            If it fails.
        """
        done = subprocess.run(
            self.command(*words), input=stdin, capture_output=True, text=True, timeout=timeout, check=False
        )
        if done.returncode:
            raise Refused(done.stderr.strip() or done.stdout.strip())
        return done.stdout

    def run_kind(self, *words: str) -> str:
        """Run a command of kind on this cluster."""
        command = [str(self.kind), *words, "--name", self.name]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout

    def apply(self, *objects: Object) -> None:
        """Apply objects.

        Raises
        ------
        Refused
        """
        for found in objects:
            resource = self.api.resource_of(found)
            if resource is None:
                raise Refused(f"no matches for kind {found['kind']} in version {found['apiVersion']}")
            path = self._path(resource, found["metadata"]["name"], found["metadata"].get("namespace"))
            self._ask("PATCH", f"{path}?fieldManager=e2e&force=true&fieldValidation=Strict", found, APPLY)

    def get(self, kind: str, name: str) -> Object:
        """Return an object.

        Raises
        ------
        Refused
        """
        return self._ask("GET", self._path(self._resource(kind), name)).body

    def get_all(self, kind: str, *options: str) -> list[Object]:
        """Return the objects of a kind, e.g. those with ``--selector=app=web``.

        Raises
        ------
        Refused
        """
        items: list[Object] = self._ask("GET", f"{self._path(self._resource(kind))}?{_query(*options)}").body["items"]
        return items

    def merge(self, kind: str, name: str, patch: Object) -> None:
        """Apply a JSON merge patch to an object.

        Raises
        ------
        Refused
        """
        self._ask("PATCH", self._path(self._resource(kind), name), patch, MERGE)

    def _ask(self, method: str, path: str, body: object = None, content: str = "application/json") -> Answer:
        try:
            answer = self.api.request(method, path, body, content)
        except Unreachable as error:
            raise Refused(str(error)) from error
        if answer.code >= 400:
            raise Refused(answer.refusal or f"{method} {path}: {answer.code}")
        return answer

    def _resource(self, kind: str) -> Resource:
        try:
            found = self.api.resource(kind)
        except Unreachable as error:
            raise Refused(str(error)) from error
        if found is None:
            raise Refused(f"the server doesn't have a resource type {kind!r}")
        return found

    def _path(self, resource: Resource, name: str = "", namespace: str | None = None) -> str:
        return resource.path(namespace or self.namespace, name)

    def wait_for(self, kind: str, name: str, reached: Callable[[Object], bool], seconds: float = 90) -> Object:
        """Watch an object, which need not be there yet, until it has reached a state; return it.

        Raises
        ------
        TimeoutError
            Naming the last status seen.
        """
        return self.wait_for_any(kind, f"--field-selector=metadata.name={name}", reached, seconds)

    def wait_for_any(self, kind: str, choice: str, reached: Callable[[Object], bool], seconds: float = 90) -> Object:
        """Watch the objects of a choice, as ``--selector=app=web``, until one has reached a state; return it.

        Raises
        ------
        TimeoutError
            Naming the last status seen.
        """
        last: Any = "there was none"
        with closing(self._changes(kind, choice, seconds)) as changes:
            for found in changes:
                if reached(found):
                    return found
                last = found.get("status", {})
        raise TimeoutError(f"{kind} {choice} after {seconds} s: {json.dumps(last)}")

    def wait_until_gone(self, kind: str, name: str, seconds: float = 90) -> None:
        """Wait until an object isn't there any more.

        Raises
        ------
        TimeoutError
        """
        path, deadline = self._path(self._resource(kind), name), time.monotonic() + seconds
        while self.api.request("GET", path).code != 404:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{kind} {name} is still there after {seconds} s")
            time.sleep(0.2)

    def _changes(self, kind: str, choice: str, seconds: float) -> Generator[Object, None, None]:
        """Yield the objects of a choice as they are and whenever one has changed, for some seconds."""
        path, deadline = f"{self._path(self._resource(kind))}?{_query(choice)}", time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            yield from self.api.watch(path, left)
            # The server ended the watch, or is away; it may come back.
            time.sleep(0.2)

    def run_pod(self, name: str, *command: str, image: str = BUSYBOX, **spec: Any) -> str:
        """Run a pod to its end; return its log. Its phase must become Succeeded."""
        self.apply(pod(name, *command, image=image, **spec))
        ended = self.wait_for("pod", name, lambda found: found["status"]["phase"] in {"Succeeded", "Failed"})
        log = self.kubectl("logs", name)
        assert ended["status"]["phase"] == "Succeeded", f"{log}\n{json.dumps(ended['status'])}"
        return log

    def start_pod(self, name: str, *command: str, image: str = BUSYBOX, **spec: Any) -> Object:
        """Start a pod and wait until it is ready; return it."""
        self.apply(pod(name, *command, image=image, **spec))
        return self.wait_for("pod", name, is_ready)


def _query(*options: str) -> str:
    """Return a query from options of kubectl that choose objects."""
    names = {"--selector": "labelSelector", "--field-selector": "fieldSelector"}
    return urlencode({names[name]: value for name, _, value in (option.partition("=") for option in options)})


def has_condition(found: Object, kind: str) -> bool:
    """Tell whether a condition of an object is true."""
    conditions = found.get("status", {}).get("conditions") or []
    return any(condition["type"] == kind and condition["status"] == "True" for condition in conditions)


def is_ready(found: Object) -> bool:
    """Tell whether an object has the condition Ready."""
    return has_condition(found, "Ready")


def has_ended(job: Object) -> bool:
    """Tell whether a Job has come to an end, good or bad."""
    return has_condition(job, "Complete") or has_condition(job, "Failed")
