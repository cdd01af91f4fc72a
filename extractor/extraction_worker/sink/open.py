"""The sink that a job declares: a thin adapter between the contract and the sinks, which don't know it."""

from pathlib import Path
from typing import TYPE_CHECKING

from extraction_contract.models import S3Sink as DeclaredS3
from extraction_contract.resolve import ResolvedJob
from extraction_worker.memory_file import MemoryFile
from extraction_worker.sink.abc import Sink
from extraction_worker.sink.folder import FolderSink

if TYPE_CHECKING:
    from extraction_worker.sink.s3_bucket import Bucket
    from extraction_worker.sink.s3_client import S3Options


def open_sink(resolved: ResolvedJob, *, volumes_dir: Path, run_id: str) -> Sink:
    """Return the sink of a job; nothing is looked at yet.

    Parameters
    ----------
    volumes_dir
        Where a volume CLAIM is the folder ``volumes_dir/CLAIM``.
    run_id
        Keys staging.

    Raises
    ------
    ManifestError
        A Secret can't be read.
    """
    declared = resolved.job.spec.sink
    if declared.s3 is not None:
        return _open_s3(resolved, declared.s3, run_id)
    root = volume_root(resolved, volumes_dir)
    return FolderSink(root, resolved.job.sink_path, run_id=run_id, if_exists=declared.if_exists)


def volume_root(resolved: ResolvedJob, volumes_dir: Path) -> Path:
    """Return the folder of the volume that a job writes to."""
    volume = resolved.job.spec.sink.volume
    if volume is None:
        raise AssertionError("a job has exactly one sink")
    return volumes_dir / volume.claim_name


def open_bucket(resolved: ResolvedJob) -> "Bucket":
    """Return the bucket that a job writes to, for reading what lies beside.

    Raises
    ------
    ManifestError
        A Secret can't be read.
    """
    declared = resolved.job.spec.sink.s3
    if declared is None:
        raise AssertionError("a job has exactly one sink")
    from extraction_worker.sink.s3_bucket import Bucket

    return Bucket(declared.bucket, _s3_options(resolved, declared))


def _open_s3(resolved: ResolvedJob, declared: DeclaredS3, run_id: str) -> Sink:
    # Here and not above: botocore takes a quarter of a second to import, and a volume doesn't need it.
    from extraction_worker.sink.s3 import S3Sink

    return S3Sink(
        declared.bucket,
        resolved.job.sink_path,
        _s3_options(resolved, declared),
        run_id=run_id,
        if_exists=resolved.job.spec.sink.if_exists,
        publish_guard=resolved.job.spec.sink.publish_guard,
    )


def _s3_options(resolved: ResolvedJob, declared: DeclaredS3) -> "S3Options":
    from extraction_worker.sink.s3_client import S3Credentials, S3Options

    def credentials() -> S3Credentials:
        found = resolved.s3_credentials()
        if found is None:
            raise AssertionError("a reference to a Secret resolves to credentials")
        token = found.session_token.get_secret_value() if found.session_token is not None else None
        return S3Credentials(found.access_key_id, found.secret_access_key.get_secret_value(), token)

    authorities = resolved.sink_ca()
    return S3Options(
        endpoint=declared.endpoint,
        region=declared.region,
        ca=MemoryFile("s3-ca", authorities) if authorities is not None else None,
        path_style=declared.force_path_style,
        credentials=credentials if declared.credentials_secret_ref is not None else None,
    )
