"""The sink that a job declares: a thin adapter between the contract and the sinks, which don't know it."""

from pathlib import Path

from extraction_contract.models import S3Sink as DeclaredS3
from extraction_contract.resolve import ResolvedJob
from extraction_worker.memory_file import MemoryFile
from extraction_worker.sink.abc import Sink
from extraction_worker.sink.folder import FolderSink


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
    if declared.volume is None:
        raise AssertionError("a job has exactly one sink")
    root = volumes_dir / declared.volume.claim_name
    return FolderSink(root, resolved.job.sink_path, run_id=run_id, if_exists=declared.if_exists)


def _open_s3(resolved: ResolvedJob, declared: DeclaredS3, run_id: str) -> Sink:
    # Here and not above: boto3 takes a quarter of a second to import, and a volume doesn't need it.
    from extraction_worker.sink.s3 import S3Sink
    from extraction_worker.sink.s3_client import S3Credentials, S3Options

    def credentials() -> S3Credentials:
        found = resolved.s3_credentials()
        if found is None:
            raise AssertionError("a reference to a Secret resolves to credentials")
        token = found.session_token.get_secret_value() if found.session_token is not None else None
        return S3Credentials(found.access_key_id, found.secret_access_key.get_secret_value(), token)

    authorities = resolved.sink_ca()
    options = S3Options(
        endpoint=declared.endpoint,
        region=declared.region,
        ca=MemoryFile("s3-ca", authorities) if authorities is not None else None,
        path_style=declared.force_path_style,
        credentials=credentials if declared.credentials_secret_ref is not None else None,
    )
    return S3Sink(
        declared.bucket,
        resolved.job.sink_path,
        options,
        run_id=run_id,
        if_exists=resolved.job.spec.sink.if_exists,
        publish_guard=resolved.job.spec.sink.publish_guard,
    )
