"""The cluster's certificate authority and who is who in it, made with openssl."""

import base64
from pathlib import Path

from e2e.node.commands import run
from e2e.node.state import Inside, Layout, Settings

SERVICE_ADDRESS = "10.96.0.1"
NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def create(layout: Layout, settings: Settings) -> None:
    """Make the authority, the certificates and a kubeconfig for each component and for the administrator."""
    folder = layout.pki
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    run("openssl", "req", "-x509", *NEW_KEY, "-days", "3650", "-subj", "/CN=kubernetes-ca",
        "-keyout", folder / "ca.key", "-out", folder / "ca.crt")  # fmt: skip
    run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", folder / "sa.key")
    run("openssl", "pkey", "-in", folder / "sa.key", "-pubout", "-out", folder / "sa.pub")

    service = [f"DNS:kubernetes{suffix}" for suffix in ("", ".default", ".default.svc", ".default.svc.cluster.local")]
    here = ["DNS:localhost", "IP:127.0.0.1", f"IP:{settings.node_address}"]
    _certificate(folder, "apiserver", "/CN=kube-apiserver", [*service, *here, f"IP:{SERVICE_ADDRESS}"])
    _certificate(folder, "apiserver-kubelet", "/O=system:masters/CN=kube-apiserver-kubelet-client")
    node = f"/O=system:nodes/CN=system:node:{layout.node_name}"
    _certificate(folder, "kubelet", node, [f"DNS:{layout.node_name}", *here])
    _certificate(folder, "admin", "/O=system:masters/CN=kubernetes-admin")
    for component in ("kube-controller-manager", "kube-scheduler", "kube-proxy"):
        _certificate(folder, component, f"/CN=system:{component}")
    _certificate(folder, "storage", "/CN=extraction-node:storage")
    _certificate(folder, "kwok", "/O=system:masters/CN=kwok")
    for user in ("kubelet", "kube-controller-manager", "kube-scheduler", "kube-proxy", "storage", "kwok"):
        (folder / f"{user}.conf").write_text(_component_kubeconfig(user, settings))
    layout.kubeconfig.touch(mode=0o600)
    layout.kubeconfig.write_text(_admin_kubeconfig(folder, layout.name, settings))


def _certificate(folder: Path, name: str, subject: str, alternatives: list[str] | None = None) -> None:
    """Make a key and a certificate, valid for clients and, with alternative names, for servers."""
    extensions = folder / f"{name}.ext"
    extensions.write_text(
        "basicConstraints=CA:FALSE\nextendedKeyUsage=clientAuth"
        + (f",serverAuth\nsubjectAltName={','.join(alternatives)}" if alternatives else "")
    )
    request, key = folder / f"{name}.csr", folder / f"{name}.key"
    run("openssl", "req", *NEW_KEY, "-subj", subject, "-keyout", key, "-out", request)
    run("openssl", "x509", "-req", "-in", request, "-CA", folder / "ca.crt", "-CAkey", folder / "ca.key",
        "-CAcreateserial", "-days", "3650", "-extfile", extensions, "-out", folder / f"{name}.crt")  # fmt: skip


def _component_kubeconfig(user: str, settings: Settings) -> str:
    return f"""\
apiVersion: v1
kind: Config
clusters: [{{name: node, cluster: {{server: "https://{settings.node_address}:6443", \
certificate-authority: {Inside.pki}/ca.crt}}}}]
users: [{{name: user, user: {{client-certificate: {Inside.pki}/{user}.crt, client-key: {Inside.pki}/{user}.key}}}}]
contexts: [{{name: node, context: {{cluster: node, user: user}}}}]
current-context: node
"""


def _admin_kubeconfig(folder: Path, name: str, settings: Settings) -> str:
    def data(file: str) -> str:
        return base64.b64encode((folder / file).read_bytes()).decode()

    return f"""\
apiVersion: v1
kind: Config
clusters:
- cluster:
    certificate-authority-data: {data("ca.crt")}
    server: https://{settings.node_address}:6443
  name: kind-{name}
contexts:
- context:
    cluster: kind-{name}
    user: kind-{name}
  name: kind-{name}
current-context: kind-{name}
users:
- name: kind-{name}
  user:
    client-certificate-data: {data("admin.crt")}
    client-key-data: {data("admin.key")}
"""
