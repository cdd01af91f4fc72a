"""The values that cross the boundaries between stages: plan, results, manifest. Frozen, versioned, JSON.

Each is written by one stage and read by the next, perhaps in another pod and by another version of this program:
``plan.json`` by *plan* for *work*, ``result-NNNNN.json`` by *work* for *publish*, ``_manifest.json`` by *publish*
for readers and for ``extraction verify``. Sizes are bytes, times are UTC.
"""

import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, BinaryIO, ClassVar, Literal, Self

import xxhash
from pydantic import BaseModel, ConfigDict, Field, ValidationError, WrapValidator
from pydantic.alias_generators import to_camel

from extraction_contract.status import ConnectionCounts
from extraction_worker.lines import Changed, Descriptor, Lines, document, split
from extraction_worker.lines import Read as ReadBytes

PLAN_VERSION = "extraction-plan/v1"
RESULT_VERSION = "extraction-result/v1"
MANIFEST_VERSION = "extraction-manifest/v1"


class Value(BaseModel):
    """A frozen value with camelCase JSON; unknown fields are refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        populate_by_name=True,
        serialize_by_alias=True,
        defer_build=True,
    )

    def to_json(self) -> bytes:
        """Return canonical JSON: fields in declared order, no nulls, UTF-8."""
        return self.model_dump_json(exclude_none=True).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Parse what :meth:`to_json` wrote; pydantic's ValidationError names the field."""
        return cls.model_validate_json(data)

    def fingerprint(self) -> str:
        """Return the xxh3-128 of the canonical JSON as 32 hexadecimal digits."""
        return xxhash.xxh3_128_hexdigest(self.to_json())


class LongValue(Value):
    """A value whose last fields are long lists, which may be :class:`Lines`.

    In its JSON each element of these has a line of its own, so that the document is written and read element by
    element; a document with other lines, e.g. one that somebody formatted, is read as well, whole.
    """

    LISTS: ClassVar[dict[str, type[Value]]]
    """Their elements by the lists' names, in the order of the fields; a list's name is the same in JSON."""

    def blocks(self) -> Iterator[bytes]:
        """Yield what :meth:`to_json` returns, in blocks."""
        head = self.model_dump_json(exclude=set(self.LISTS), exclude_none=True).encode()
        return document(head, ((name, getattr(self, name)) for name in self.LISTS))

    def to_json(self) -> bytes:
        """Return canonical JSON: fields in declared order, no nulls, UTF-8, a line for each element of the lists."""
        return b"".join(self.blocks())

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Parse what :meth:`to_json` wrote; pydantic's ValidationError names the field.

        Every element is validated now, and made when it is asked for.
        """
        return cls._parse(io.BytesIO(data), lambda start, end: data[start:end]) or super().from_json(data)

    @classmethod
    def from_file(cls, file: BinaryIO) -> Self:
        """Parse a file that stays as it is, and is closed by its owner; otherwise like :meth:`from_json`."""
        owned = Descriptor(file.fileno())
        return cls._parse(file, owned.read) or super().from_json(owned.read(0, os.fstat(file.fileno()).st_size))

    @classmethod
    def _parse(cls, lines: Iterable[bytes], read: ReadBytes) -> Self | None:
        found = split(lines, tuple(cls.LISTS))
        if found is None:
            return None
        head, spans = found
        empty = "".join(f',"{name}":[]' for name in cls.LISTS)
        lists = {name: Lines(model, read, *spans[name]) for name, model in cls.LISTS.items()}
        try:
            value = cls.model_validate_json(head.removesuffix(b"}") + empty.encode() + b"}")
            for values in lists.values():
                for _ in values:
                    pass
        except ValidationError:
            # The whole names the field as people know it.
            return None
        return value.model_copy(update=lists)


def _listed(value: Any, handler: Callable[[Any], Any]) -> Any:
    return value if isinstance(value, Lines | Changed) else tuple(handler(value))


# The source ------------------------------------------------------------------------------------------------------


class SnapshotIdentity(Value):
    """What must be equal in every session before a snapshot means the same rows.

    Snapshot ids alone repeat after a restart and on standbys, so a session compares all of it
    (:mod:`extraction_worker.source.identity`).
    """

    snapshot_id: str
    """The name that ``pg_export_snapshot()`` returned; empty under ``PerPartition``."""
    snapshot: str
    """``pg_current_snapshot()`` as text: xmin:xmax:xip_list."""
    system_identifier: str
    """From ``pg_control_system()``: which cluster; a string, because it exceeds 2^53."""
    timeline: int
    postmaster_start: datetime
    in_recovery: bool
    server_address: str
    """``HOST:PORT`` as the server sees itself; empty over a Unix socket."""
    server_version: int
    """``server_version_num``, e.g. 180006."""
    lsn: str
    """Where the log stood when the snapshot was taken. Informative: it is no CDC position."""


class RelationKind(StrEnum):
    """What a name in FROM turned out to be."""

    TABLE = "table"
    PARTITIONED = "partitioned"
    VIEW = "view"
    MATERIALIZED_VIEW = "materialized view"
    FOREIGN = "foreign table"


class Leaf(Value):
    """One physical table that is read: the table itself, or a leaf of a partitioned or inherited one."""

    oid: int
    name: str
    """Quoted ``schema.name``."""
    relfilenode: int
    """0 for relations without storage."""
    pages: int
    """Blocks of 8 KiB now, from ``pg_relation_size``."""
    heap: bool
    """Whether ctid ranges work on it: stored, and of access method ``heap``."""
    toast_pages: int = 0
    """Blocks of its TOAST table; 0 means that no value is stored out of line."""


class PgType(Value):
    """A PostgreSQL type as the catalog describes it, resolved through domains and arrays."""

    oid: int
    namespace: str
    name: str
    """``typname``, e.g. ``numeric``, ``_int4``."""
    kind: Literal["b", "c", "d", "e", "m", "p", "r"]
    """``typtype``: base, composite, domain, enum, multirange, pseudo, range."""
    typmod: int = -1
    formatted: str
    """``format_type(oid, typmod)``, e.g. ``numeric(12,2)``."""
    element: "PgType | None" = None
    """The element of an array type."""
    base: "PgType | None" = None
    """The base of a domain, with the domain's typmod applied."""


class Column(Value):
    """A column of the source, as introspection found it."""

    name: str
    type: PgType
    nullable: bool
    generated: bool = False


class MaskPlan(Value):
    """What is written in place of a column's values. It holds no key and nothing of a row, and is in the manifest."""

    method: Literal["Nullify", "Constant", "Hash", "Partial", "Truncate"]
    value: str | None = None
    """Of ``Constant``, as declared."""
    key_id: str | None = None
    """Of ``Hash``: 16 hexadecimal digits that tell keys apart and reveal none
    (:func:`extraction_worker.stream.mask_keys.key_id`)."""
    keep_first: int | None = None
    keep_last: int | None = None
    replacement: str | None = None
    to: Literal["Year", "Quarter", "Month", "Week", "Day", "Hour"] | None = None

    @property
    def reads(self) -> bool:
        """Whether the column's values are needed at all."""
        return self.method not in {"Nullify", "Constant"}


class ColumnPlan(Value):
    """How one column travels: the expression that the server evaluates and the Arrow types on both ends."""

    name: str
    type: PgType
    nullable: bool
    expression: str
    """SQL of the SELECT list, without alias, e.g. ``"amount"::pg_catalog.numeric(12,2)``."""
    conversion: str
    """How the reader turns transport into target; a name of :class:`source.types.Conversion`."""
    arrow: str
    """The target Arrow type for people, e.g. ``decimal128(12, 2)``."""
    guard: str | None = None
    """SQL of a hidden boolean column, true where the source has NULL; None where no other value arrives as NULL.

    :func:`source.types.select_list` renders it behind all columns; the batch converter checks and drops it.
    """
    mask: MaskPlan | None = None
    """What is written in place of the values. It keeps the column's target type, which was chosen for that."""


# The plan --------------------------------------------------------------------------------------------------------


class WholeRead(Value):
    """A chunk without a predicate: everything."""

    kind: Literal["whole"] = "whole"


class CtidRead(Value):
    """A chunk of heap pages ``[first_page, end_page)`` of every leaf; ``None`` is open.

    The predicate holds for all leaves of a partitioned table at once: each row has one page number in its leaf.
    """

    kind: Literal["ctid"] = "ctid"
    first_page: int | None = None
    end_page: int | None = None


class RangeRead(Value):
    """A chunk of key values ``[lower, upper)`` in the server's order; ``None`` is open.

    ``lower`` and ``upper`` are text as the server printed them; they are rendered as literals of the key's type. They
    are row data: no repr shows them. ``only_null`` reads the rows whose key is NULL, and nothing else; ``pages``
    splits a hot value further.
    """

    kind: Literal["range"] = "range"
    column: str
    type: str = ""
    """SQL name of the key's type, e.g. ``pg_catalog.int8``, in which bounds are rendered; empty is the column's own."""
    lower: str | None = Field(default=None, repr=False)
    upper: str | None = Field(default=None, repr=False)
    only_null: bool = False
    pages: CtidRead | None = None


Read = Annotated[WholeRead | CtidRead | RangeRead, Field(discriminator="kind")]


class Chunk(Value):
    """The unit of reading, retrying, resuming and proving. Writes one part, or several where files are smaller."""

    index: int
    read: Read
    estimated_rows: int
    estimated_bytes: int


class Pin(Value):
    """The relation that was planned, as it was; compared again where no lock keeps it so."""

    oid: int
    columns: tuple[str, ...]
    """``ATTNUM TYPE TYPMOD NAME`` of each planned column, as the catalog has it."""


class Consistency(StrEnum):
    """What the published rows are one picture of."""

    SNAPSHOT = "Snapshot"
    """One snapshot of the whole table."""
    PER_PARTITION = "PerPartition"
    """One snapshot for each chunk."""


class Verification(StrEnum):
    """How much is proven before the result is published; each level includes the ones before."""

    NONE = "None"
    WRITTEN = "Written"
    DECODED = "Decoded"
    SOURCE = "Source"


class Format(Value):
    """How files are encoded, resolved from the manifest (every default filled in)."""

    type: Literal["Parquet", "Arrow", "CSV", "JSONL"]
    compression: Literal["zstd", "lz4", "snappy", "gzip", "none"]
    target_file_bytes: int | None = None
    """Roll to the next part after this many bytes; None is one part for each chunk."""


class Plan(LongValue):
    """Everything that workers need, and all that decides which rows and bytes come out.

    Its :meth:`plan_digest` covers identity, columns, predicates, types, format and versions. A chunk is reused
    only under an equal digest.
    """

    LISTS = {"chunks": Chunk}

    version: str = PLAN_VERSION
    program: str
    """Version of this program."""
    run_id: str
    """The run (in the cluster: UID-ATTEMPT); keys staging."""
    source: str
    """``NAMESPACE/NAME`` of the DataSource."""
    consistency: Consistency
    identity: SnapshotIdentity
    address: str = ""
    """``ADDRESS:PORT`` at which the snapshot's server is reached, whatever the DataSource's name leads to."""
    planned_at: datetime
    """The clock that ``now()`` and its kin read in the user's SQL."""
    relation: str
    """Quoted ``schema.name``, or ``(query)``."""
    relation_kind: RelationKind | None = None
    """None for a query."""
    locks: tuple[str, ...]
    """Quoted names of every table that each session locks in ACCESS SHARE mode."""
    leaves: tuple[Leaf, ...]
    """Pinned storage of what is read; compared again under ``PerPartition``."""
    pin: Pin | None = None
    """None for a query."""
    leaves_alone: bool = False
    """Whether rows are read from :attr:`leaves` alone: a partition that is attached meanwhile isn't the snapshot's."""
    ctid_readable: bool = False
    """Whether a row can be named by its place: stored in heaps, and the role may read ctid."""
    query_hash: str | None = None
    """xxh3-128 of the user's query or predicate as it was written."""
    from_sql: str
    """What stands behind FROM: the quoted relation, or the wrapped query with its alias."""
    where_sql: str | None = None
    """The user's predicate, checked; wrapped in parentheses when rendered."""
    columns: tuple[ColumnPlan, ...]
    on_unrepresentable: Literal["Fail", "String", "Null"]
    format: Format
    verification: Verification
    proof_sample: float = 1.0
    """Fraction of chunks that ``Source`` proves, chosen by a seed from the plan."""
    strategy: str
    """``ctid``, ``range`` or ``none``."""
    strategy_reason: str
    """Why, in a sentence for people."""
    warnings: tuple[str, ...] = ()
    marker: str | None = None
    """What the source was like (:mod:`extraction_worker.source.unchanged`): while it is equal, the same reading gives
    the same rows. None where nobody asked, or nothing proves it."""
    chunks: Annotated[Sequence[Chunk], WrapValidator(_listed)]
    """Each at the place of its index."""

    def plan_digest(self) -> str:
        """Return the digest of all that decides which rows and bytes come out.

        Left out: the run, estimates, warnings and, under ``PerPartition``, where no two chunks share a snapshot
        anyway, the moment of planning. There a second run can reuse chunks of the first.
        """
        moment = {"planned_at", "identity"} if self.consistency is Consistency.PER_PARTITION else set()
        skipped = {"run_id", "address", "warnings", "marker", "strategy_reason", "verification", "proof_sample"}
        skipped |= {"chunks", "leaves", "leaves_alone", "ctid_readable"}
        state = xxhash.xxh3_128(self.model_dump_json(exclude=skipped | moment, exclude_none=True).encode())
        if moment:
            state.update(f"{self.identity.system_identifier}/{self.identity.timeline}".encode())
        for leaf in self.leaves:
            state.update(f"{leaf.oid}/{leaf.relfilenode} ".encode())
        for chunk in self.chunks:
            state.update(chunk.read.to_json())
        return state.hexdigest()

    @property
    def estimated_rows(self) -> int:
        """Sum of the chunks' estimates."""
        return sum(chunk.estimated_rows for chunk in self.chunks)

    @property
    def estimated_bytes(self) -> int:
        """Sum of the chunks' estimates: bytes that the source sends."""
        return sum(chunk.estimated_bytes for chunk in self.chunks)


# Results ---------------------------------------------------------------------------------------------------------


class Part(Value):
    """One file of the result, as the sink holds it."""

    name: str
    """File name below the sink's path, e.g. ``part-00012-1f0c9a3e.parquet``."""
    chunk: int
    rows: int
    bytes: int
    xxh3_128: str = Field(alias="xxh3_128")
    """Of every byte of the file, 32 hexadecimal digits; in JSON, too, under the digest's own name."""
    crc32: str
    """Of every byte of the file, 8 hexadecimal digits; the checksum that S3 stores, too."""
    upload_id: str | None = None
    """The multipart upload that holds it until it is published; not in the manifest."""
    upload_parts: tuple[str, ...] = Field(default=(), exclude_if=lambda value: not value)
    """``ETag:CRC32`` of each upload part, in order; not in the manifest."""


class ColumnDigest(Value):
    """The evidence of one column in one chunk."""

    name: str
    nulls: int
    digest: str
    """xxh3-128 over canonical values, independent of batching (:mod:`extraction_worker.verify.columns`)."""
    source: dict[str, str] | None = None
    """What the server computed and we matched, e.g. ``{"count": …, "sum": …, "hash": …}``."""


class Replaced(Value):
    """How many values of one kind became NULL in a column, under ``onUnrepresentable: Null``."""

    column: str
    kind: str
    """E.g. ``infinity``; never a value that only one row has."""
    count: int


class ChunkResult(Value):
    """What a worker promises about one chunk, written to staging after its parts are durable there."""

    version: str = RESULT_VERSION
    plan_digest: str
    worker: str
    """Who wrote it: the pod's uid, or the local process."""
    chunk: int
    rows: int
    source_bytes: int
    """Arrow bytes received."""
    parts: tuple[Part, ...]
    columns: tuple[ColumnDigest, ...] = ()
    """Empty under verification None and Written."""
    replaced: tuple[Replaced, ...] = ()
    verified: Verification
    seconds: float
    connections: ConnectionCounts | None = None
    """What the worker's pool did since its last result before this one: those of all results add up to the job's."""


class ManifestChunk(Value):
    """Per-chunk evidence in the manifest; bounds are row data and stay out."""

    chunk: int
    rows: int
    parts: tuple[str, ...]
    columns: tuple[ColumnDigest, ...] = ()
    source_proven: bool = False
    """Whether the server computed the same sums over this chunk under the same snapshot."""


class ManifestColumn(Value):
    """A column as readers of the manifest need it."""

    name: str
    source_type: str
    arrow_type: str
    nullable: bool
    expression: str
    mask: MaskPlan | None = None
    """What was written in place of the values; None where they are the source's own."""


class Reused(Value):
    """Whose result was taken, and what proves that it was that."""

    job: str
    """``NAMESPACE/NAME``."""
    run_id: str
    digest: str
    """Of its set."""
    published_at: datetime


class Manifest(LongValue):
    """``_manifest.json``: what was published, and the evidence that it is complete."""

    LISTS = {"parts": Part, "chunks": ManifestChunk}

    version: str = MANIFEST_VERSION
    program: str
    run_id: str
    job: str
    """``NAMESPACE/NAME``."""
    source: str
    relation: str
    query_hash: str | None = None
    """xxh3-128 of the user's query or predicate; the text itself stays out."""
    consistency: Consistency
    identity: SnapshotIdentity
    plan_digest: str
    planned_at: datetime
    published_at: datetime
    format: Format
    verification: Verification
    proof_sample: float = 1.0
    columns: tuple[ManifestColumn, ...]
    arrow_schema: str | None = None
    """Base64 of the schema as Arrow's IPC writes it: the exact types, also where a file's format has other ones."""
    replaced: tuple[Replaced, ...] = ()
    """What became NULL, over all chunks."""
    reused: Reused | None = None
    """Whose parts these are copies of. Nothing was read then: identity, plan, times and evidence are of that run."""
    rows: int
    bytes: int
    digest: str
    """xxh3-128 over the parts' names, rows and digests in order: one value for the whole set."""
    parts: Annotated[Sequence[Part], WrapValidator(_listed)]
    chunks: Annotated[Sequence[ManifestChunk], WrapValidator(_listed)]

    @staticmethod
    def set_digest(parts: Iterable[Part]) -> str:
        """Return the digest of a set of parts: xxh3-128 over ``NAME ROWS BYTES XXH3`` lines in order."""
        state = xxhash.xxh3_128()
        for part in parts:
            state.update(f"{part.name} {part.rows} {part.bytes} {part.xxh3_128}\n".encode())
        return state.hexdigest()
