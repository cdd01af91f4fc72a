"""Where the files of a job go, and what they are."""

import re
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from extraction_contract.base import Contract, Matches, Rule
from extraction_contract.meta import CASecretRef, SecretRef
from extraction_contract.scalars import Bytes, ObjectName, Quantity, SinkPath

_ENDPOINT = r"https?://[A-Za-z0-9_.-]+(:[0-9]{1,5})?/?"
_COMPRESSIONS = {
    "Parquet": ("zstd", "lz4", "snappy", "gzip", "none"),
    "Arrow": ("zstd", "lz4", "none"),
    "CSV": ("zstd", "gzip", "none"),
    "JSONL": ("zstd", "gzip", "none"),
}


class FileFormat(Contract):
    """How files are encoded."""

    type: Literal["Parquet", "Arrow", "CSV", "JSONL"] = "Parquet"
    """Parquet, Arrow IPC, CSV with a header line, or one JSON object a line."""
    compression: Literal["zstd", "lz4", "snappy", "gzip", "none"] = "zstd"
    """Parquet has all of these, Arrow ``zstd`` and ``lz4``, the text formats ``zstd`` and ``gzip``."""
    target_file_bytes: Annotated[Quantity, Bytes("64Ki", "64Gi")] | None = None
    """Start the next file after about this many bytes; unset is one file for each chunk."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "compression",
            "compression must be one that the format has: Arrow zstd, lz4, none; CSV and JSONL zstd, gzip, none",
            "self.type == 'Parquet' || self.compression in"
            " (self.type == 'Arrow' ? ['zstd', 'lz4', 'none'] : ['zstd', 'gzip', 'none'])",
            lambda self: self.compression in _COMPRESSIONS[self.type],
        ),
    )


class S3Sink(Contract):
    """A bucket of S3 or of a store that speaks its protocol."""

    bucket: Annotated[
        str,
        Field(min_length=3, max_length=63),
        Matches(
            r"[a-z0-9][a-z0-9.-]*[a-z0-9]", "must be the name of a bucket: lower case letters, digits, '.' and '-'"
        ),
    ]
    """Name of the bucket; it must be there."""
    prefix: SinkPath | None = None
    """The files' keys are this prefix, a slash and the file's name; unset is ``NAMESPACE/JOB``."""
    endpoint: Annotated[str, Field(min_length=8, max_length=512)] | None = None
    """URL of the store; unset is Amazon's of the region."""
    region: (
        Annotated[
            str, Field(min_length=1, max_length=63), Matches(r"[a-z0-9-]+", "must be a region, e.g. eu-central-1")
        ]
        | None
    ) = None
    """The bucket's region; unset is what the pod's environment says."""
    credentials_secret_ref: SecretRef | None = None
    """The Secret with the keys ``accessKeyId``, ``secretAccessKey`` and, optionally, ``sessionToken``; unset is the
    identity that the environment gives, e.g. of the service account."""
    ca_secret_ref: CASecretRef | None = None
    """The certificate authorities to trust; the system's where this is unset."""
    force_path_style: bool = False
    """Put the bucket in the URL's path instead of its host name; many stores other than Amazon's need it."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        # A rule of the whole: the API server repeats the value in the error of a field, and here it may hold a secret.
        Rule(
            "endpoint",
            "endpoint must be a URL of a scheme, a host and perhaps a port, e.g. https://minio.storage:9000",
            f"!has(self.endpoint) || self.endpoint.matches(r'^{_ENDPOINT}$')",
            lambda self: self.endpoint is None or re.fullmatch(_ENDPOINT, self.endpoint) is not None,
        ),
        Rule(
            "caSecretRef",
            "caSecretRef needs an endpoint of https: otherwise no certificate is verified",
            "!has(self.caSecretRef) || !has(self.endpoint) || self.endpoint.startsWith('https:')",
            lambda self: self.ca_secret_ref is None or self.endpoint is None or self.endpoint.startswith("https:"),
        ),
    )


class VolumeSink(Contract):
    """A persistent volume; locally a folder of ``--volumes-dir`` with the claim's name."""

    claim_name: ObjectName
    """Name of the PersistentVolumeClaim in the job's namespace."""
    path: SinkPath | None = None
    """Folder below the volume's root that receives the files; unset is ``NAMESPACE/JOB``."""


class Sink(Contract):
    """Where the files go. A reader finds ``_manifest.json`` and the parts that it names, or nothing."""

    format: FileFormat = FileFormat()
    """How files are encoded."""
    s3: S3Sink | None = None
    """Files go to a bucket."""
    volume: VolumeSink | None = None
    """Files go to a volume."""
    if_exists: Literal["Fail", "Replace"] = "Fail"
    """What to do when a published set is already there. ``Replace`` keeps it until the new one is whole."""
    publish_guard: Literal["Conditional", "None"] = "Conditional"
    """How two publishers are kept apart: by the store's conditional writes, or not at all, for stores without."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "",
            "exactly one of s3 and volume must be set",
            "has(self.s3) != has(self.volume)",
            lambda self: (self.s3 is None) != (self.volume is None),
        ),
        Rule(
            "publishGuard",
            "publishGuard None is for s3: a volume always has a guard",
            "self.publishGuard != 'None' || has(self.s3)",
            lambda self: self.publish_guard != "None" or self.s3 is not None,
        ),
    )
