"""A relay between a client and PostgreSQL that cuts, changes or holds back what the server sends."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


@dataclass
class Relay:
    """What happens to the bytes of the server, from the beginning of the stream of COPY on.

    Parameters
    ----------
    change
        Returns what goes on instead of one of the server's messages, with its type and length.
    """

    port: int = 0
    next_port: Callable[[], int] | None = None
    """Chooses another server for each connection, as a name with several addresses does."""
    connections: int = 0
    change: Callable[[bytes], bytes] = lambda message: message
    cut_after: int | None = None
    """Bytes of the stream after which both sides are closed."""
    frozen: threading.Event = field(default_factory=threading.Event)
    """While it is set nothing goes on in either direction, and nobody is told."""
    stream: bytearray = field(default_factory=bytearray)
    """What went to clients since the stream began."""


def _exactly(source: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = source.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def _to_server(client: socket.socket, server: socket.socket, relay: Relay) -> None:
    with contextlib.suppress(OSError):
        while data := client.recv(1 << 16):
            if relay.frozen.is_set():
                continue
            server.sendall(data)
        server.shutdown(socket.SHUT_WR)


def _to_client(server: socket.socket, client: socket.socket, relay: Relay) -> None:
    streaming = False
    with contextlib.suppress(OSError, EOFError):
        while True:
            head = _exactly(server, 5)
            message = head + _exactly(server, struct.unpack("!i", head[1:])[0] - 4)
            streaming = streaming or head[:1] == b"H"  # CopyOutResponse
            if relay.frozen.is_set():
                continue
            if streaming:
                message = relay.change(message)
                if relay.cut_after is not None:
                    message = message[: relay.cut_after - len(relay.stream)]
                relay.stream += message
            client.sendall(message)
            if streaming and len(relay.stream) == relay.cut_after:
                break
    for end in (client, server):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def relay_to(port: int) -> Iterator[Relay]:
    """Run a relay to a port of loopback, on a port of its own."""
    relay = Relay()
    ends: list[socket.socket] = []

    def accept(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                relay.connections += 1
                target = relay.next_port() if relay.next_port is not None else port
                server = socket.create_connection(("127.0.0.1", target))
                for end in (client, server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    ends.append(end)
                for pump, source, end in ((_to_server, client, server), (_to_client, server, client)):
                    threading.Thread(target=pump, args=(source, end, relay), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        relay.port = listener.getsockname()[1]
        thread = threading.Thread(target=accept, args=(listener,), daemon=True)
        thread.start()
        try:
            yield relay
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            for end in ends:
                end.close()
