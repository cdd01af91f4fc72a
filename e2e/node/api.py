"""A small client of the API server, with a client certificate."""

import contextlib
import http.client
import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from e2e.node.errors import NodeError


class Api:
    """Requests to the API server of a node as one of the users of `pki`."""

    def __init__(self, address: str, pki: Path, user: str) -> None:
        self._address = address
        self._context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        self._context.load_cert_chain(pki / f"{user}.crt", pki / f"{user}.key")

    def request(self, method: str, path: str, body: object = None, content: str = "application/json") -> Any:
        """Send a request; return the decoded answer.

        Raises
        ------
        NodeError
            If the server can't be reached or refuses.
        """
        with self._connection() as connection:
            status, data = _exchange(connection, method, path, body, content)
        if status >= 400:
            raise NodeError(f"{method} {path}: {status} {data.decode(errors='replace')[:500]}")
        return json.loads(data)

    def is_ready(self) -> bool:
        """Tell whether the server answers that it is ready."""
        try:
            with self._connection(timeout=2) as connection:
                return _exchange(connection, "GET", "/readyz", None, "application/json") == (200, b"ok")
        except NodeError:
            return False

    def changes(self, path: str, seconds: int) -> Iterator[None]:
        """Yield after each change of what `path` lists, for some seconds; nothing is told about what changed."""
        with self._connection(timeout=seconds + 5) as connection:
            try:
                connection.request("GET", f"{path}?watch=1&timeoutSeconds={seconds}")
                response = connection.getresponse()
                while response.readline():
                    yield
            except (OSError, http.client.HTTPException) as error:
                raise NodeError(f"watching {path}: {error}") from error

    def _connection(self, timeout: float = 30) -> "contextlib.closing[http.client.HTTPSConnection]":
        return contextlib.closing(
            http.client.HTTPSConnection(self._address, 6443, context=self._context, timeout=timeout)
        )


def _exchange(
    connection: http.client.HTTPSConnection, method: str, path: str, body: object, content: str
) -> tuple[int, bytes]:
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None, {"Content-Type": content})
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException) as error:
        raise NodeError(f"{method} {path}: {error}") from error
