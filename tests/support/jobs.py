"""Jobs over the databases of tests, as manifests that the real loader reads."""

from pathlib import Path
from typing import Any

import yaml

from extraction_contract.load import load_files
from extraction_contract.resolve import ResolvedJob, resolve
from extraction_worker.report.progress import Progress
from extraction_worker.stages.local import LocalRun
from extraction_worker.stages.settings import LocalOptions

API = "extraction-operator.io/v1alpha1"


def write_job(
    folder: Path, database, *, spec: dict[str, Any] | None = None, source: dict[str, Any] | None = None,
    user: str | None = None, password: str | None = None, s3: tuple[Any, str] | None = None,
    secrets: dict[str, dict[str, str]] | None = None,
) -> list[Path]:  # fmt: skip
    """Write ``job.yaml`` and ``secrets.yaml`` of a job on ``public.t``; return both.

    ``spec`` and ``source`` are merged over the defaults, one level deep; ``s3`` is a server and a bucket;
    ``secrets`` are further ones, by name and key.
    """
    server = database.server
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "volumes" / "lake").mkdir(parents=True, exist_ok=True)
    sink: dict[str, Any] = {"volume": {"claimName": "lake"}}
    documents_of_secrets = [
        {
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "reader"},
            "stringData": {"username": user or server.user, "password": password or server.password},
        }
    ]  # fmt: skip
    if s3 is not None:
        store, bucket = s3
        sink = {"s3": {"bucket": bucket, "endpoint": store.endpoint, "credentialsSecretRef": {"name": "lake"}}}
        keys = {"accessKeyId": store.access_key, "secretAccessKey": store.secret_key}
        documents_of_secrets.append(
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "lake"}, "stringData": keys}
        )
    for name, values in (secrets or {}).items():
        documents_of_secrets.append(
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": values}
        )
    job_spec = {"dataSourceRef": {"name": "db"}, "table": "public.t", "sink": sink} | (spec or {})
    if spec and "query" in spec:
        del job_spec["table"]
    if spec and "sink" in spec:
        job_spec["sink"] = sink | spec["sink"]
    source_spec = {
        "type": "PostgreSQL",
        "connection": {"host": server.host, "port": server.port, "database": database.name, "sslMode": "disable"},
        "credentialsSecretRef": {"name": "reader"},
    }
    for key, value in (source or {}).items():
        source_spec[key] = source_spec.get(key, {}) | value if isinstance(value, dict) else value
    documents = [
        {"apiVersion": API, "kind": "DataSource", "metadata": {"name": "db"}, "spec": source_spec},
        {"apiVersion": API, "kind": "ExtractionJob", "metadata": {"name": "job"}, "spec": job_spec},
    ]
    (folder / "job.yaml").write_text(yaml.safe_dump_all(documents, sort_keys=False))
    (folder / "secrets.yaml").write_text(yaml.safe_dump_all(documents_of_secrets))
    return [folder / "job.yaml", folder / "secrets.yaml"]


def resolve_job(files: list[Path]) -> ResolvedJob:
    """Load and resolve the only job of the files."""
    manifests = load_files(files)
    return resolve(manifests.job(), manifests)


def local_run(
    folder: Path, database, *, threads: int = 2, memory: int | None = None, progress: Progress | None = None, **changes
) -> LocalRun:
    """Return a run of a job on ``public.t``; ``changes`` are :func:`write_job`'s."""
    resolved = resolve_job(write_job(folder, database, **changes))
    return LocalRun(resolved, LocalOptions(folder / "volumes", threads, memory), progress or Progress())


def published(folder: Path) -> Path:
    """Return the folder of the published set."""
    return folder / "volumes" / "lake" / "default" / "job"


def everything(folder: Path) -> list[str]:
    """Return every file in the volume, staging included."""
    root = folder / "volumes" / "lake"
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
