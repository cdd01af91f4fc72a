"""Who we are to the API server: in a pod by its service account, elsewhere by a kubeconfig.

Finding and refreshing credentials is the Kubernetes client's. The sessions are ours, because each needs sockets and
time-outs of its own.
"""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import Configuration

USER_AGENT = f"extraction-operator/{version('extraction-operator')}"
"""By this the audit log of a cluster tells our calls from those of others."""

CONNECT_SECONDS = 1.5
_READ_BUFFER = 1 << 21


@dataclass(frozen=True)
class Login:
    """A way to the API server."""

    configuration: Configuration
    tls: ssl.SSLContext

    @property
    def server(self) -> str:
        """URL of the API server."""
        return str(self.configuration.host).rstrip("/")

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
        # The hook in it reads a token that the kubelet or an exec plugin has renewed.
        token = await self.configuration.get_api_key_with_prefix("BearerToken")
        if not token and self.configuration.username:
            token = self.configuration.get_basic_auth_token()
        if token:
            request.headers["Authorization"] = token
        return await handler(request)


async def log_in(kubeconfig: Path | None = None, context: str | None = None) -> Login:
    """Find out who we are: by ``kubeconfig`` if it is given, else in a pod, else by the default kubeconfig.

    Raises
    ------
    kubernetes.aio.config.ConfigException
        There are no credentials; the message says where they were looked for.
    """
    found = Configuration()
    if kubeconfig is None and context is None and Path(config.incluster_config.SERVICE_TOKEN_FILENAME).exists():
        config.load_incluster_config(client_configuration=found)  # type: ignore[no-untyped-call]
    else:
        await config.load_kube_config(  # type: ignore[no-untyped-call]
            config_file=str(kubeconfig) if kubeconfig else None, context=context, client_configuration=found
        )
    return Login(found, _tls(found))


def _tls(found: Configuration) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=found.ssl_ca_cert, cadata=found.ca_cert_data)
    if found.cert_file:
        context.load_cert_chain(found.cert_file, keyfile=found.key_file)
    if not found.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
