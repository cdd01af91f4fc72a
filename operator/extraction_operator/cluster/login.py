"""Who we are to the API server: in a pod by its service account, elsewhere by a kubeconfig.

The sessions are ours, because each needs sockets and time-outs of its own.
"""

import os
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp

from extraction_operator.cluster import service_account
from extraction_operator.cluster.errors import LoginError
from extraction_operator.cluster.service_account import ServiceAccount

USER_AGENT = f"extraction-operator/{version('extraction-operator')}"
"""By this the audit log of a cluster tells our calls from those of others."""

CONNECT_SECONDS = 1.5
_READ_BUFFER = 1 << 21


@dataclass(frozen=True)
class Login:
    """A way to the API server."""

    server: str
    """Its URL, without a slash at the end."""
    tls: ssl.SSLContext
    authorization: Callable[[], Awaitable[str | None]]
    """Returns how a request is signed at that moment: the value of its header, None where nothing is told."""

    def session(
        self, socket_factory: Callable[[Any], Any] | None = None, *, limit: int = 32,
        response_class: type[aiohttp.ClientResponse] = aiohttp.ClientResponse,
    ) -> aiohttp.ClientSession:  # fmt: skip
        """Return a new session, which signs every request with the credentials of that moment.

        Parameters
        ----------
        socket_factory
            Makes its sockets, see aiohttp's connector.
        limit
            How many connections it may have.
        response_class
            Of its answers.
        """
        connector = aiohttp.TCPConnector(
            ssl=self.tls, limit=limit, socket_factory=socket_factory, resolver=aiohttp.ThreadedResolver()
        )
        # Plain: an API server takes longer to compress a page than a cluster's network takes to carry it.
        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
        return aiohttp.ClientSession(
            connector=connector, headers=headers, middlewares=(self._sign,), read_bufsize=_READ_BUFFER,
            response_class=response_class, timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
        )  # fmt: skip

    async def _sign(self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        if signature := await self.authorization():
            request.headers["Authorization"] = signature
        return await handler(request)


async def log_in(
    kubeconfig: Path | None = None, context: str | None = None, *, account: Path = service_account.FOLDER
) -> Login:
    """Find out who we are: by ``kubeconfig`` if it is given, else in a pod, else by the default kubeconfig.

    Parameters
    ----------
    account
        What the kubelet mounts into a pod.

    Raises
    ------
    LoginError
        There are no credentials; the message says where they were looked for.
    """
    if kubeconfig is None and context is None and (account / "token").exists():
        return _in_pod(ServiceAccount(account))
    return await _by_kubeconfig(kubeconfig, context)


def _in_pod(account: ServiceAccount) -> Login:
    async def authorization() -> str:
        return account.authorization()

    # What is missing is said now, not at the first call.
    account.authorization()
    return Login(
        service_account.server(os.environ), ssl.create_default_context(cafile=account.authorities), authorization
    )


async def _by_kubeconfig(kubeconfig: Path | None, context: str | None) -> Login:
    # Here and not above: it is a fifth of all that an operator imports, and pods don't need it.
    from kubernetes.aio import config
    from kubernetes.aio.client import Configuration

    found = Configuration()
    try:
        await config.load_kube_config(
            config_file=str(kubeconfig) if kubeconfig else None, context=context, client_configuration=found
        )
    except config.ConfigException as error:
        raise LoginError(str(error)) from error

    async def authorization() -> str | None:
        # The hook in it reads a token that an exec plugin has renewed.
        token = await found.get_api_key_with_prefix("BearerToken")
        return str(token) if token else found.get_basic_auth_token() if found.username else None

    tls = ssl.create_default_context(cafile=found.ssl_ca_cert, cadata=found.ca_cert_data)
    if found.cert_file:
        tls.load_cert_chain(found.cert_file, keyfile=found.key_file)
    if not found.verify_ssl:
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    return Login(str(found.host).rstrip("/"), tls, authorization)
