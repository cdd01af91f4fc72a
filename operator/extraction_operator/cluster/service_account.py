"""The account of the pod that we are in, as every container finds it.

https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/#directly-accessing-the-rest-api

Not read by the Kubernetes client, as kubeconfigs are: that is a fifth of all that an operator imports.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from extraction_operator.cluster.errors import LoginError

FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_RENEW_SECONDS = 60.0
"""Until a token is read again. The kubelet renews it long before it expires."""


@dataclass
class ServiceAccount:
    """The account of a pod.

    Parameters
    ----------
    folder
        What the kubelet mounts; :data:`FOLDER`.
    clock
        Seconds that only go forward.
    """

    folder: Path
    clock: Callable[[], float] = time.monotonic
    _token: str = field(default="", init=False)
    _fresh_until: float = field(default=float("-inf"), init=False)

    @property
    def authorities(self) -> Path:
        """Who vouches for the API server, in PEM.

        Raises
        ------
        LoginError
            There is none.
        """
        file = self.folder / "ca.crt"
        if not _read(file):
            raise LoginError(f"{file} is missing or empty; the kubelet writes it.")
        return file

    def authorization(self) -> str:
        """Return how a request is signed now.

        Raises
        ------
        LoginError
            There is no token, and was none before: one that we have may do as long as the next one isn't there.
        """
        if self.clock() >= self._fresh_until:
            file = self.folder / "token"
            self._token = _read(file) or self._token
            if not self._token:
                raise LoginError(f"{file} is missing or empty; the kubelet writes it, and renews it.")
            self._fresh_until = self.clock() + _RENEW_SECONDS
        return f"Bearer {self._token}"


def server(variables: Mapping[str, str]) -> str:
    """Return the URL of the API server, which the kubelet tells every container.

    Raises
    ------
    LoginError
        It isn't told.
    """
    host, port = (variables.get(f"KUBERNETES_SERVICE_{what}", "") for what in ("HOST", "PORT"))
    if not host or not port:
        raise LoginError("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT aren't set, as they are in every pod.")
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
