"""A replica of the operator as a process of this machine, and something between it and the API server that breaks."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from e2e.support.api_server import ApiServer


class Replica:
    """A running ``extraction-operator``.

    Parameters
    ----------
    user
        Who it is to the API server, and so in the audit log.
    namespace
        What it watches, and where its Lease is.
    port
        Of something between it and the API server.
    """

    def __init__(self, api: ApiServer, user: str, namespace: str, folder: Path, *, port: int | None = None) -> None:
        self.user = user
        self.log = folder / f"{user}-{time.monotonic_ns()}.log"
        command = Path(sys.executable).with_name("extraction-operator")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    command, "run", "--image=none", f"--namespace={namespace}", f"--lease-namespace={namespace}",
                    "--metrics-host=127.0.0.1", "--metrics-port=0", f"--kubeconfig={api.kubeconfig(user, port=port)}",
                ],
                stdout=log, stderr=log, env=os.environ | {"HOSTNAME": user},
            )  # fmt: skip

    def said(self, message: str) -> dict[str, object] | None:
        """Return the first line of its log with this message."""
        for line in self.log.read_text().splitlines():
            with contextlib.suppress(ValueError):
                if (entry := json.loads(line)).get("message") == message:
                    return dict(entry)
        return None

    def wait_until(self, message: str, seconds: float = 20) -> None:
        """Wait until it has logged a message."""
        wait_for(lambda: self.said(message) is not None, f"{self.user} to say {message!r}", seconds)

    def wait_to_lead(self, seconds: float = 20) -> None:
        """Wait until it holds the Lease."""
        self.wait_until("This replica is the leader.", seconds)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def wait_for_end(self, seconds: float = 20) -> int:
        """Wait until it has ended; return its exit code."""
        return self.process.wait(seconds)

    def kill(self) -> None:
        """End it, in whatever state it is."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)


class Link:
    """A TCP proxy on loopback that can turn into a black hole: connections stay, nothing comes through."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._open = threading.Event()
        self._open.set()
        self._closing = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Let nothing through any more; what is on its way is lost."""
        self._open.clear()

    def close(self) -> None:
        """Accept nothing more."""
        self._closing = True
        self._listener.close()

    def _accept(self) -> None:
        while not self._closing:
            try:
                here, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(here,), daemon=True).start()

    def _carry(self, here: socket.socket) -> None:
        with here, socket.create_connection(("127.0.0.1", self._target)) as there:
            peers = {here: there, there: here}
            while True:
                for ready in select.select(list(peers), [], [], 1)[0]:
                    try:
                        data = ready.recv(1 << 16)
                        if not self._open.is_set():
                            # A hole never answers, and never hangs up.
                            threading.Event().wait()
                        if not data:
                            return
                        peers[ready].sendall(data)
                    except OSError:
                        return


def wait_for(happened: Callable[[], bool], what: str, seconds: float) -> None:
    """Ask again and again until something has happened."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.05)
