"""Relays in front of a server on loopback: one whose answers are late, and one with TLS, as stunnel would be."""

import contextlib
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Self

from support.s3_gateway import self_signed


class SlowRelay:
    """Hands on to a port on loopback; the answers come so many seconds later."""

    def __init__(self, target: int, seconds: float = 0.0) -> None:
        self._target = target
        self._seconds = seconds
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, accepted: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            client = stack.enter_context(self._opened(accepted))
            server = stack.enter_context(socket.create_connection(("127.0.0.1", self._target)))
            back = threading.Thread(target=_copy, args=(server, client, self._seconds), daemon=True)
            back.start()
            _copy(client, server)
            back.join()

    def _opened(self, accepted: socket.socket) -> socket.socket:
        return accepted


class TlsRelay(SlowRelay):
    """Listens with TLS, and hands on to a port on loopback. The certificate is for 127.0.0.1 alone."""

    def __init__(self, target: int, folder: Path) -> None:
        folder.mkdir(parents=True)
        chain = self_signed(folder)
        self.authority = chain.read_bytes().partition(b"-----BEGIN PRIVATE KEY-----")[0]
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(chain)
        super().__init__(target)

    def _opened(self, accepted: socket.socket) -> socket.socket:
        return self._context.wrap_socket(accepted, server_side=True)


def _copy(source: socket.socket, target: socket.socket, seconds: float = 0.0) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            time.sleep(seconds)
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
