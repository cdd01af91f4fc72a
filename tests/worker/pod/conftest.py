"""What the pods' tests extract."""

import pytest

SMALL_CHUNKS = {"partitioning": {"targetBytes": "64Ki"}}


@pytest.fixture
def table(database18):
    """A table of more than ten chunks of 64 KiB."""
    database18.execute("CREATE TABLE t (id int8 PRIMARY KEY, name text, amount numeric(12,2))")
    database18.execute("INSERT INTO t SELECT i, 'name ' || md5(i::text), i / 100.0 FROM generate_series(1, 15000) AS i")
    database18.execute("DELETE FROM t WHERE id % 7 = 0")
    return database18
