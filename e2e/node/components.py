"""What runs on the node: command lines and configuration files, in the paths that the node sees."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.node.commands import snapshotter
from e2e.node.init import Component
from e2e.node.network import DNS_ADDRESS, POD_SUBNET, SERVICE_SUBNET
from e2e.node.requirements import plugin_folder
from e2e.node.state import Inside, Layout, Settings

# Secrets' contents never reach the log; reads by the components themselves would drown everything else.
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "nonResourceURLs": ["/healthz*", "/livez*", "/readyz*", "/version", "/openapi/*", "/api*"]},
        {"level": "None", "resources": [{"group": "coordination.k8s.io"}, {"group": "events.k8s.io"}]},
        {"level": "None", "resources": [{"group": "", "resources": ["events"]}]},
        {"level": "None", "verbs": ["get", "list", "watch"], "userGroups": ["system:nodes"]},
        {"level": "None", "verbs": ["get", "list", "watch"], "users": [
            "extraction-node:storage", "kwok", "system:apiserver", "system:kube-controller-manager",
            "system:kube-proxy", "system:kube-scheduler"]},
        {"level": "None", "verbs": ["get", "list", "watch"], "userGroups": ["system:serviceaccounts:kube-system"]},
        {"level": "Metadata"},
    ],
}  # fmt: skip


@dataclass(frozen=True)
class Declared:
    """Components in the order in which they can start: the others need what comes first."""

    first: tuple[Component, ...]
    then: tuple[Component, ...]


def prepare(layout: Layout, settings: Settings) -> Declared:
    """Write the configuration files of all components; return the components."""
    config = layout.node / "config"
    (config / "cni").mkdir(parents=True, exist_ok=True)
    layout.logs.mkdir(parents=True, exist_ok=True)
    _write(config / "audit.json", AUDIT_POLICY)
    _write(config / "kubelet.json", _kubelet_config(layout, settings))
    _write(config / "cni" / "10-node.conflist", _cni_config())
    (config / "containerd.toml").write_text(_containerd_config(layout))
    # Pods resolve names by CoreDNS alone: nothing is asked outside of this machine.
    (config / "resolv.conf").write_text("")
    etcd = Component("etcd", (
        _program("etcd"), "--data-dir=/var/lib/etcd", "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379", "--listen-peer-urls=http://127.0.0.1:2380",
        "--unsafe-no-fsync"))  # fmt: skip
    containerd = Component("containerd", ("containerd", "--config", f"{Inside.config}/containerd.toml"))
    return Declared(
        (etcd, containerd, _apiserver(settings)),
        (_controller_manager(settings), _scheduler(settings), _kubelet(layout, settings), _proxy(layout, settings),
         Component("storage", ("storage",))),
    )  # fmt: skip


def _apiserver(settings: Settings) -> Component:
    pki = Inside.pki
    command = [
        _program("kube-apiserver"), "--etcd-servers=http://127.0.0.1:2379",
        f"--advertise-address={settings.node_address}", "--secure-port=6443",
        f"--tls-cert-file={pki}/apiserver.crt", f"--tls-private-key-file={pki}/apiserver.key",
        f"--client-ca-file={pki}/ca.crt", f"--kubelet-certificate-authority={pki}/ca.crt",
        f"--kubelet-client-certificate={pki}/apiserver-kubelet.crt",
        f"--kubelet-client-key={pki}/apiserver-kubelet.key",
        # The name of the node can be resolved neither here nor on the host.
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-account-key-file={pki}/sa.pub", f"--service-account-signing-key-file={pki}/sa.key",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-cluster-ip-range={SERVICE_SUBNET}", "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction", "--allow-privileged",
        f"--audit-policy-file={Inside.config}/audit.json", f"--audit-log-path={Inside.logs}/audit.log",
        *_gates(settings),
    ]  # fmt: skip
    if settings.runtime_config:
        command.append("--runtime-config=" + ",".join(f"{key}={on}" for key, on in settings.runtime_config.items()))
    return Component("kube-apiserver", tuple(command))


def _controller_manager(settings: Settings) -> Component:
    pki = Inside.pki
    return Component("kube-controller-manager", (
        _program("kube-controller-manager"), f"--kubeconfig={pki}/kube-controller-manager.conf",
        "--bind-address=127.0.0.1", "--leader-elect=false", "--use-service-account-credentials",
        f"--service-account-private-key-file={pki}/sa.key", f"--root-ca-file={pki}/ca.crt",
        f"--cluster-signing-cert-file={pki}/ca.crt", f"--cluster-signing-key-file={pki}/ca.key",
        f"--cluster-cidr={POD_SUBNET}",
        # Tests of a lost node shall not wait for a minute; the kubelet's lease is renewed every three seconds.
        "--node-monitor-grace-period=20s", "--node-monitor-period=2s",
        # Tests of scale measure the operator, not the controllers' modest defaults.
        "--concurrent-job-syncs=20", "--kube-api-qps=200", "--kube-api-burst=400", *_gates(settings)))  # fmt: skip


def _scheduler(settings: Settings) -> Component:
    return Component("kube-scheduler", (
        _program("kube-scheduler"), f"--kubeconfig={Inside.pki}/kube-scheduler.conf", "--bind-address=127.0.0.1",
        "--leader-elect=false", "--kube-api-qps=200", "--kube-api-burst=400", *_gates(settings)))  # fmt: skip


def _kubelet(layout: Layout, settings: Settings) -> Component:
    return Component("kubelet", (
        _program("kubelet"), f"--config={Inside.config}/kubelet.json", f"--kubeconfig={Inside.pki}/kubelet.conf",
        f"--hostname-override={layout.node_name}", f"--node-ip={settings.node_address}"))  # fmt: skip


def _proxy(layout: Layout, settings: Settings) -> Component:
    return Component("kube-proxy", (
        _program("kube-proxy"), f"--kubeconfig={Inside.pki}/kube-proxy.conf", f"--cluster-cidr={POD_SUBNET}",
        f"--hostname-override={layout.node_name}", "--proxy-mode=iptables",
        # These settings of connection tracking are of the whole machine.
        "--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0s",
        "--conntrack-tcp-timeout-close-wait=0s", *_gates(settings)))  # fmt: skip


def _kubelet_config(layout: Layout, settings: Settings) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{Inside.pki}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{Inside.pki}/kubelet.crt",
        "tlsPrivateKeyFile": f"{Inside.pki}/kubelet.key",
        "clusterDNS": [DNS_ADDRESS],
        "clusterDomain": "cluster.local",
        "resolvConf": f"{Inside.config}/resolv.conf",
        "containerRuntimeEndpoint": f"unix://{Inside.containerd_socket}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": layout.cgroup,
        "enforceNodeAllocatable": [],
        "failCgroupV1": False,
        "failSwapOn": False,
        "featureGates": settings.feature_gates,
        # A laptop's disk may be nearly full; images come from us and must stay.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "nodeLeaseDurationSeconds": 12,
        "kubeAPIQPS": 100,
        "kubeAPIBurst": 200,
        "maxPods": 250,
    }


def _cni_config() -> dict[str, Any]:
    # Point-to-point links, as kind's own network has them: services work without bridge filtering in the kernel.
    return {
        "cniVersion": "0.4.0",
        "name": "node",
        "plugins": [
            {
                "type": "ptp",
                "ipam": {
                    "type": "host-local",
                    "dataDir": "/run/cni-addresses",
                    "ranges": [[{"subnet": POD_SUBNET}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


def _containerd_config(layout: Layout) -> str:
    return f"""\
version = 2
root = "{Inside.images}"
state = "/run/containerd"
[grpc]
  address = "{Inside.containerd_socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd-opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter(layout.root)}"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugin_folder()}"
    conf_dir = "{Inside.config}/cni"
"""


def _gates(settings: Settings) -> list[str]:
    gates = ",".join(f"{name}={str(on).lower()}" for name, on in settings.feature_gates.items())
    return [f"--feature-gates={gates}"] if gates else []


def _program(name: str) -> str:
    return str(Inside.programs / name)


def _write(file: Path, value: object) -> None:
    file.write_text(json.dumps(value, indent=1))
