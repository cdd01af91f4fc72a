"""This machine as pods see it."""

import contextlib
import http.server
import socket
import threading
from collections.abc import Iterator


def address_towards(address: str) -> str:
    """Return the address of this machine from which packets to `address` go."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))  # nothing is sent
        return str(probe.getsockname()[0])


@contextlib.contextmanager
def web_server(address: str, answer: bytes) -> Iterator[int]:
    """Serve one answer over HTTP on a free port of an address of this machine; yield the port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Stay quiet."""

    with http.server.ThreadingHTTPServer((address, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
