"""An HTTP server on loopback between a client and the S3 server, which spoils what passes as a test wants it."""

import contextlib
import datetime as dt
import http.client
import ipaddress
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Request:
    """What a client sent."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Response:
    """What the client gets. ``cut`` closes the connection in the place of an answer, ``short`` amid its body."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    short: bool = False


def error(status: int, code: str) -> Response:
    """An answer as S3 says no."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>test-secret-key</Message></Error>"
    return Response(status, body.encode(), {"Content-Type": "application/xml"})


Forward = Callable[[Request], Response]
Spoil = Callable[[Request, Forward], Response]


class Gateway:
    """The gateway. ``spoil`` gets each request and a function that forwards it; tests may set it at any time."""

    def __init__(self, port: int, certificate: Path | None = None) -> None:
        self._port = port
        self.spoil: Spoil = lambda request, forward: forward(request)
        self.requests: list[Request] = []
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            # Answers "Expect: 100-continue", for which clients otherwise wait a second.
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                request = Request(self.command, self.path, dict(self.headers.items()), body)
                gateway.requests.append(request)
                response = gateway.spoil(request, gateway._forward)
                if response.cut:
                    self.close_connection = True
                    self.connection.close()
                    return
                self.send_response(response.status)
                for name, value in response.headers.items():
                    if name.lower() not in {"content-length", "connection", "transfer-encoding", "date", "server"}:
                        self.send_header(name, value)
                length = response.headers.get("Content-Length") if self.command == "HEAD" else None
                self.send_header("Content-Length", length or str(len(response.body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(response.body[: len(response.body) // 2] if response.short else response.body)
                self.close_connection = self.close_connection or response.short

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        # A client that doesn't trust us, or that we hung up on, is what some tests are about.
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        scheme = "https" if certificate else "http"
        self.endpoint = f"{scheme}://127.0.0.1:{self._server.server_port}"

    def _forward(self, request: Request) -> Response:
        headers = {name: text for name, text in request.headers.items() if name.lower() != "expect"}
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        with contextlib.closing(connection):
            connection.request(request.method, request.path, request.body, headers)
            reply = connection.getresponse()
            return Response(reply.status, reply.read(), dict(reply.getheaders()))

    @contextlib.contextmanager
    def running(self) -> Iterator["Gateway"]:
        """Serve until the block ends."""
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join(10)
            self._server.server_close()


def self_signed(folder: Path) -> Path:
    """Return a file with the key and certificate of a server on 127.0.0.1."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "store")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "store.pem"
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(certificate.public_bytes(pem) + private)
    return path
