"""A relay between client and server that shows somebody what comes from the server."""

import contextlib
import select
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

_BLOCK = 1 << 16
_BUFFER = 1 << 16
"""Bytes that the relay's kernel may hold for a client: what is seen is what the client takes, and hardly more."""


class Tap:
    """Passes connections on to the server's socket in the file system. :attr:`port` is where it listens.

    A session of that socket has no address at which others could go past the relay.

    Parameters
    ----------
    see
        Called with each block that the server sent, from the threads that pass it on.
    """

    def __init__(self, target: Path, see: Callable[[bytes], object]) -> None:
        self._target = target
        self._see = see
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self.port: int = self._listener.getsockname()[1]

    def accept(self) -> None:
        """Serve until :meth:`close`."""
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                thread = threading.Thread(target=self._relay, args=(client,), daemon=True)
                thread.start()
                self._threads.append(thread)

    def close(self) -> None:
        """Take no more connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _relay(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server, contextlib.suppress(OSError):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
            server.connect(str(self._target))
            others = {client: server, server: client}
            while True:
                for ready in select.select([client, server], [], [])[0]:
                    data = ready.recv(_BLOCK)
                    if not data:
                        return
                    if ready is server:
                        self._see(data)
                    others[ready].sendall(data)


@contextlib.contextmanager
def tap(target: Path, see: Callable[[bytes], object]) -> Iterator[Tap]:
    """Yield a running tap."""
    found = Tap(target, see)
    thread = threading.Thread(target=found.accept, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.close()
        thread.join(5)
