"""What is read isn't what was planned: caught where no lock prevents it, and named."""

import pytest

from extraction_worker.errors import SchemaDrift
from support.pods import Pods

SPEC = {"partitioning": {"targetBytes": "64Ki"}}
DRIFTS = {
    "two columns swap their names": (
        "ALTER TABLE t RENAME name TO x; ALTER TABLE t RENAME other TO name; ALTER TABLE t RENAME x TO other",
        "Column name of public.t was dropped, replaced",
    ),
    "a column is dropped": ("ALTER TABLE t DROP other", "other.*was there when the plan was made"),
    "a column comes again": ("ALTER TABLE t DROP other; ALTER TABLE t ADD other text", "Column other of public.t"),
    "a type grows": ("ALTER TABLE t ALTER amount TYPE numeric(20,2)", "Column amount of public.t"),
    "a table is dropped": ("DROP TABLE t CASCADE", '"t".*|public.t.*was there when'),
    "another table takes the name": (
        "ALTER TABLE t RENAME TO was; CREATE TABLE t AS SELECT * FROM was",
        "public.t isn't the relation any more that was planned",
    ),
    "its schema is renamed": (
        "ALTER SCHEMA public RENAME TO was; CREATE SCHEMA public; CREATE TABLE public.t AS SELECT * FROM was.t",
        "public.t isn't the relation any more that was planned",
    ),
    "the table is truncated": ("TRUNCATE t", "was rewritten, truncated or replaced"),
}


def planned(database, tmp_path, **changes) -> Pods:
    """Return a job of two bundles under PerPartition: one is done, the other is to come."""
    pods = Pods(tmp_path, database, bundles=2, consistency="PerPartition", **{"spec": SPEC} | changes)
    pods.run("plan")
    pods.run("work", "first", **pods.worker(0))
    return pods


@pytest.fixture
def wide(table):
    table.execute("ALTER TABLE t ADD other text")
    table.execute("UPDATE t SET other = 'other ' || id")
    return table


@pytest.mark.parametrize("drift", DRIFTS)
def test_drift_between_plan_and_read_is_named_and_nothing_is_published(wide, tmp_path, drift):
    statement, message = DRIFTS[drift]
    pods = planned(wide, tmp_path)
    done = pods.results()
    wide.execute(statement)
    with pytest.raises(SchemaDrift, match=message) as caught:
        pods.run("work", "second", **pods.worker(1))
    assert caught.value.chunk is not None
    assert pods.results() == done
    assert pods.published() is None


def test_a_partition_that_is_detached_is_named(database18, tmp_path):
    database18.execute("CREATE TABLE t (id int8, name text) PARTITION BY RANGE (id)")
    for start in (0, 5000):
        database18.execute(f"CREATE TABLE t{start} PARTITION OF t FOR VALUES FROM ({start}) TO ({start + 5000})")
    database18.execute("INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 9999) AS i")
    pods = planned(database18, tmp_path)
    database18.execute("ALTER TABLE t DETACH PARTITION t5000")
    with pytest.raises(SchemaDrift, match=r"public\.t5000 was detached from public\.t"):
        pods.run("work", "second", **pods.worker(1))


def test_what_isnt_read_may_change(wide, tmp_path):
    pods = planned(wide, tmp_path, spec=SPEC | {"columns": ["id", "name"]})
    for statement in (
        "ALTER TABLE t ADD more int DEFAULT 7", "ALTER TABLE t DROP other", "CREATE INDEX ON t (name)",
        "ALTER TABLE t ALTER amount TYPE numeric(20,2)",
    ):  # fmt: skip
        wide.execute(statement)
    pods.run("work", "second", **pods.worker(1))
    assert pods.run("publish").rows == 12858
