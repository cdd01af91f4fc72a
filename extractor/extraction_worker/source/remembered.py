"""What is remembered of a table between two jobs, and how it is proven that nothing of it has changed.

Who may read what, row security, the tree of partitions, their storage and their sizes are looked up anew by every
planning, under the locks and the snapshot (``catalog.resolve_relation``). Remembered is what stands behind it, each
with its own proof:

=============  =====================================================  =============================================
what           holds                                                  current while
=============  =====================================================  =============================================
introspection  columns with their types, and the key                  the rows of the catalog that it was read from
                                                                      are the same versions: one query of OIDs
pages          ranges of pages, never of keys                         introspection, storage and size of each leaf,
                                                                      and everything that decides are equal
statistics     widths, rows on a page, correlation of the key         five minutes: it balances chunks, no more
=============  =====================================================  =============================================

No value of a row is in any of them: neither bounds of keys, nor most common values, nor histograms. What a job reads
of a table is as it would be without: pages and statistics only balance chunks, and columns are proven.
"""

from dataclasses import dataclass, replace
from typing import Literal

from extraction_worker.cache.store import Cache, Entry, Family
from extraction_worker.model import Chunk, Column, CtidRead, PgType, RelationKind, SnapshotIdentity, Value, WholeRead
from extraction_worker.source.catalog import Connection, Relation, list_columns
from extraction_worker.source.chunks import (
    ChunkPlan,
    ChunkRequest,
    KeyFacts,
    SplitOptions,
    choose,
    plan_chunks,
    wanted_chunks,
)
from extraction_worker.source.estimate import Shape, estimate_relation, read_shape
from extraction_worker.source.keys import correlation_of, default_key, key_facts
from extraction_worker.source.sample import read_sample
from extraction_worker.source.sensitive import SecretColumns
from extraction_worker.source.split import split_relation

_MAX_LEAVES = 2_000
"""More partitions aren't remembered: comparing them costs as much as looking them up."""

# The versions of all rows that columns and keys were read from. A row of a catalog that changes gets another xmin or
# another place; no two versions share both, for as long as the server isn't restarted (which is part of the key).
# ANALYZE and VACUUM write pg_class in place and leave no trace here: what they write isn't remembered by this.
_VERSIONS = """
SELECT pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(
    pg_catalog.string_agg(v.line, ' ' ORDER BY v.line COLLATE "C"), 'UTF8')), 'hex') FROM (
    SELECT 'c' || c.oid || '/' || c.xmin || c.ctid
    FROM pg_catalog.pg_class AS c WHERE c.oid = ANY(%(tree)s::oid[])
    UNION ALL
    SELECT 'a' || a.attrelid || '/' || a.attnum || '/' || a.xmin || a.ctid
    FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = ANY(%(tables)s::oid[]) AND a.attnum > 0
    UNION ALL
    SELECT 'n' || k.oid || '/' || k.xmin || k.ctid
    FROM pg_catalog.pg_constraint AS k WHERE k.conrelid = ANY(%(tables)s::oid[]) AND k.contype = 'n'
    UNION ALL
    SELECT 'i' || i.indexrelid || '/' || i.xmin || i.ctid
    FROM pg_catalog.pg_index AS i WHERE i.indrelid = ANY(%(tree)s::oid[])
    UNION ALL
    SELECT 't' || t.oid || '/' || t.xmin || t.ctid || '/' || n.xmin || n.ctid
    FROM pg_catalog.pg_type AS t JOIN pg_catalog.pg_namespace AS n ON n.oid = t.typnamespace
    WHERE t.oid = ANY(%(types)s::oid[])
    UNION ALL
    SELECT DISTINCT 'l' || l.oid || '/' || l.xmin || l.ctid || '/' || n.xmin || n.ctid
    FROM pg_catalog.pg_attribute AS a
    JOIN pg_catalog.pg_collation AS l ON l.oid = a.attcollation
    JOIN pg_catalog.pg_namespace AS n ON n.oid = l.collnamespace
    WHERE a.attrelid = %(oid)s AND a.attnum > 0
) AS v(line)
"""


class _Key(Value):
    """A column as the key of ranges, without what ANALYZE finds out about it."""

    name: str
    type: str
    nullable: bool
    indexed: bool
    collation: str | None = None

    @classmethod
    def of(cls, facts: KeyFacts | None) -> "_Key | None":
        if facts is None:
            return None
        return cls(
            name=facts.name,
            type=facts.type,
            nullable=facts.nullable,
            indexed=facts.indexed,
            collation=facts.collation,
        )

    def facts(self) -> KeyFacts:
        return KeyFacts(self.name, self.type, self.nullable, self.indexed, self.collation)


class _Introspection(Value):
    """Columns and key of a relation, and the versions of the rows that they were read from."""

    versions: str
    columns: tuple[Column, ...]
    key: _Key | None = None
    """The declared column, or else the default key."""


class _Pages(Value):
    """A plan that is made of pages: where each chunk ends, its rows, its bytes; the last is open."""

    strategy: Literal["ctid", "none"]
    reason: str
    warnings: tuple[str, ...]
    chunks: tuple[tuple[int | None, int, int], ...]


@dataclass(frozen=True)
class RememberedCatalog:
    """Plans a table from what is remembered, as far as it can be; the plan is the one that would be made without.

    Parameters
    ----------
    identity
        Of the server: after a restart, a restore or a promotion nothing is remembered.
    """

    cache: Cache
    identity: SnapshotIdentity

    def fits(self, relation: Relation) -> bool:
        """Whether anything of a relation may be remembered.

        A view's meaning depends on too much, a foreign table's on another server, and a role that may read some
        columns alone is looked up anew.
        """
        stored = relation.kind not in {RelationKind.VIEW, RelationKind.FOREIGN}
        return stored and relation.table_privilege and len(relation.leaves) <= _MAX_LEAVES

    def introspect(self, connection: Connection, relation: Relation, wish: "KeyWish") -> "KnownRelation":
        """Return what is known of a relation that :meth:`fits`.

        Raises
        ------
        ExtractionError
            As :func:`catalog.list_columns` and :func:`keys.key_facts`.
        """

        def is_current(found: _Introspection) -> bool:
            return _versions(connection, relation, found.columns) == found.versions

        def load() -> _Introspection:
            columns = list_columns(connection, relation)
            key = _Key.of(wish.find(connection, relation, columns))
            return _Introspection(versions=_versions(connection, relation, columns), columns=columns, key=key)

        parts = (*self.server(connection), *_described(relation), *wish.parts)
        known = self.cache.remembered(Entry(Family.INTROSPECTION, parts, _Introspection, is_current), load)
        return KnownRelation(self, relation, known, wish)

    def server(self, connection: Connection) -> tuple[object, ...]:
        """Return which server and database it is: part of every key."""
        identity = self.identity
        return (
            identity.system_identifier, identity.timeline, identity.postmaster_start, identity.in_recovery,
            identity.server_address, identity.server_version, connection.info.dbname,
        )  # fmt: skip


@dataclass(frozen=True)
class KeyWish:
    """Which column a job would be split by.

    Parameters
    ----------
    column
        The declared one; None is a default.
    secret
        Columns that can't be it.
    """

    column: str | None
    secret: SecretColumns

    @property
    def parts(self) -> tuple[object, ...]:
        """All that decides; sets in an order, which is another in each process."""
        return (self.column or "", self.secret.patterns, tuple(sorted(self.secret.names)))

    def find(self, connection: Connection, relation: Relation, columns: tuple[Column, ...]) -> KeyFacts | None:
        """Return the facts of the column; None where there is none, or the declared one isn't there or is secret."""
        if self.column is None:
            return default_key(connection, relation, self.secret)
        if self.column in self.secret or self.column not in {column.name for column in columns}:
            return None
        return key_facts(connection, relation, self.column)


@dataclass(frozen=True)
class KnownRelation:
    """A relation of which columns and key are known."""

    catalog: RememberedCatalog
    relation: Relation
    known: _Introspection
    wish: KeyWish

    def columns_of(self, connection: Connection, wanted: tuple[str, ...] | None) -> tuple[Column, ...]:
        """Return the columns; raises what :func:`catalog.list_columns` does."""
        found = {column.name: column for column in self.known.columns}
        if wanted is None:
            return self.known.columns
        if not set(wanted) <= found.keys():
            # The error names columns that are near; it is the same without a cache.
            return list_columns(connection, self.relation, wanted)
        return tuple(found[name] for name in wanted)

    def split(
        self, connection: Connection, columns: tuple[Column, ...], options: SplitOptions, where_sql: str | None
    ) -> ChunkPlan:
        """Return the chunks; raises what :func:`split.split_relation` does."""
        if options.column and self.known.key is None:
            # The declared column can't be a key, or isn't there: the error says why.
            return split_relation(connection, self.relation, columns, options, where_sql)
        entry, cache = self._pages_entry(connection, columns, options, where_sql), self.catalog.cache
        pages = cache.find(entry)
        if pages is not None:
            return _chunk_plan(pages)
        plan = self._split(connection, columns, options, where_sql)
        if (kept := _pages(plan)) is not None:
            cache.put(entry, kept)
        return plan

    def _pages_entry(
        self, connection: Connection, columns: tuple[Column, ...], options: SplitOptions, where_sql: str | None
    ) -> Entry[_Pages]:
        names = tuple(column.name for column in columns)
        leaves = self.relation.leaves
        sizes = tuple((leaf.oid, leaf.relfilenode, leaf.pages, leaf.toast_pages) for leaf in leaves)
        decided = (replace(options, secret=frozenset()), *self.wish.parts)
        parts = (*self.catalog.server(connection), *_described(self.relation), self.known.versions)
        return Entry(Family.PAGES, (*parts, sizes, names, decided, where_sql), _Pages)

    def _split(
        self, connection: Connection, columns: tuple[Column, ...], options: SplitOptions, where_sql: str | None
    ) -> ChunkPlan:
        relation, known = self.relation, self.known.key
        shape = self._shape(connection, known.name if known is not None else None)
        key = replace(known.facts(), correlation=shape.correlation) if known is not None else None
        request = ChunkRequest(
            options=options,
            relation_kind=relation.kind,
            leaves=relation.leaves,
            server_version=connection.info.server_version,
            estimate=estimate_relation(connection, relation, columns, where_sql, shape),
            key=key if options.column else None,
            default_key=None if options.column else key,
            ctid_readable=relation.ctid_readable,
        )
        wanted, buckets = choose(request).key, wanted_chunks(request)
        if wanted is not None and buckets > 1:
            request = replace(request, sample=read_sample(connection, relation, wanted, buckets, where_sql))
        return plan_chunks(request)

    def _shape(self, connection: Connection, key: str | None) -> Shape:
        relation = self.relation
        storage = tuple((leaf.oid, leaf.relfilenode) for leaf in relation.leaves)

        def load() -> Shape:
            shape = read_shape(connection, relation)
            correlation = correlation_of(connection, relation, key) if key is not None else None
            return shape.model_copy(update={"correlation": correlation})

        parts = (*self.catalog.server(connection), *_described(relation), storage, key)
        return self.catalog.cache.remembered(Entry(Family.STATISTICS, parts, Shape), load)


def _described(relation: Relation) -> tuple[object, ...]:
    """Return all that columns and keys depend on, of what was just looked up."""
    with_pages = tuple((leaf.oid, leaf.heap, leaf.pages > 0, leaf.relfilenode == 0) for leaf in relation.leaves)
    return (relation.oid, relation.name, relation.kind, relation.inherits, relation.oids, with_pages)


def _versions(connection: Connection, relation: Relation, columns: tuple[Column, ...]) -> str:
    leaves = tuple(leaf.oid for leaf in relation.leaves)
    row = connection.execute(
        _VERSIONS,
        {
            "oid": relation.oid,
            "tree": sorted({relation.oid, *leaves}),
            "tables": sorted({relation.oid, *leaves}) if relation.inherits else [relation.oid],
            "types": sorted({oid for column in columns for oid in _type_oids(column.type)}),
        },
    ).fetchone()
    return str(row[0]) if row else ""


def _type_oids(found: PgType | None) -> set[int]:
    if found is None:
        return set()
    return {found.oid} | _type_oids(found.element) | _type_oids(found.base)


def _pages(plan: ChunkPlan) -> _Pages | None:
    """Return a plan as it is kept; None for one with keys, whose bounds are values of rows."""
    if plan.strategy == "range" or not all(isinstance(chunk.read, CtidRead | WholeRead) for chunk in plan.chunks):
        return None
    ends = [chunk.read.end_page if isinstance(chunk.read, CtidRead) else None for chunk in plan.chunks]
    chunks = tuple(
        (end, chunk.estimated_rows, chunk.estimated_bytes) for end, chunk in zip(ends, plan.chunks, strict=True)
    )
    return _Pages(strategy=plan.strategy, reason=plan.reason, warnings=plan.warnings, chunks=chunks)


def _chunk_plan(pages: _Pages) -> ChunkPlan:
    chunks, first = [], None
    for index, (end, rows, size) in enumerate(pages.chunks):
        read = WholeRead() if pages.strategy == "none" else CtidRead(first_page=first, end_page=end)
        chunks.append(Chunk(index=index, read=read, estimated_rows=rows, estimated_bytes=size))
        first = end
    return ChunkPlan(tuple(chunks), pages.strategy, pages.reason, pages.warnings)
