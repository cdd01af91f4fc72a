"""Extractions: their manifests and secrets, in local mode on this machine and as a plain Job in the cluster."""

import base64
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2e.support.api import Object
from e2e.support.cluster import Cluster, has_ended
from e2e.support.pods import EXTRACTOR, RESTRICTED
from e2e.support.servers import Postgres, Store

API = "extraction-operator.io/v1alpha1"
CLAIM = "shelf"
"""Name of the volume that jobs write to."""


@dataclass(frozen=True)
class Extraction:
    """An ExtractionJob with all that it refers to."""

    namespace: str
    postgres: Postgres
    table: str
    host: str
    """The servers' machine, as those call it who run the job."""
    store: Store | None = None
    """Where files go; a volume where there is none."""
    bucket: str = ""
    prefix: str = ""
    spec: dict[str, Any] = field(default_factory=dict)
    """More of the job, merged one level deep."""

    @property
    def secrets(self) -> dict[str, dict[str, str]]:
        """Values of secrets by name and key."""
        found = {
            "reader": {"username": self.postgres.reader, "password": self.postgres.reader_password},
            "authority": {"ca.crt": self.postgres.ca},
        }
        if self.store:
            found["lake"] = {"accessKeyId": self.store.access_key, "secretAccessKey": self.store.secret_key}
        return found

    @property
    def source(self) -> Object:
        """The DataSource."""
        connection = {
            "host": self.host, "port": self.postgres.server.port, "database": "postgres", "sslMode": "verify-full",
            "caSecretRef": {"name": "authority", "key": "ca.crt"},
        }  # fmt: skip
        return {
            "apiVersion": API, "kind": "DataSource", "metadata": {"name": "shop", "namespace": self.namespace},
            "spec": {
                "type": "PostgreSQL", "connection": connection, "credentialsSecretRef": {"name": "reader"},
            },
        }  # fmt: skip

    @property
    def job(self) -> Object:
        """The ExtractionJob."""
        target: dict[str, Any] = {"volume": {"claimName": CLAIM}}
        if self.store:
            target = {"s3": {
                "bucket": self.bucket, "prefix": self.prefix, "endpoint": self.store.endpoint(self.host),
                "region": "us-east-1", "credentialsSecretRef": {"name": "lake"}}}  # fmt: skip
        spec = {
            "dataSourceRef": {"name": "shop"}, "table": self.table, "partitioning": {"targetBytes": "16Mi"},
            "verification": "Decoded", "sink": {"format": {"type": "Parquet", "compression": "zstd"}} | target,
        }  # fmt: skip
        return {
            "apiVersion": API, "kind": "ExtractionJob", "spec": spec | self.spec,
            "metadata": {"name": "records", "namespace": self.namespace},
        }  # fmt: skip

    @property
    def manifests(self) -> str:
        """Both as a file."""
        return f"{json.dumps(self.source)}\n---\n{json.dumps(self.job)}\n"

    def run_locally(self, folder: Path) -> Path:
        """Run the job on this machine; return the folder of the volume."""
        (folder / "job.yaml").write_text(self.manifests)
        for name, keys in self.secrets.items():
            (folder / "secrets" / name).mkdir(parents=True)
            for key, value in keys.items():
                (folder / "secrets" / name / key).write_text(value)
        volumes = folder / "volumes"
        (volumes / CLAIM).mkdir(parents=True)
        command: list[str | Path] = [Path(sys.executable).with_name("extraction"), "run", folder / "job.yaml"]
        subprocess.run([*command, "--secrets-dir", folder / "secrets", "--volumes-dir", volumes], check=True)
        return volumes / CLAIM

    def apply_secrets(self, namespace: Cluster) -> None:
        """Make the secrets in the cluster."""
        for name, keys in self.secrets.items():
            data = {key: base64.b64encode(value.encode()).decode() for key, value in keys.items()}
            namespace.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data})

    def run_as_job(
        self, namespace: Cluster, *, volume: dict[str, Any] | None = None, command: tuple[str, ...] = (),
        seconds: float = 180, **spec: Any,
    ) -> Object:  # fmt: skip
        """Run ``extraction run`` as a Job to its end; return the Job.

        Any user, no token, nothing to write to but /tmp and the volume.

        Parameters
        ----------
        volume
            The volume at the job's claim; the claim itself, which is there then, if absent.
        command
            Run instead, with the arguments of ``extraction`` appended.
        **spec
            More of the Job.
        """
        self.apply_secrets(namespace)
        volumes: dict[str, dict[str, Any]] = {
            "manifests": {"configMap": {"name": "manifests"}}, "tmp": {"emptyDir": {}},
            CLAIM: volume or {"persistentVolumeClaim": {"claimName": CLAIM}},
        }  # fmt: skip
        volumes |= {name: {"secret": {"secretName": name}} for name in self.secrets}
        paths = {name: f"/secrets/{name}" for name in self.secrets}
        paths |= {"manifests": "/manifests", "tmp": "/tmp", CLAIM: f"/volumes/{CLAIM}"}
        container: dict[str, Any] = {
            "name": "extraction", "image": EXTRACTOR, "imagePullPolicy": "Never",
            "args": ["run", "/manifests/job.yaml", "--secrets-dir=/secrets", "--volumes-dir=/volumes"],
            "resources": {"limits": {"memory": "768Mi"}}, "securityContext": RESTRICTED,
            "volumeMounts": [{"name": name, "mountPath": path} for name, path in paths.items()],
        } | ({"command": list(command)} if command else {})  # fmt: skip
        pods = {
            "restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [container],
            "volumes": [{"name": name} | kind for name, kind in volumes.items()],
        }  # fmt: skip
        namespace.apply(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "manifests"},
             "data": {"job.yaml": self.manifests}},
            {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "records"},
             "spec": {"backoffLimit": 0, "template": {"spec": pods}} | spec},
        )  # fmt: skip
        return namespace.wait_for("job", "records", has_ended, seconds)


def read_published(volume: Path, extraction: Extraction) -> Object:
    """Return the manifest of what :meth:`Extraction.run_locally` published to a volume."""
    found: Object = json.loads((volume / extraction.namespace / "records" / "_manifest.json").read_text())
    return found


def claim(name: str = CLAIM, mode: str = "ReadWriteOnce", storage: str = "1Gi") -> Object:
    """Return a claim of a volume of the default class."""
    return {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
        "spec": {"accessModes": [mode], "resources": {"requests": {"storage": storage}}},
    }  # fmt: skip
