"""ExtractionJob: one table or query, into one set of files."""

import re
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from extraction_contract.base import API_VERSION, Contract, Matches, Rule, Unique
from extraction_contract.mask import ColumnName, Mask
from extraction_contract.meta import Metadata
from extraction_contract.pod import PodTemplate
from extraction_contract.scalars import Bytes, Duration, Lasts, ObjectName, Quantity
from extraction_contract.sink import Sink
from extraction_contract.status import ExtractionJobStatus

_IDENTIFIER = r'([A-Za-z_][A-Za-z0-9_$]*|"([^"\x00-\x1f\x7f]|"")+")'
SQL = Annotated[str, Field(min_length=1, max_length=32768), Matches(r"[^\x00]*", "must not contain the character NUL")]


class DataSourceRef(Contract):
    """A DataSource in the same namespace."""

    name: ObjectName
    """Name of the DataSource."""


class Partitioning(Contract):
    """How the table is split into chunks, each read, retried and proven by itself."""

    strategy: Literal["Auto", "Range", "Ctid", "None"] = "Auto"
    """``Ctid`` splits by pages, ``Range`` by a column, ``None`` not at all; ``Auto`` takes pages where the table has
    them, otherwise ``column`` where it is declared, otherwise one chunk."""
    column: ColumnName | None = None
    """The column of ``Range``; an indexed one, or each chunk reads the whole table."""
    target_bytes: Annotated[Quantity, Bytes("64Ki", "64Gi")] = Quantity("64Mi")
    """About as many bytes of the source go into a chunk."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "column",
            "column is required by strategy Range",
            "self.strategy != 'Range' || has(self.column)",
            lambda self: self.strategy != "Range" or self.column is not None,
        ),
        Rule(
            "column",
            "column is for strategy Range or Auto",
            "!has(self.column) || self.strategy in ['Range', 'Auto']",
            lambda self: self.column is None or self.strategy in {"Range", "Auto"},
        ),
    )


class Snapshot(Contract):
    """The snapshot that all chunks share, under ``consistency: Snapshot``."""

    max_age: Annotated[Duration, Lasts("1s", "168h")] = Duration("6h")
    """The snapshot is given up after this time: while it lives, the source can't clean up dead rows."""
    on_loss: Literal["Fail", "Restart", "Degrade"] = "Fail"
    """When it is lost: fail, begin anew, or go on with a snapshot for each chunk and say so in the result."""


class SourceProof(Contract):
    """How much of the source computes its own checksums, under ``verification: Source``."""

    sample_percent: Annotated[int, Field(ge=1, le=100)] = 100
    """Percentage of the chunks, chosen by a seed from the plan."""


class Reuse(Contract):
    """Taking the result of an earlier job that read the same, instead of reading it again."""

    max_age: Annotated[Duration, Lasts("1s", "15m")] = Duration("15m")
    """Not a result that was published longer ago."""


class ExtractionJobSpec(Contract):
    """What to extract, how, and to where. Cannot change, except where it says so."""

    data_source_ref: DataSourceRef
    """The database."""
    table: (
        Annotated[
            str,
            Field(min_length=3, max_length=260),
            Matches(
                rf"{_IDENTIFIER}\.{_IDENTIFIER}",
                "must be SCHEMA.TABLE, each as in SQL: folded to lower case unless in double quotes",
            ),
        ]
        | None
    ) = None
    """A table, view, materialised view or foreign table as ``SCHEMA.TABLE``; quoted as in SQL where needed."""
    query: SQL | None = None
    """One SELECT, instead of ``table``. Its own list of columns and its own WHERE decide what is extracted."""
    columns: Annotated[tuple[ColumnName, ...], Field(min_length=1, max_length=1600), Unique()] | None = None
    """Columns of ``table``, by their exact names; unset is all."""
    where: SQL | None = None
    """A predicate on the rows of ``table``."""
    masks: Annotated[tuple[Mask, ...], Field(max_length=256), Unique("column")] = ()
    """What is written in place of the values of columns, one mask for each at most."""
    on_unrepresentable: Literal["Fail", "String", "Null"] = "Fail"
    """What becomes of a value that the column's type in the file can't hold: the job fails, the whole column becomes
    text, or the value becomes null."""
    partitioning: Partitioning = Partitioning()
    """How the table is split into chunks."""
    consistency: Literal["Snapshot", "PerPartition"] = "Snapshot"
    """Whether all rows are of one moment, or those of each chunk."""
    snapshot: Snapshot = Snapshot()
    """The snapshot that all chunks share."""
    parallelism: Annotated[int, Field(ge=1, le=256)] = 4
    """Worker pods at the same time, at most. May change."""
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0
    """Of the jobs that wait for connections to one server, those of higher priority begin first, and among equals those
    that were created first. A job that has begun isn't stopped for another. May change."""
    sink: Sink
    """Where the files go."""
    verification: Literal["None", "Written", "Decoded", "Source"] = "Written"
    """What is proven before anything is published; each includes those before it. ``Written``: the sink holds every
    byte. ``Decoded``: the files decode to what was read. ``Source``: the server computes the same sums."""
    source_proof: SourceProof | None = None
    """How much ``verification: Source`` covers; unset is all."""
    reuse: Reuse | None = None
    """Copy the files of an earlier job that read the same from this DataSource into the same bucket or volume and had
    this set, too, while nothing at all was written to the source since; unset is never. Needs Redis; without it, and
    whenever anything is in doubt, the job reads the source."""
    active_deadline_seconds: Annotated[int, Field(ge=1, le=31_536_000)] = 86_400
    """The job fails when it isn't done after this time."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=31_536_000)] = 86_400
    """Failed pods are kept this long, for their logs. May change."""
    suspend: bool = False
    """Stop the workers until this is false again. May change."""
    cancel: bool = False
    """End the job without a result. May become true."""
    retry: Annotated[int, Field(ge=0, le=1000)] = 0
    """A failed job starts again when this grows."""
    pod_template: PodTemplate = PodTemplate()
    """What the job's pods are given."""

    MUTABLE = frozenset({"parallelism", "priority", "ttlSecondsAfterFinished", "suspend", "cancel", "retry"})

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "",
            "exactly one of table and query must be set",
            "has(self.table) != has(self.query)",
            lambda self: (self.table is None) != (self.query is None),
        ),
        Rule(
            "columns",
            "columns is for table: a query lists its own",
            "!has(self.columns) || !has(self.query)",
            lambda self: self.columns is None or self.query is None,
        ),
        Rule(
            "where",
            "where is for table: a query has its own",
            "!has(self.where) || !has(self.query)",
            lambda self: self.where is None or self.query is None,
        ),
        Rule(
            "partitioning.strategy",
            "partitioning.strategy Ctid is for table: a query's rows have no pages",
            "self.partitioning.strategy != 'Ctid' || !has(self.query)",
            lambda self: self.partitioning.strategy != "Ctid" or self.query is None,
        ),
        Rule(
            "sourceProof",
            "sourceProof is for verification Source",
            "!has(self.sourceProof) || self.verification == 'Source'",
            lambda self: self.source_proof is None or self.verification == "Source",
        ),
        Rule(
            "partitioning.column",
            "partitioning.column can't be masked: its values are the bounds of chunks",
            "!has(self.partitioning.column) || !has(self.masks)"
            " || !self.masks.exists(m, m.column == self.partitioning.column)",
            lambda self: self.partitioning.column not in {mask.column for mask in self.masks},
        ),
        Rule("cancel", "cancel can't be taken back", "self.cancel || !oldSelf.cancel"),
        Rule("retry", "retry only grows", "self.retry >= oldSelf.retry"),
    )


class ExtractionJob(Contract):
    """One table or query, extracted once into one set of files that is proven complete."""

    api_version: Literal["extraction-operator.io/v1alpha1"] = API_VERSION
    kind: Literal["ExtractionJob"] = "ExtractionJob"
    metadata: Metadata
    spec: ExtractionJobSpec
    """What is declared."""
    status: ExtractionJobStatus = ExtractionJobStatus()
    """What was found and done."""

    @property
    def table_name(self) -> tuple[str, str] | None:
        """Schema and table as the catalog spells them: unquoted names are folded; None for a query."""
        if self.spec.table is None:
            return None
        schema, name = (match.group() for match in re.finditer(_IDENTIFIER, self.spec.table))
        return _unquoted(schema), _unquoted(name)

    @property
    def sink_path(self) -> str:
        """Where the files lie below the bucket or the volume, without a slash at the end.

        The declared prefix or path as it is; ``NAMESPACE/JOB`` where none is declared.
        """
        sink = self.spec.sink
        declared = sink.s3.prefix if sink.s3 is not None else sink.volume.path if sink.volume is not None else None
        return (declared or f"{self.metadata.namespace or DEFAULT_NAMESPACE}/{self.metadata.name}").rstrip("/")


DEFAULT_NAMESPACE = "default"
"""The namespace of a manifest that names none, as with kubectl."""


def _unquoted(identifier: str) -> str:
    if identifier.startswith('"'):
        return identifier[1:-1].replace('""', '"')
    return identifier.lower()
