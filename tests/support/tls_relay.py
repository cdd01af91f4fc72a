"""TLS in front of a server that has none: what stunnel would do. The certificate is for 127.0.0.1 alone."""

import contextlib
import socket
import ssl
import threading
from pathlib import Path

from support.s3_gateway import self_signed


class TlsRelay:
    """Listens with TLS, and hands on to a port on loopback."""

    def __init__(self, target: int, folder: Path) -> None:
        self._target = target
        folder.mkdir(parents=True)
        chain = self_signed(folder)
        self.authority = chain.read_bytes().partition(b"-----BEGIN PRIVATE KEY-----")[0]
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(chain)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> "TlsRelay":
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            client = stack.enter_context(self._context.wrap_socket(plain, server_side=True))
            server = stack.enter_context(socket.create_connection(("127.0.0.1", self._target)))
            back = threading.Thread(target=_copy, args=(server, client), daemon=True)
            back.start()
            _copy(client, server)
            back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
