"""Sizes and key samples → chunks. Pure: the same request gives the same chunks, and no clock, no I/O decides.

Three ways to split, in the order of preference (docs/partitioning.md explains them to users):

``ctid``
    Ranges of heap pages. One predicate holds for all leaves of a partitioned table at once, because each row has
    exactly one page number in its leaf; so ranges ``[a, b)`` with the first open below and the last open above
    cover every row once, whatever the sizes were.
``range``
    Ranges of a key's values, in the server's order. The first and the last are open, NULL has a chunk of its own.
    A range that is much too heavy (a hot value, a key of which too little is known) is split again by pages.
``none``
    One chunk.

Sizes only decide the balance. That no row is lost or read twice follows from the shape of the bounds alone.
"""

import itertools
import math
from collections.abc import Container
from dataclasses import dataclass
from typing import Literal

from extraction_worker.errors import InvalidPartitioning
from extraction_worker.model import Chunk, Consistency, CtidRead, Leaf, RangeRead, Read, RelationKind, WholeRead

MIB = 1 << 20
BLOCK_BYTES = 8192
"""PostgreSQL's default; another block size only skews estimates."""
DEFAULT_TARGET_BYTES = 64 * MIB
TID_RANGE_VERSION = 140000
"""Before PostgreSQL 14 a range of ctid is a scan of the whole table."""
MIN_BALANCED_BYTES = 8 * MIB
"""Chunks aren't cut smaller than this only to give every thread several of them."""
CHUNKS_PER_THREAD = 4
TINY_OUTPUT = 8
"""Chunks grow when less than one eighth of ``targetBytes`` would come out of them …"""
MAX_GROWTH = 16
"""… but by no more than this factor: the estimate may be wrong, and a chunk is what a retry costs."""
BYTES_PER_LEAF = 64 * 1024
"""Each chunk plans, locks and opens every leaf; this many bytes of it pay for that."""
MAX_CHUNKS = 100_000
HEAVY = 4
"""A range of more than this many times the chunk size is split again, by pages."""
MAX_HEAVY = 4
"""Each split range costs up to one scan of the table; with more of them, pages alone are cheaper."""
LOW_CORRELATION = 0.5

Strategy = Literal["Auto", "Range", "Ctid", "None"]


@dataclass(frozen=True)
class KeyFacts:
    """What the catalog knows about a column that may become the key of ranges."""

    name: str
    type: str
    """SQL name of the type behind all domains, e.g. ``pg_catalog.int8``."""
    nullable: bool
    """Whether NULLs may be there, as far as the server enforces it in every leaf."""
    indexed: bool = False
    """Whether each leaf that has pages has a valid btree index, without predicate, that begins with the column."""
    collation: str | None = None
    """Quoted name; None for types without."""
    correlation: float | None = None
    """Between the order of the key and that of the pages, -1 to 1; None when never analysed."""


@dataclass(frozen=True)
class KeyBound:
    """A value of the key, and the share of the non-NULL rows that sort before it. The value is row data."""

    value: str
    before: float

    def __repr__(self) -> str:
        return f"KeyBound(before={self.before:.4f})"


@dataclass(frozen=True)
class KeySample:
    """How the values of a key are distributed, as far as it could be learned without a scan."""

    origin: Literal["sample", "statistics", "interpolation"]
    bounds: tuple[KeyBound, ...]
    """Strictly ascending in the server's order of the column's collation."""
    null_fraction: float = 0.0


@dataclass(frozen=True)
class Estimate:
    """What is expected to come out: rows, and bytes that the source sends."""

    rows: int
    bytes: int
    reads_toast: bool = True
    """Whether a chosen column may have values stored out of line."""


@dataclass(frozen=True)
class SplitOptions:
    """What the user declared, and what is known of the query, about splitting."""

    strategy: Strategy = "Auto"
    column: str | None = None
    target_bytes: int = DEFAULT_TARGET_BYTES
    target_file_bytes: int | None = None
    """Before compression; a chunk is made large enough to fill a file."""
    parallelism: int = 1
    """Threads that read at the same time, over all pods."""
    consistency: Consistency = Consistency.SNAPSHOT
    unchunkable: str = ""
    """Why chunks would change the result, e.g. ``the query has a LIMIT``; empty when they wouldn't."""
    secret: Container[str] = frozenset()
    """Columns that are no keys: bounds are values, and a plan holds them."""


@dataclass(frozen=True)
class ChunkRequest:
    """Everything that decides how a relation or query is split."""

    options: SplitOptions
    relation_kind: RelationKind | None
    """None for a query."""
    leaves: tuple[Leaf, ...]
    server_version: int
    estimate: Estimate
    key: KeyFacts | None = None
    """The declared column."""
    default_key: KeyFacts | None = None
    """A single-column primary key, or unique and NOT NULL, of a type that can be split."""
    sample: KeySample | None = None
    """Of the key that :func:`choose` names; None when nothing cheap could be learned."""
    ctid_readable: bool = True
    """False when the role has privileges on columns only: ctid isn't one of them."""


@dataclass(frozen=True)
class Choice:
    """A strategy, the key that it needs a sample of, and why."""

    strategy: Literal["ctid", "range", "none"]
    reason: str
    key: KeyFacts | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class ChunkPlan:
    """The chunks, what they are made of, and why."""

    chunks: tuple[Chunk, ...]
    strategy: Literal["ctid", "range", "none"]
    reason: str
    warnings: tuple[str, ...] = ()


# What to split by ------------------------------------------------------------------------------------------------


def _no_ctid(request: ChunkRequest) -> str | None:
    """Return why ranges of pages can't be used, or None."""
    if request.relation_kind is None:
        return "a query has no pages of its own"
    if request.relation_kind in {RelationKind.VIEW, RelationKind.FOREIGN}:
        return f"a {request.relation_kind.value} has no pages of its own"
    if others := [leaf.name for leaf in request.leaves if not leaf.heap]:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        return f"{others[0]}{more} is not stored as a heap"
    if request.server_version < TID_RANGE_VERSION:
        return "before PostgreSQL 14 each range of pages would read the whole table"
    if not request.ctid_readable:
        return "the role may read columns, but not ctid (it needs SELECT on the table)"
    return None


def choose(request: ChunkRequest) -> Choice:
    """Decide what to split by; ``key`` of the choice, if any, is what a sample is wanted of.

    Raises
    ------
    InvalidPartitioning
        The declared strategy can't be followed without changing what it means.
    """
    if request.options.unchunkable:
        return Choice("none", f"one chunk, because {request.options.unchunkable}")
    if request.options.strategy == "None":
        return Choice("none", "one chunk, as declared")
    no_ctid = _no_ctid(request)
    if request.options.strategy == "Ctid":
        if no_ctid:
            raise InvalidPartitioning(
                f"partitioning.strategy: Ctid can't be used here: {no_ctid}.",
                hint="Use Auto, or Range with partitioning.column.",
            )
        return _by_pages(request, "ranges of heap pages, as declared")
    key = request.key or request.default_key
    if request.options.strategy == "Range":
        if key is None:
            raise InvalidPartitioning(
                "partitioning.strategy: Range needs a column, and there is no primary key or unique NOT NULL index "
                "of one column that could be it.",
                hint="Set partitioning.column.",
            )
        return _by_key(request, key, no_ctid)
    # Between two chunks of PerPartition an UPDATE may move a row to another page, but seldom changes its key.
    stable = request.options.consistency is Consistency.PER_PARTITION and key is not None and key.indexed
    if no_ctid is None and not stable:
        return _by_pages(request, "ranges of heap pages")
    if key is None:
        return Choice("none", f"one chunk, because {no_ctid}, and there is no key to split by")
    return _by_key(request, key, no_ctid)


def _by_pages(request: ChunkRequest, reason: str, warnings: tuple[str, ...] = ()) -> Choice:
    if request.options.consistency is Consistency.PER_PARTITION:
        moved = "Under PerPartition, a row that is updated meanwhile may change its page and be missed or read twice."
        warnings = (*warnings, moved)
    return Choice("ctid", reason, warnings=warnings)


def _by_key(request: ChunkRequest, key: KeyFacts, no_ctid: str | None) -> Choice:
    name = f'"{key.name}"'
    stored = request.relation_kind in {RelationKind.TABLE, RelationKind.PARTITIONED, RelationKind.MATERIALIZED_VIEW}
    if stored and not key.indexed:
        missing = f"no btree index begins with {name}, so that each range would read the whole table"
        if no_ctid is None:
            return _by_pages(request, f"ranges of heap pages, because {missing}", (f"Split by pages: {missing}.",))
        return Choice("none", f"one chunk, because {missing}, and {no_ctid}")
    warnings: tuple[str, ...] = ()
    if key.correlation is not None and abs(key.correlation) < LOW_CORRELATION:
        warnings = (f"Rows aren't stored in the order of {name}: each range reads pages all over the table.",)
    declared = "the declared column" if key is request.key else "the key"
    return Choice("range", f"ranges of {declared} {name}", key, warnings)


# How large -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pages:
    """Pages of all leaves by page number: a piecewise linear function from page number to bytes read up to it."""

    leaves: tuple[tuple[int, float], ...]
    """(pages, bytes per page with the TOAST behind it) of each leaf that has pages, ascending."""

    @classmethod
    def of(cls, request: ChunkRequest) -> "_Pages":
        toast = request.estimate.reads_toast
        return cls(
            tuple(
                sorted(
                    (leaf.pages, BLOCK_BYTES * (1 + toast * leaf.toast_pages / leaf.pages))
                    for leaf in request.leaves
                    if leaf.pages
                )
            )
        )

    @property
    def bytes(self) -> float:
        return sum(pages * density for pages, density in self.leaves)

    def split(self, count: int) -> list[tuple[CtidRead, float]]:
        """Return at most ``count`` ranges that cover all pages, about equal in bytes, with their shares.

        One sweep over the leaves by size: where the shorter ones have ended, the same bytes take more pages.
        """
        total, ranges, first, covered = self.bytes, [], None, 0.0
        start, start_bytes, slope = 0, 0.0, sum(density for _, density in self.leaves)
        last_page = self.leaves[-1][0] if self.leaves else 0
        wanted = 1
        for pages, density in self.leaves:
            end_bytes = start_bytes + slope * (pages - start)
            while wanted < count and total * wanted / count <= end_bytes:
                bound = min(pages, start + math.ceil((total * wanted / count - start_bytes) / slope))
                wanted += 1
                if (first or 0) < bound < last_page:
                    reached = (start_bytes + slope * (bound - start)) / total
                    ranges.append((CtidRead(first_page=first, end_page=bound), reached - covered))
                    first, covered = bound, reached
            start, start_bytes, slope = pages, end_bytes, slope - density
        ranges.append((CtidRead(first_page=first, end_page=None), 1.0 - covered))
        return ranges


def _chunk_count(request: ChunkRequest, pages: _Pages) -> int:
    """Return into how many chunks the bytes should go."""
    target, output = request.options.target_bytes, max(1, request.estimate.bytes)
    read = pages.bytes or output
    ratio = output / read
    size = min(max(target, target / TINY_OUTPUT / ratio), float(target * MAX_GROWTH))
    if request.options.parallelism > 1:
        size = min(size, max(MIN_BALANCED_BYTES, read / (request.options.parallelism * CHUNKS_PER_THREAD)))
    if request.options.target_file_bytes:
        limit = max(target * MAX_GROWTH, request.options.target_file_bytes)
        size = max(size, min(request.options.target_file_bytes / ratio, limit))
    size = max(size, len(request.leaves) * BYTES_PER_LEAF, read / MAX_CHUNKS)
    return max(1, math.ceil(read / size))


def wanted_chunks(request: ChunkRequest) -> int:
    """Return how many chunks the sizes ask for: into how many buckets a sample should be cut."""
    return _chunk_count(request, _Pages.of(request))


# The chunks ------------------------------------------------------------------------------------------------------


def plan_chunks(request: ChunkRequest) -> ChunkPlan:
    """Split what is asked into chunks that cover every row exactly once.

    Raises
    ------
    InvalidPartitioning
        The declared strategy can't be followed (see :func:`choose`).
    """
    choice = choose(request)
    if choice.strategy == "none":
        return _whole(request, choice.reason, choice.warnings)
    pages = _Pages.of(request)
    count = _chunk_count(request, pages)
    if count == 1:
        return _whole(request, "one chunk, because it holds everything", choice.warnings)
    if choice.strategy == "range" and choice.key is not None:
        return _plan_ranges(request, choice, choice.key, pages, count)
    return _plan_pages(request, choice, pages, count)


def _whole(request: ChunkRequest, reason: str, warnings: tuple[str, ...]) -> ChunkPlan:
    return ChunkPlan(_chunks(request, [(WholeRead(), 1.0)]), "none", reason, warnings)


def _plan_pages(request: ChunkRequest, choice: Choice, pages: _Pages, count: int) -> ChunkPlan:
    return ChunkPlan(_chunks(request, list(pages.split(count))), "ctid", choice.reason, choice.warnings)


def _plan_ranges(request: ChunkRequest, choice: Choice, key: KeyFacts, pages: _Pages, count: int) -> ChunkPlan:
    sample, name, warnings = request.sample, f'"{key.name}"', choice.warnings
    no_ctid = _no_ctid(request)
    if sample is None:
        unknown = f"nothing about the distribution of {name} can be learned without reading everything"
        if no_ctid is None:
            by_pages = _by_pages(request, f"ranges of heap pages, because {unknown}", warnings)
            return _plan_pages(request, by_pages, pages, count)
        return _whole(request, f"one chunk, because {unknown}", warnings)
    ranges = _ranges(key, sample)
    heavy = sum(share * count > HEAVY for _, share in ranges)
    if heavy and no_ctid is not None:
        warnings = (*warnings, f"{heavy} of the ranges of {name} are much larger than targetBytes and can't be split.")
    elif heavy > MAX_HEAVY:
        few = f"{name} has so few distinct values that {heavy} ranges would have to be split again"
        by_pages = _by_pages(request, f"ranges of heap pages, because {few}", (*warnings, f"Split by pages: {few}."))
        return _plan_pages(request, by_pages, pages, count)
    elif heavy:
        ranges = [piece for whole in ranges for piece in _split_heavy(*whole, pages, count)]
    return ChunkPlan(_chunks(request, list(ranges)), "range", choice.reason, warnings)


def _ranges(key: KeyFacts, sample: KeySample) -> list[tuple[RangeRead, float]]:
    """Return the ranges between the bounds, open at both ends, and the NULLs, with their shares of the rows."""
    valued = 1.0 - sample.null_fraction if key.nullable else 1.0
    edges = [(None, 0.0), *((bound.value, bound.before) for bound in sample.bounds), (None, 1.0)]
    ranges = [
        (RangeRead(column=key.name, type=key.type, lower=lower, upper=upper), (after - before) * valued)
        for (lower, before), (upper, after) in itertools.pairwise(edges)
    ]
    if key.nullable:
        ranges.append((RangeRead(column=key.name, type=key.type, only_null=True), 1.0 - valued))
    return ranges


def _split_heavy(read: RangeRead, share: float, pages: _Pages, count: int) -> list[tuple[RangeRead, float]]:
    if share * count <= HEAVY:
        return [(read, share)]
    return [
        (read.model_copy(update={"pages": piece}), share * part) for piece, part in pages.split(round(share * count))
    ]


def _chunks(request: ChunkRequest, reads: "list[tuple[Read, float]]") -> tuple[Chunk, ...]:
    """Return the reads, numbered; estimates are rounded so that they add up to those of the whole."""
    rows, size, reached, before_rows, before_bytes = request.estimate.rows, request.estimate.bytes, 0.0, 0, 0
    chunks = []
    for index, (read, share) in enumerate(reads):
        reached = min(1.0, reached + share) if index + 1 < len(reads) else 1.0
        upto_rows, upto_bytes = round(rows * reached), round(size * reached)
        chunks.append(
            Chunk(
                index=index,
                read=read,
                estimated_rows=upto_rows - before_rows,
                estimated_bytes=upto_bytes - before_bytes,
            )
        )
        before_rows, before_bytes = upto_rows, upto_bytes
    return tuple(chunks)
