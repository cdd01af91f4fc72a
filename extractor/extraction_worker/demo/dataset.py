"""The data set of demo and benchmarks: rows of ten columns and about 500 bytes, like orders with a payload."""

from collections.abc import Callable

import psycopg

_CREATE = """
CREATE TABLE records (
    id int8 NOT NULL, external_id text, customer text, created_at timestamptz, amount numeric(12,2),
    category int4, active bool, score float8, payload text, notes text
)
"""
_FILL = """
INSERT INTO records
SELECT i, md5(i::text), 'customer-' || i %% 50000, '2026-01-01Z'::timestamptz - (i %% 5000000) * interval '1 second',
       round((i * 7919 %% 1000000)::numeric / 100, 2), i %% 97, i %% 3 = 0, (i * 31 %% 10007)::float8 / 7,
       md5((i * 3)::text) || md5((i * 5)::text) || md5((i * 7)::text) || md5((i * 11)::text) || md5((i * 13)::text),
       repeat(md5((i %% 1000)::text), 6)
FROM generate_series(%s::int8, %s::int8) AS i
"""
_STEP = 250_000


def load_records(
    connection: psycopg.Connection[tuple[object, ...]], rows: int, said: Callable[[int], None] = lambda _: None
) -> None:
    """Make the table ``public.records`` with ids 1 to ``rows``, its primary key and its statistics.

    Parameters
    ----------
    connection
        In autocommit mode, of a role that may create tables.
    said
        Called with the number of rows that are there, from time to time.
    """
    connection.execute(_CREATE)
    for first in range(1, rows + 1, _STEP):
        last = min(first + _STEP - 1, rows)
        connection.execute(_FILL, [first, last])
        said(last)
    connection.execute("ALTER TABLE records ADD PRIMARY KEY (id)")
    connection.execute("VACUUM ANALYZE records")
