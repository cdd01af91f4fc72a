"""Every model of the contract by one import: ``from extraction_contract.models import DataSource, ExtractionJob``."""

from extraction_contract.base import API_VERSION, GROUP, VERSION, Contract, Rule
from extraction_contract.job import (
    DEFAULT_NAMESPACE,
    DataSourceRef,
    ExtractionJob,
    ExtractionJobSpec,
    Partitioning,
    Reuse,
    Snapshot,
    SourceProof,
)
from extraction_contract.mask import Mask, MaskKeyRef
from extraction_contract.meta import CASecretRef, Condition, Metadata, SecretRef
from extraction_contract.pod import PodTemplate, ResourceRequirements, Toleration
from extraction_contract.scalars import Duration, Quantity
from extraction_contract.secret import Secret
from extraction_contract.sink import FileFormat, S3Sink, Sink, VolumeSink
from extraction_contract.source import (
    Connection,
    DataSource,
    DataSourceSpec,
    DataSourceStatus,
    Limits,
    Policy,
    Pool,
    ServerStatus,
)
from extraction_contract.status import (
    ExtractionJobStatus,
    PlanStatus,
    ProgressStatus,
    ResultStatus,
    ReusedStatus,
)

__all__ = [
    "API_VERSION", "DEFAULT_NAMESPACE", "GROUP", "VERSION",
    "CASecretRef", "Condition", "Connection", "Contract", "DataSource", "DataSourceRef", "DataSourceSpec",
    "DataSourceStatus", "Duration", "ExtractionJob", "ExtractionJobSpec", "ExtractionJobStatus", "FileFormat",
    "Limits", "Mask", "MaskKeyRef", "Metadata", "Partitioning", "PlanStatus", "PodTemplate", "Policy", "Pool",
    "ProgressStatus", "Quantity", "ResourceRequirements", "ResultStatus", "Reuse", "ReusedStatus",
    "Rule", "S3Sink", "Secret", "SecretRef",
    "ServerStatus", "Sink", "Snapshot", "SourceProof", "Toleration", "VolumeSink",
]  # fmt: skip
