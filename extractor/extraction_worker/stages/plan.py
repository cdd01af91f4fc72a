"""The *plan* stage: what a job reads, what to lock for it, and how it is split; nothing is scanned.

It happens in two steps because the lock must come before the snapshot: :func:`lock_target` finds what to lock, the
lease locks and exports (:mod:`extraction_worker.source.lease`), then :func:`make_plan` looks again, under the lock
and the snapshot.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version

import psycopg
import xxhash

from extraction_contract.models import DataSource, ExtractionJob
from extraction_worker.cache.store import Cache
from extraction_worker.model import (
    Column,
    Consistency,
    Format,
    MaskPlan,
    Pin,
    Plan,
    RelationKind,
    SnapshotIdentity,
    Verification,
)
from extraction_worker.source.catalog import (
    Connection,
    Relation,
    describe_query,
    list_columns,
    resolve_relation,
    server_facts,
)
from extraction_worker.source.chunks import ChunkPlan, SplitOptions
from extraction_worker.source.failures import translate
from extraction_worker.source.functions import check_functions
from extraction_worker.source.lease import LockTarget
from extraction_worker.source.query import (
    SYSTEM_SCHEMAS,
    CheckedPredicate,
    CheckedQuery,
    check_predicate,
    check_query,
)
from extraction_worker.source.references import Name
from extraction_worker.source.remembered import KeyWish, KnownRelation, RememberedCatalog
from extraction_worker.source.render import identifier
from extraction_worker.source.sensitive import SecretColumns, refuse_unmasked, sensitive_in_query
from extraction_worker.source.shape import pin
from extraction_worker.source.split import split_query, split_relation
from extraction_worker.source.unchanged import marker_of
from extraction_worker.source.views import check_views


@dataclass(frozen=True)
class Reading:
    """What a job reads, its SQL checked: a table with a predicate perhaps, or a query."""

    table: str | None
    query: CheckedQuery | None
    predicate: CheckedPredicate | None
    allow_functions: tuple[str, ...]

    @property
    def others(self) -> tuple[Name, ...]:
        """Relations that the user's own SQL names, besides the table; system catalogs can't be locked."""
        names: set[Name] = set()
        for checked in (self.query, self.predicate):
            if checked is not None:
                names |= checked.references.relations
        return tuple(sorted(name for name in names if name.schema not in SYSTEM_SCHEMAS))


def read_job(job: ExtractionJob, source: DataSource, planned_at: datetime) -> Reading:
    """Check the SQL of a job, as far as it can be without a server.

    Parameters
    ----------
    planned_at
        What ``now()`` and its kin mean in it.

    Raises
    ------
    InvalidQuery
        The query or the predicate isn't one that only reads.
    """
    spec = job.spec
    return Reading(
        table=spec.table,
        query=check_query(spec.query, planned_at=planned_at) if spec.query is not None else None,
        predicate=check_predicate(spec.where, planned_at=planned_at) if spec.where is not None else None,
        allow_functions=source.spec.policy.allow_functions,
    )


def lock_target(connection: Connection, reading: Reading) -> LockTarget:
    """Return what a session must lock before it reads.

    Raises
    ------
    NotFound, PermissionDenied, RowSecurity, InvalidManifest, UnsupportedSource
        A relation can't be read as it must be.
    """
    relations = _relations(connection, reading)
    return LockTarget(
        lockable=tuple(dict.fromkeys(name for relation in relations for name in relation.lockable)),
        readable=tuple(dict.fromkeys(name for relation in relations for name in relation.readable)),
        oids=tuple(sorted({oid for relation in relations for oid in relation.oids})),
        stored=tuple(sorted({oid for relation in relations for oid in relation.stored})),
        closed=len(relations) == 1 and reading.table is not None and relations[0].closed,
    )


def make_plan(
    connection: Connection,
    job: ExtractionJob,
    source: DataSource,
    reading: Reading,
    identity: SnapshotIdentity,
    *,
    run_id: str,
    planned_at: datetime,
    threads: int,
    masks: Mapping[str, MaskPlan],
    cache: Cache | None = None,
) -> Plan:
    """Return the plan of a job.

    Parameters
    ----------
    connection
        In a transaction under the session contract, on the snapshot of ``identity``.
    planned_at
        The same as :func:`read_job` was given.
    threads
        How many will read at the same time, over all pods: chunks are enough to keep them busy.
    masks
        By the column's name: :func:`extraction_worker.stages.masks.declared_masks`.
    cache
        What is remembered of the source.

    Raises
    ------
    ExtractionError
        What makes the job impossible, in words for its author.
    """
    try:
        remembered = RememberedCatalog(cache, identity) if cache is not None else None
        planning = _Planning(connection, job, source, reading, threads, masks, remembered)
        return planning.plan(identity, run_id, planned_at)
    except psycopg.Error as error:
        raise translate(error, f"Planning {reading.table or 'the query'}") from None


def _relations(connection: Connection, reading: Reading) -> tuple[Relation, ...]:
    table = (resolve_relation(connection, reading.table),) if reading.table is not None else ()
    others = (resolve_relation(connection, identifier(*name)) for name in reading.others)
    return (*table, *others)


class _Planning:
    """One planning: looks at the server, then decides."""

    def __init__(
        self,
        connection: Connection,
        job: ExtractionJob,
        source: DataSource,
        reading: Reading,
        threads: int,
        masks: Mapping[str, MaskPlan],
        remembered: RememberedCatalog | None,
    ) -> None:
        self._remembered = remembered
        self._known: KnownRelation | None = None
        self._repeatable = True
        self._connection = connection
        self._job = job
        self._source = source
        self._reading = reading
        self._threads = threads
        self._masks = masks
        self._format = resolve_format(job)
        server_facts(connection)
        self._relations = _relations(connection, reading)
        self._relation = self._relations[0] if reading.table is not None else None

    def plan(self, identity: SnapshotIdentity, run_id: str, planned_at: datetime) -> Plan:
        spec, reading = self._job.spec, self._reading
        unchunkable = self._check_user_sql()
        columns = self._columns()
        secret = self._refuse_unmasked(columns)
        where = reading.predicate.where_sql if reading.predicate is not None else None
        options = SplitOptions(
            strategy=spec.partitioning.strategy,
            column=spec.partitioning.column,
            target_bytes=int(spec.partitioning.target_bytes),
            target_file_bytes=self._format.target_file_bytes,
            parallelism=self._threads,
            consistency=Consistency(spec.consistency),
            unchunkable=unchunkable,
            secret=secret,
        )
        chunks = self._split(columns, options, where)
        namespace = self._job.metadata.namespace or "default"
        user_sql = spec.query if spec.query is not None else spec.where
        warnings = [*chunks.warnings, *(reading.query.notes if reading.query is not None else ())]
        # Types are Arrow's: who only looks up what a job reads, as the holder of its snapshot does, doesn't load that.
        from extraction_worker.source.types import plan_columns

        sample_percent = spec.source_proof.sample_percent if spec.source_proof is not None else 100
        return Plan(
            program=version("extraction-operator"),
            run_id=run_id,
            source=f"{namespace}/{spec.data_source_ref.name}",
            consistency=Consistency(spec.consistency),
            identity=identity,
            planned_at=planned_at,
            relation=self._relation.name if self._relation is not None else "(query)",
            relation_kind=self._relation.kind if self._relation is not None else None,
            locks=tuple(dict.fromkeys(name for relation in self._relations for name in relation.lockable)),
            leaves=self._relation.leaves if self._relation is not None else (),
            pin=self._pin(columns),
            leaves_alone=self._relation is not None and self._relation.closed and not self._relation.alone,
            ctid_readable=self._has_places,
            query_hash=xxhash.xxh3_128_hexdigest(user_sql.encode()) if user_sql is not None else None,
            from_sql=self._from_sql,
            where_sql=where,
            columns=plan_columns(columns, spec.on_unrepresentable, self._masks),
            on_unrepresentable=spec.on_unrepresentable,
            format=self._format,
            verification=Verification(spec.verification),
            proof_sample=sample_percent / 100,
            strategy=chunks.strategy,
            strategy_reason=chunks.reason,
            warnings=tuple(warnings),
            marker=self._marker(identity),
            chunks=chunks.chunks,
        )

    @property
    def _has_places(self) -> bool:
        relation = self._relation
        return relation is not None and relation.ctid_readable and all(leaf.heap for leaf in relation.leaves)

    @property
    def _from_sql(self) -> str:
        if self._relation is not None:
            return f"ONLY {self._relation.name}" if self._relation.alone else self._relation.name
        if self._reading.query is None:
            raise AssertionError("a job has a table or a query")
        return self._reading.query.from_sql

    def _pin(self, columns: tuple[Column, ...]) -> Pin | None:
        if self._relation is None:
            return None
        return pin(self._connection, self._relation.oid, (column.name for column in columns))

    def _marker(self, identity: SnapshotIdentity) -> str | None:
        """Return what the source is like, where the job would take or give a result."""
        if self._job.spec.reuse is None or not identity.snapshot_id or not self._repeatable:
            return None
        oids = {oid for relation in self._relations for oid in relation.oids}
        return marker_of(self._connection, identity, oids)

    def _check_user_sql(self) -> str:
        """Check names in the user's SQL and in views on the server; return why chunks would change the result."""
        reasons: list[str] = []
        allow = self._reading.allow_functions
        for checked, name in ((self._reading.query, "spec.query"), (self._reading.predicate, "spec.where")):
            if checked is not None:
                facts = check_functions(self._connection, checked.references, allow, field=name)
                reasons += [checked.chunk_reason, facts.chunk_reason]
                self._repeatable = self._repeatable and checked.repeatable and facts.repeatable
        if oids := [relation.oid for relation in self._relations if relation.kind is RelationKind.VIEW]:
            reasons.append(check_views(self._connection, oids, allow).chunk_reason)
        return " ".join(reason for reason in reasons if reason)

    def _columns(self) -> tuple[Column, ...]:
        relation, wanted = self._relation, self._job.spec.columns
        if relation is None:
            return describe_query(self._connection, self._from_sql)
        if self._remembered is not None and self._remembered.fits(relation):
            policy = SecretColumns(self._source.spec.policy.sensitive_columns).including(self._masks.keys())
            key = KeyWish(self._job.spec.partitioning.column, policy)
            self._known = self._remembered.introspect(self._connection, relation, key)
            return self._known.columns_of(self._connection, wanted)
        return list_columns(self._connection, relation, wanted)

    def _split(self, columns: tuple[Column, ...], options: SplitOptions, where: str | None) -> ChunkPlan:
        connection, relation = self._connection, self._relation
        if relation is None:
            return split_query(connection, self._from_sql, columns, options)
        if self._known is not None:
            return self._known.split(connection, columns, options, where)
        return split_relation(connection, relation, columns, options, where)

    def _refuse_unmasked(self, columns: tuple[Column, ...]) -> SecretColumns:
        """Refuse sensitive columns that aren't masked; return those whose values no bound may hold."""
        policy, query = SecretColumns(self._source.spec.policy.sensitive_columns), self._reading.query
        if query is not None:
            sensitive = sensitive_in_query(self._connection, query.text, self._from_sql, policy)
        else:
            sensitive = frozenset(column.name for column in columns if column.name in policy)
        refuse_unmasked(sensitive, self._masks)
        return policy.including(sensitive | self._masks.keys())


def resolve_format(job: ExtractionJob) -> Format:
    """Return how the job's files are encoded.

    Raises
    ------
    InvalidManifest
        The format doesn't have the compression.
    """
    # Here and not above: it brings pyarrow, which the holder doesn't need.
    from extraction_worker.sink.formats import check_format

    declared = job.spec.sink.format
    target = declared.target_file_bytes
    chosen = Format(
        type=declared.type,
        compression=declared.compression,
        target_file_bytes=int(target) if target is not None else None,
    )
    check_format(chosen)
    return chosen
