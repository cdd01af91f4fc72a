"""From the sink that a job declares to the one that is used."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from extraction_contract.load import load_files
from extraction_contract.problems import ManifestError
from extraction_contract.resolve import ResolvedJob, resolve
from extraction_worker.errors import SinkRefused
from extraction_worker.sink.folder import FolderSink
from extraction_worker.sink.open import open_sink
from extraction_worker.sink.s3 import S3Sink
from support.jobs import write_job
from support.s3_gateway import Gateway, self_signed

# No database is asked.
NOBODY = SimpleNamespace(name="db", server=SimpleNamespace(user="u", password="p", host="127.0.0.1", port=1))


def resolved(folder: Path, sink: dict[str, Any], secrets: Path | None = None) -> ResolvedJob:
    """Return a job with this sink, its secrets below ``secrets``."""
    job, reader = write_job(folder, NOBODY, spec={"sink": sink})
    text = job.read_text()
    if "s3" in sink:
        text = text.replace("    volume:\n      claimName: lake\n", "")
    job.write_text(text)
    manifests = load_files([job, reader])
    return resolve(manifests.job(), manifests, secrets)


def keep_secret(folder: Path, name: str, **values: str) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    for key, value in values.items():
        (folder / name / key).write_text(value)


def test_a_volume_is_the_folder_of_its_claim(tmp_path: Path) -> None:
    for path, below in ((None, "default/job"), ("a/b/", "a/b")):
        volume = {"claimName": "claim"} | ({"path": path} if path else {})
        sink = open_sink(resolved(tmp_path, {"volume": volume}), volumes_dir=tmp_path / "mounts", run_id="run")
        assert isinstance(sink, FolderSink)
        assert sink.uri == (tmp_path / "mounts/claim" / below).as_uri()
        with pytest.raises(SinkRefused, match="claim isn't there"):
            sink.probe()
    assert not (tmp_path / "mounts").exists()


def test_a_store_is_reached_as_declared_with_secrets_as_they_are_now(
    s3_server: Any, bucket: str, tmp_path: Path
) -> None:
    certificate = self_signed(tmp_path)
    keep_secret(tmp_path / "secrets", "authority", **{"ca.crt": certificate.read_text()})
    keep_secret(tmp_path / "secrets", "keys", accessKeyId="first", secretAccessKey="secret", sessionToken="token")
    with Gateway(s3_server.port, certificate).running() as gateway:
        declared = {
            "bucket": bucket, "prefix": "a/b/", "endpoint": gateway.endpoint, "region": "eu-central-1",
            "credentialsSecretRef": {"name": "keys"}, "caSecretRef": {"name": "authority"}, "forcePathStyle": True,
        }  # fmt: skip
        job = resolved(tmp_path, {"s3": declared, "ifExists": "Replace"}, tmp_path / "secrets")
        sink = open_sink(job, volumes_dir=tmp_path, run_id="run")
        assert isinstance(sink, S3Sink)
        assert sink.uri == f"s3://{bucket}/a/b"
        sink.probe()
        keep_secret(tmp_path / "secrets", "keys", accessKeyId="second")
        sink.put_state("plan.json", b"{}")
        signed = [request.headers["Authorization"] for request in gateway.requests]
        assert all("Credential=first/" in one for one in signed[:-1])
        assert "Credential=second/" in signed[-1]
        assert "/eu-central-1/s3/" in signed[-1]
        assert gateway.requests[-1].headers["X-Amz-Security-Token"] == "token"
        (tmp_path / "secrets/keys/secretAccessKey").unlink()
        with pytest.raises(ManifestError, match="secretAccessKey"):
            sink.put_state("plan.json", b"{}")


def test_certificates_that_went_away_are_named(tmp_path: Path) -> None:
    keep_secret(tmp_path / "secrets", "authority", **{"ca.crt": "PEM"})
    declared = {"bucket": "lake", "endpoint": "https://127.0.0.1:1", "caSecretRef": {"name": "authority"}}
    job = resolved(tmp_path, {"s3": declared}, tmp_path / "secrets")
    (tmp_path / "secrets/authority/ca.crt").unlink()
    with pytest.raises(ManifestError, match="authority"):
        open_sink(job, volumes_dir=tmp_path, run_id="run")


def test_without_credentials_the_environment_has_them(
    s3_server: Any, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "from-environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with Gateway(s3_server.port).running() as gateway:
        declared = {"bucket": bucket, "endpoint": gateway.endpoint}
        job = resolved(tmp_path, {"s3": declared, "publishGuard": "None"})
        open_sink(job, volumes_dir=tmp_path, run_id="run").probe()
        assert "Credential=from-environment/" in gateway.requests[0].headers["Authorization"]
        assert not [request for request in gateway.requests if "If-Match" in request.headers]
