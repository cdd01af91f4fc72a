"""A real API server without a node: etcd and kube-apiserver on loopback, with our CRDs and an audit log.

Up in seconds and cheap: for what has to be true of the API server (watches, versions, CEL, Leases), where no pod needs
to run. Nothing acts on what is created in it: no Job controller, no garbage collector.
"""

import base64
import contextlib
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from e2e.node.commands import GO_GARBAGE
from e2e.support.lines import audit_lines

CRDS = Path(__file__).parents[2] / "crds"
Object = dict[str, Any]

_POLICY = {
    "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "Metadata", "verbs": ["create", "update", "patch", "delete", "deletecollection"]},
        {"level": "None"},
    ],
}  # fmt: skip


@dataclass(frozen=True)
class Write:
    """A line of the audit log: a write that the API server has answered."""

    user: str
    """Empty where the credentials were refused."""
    agent: str
    verb: str
    resource: str
    subresource: str
    namespace: str
    name: str
    code: int
    at: float
    """When it came in, in seconds of the wall clock."""


@dataclass(frozen=True)
class ApiServer:
    """A running API server, as its administrator uses it."""

    port: int
    folder: Path
    token: str
    tokens: dict[str, str] = field(repr=False)
    process: "subprocess.Popen[bytes]" = field(repr=False)

    @property
    def certificate(self) -> Path:
        """Of the server; it is its own authority."""
        return self.folder / "server.crt"

    def kubeconfig(self, user: str = "admin", *, port: int | None = None) -> Path:
        """Write a kubeconfig for a user; ``port`` is that of something in between."""
        file = self.folder / f"{user}-{port or self.port}.kubeconfig"
        cluster = {
            "server": f"https://127.0.0.1:{port or self.port}",
            "certificate-authority-data": base64.b64encode(self.certificate.read_bytes()).decode(),
        }
        content = {
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": cluster}],
            "users": [{"name": "it", "user": {"token": self.tokens[user]}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        }  # fmt: skip
        file.write_text(yaml.safe_dump(content))
        file.chmod(0o600)
        return file

    def request(
        self, method: str, path: str, body: Any = None, content: str = "application/json"
    ) -> tuple[int, Object]:
        """Send a request; return the status and the answer."""
        context = ssl.create_default_context(cafile=self.certificate)
        with contextlib.closing(http.client.HTTPSConnection("127.0.0.1", self.port, context=context, timeout=30)) as it:
            headers = {"Authorization": f"Bearer {self.token}", "Content-Type": content}
            it.request(method, path, None if body is None else json.dumps(body), headers)
            answer = it.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text.startswith(b"{") else {"message": text.decode()}

    def call(self, method: str, path: str, body: Any = None, content: str = "application/json") -> Object:
        """Send a request that must succeed; return the answer."""
        status, answer = self.request(method, path, body, content)
        assert status < 400, f"{method} {path}: {status} {answer.get('message')}"
        return answer

    def merge(self, path: str, patch: Any) -> Object:
        """Apply a merge patch; return the object."""
        return self.call("PATCH", path, patch, "application/merge-patch+json")

    def namespace(self) -> str:
        """Create a namespace; return its name."""
        name = f"test-{secrets.token_hex(4)}"
        self.call("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        # No controller makes the default service account here; pods aren't run, so nothing asks for it.
        return name

    def writes(self) -> list[Write]:
        """Return all writes so far, in the order in which they were answered."""
        found = []
        for line in audit_lines(self.folder):
            entry = json.loads(line)
            reference = entry.get("objectRef") or {}
            found.append(
                Write(
                    entry["user"].get("username", ""), entry.get("userAgent", ""), entry["verb"],
                    reference.get("resource", ""), reference.get("subresource", ""), reference.get("namespace", ""),
                    reference.get("name", ""),
                    (entry.get("responseStatus") or {}).get("code", 0), _seconds(entry["requestReceivedTimestamp"]),
                )
            )  # fmt: skip
        return found


@contextlib.contextmanager
def api_server(programs: Path, users: tuple[str, ...] = ("operator-a", "operator-b")) -> Iterator[ApiServer]:
    """Start an API server; end it and remove what it stored at the end.

    Parameters
    ----------
    programs
        Folder with ``kube-apiserver`` and ``etcd``.
    users
        More administrators, so that the audit log tells replicas apart.
    """
    folder = Path(tempfile.mkdtemp(prefix="api-server-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        etcd_port, peer_port, port = _free_ports(3)
        tokens = {user: secrets.token_hex(16) for user in ("admin", *users)}
        _prepare(folder, tokens)
        stack.enter_context(
            _process(folder, "etcd", [
                programs / "etcd", f"--data-dir={folder}/etcd", f"--listen-client-urls=http://127.0.0.1:{etcd_port}",
                f"--advertise-client-urls=http://127.0.0.1:{etcd_port}",
                f"--listen-peer-urls=http://127.0.0.1:{peer_port}",
                f"--initial-advertise-peer-urls=http://127.0.0.1:{peer_port}",
                f"--initial-cluster=default=http://127.0.0.1:{peer_port}", "--unsafe-no-fsync",
            ])
        )  # fmt: skip
        process = stack.enter_context(
            _process(folder, "kube-apiserver", [
                programs / "kube-apiserver", f"--etcd-servers=http://127.0.0.1:{etcd_port}", f"--secure-port={port}",
                "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", f"--cert-dir={folder}",
                f"--tls-cert-file={folder}/server.crt", f"--tls-private-key-file={folder}/server.key",
                f"--service-account-key-file={folder}/server.key",
                f"--service-account-signing-key-file={folder}/server.key",
                "--service-account-issuer=https://kubernetes.default.svc", "--service-cluster-ip-range=10.96.0.0/16",
                f"--token-auth-file={folder}/tokens.csv", "--authorization-mode=RBAC",
                "--disable-admission-plugins=ServiceAccount", "--endpoint-reconciler-type=none",
                f"--audit-policy-file={folder}/policy.json", f"--audit-log-path={folder}/audit.log",
            ])
        )  # fmt: skip
        found = ApiServer(port, folder, tokens["admin"], tokens, process)
        _wait_until_ready(found)
        for file in sorted(CRDS.glob("*.yaml")):
            crd = yaml.safe_load(file.read_text())
            found.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd)
        _wait_until_served(found)
        yield found


def _prepare(folder: Path, tokens: dict[str, str]) -> None:
    lines = [f'{token},{user},{user},"system:masters"' for user, token in tokens.items()]
    (folder / "tokens.csv").write_text("\n".join(lines) + "\n")
    (folder / "policy.json").write_text(json.dumps(_POLICY))
    (folder / "audit.log").touch()
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=api-server",
            "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / "server.key", "-out", folder / "server.crt",
        ],
        check=True, capture_output=True,
    )  # fmt: skip


@contextlib.contextmanager
def _process(folder: Path, name: str, command: list[str | Path]) -> "Iterator[subprocess.Popen[bytes]]":
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | GO_GARBAGE)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(server: ApiServer, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if server.request("GET", "/readyz")[0] == 200:
                return
        if server.process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError((server.folder / "kube-apiserver.log").read_text()[-2000:])
        time.sleep(0.1)


def _wait_until_served(server: ApiServer, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    for plural in ("datasources", "extractionjobs"):
        while server.request("GET", f"/apis/extraction-operator.io/v1alpha1/{plural}")[0] != 200:
            assert time.monotonic() < deadline, f"{plural} aren't served"
            time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _seconds(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()
