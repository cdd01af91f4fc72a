"""One relation or query → its chunks: asks the catalog, the planner and a sample what :mod:`chunks` needs to know."""

from dataclasses import replace

from extraction_worker.errors import InvalidPartitioning
from extraction_worker.model import Column
from extraction_worker.source.catalog import Connection, Relation
from extraction_worker.source.chunks import ChunkPlan, ChunkRequest, SplitOptions, choose, plan_chunks, wanted_chunks
from extraction_worker.source.estimate import estimate_query, estimate_relation
from extraction_worker.source.keys import default_key, key_facts, query_key
from extraction_worker.source.sample import read_sample


def split_relation(
    connection: Connection,
    relation: Relation,
    columns: tuple[Column, ...],
    options: SplitOptions,
    where_sql: str | None = None,
) -> ChunkPlan:
    """Split a relation into chunks that cover every row exactly once.

    A fixed number of catalog queries, and at most one sample of some hundred pages, whatever the size.

    Raises
    ------
    InvalidPartitioning
        The declared column or strategy can't split it.
    NotFound, PermissionDenied, RowSecurity, InvalidQuery
        As the server says of the column, the predicate, or a table under a view.
    """
    _refuse_secret(options)
    request = ChunkRequest(
        options=options,
        relation_kind=relation.kind,
        leaves=relation.leaves,
        server_version=connection.info.server_version,
        estimate=estimate_relation(connection, relation, columns, where_sql),
        key=key_facts(connection, relation, options.column) if options.column else None,
        default_key=None if options.column else default_key(connection, relation, options.secret),
        ctid_readable=relation.ctid_readable,
    )
    return _plan(connection, relation, request, where_sql)


def split_query(connection: Connection, from_sql: str, columns: tuple[Column, ...], options: SplitOptions) -> ChunkPlan:
    """Split a checked query into chunks, by the declared column or not at all.

    Parameters
    ----------
    from_sql
        The query, wrapped and with its alias.
    columns
        All of the query's, from :func:`catalog.describe_query`.

    Raises
    ------
    InvalidPartitioning
        The declared column or strategy can't split it.
    InvalidQuery, PermissionDenied, RowSecurity
        As the server says of the query.
    """
    _refuse_secret(options)
    request = ChunkRequest(
        options=options,
        relation_kind=None,
        leaves=(),
        server_version=connection.info.server_version,
        estimate=estimate_query(connection, from_sql, columns),
        key=query_key(columns, options.column) if options.column else None,
    )
    return _plan(connection, from_sql, request, None)


def _refuse_secret(options: SplitOptions) -> None:
    if options.column is not None and options.column in options.secret:
        raise InvalidPartitioning(
            f"partitioning.column: {options.column} is masked or sensitive; bounds of chunks would hold its values.",
            hint="Choose another column, or strategy Ctid.",
        )


def _plan(connection: Connection, source: Relation | str, request: ChunkRequest, where_sql: str | None) -> ChunkPlan:
    key, buckets = choose(request).key, wanted_chunks(request)
    if key is not None and buckets > 1:
        request = replace(request, sample=read_sample(connection, source, key, buckets, where_sql))
    return plan_chunks(request)
