"""Requests to the API server as they are, without what kubectl adds: `kubectl proxy` does the signing in."""

import contextlib
import http.client
import json
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.support.cluster import Cluster


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
class Api:
    """The API server, behind a socket that only we can open."""

    path: Path

    def request(self, method: str, path: str, body: object = None, content: str = "application/json") -> Answer:
        """Send a request; whatever is answered is returned."""
        with contextlib.closing(_Connection(self.path)) as connection:
            connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": content})
            response = connection.getresponse()
            return Answer(response.status, json.loads(response.read()))

    def merge(self, path: str, patch: object) -> Answer:
        """Send a JSON merge patch."""
        return self.request("PATCH", path, patch, "application/merge-patch+json")


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@contextlib.contextmanager
def api_of(cluster: Cluster) -> Iterator[Api]:
    """Open the API server of a cluster for a while."""
    with tempfile.TemporaryDirectory(prefix="e2e-api-") as folder:
        path = Path(folder) / "socket"
        proxy = subprocess.Popen(
            cluster.command("proxy", f"--unix-socket={path}", "--reject-methods="), stdout=subprocess.PIPE, text=True
        )
        try:
            assert proxy.stdout is not None
            if "Starting to serve" not in proxy.stdout.readline():
                raise RuntimeError("kubectl proxy did not start")
            yield Api(path)
        finally:
            proxy.terminate()
            proxy.communicate(timeout=10)
