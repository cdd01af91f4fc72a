"""What is known of a key's values, learned without reading the table. Returns bounds in the server's order.

The order of texts is the server's business: collations differ between libraries and versions, and two texts may be
equal in one. So weights, order and bounds are computed there, by one query whatever the source of the values:

1. a sample of some hundred pages (``TABLESAMPLE SYSTEM``, with a fixed seed, so that plans are repeatable);
2. ``pg_stats``, where a sample can't be taken or came back empty: most common values and histogram;
3. the smallest and the largest value, where an index gives them, and equal steps between.

Between two neighbours of a sample, equal steps make further bounds for types with arithmetic. Every value is a
legitimate bound, wherever it came from; a bad one costs balance, never a row. Values are row data: they travel as
text under the session contract, go into the plan, and into no message or log.
"""

import datetime as dt
import itertools
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import psycopg
from psycopg import sql

from extraction_worker.errors import InvalidQuery
from extraction_worker.model import RelationKind
from extraction_worker.source.catalog import Connection, Relation
from extraction_worker.source.chunks import LOW_CORRELATION, KeyBound, KeyFacts, KeySample
from extraction_worker.source.estimate import explain
from extraction_worker.source.failures import translate
from extraction_worker.source.render import identifier

SAMPLE_PAGES = 512
"""Pages that a sample reads, about: 4 MiB of any table."""
_SEED = 20261
_LONGEST_BOUND = 1000
"""Bytes; a longer value would bloat plan and statements, a neighbour does as well."""
_CHEAP = 1000.0
"""Planner's cost up to which the smallest and largest value are asked for: about as many pages."""
_BOUNDS_TIMEOUT = "5s"

# weights: values of the key, the rows that each stands for, and how many of these are sure to be equal to it.
# A bound goes where the running sum of rows crosses into another bucket, and behind each value that fills a bucket
# by itself, so that a hot value has a range (nearly) of its own.
_BOUNDS = """
, placed AS (
    SELECT k, n, own, sum(n) OVER (ORDER BY k) - n AS before, sum(n) OVER () AS total, lag(own) OVER (ORDER BY k) AS hot
    FROM (SELECT k, sum(n)::float8 AS n, sum(own)::float8 AS own FROM weights WHERE k IS NOT NULL GROUP BY k) AS g
), bounds AS (
    SELECT k, before / total AS before, own / total AS own FROM placed
    WHERE before > 0 AND pg_catalog.octet_length(k::text) <= {longest}
      AND (LEAST(pg_catalog.floor(before * {buckets} / total), {buckets} - 1)
               <> LEAST(pg_catalog.floor((before + n) * {buckets} / total), {buckets} - 1)
           OR hot * {buckets} >= total)
)
SELECT nulls.fraction::float8, bounds.k::text, bounds.before::float8, bounds.own::float8
FROM nulls LEFT JOIN bounds ON true
ORDER BY bounds.k
"""
_SAMPLE = """
WITH weights AS (
    SELECT k, pg_catalog.count(*)::float8 AS n, pg_catalog.count(*)::float8 AS own
    FROM (SELECT {key} AS k FROM {relation} TABLESAMPLE SYSTEM ({percent}) REPEATABLE ({seed}){where}) AS s
    GROUP BY k
), nulls AS (
    SELECT coalesce(sum(n) FILTER (WHERE k IS NULL), 0) / sum(n) AS fraction FROM weights
)"""
_STATISTICS = """
WITH st AS (
    SELECT coalesce(s.most_common_vals::text::text[], '{{}}') AS common,
           coalesce(s.most_common_freqs, '{{}}') AS frequencies,
           s.histogram_bounds::text::text[] AS histogram, s.null_frac
    FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_stats AS s ON s.schemaname = n.nspname AND s.tablename = c.relname
    WHERE c.oid = {oid} AND s.attname = {name}
    ORDER BY s.inherited DESC LIMIT 1
), nulls AS (
    SELECT null_frac AS fraction FROM st
    WHERE pg_catalog.cardinality(common) > 0 OR histogram IS NOT NULL OR null_frac = 1
), weights AS (
    SELECT v::{type} {collate} AS k, f::float8 AS n, f::float8 AS own
    FROM st CROSS JOIN LATERAL ROWS FROM (pg_catalog.unnest(common), pg_catalog.unnest(frequencies)) AS u(v, f)
    UNION ALL
    SELECT v::{type} {collate}, CASE WHEN position < bins + 1 THEN rest / bins ELSE 0 END, 0
    FROM st
    CROSS JOIN LATERAL (SELECT pg_catalog.cardinality(histogram) - 1, 1 - null_frac - coalesce(
        (SELECT sum(f) FROM pg_catalog.unnest(frequencies) AS f), 0)) AS h(bins, rest)
    CROSS JOIN LATERAL pg_catalog.unnest(histogram) WITH ORDINALITY AS u(v, position)
    WHERE bins > 0 AND rest > 0
)"""


@dataclass(frozen=True)
class _Value:
    """A candidate for a bound: its text, the share of rows before it, the share that is equal to it."""

    text: str
    before: float
    own: float


def read_sample(
    connection: Connection,
    source: Relation | str,
    key: KeyFacts,
    buckets: int,
    where_sql: str | None = None,
) -> KeySample | None:
    """Return bounds that cut the rows into about ``buckets`` ranges; None when nothing cheap tells any.

    Parameters
    ----------
    source
        A relation, or what stands behind FROM for a query.
    where_sql
        The user's predicate; a sample heeds it.

    Raises
    ------
    InvalidQuery
        The predicate fails on a row of the sample.
    """
    if not isinstance(source, Relation):
        return _from_extremes(connection, source, key, buckets)
    if source.pages and all(leaf.heap for leaf in source.leaves):
        correlated = key.correlation is None or abs(key.correlation) >= LOW_CORRELATION
        # Rows of one page are neighbours in a correlated key: then pages are what the sample has many of.
        resolution = min(buckets, SAMPLE_PAGES // 2) if correlated else buckets
        sampled = _from_query(connection, _sample_sql(source, key, where_sql), key, resolution, buckets)
        if sampled is not None:
            return KeySample("sample", *sampled)
    if source.kind is not RelationKind.VIEW:
        known = _from_query(connection, _statistics_sql(source, key), key, buckets, buckets)
        if known is not None:
            return KeySample("statistics", *known)
    if source.kind is RelationKind.VIEW or key.indexed:
        return _from_extremes(connection, source.name, key, buckets)
    return None


def _sample_sql(relation: Relation, key: KeyFacts, where_sql: str | None) -> sql.Composed:
    percent = min(100.0, 100.0 * SAMPLE_PAGES / relation.pages)
    return sql.SQL(_SAMPLE).format(
        key=sql.Identifier(key.name),
        relation=_raw(relation.name),
        percent=sql.Literal(percent),
        seed=sql.Literal(_SEED),
        where=_raw(f" WHERE ({where_sql}\n)" if where_sql else ""),
    )


def _statistics_sql(relation: Relation, key: KeyFacts) -> sql.Composed:
    return sql.SQL(_STATISTICS).format(
        oid=sql.Literal(relation.oid),
        name=sql.Literal(key.name),
        type=_raw(key.type),
        collate=_raw(f"COLLATE {key.collation}" if key.collation else ""),
    )


def _raw(text: str) -> sql.SQL:
    """Return SQL that was quoted or checked before."""
    return sql.SQL(text)


def _from_query(
    connection: Connection, weights: sql.Composed, key: KeyFacts, resolution: int, buckets: int
) -> tuple[tuple[KeyBound, ...], float] | None:
    statement = weights + sql.SQL(_BOUNDS).format(longest=sql.Literal(_LONGEST_BOUND), buckets=sql.Literal(resolution))
    try:
        rows = connection.execute(statement).fetchall()
    except psycopg.errors.DataError as error:
        # The server's words may quote the value.
        raise InvalidQuery(f"where: a value of a row can't be computed (SQLSTATE {error.sqlstate}).") from None
    except psycopg.Error as error:
        raise translate(error, f"Sampling the key {key.name}") from None
    if not rows or rows[0][0] is None:
        return None
    values = [_Value(text, before, own) for _, text, before, own in rows if text is not None]
    return _refined(key.type, values, buckets), float(rows[0][0])


def _from_extremes(connection: Connection, from_sql: str, key: KeyFacts, buckets: int) -> KeySample | None:
    """Return equal steps between the smallest and the largest value, if an index, or little data, gives them."""
    if key.type not in _NUMBERS:
        return None
    name = identifier(key.name)
    finite = f" AND {name} > '-infinity' AND {name} < 'infinity'" if key.type in _INFINITE else ""
    # Ordered outside of the list that names it, where the name would mean the text; and not every type has a min().
    ends = f"SELECT k FROM (SELECT {name} AS k FROM {from_sql} WHERE {name} IS NOT NULL{finite}) AS s ORDER BY k"
    statement = f"SELECT ({ends} LIMIT 1)::text, ({ends} DESC LIMIT 1)::text"
    if explain(connection, statement, "partitioning.column")["Total Cost"] > _CHEAP:
        return None
    try:
        # The estimate may be wrong: the time is bounded, too. Rolled back, so that the setting is.
        with connection.transaction(force_rollback=True):
            connection.execute(f"SET LOCAL statement_timeout = '{_BOUNDS_TIMEOUT}'".encode())
            row = connection.execute(statement.encode()).fetchone()
    except psycopg.errors.QueryCanceled:
        return None
    except psycopg.errors.DataError as error:
        raise InvalidQuery(f"query: a value of a row can't be computed (SQLSTATE {error.sqlstate}).") from None
    except psycopg.Error as error:
        raise translate(error, "partitioning.column") from None
    if row is None or row[0] is None:
        return None
    between = steps(key.type, row[0], row[1], buckets)
    bounds = tuple(KeyBound(value, (index + 1) / (len(between) + 1)) for index, value in enumerate(between))
    return KeySample("interpolation", bounds) if bounds else None


# Steps between values --------------------------------------------------------------------------------------------


def _refined(key_type: str, values: list[_Value], buckets: int) -> tuple[KeyBound, ...]:
    """Return the values as bounds, with steps where two of them leave several buckets between them.

    Not behind a hot value: all that weight is at the value itself. Without any value, one or none was found.
    """
    bounds = []
    for value, following in itertools.pairwise(values):
        bounds.append(KeyBound(value.text, value.before))
        gap = following.before - value.before
        parts = round(gap * buckets)
        if parts > 1 and value.own * 2 < gap and key_type in _NUMBERS:
            between = steps(key_type, value.text, following.text, parts)
            bounds += [
                KeyBound(text, value.before + gap * (index + 1) / (len(between) + 1))
                for index, text in enumerate(between)
            ]
    bounds += [KeyBound(value.text, value.before) for value in values[-1:]]
    return tuple(bounds)


_EPOCH = dt.datetime(2000, 1, 1)  # noqa: DTZ001  the session's zone is UTC; only differences matter
_MICROSECOND = dt.timedelta(microseconds=1)
_DIGITS = 12
"""Digits behind the point that steps between two numerics have."""


def _timestamp_number(text: str) -> int:
    return (dt.datetime.fromisoformat(text.removesuffix("+00")) - _EPOCH) // _MICROSECOND


def _timestamp_text(number: int) -> str:
    return (_EPOCH + number * _MICROSECOND).isoformat(sep=" ")


def _numeric_number(text: str) -> int:
    # Digits beyond are cut towards zero: whole numbers strictly between are strictly between the values, too.
    return int(Fraction(text) * 10**_DIGITS)


_NUMBERS: dict[str, tuple[Callable[[str], int], Callable[[int], str]]] = {
    "pg_catalog.int2": (int, str),
    "pg_catalog.int4": (int, str),
    "pg_catalog.int8": (int, str),
    "pg_catalog.numeric": (_numeric_number, lambda number: f"{number}e-{_DIGITS}"),
    "pg_catalog.date": (
        lambda text: dt.date.fromisoformat(text).toordinal(),
        lambda number: dt.date.fromordinal(number).isoformat(),
    ),
    "pg_catalog.timestamp": (_timestamp_number, _timestamp_text),
    "pg_catalog.timestamptz": (_timestamp_number, lambda number: f"{_timestamp_text(number)}+00"),
    "pg_catalog.uuid": (lambda text: uuid.UUID(text).int, lambda number: str(uuid.UUID(int=number))),
}
"""Types whose order is that of numbers, in every server: to a number, and back to text."""
_INFINITE = frozenset({"pg_catalog.date", "pg_catalog.timestamp", "pg_catalog.timestamptz"})


def steps(key_type: str, lower: str, upper: str, parts: int) -> tuple[str, ...]:
    """Return up to ``parts - 1`` values between two, ascending and strictly between them.

    Empty for values that have no number here: infinities, NaN, years before 1 and after 9999.
    """
    to_number, to_text = _NUMBERS[key_type]
    try:
        low, high = to_number(lower), to_number(upper)
    except (ValueError, OverflowError):
        return ()
    numbers = sorted({low + (high - low) * part // parts for part in range(1, parts)} - {low, high})
    return tuple(to_text(number) for number in numbers)
