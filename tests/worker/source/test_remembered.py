"""What is remembered of a table: less to ask for, and never another plan than one that is made anew."""

import zlib
from datetime import UTC, datetime

import psycopg
import pytest

from conftest import Database
from extraction_contract.redis_url import RedisUrl
from extraction_worker.cache.connection import RedisConnection
from extraction_worker.cache.store import Cache
from extraction_worker.errors import NotFound, PermissionDenied
from extraction_worker.stages.plan import read_job
from extraction_worker.stages.settings import cache_scope
from extraction_worker.stages.source import JobSource
from support.jobs import resolve_job, write_job

CANARIES = ("canary-in-a-row", "canary-is-common", "canary-of-the-password", "canary-of-redis")
SMALL = {"partitioning": {"targetBytes": "64Ki"}}


@pytest.fixture(scope="module")
def database_of_all(postgres18):
    """One database of all tests of this module: making one takes longer than what happens in it."""
    value = Database(postgres18)
    yield value
    value.drop()


@pytest.fixture
def database18(database_of_all):
    """The database, with nothing in it."""
    for schema in database_of_all.execute("SELECT nspname FROM pg_namespace WHERE nspname !~ '^(pg_|information_s)'"):
        database_of_all.execute(f'DROP SCHEMA "{schema[0]}" CASCADE')
    database_of_all.execute("CREATE SCHEMA public")
    return database_of_all


@pytest.fixture
def table(database18):
    """A table of several chunks, with types of its own, and values that may be in no cache."""
    database18.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")
    database18.execute("CREATE SCHEMA other")
    database18.execute("CREATE DOMAIN amounts AS numeric(12,2)")
    database18.execute("CREATE TYPE colour AS ENUM ('red', 'green')")
    database18.execute(
        'CREATE TABLE t (id int8 PRIMARY KEY, name text COLLATE "C" NOT NULL, amount amounts, colour colour[], '
        "code varchar(20))"
    )
    database18.execute(
        "INSERT INTO t SELECT i, 'canary-in-a-row ' || md5(i::text), i / 100.0, '{red}', 'canary-is-common' "
        "FROM generate_series(1, 5000) AS i"
    )
    database18.execute("VACUUM ANALYZE t")
    return database18


class Planner:
    """Plans jobs on ``public.t``, with a cache and without."""

    def __init__(self, database, server, folder, **changes) -> None:
        self.server = server
        self.resolved = resolve_job(write_job(folder, database, **changes))
        self.cache = self.new_cache()

    def new_cache(self) -> Cache:
        self.cache = Cache(RedisConnection(RedisUrl(self.server.url)), cache_scope(self.resolved.source))
        return self.cache

    def plan(self, cache=None, threads=4):
        source = JobSource(self.resolved, "run", cache=cache)
        at = datetime(2026, 1, 1, tzinfo=UTC)
        reading = read_job(self.resolved.job, self.resolved.source, at)
        plan = source.make_plan(reading, None, run_id="run", planned_at=at, threads=threads)
        # Every plan here has a snapshot of its own.
        identity = plan.identity.model_copy(update={"snapshot": "", "lsn": ""})
        return plan.model_copy(update={"identity": identity})

    def remembered(self):
        """Return a plan by the cache, and what was looked up for it."""
        cache = self.new_cache()
        plan = self.plan(cache)
        return plan, {use.cache: (use.hits, use.misses, use.errors) for use in cache.uses()}


@pytest.fixture
def planner(table, redis, tmp_path):
    return Planner(table, redis, tmp_path, spec=SMALL)


def test_a_table_that_did_not_change_is_planned_from_what_is_remembered(planner):
    first, missed = planner.remembered()
    second, hit = planner.remembered()
    assert missed == {"introspection": (0, 1, 0), "pages": (0, 1, 0), "statistics": (0, 1, 0)}
    assert hit == {"introspection": (1, 0, 0), "pages": (1, 0, 0)}
    assert first == second == planner.plan()
    assert len(first.chunks) > 5


def test_it_saves_most_statements(planner, monkeypatch):
    statements = []
    execute = psycopg.Connection.execute

    def counted(self, query, *args, **kwargs):
        statements.append(query)
        return execute(self, query, *args, **kwargs)

    monkeypatch.setattr(psycopg.Connection, "execute", counted)

    def asked(cache) -> int:
        statements.clear()
        planner.plan(cache)
        return sum("pg_catalog.pg_" in str(statement) for statement in statements)

    without = asked(None)
    planner.remembered()
    assert asked(planner.new_cache()) <= without - 3


# Each of these changes something that a plan depends on, or could: the plan by the cache must be the one without it.
CHANGES = {
    "a column": "ALTER TABLE t ADD COLUMN extra int4",
    "a column that goes": "ALTER TABLE t DROP COLUMN code",
    "a column's name": "ALTER TABLE t RENAME COLUMN code TO coding",
    "two names swapped": "ALTER TABLE t RENAME code TO x; ALTER TABLE t RENAME name TO code; "
    "ALTER TABLE t RENAME x TO name",
    "a type without a rewrite": "ALTER TABLE t ALTER code TYPE varchar(40)",
    "a type with a rewrite": "ALTER TABLE t ALTER id TYPE int4 USING id::int4",
    "NULLs allowed": "ALTER TABLE t ALTER name DROP NOT NULL",
    "NULLs forbidden": "ALTER TABLE t ALTER code SET NOT NULL",
    "a domain's name": "ALTER DOMAIN amounts RENAME TO sums",
    "a domain's schema": "ALTER DOMAIN amounts SET SCHEMA other",
    "an enum's name": "ALTER TYPE colour RENAME TO paint",
    "a schema's name": "ALTER DOMAIN amounts SET SCHEMA other; ALTER SCHEMA other RENAME TO another",
    "another table of the name": "ALTER TABLE t RENAME TO old; CREATE TABLE t (id int8 PRIMARY KEY, other text)",
    "the same table anew": "CREATE TABLE n (LIKE t INCLUDING ALL); DROP TABLE t; ALTER TABLE n RENAME TO t",
    "no primary key": "ALTER TABLE t DROP CONSTRAINT t_pkey",
    "another key": "ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t ADD PRIMARY KEY (name)",
    "an index": "CREATE INDEX ON t (amount)",
    "a collation": 'ALTER TABLE t ALTER name TYPE text COLLATE "default"',
    "no rows": "TRUNCATE t",
    "fewer pages": "DELETE FROM t WHERE id > 500; VACUUM FULL t",
    "more pages": "INSERT INTO t SELECT i, 'x', 1, NULL, NULL FROM generate_series(100000, 110000) AS i",
    "a child": 'CREATE TABLE child (id int8, name text COLLATE "C", amount amounts, colour colour[], '
    "code varchar(20)); ALTER TABLE child ALTER name SET NOT NULL; ALTER TABLE child ALTER id SET NOT NULL; "
    "ALTER TABLE child INHERIT t; INSERT INTO child SELECT i, 'x', 1, NULL, NULL FROM generate_series(1, 5000) i",
    "a dropped column in between": "ALTER TABLE t ADD COLUMN x int4; ALTER TABLE t DROP COLUMN x; "
    "ALTER TABLE t ADD COLUMN y int8",
}  # fmt: skip


BY_KEY = {"partitioning": {"strategy": "Range", "column": "id", "targetBytes": "64Ki"}}
NOT_OF_PAGES = {"an index", "no primary key", "another key"}
"""What a plan by pages doesn't show."""


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_the_plan_is_the_one_that_would_be_made_anew(table, redis, tmp_path, change):
    planners = [Planner(table, redis, tmp_path / str(i), spec=spec) for i, spec in enumerate((SMALL, BY_KEY))]
    before = []
    for planner in planners:
        planner.remembered()
        plan, hit = planner.remembered()
        assert hit["introspection"] == (1, 0, 0)
        before.append(plan)
    for statement in CHANGES[change].split("; "):
        table.execute(statement)
    # Statistics are allowed to be old; the test isn't about them.
    redis.client().delete(*redis.client().keys("*:statistics:*") or ["none"])
    after = [planner.remembered()[0] for planner in planners]
    assert after == [planner.plan() for planner in planners]
    assert change in NOT_OF_PAGES or after[0] != before[0]
    assert change == "an index" or after[1] != before[1]


def test_columns_stay_what_they_are_when_only_statistics_are_old(planner, table):
    planner.remembered()
    table.execute("DELETE FROM t WHERE id % 2 = 0")
    table.execute("ANALYZE t")
    plan, hit = planner.remembered()
    assert hit["introspection"] == (1, 0, 0)
    assert plan.columns == planner.plan().columns


@pytest.mark.parametrize(
    "ddl",
    [
        "CREATE TABLE p (id int8, name text) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p DEFAULT",
        "CREATE TABLE p (id int8 NOT NULL, name text); CREATE TABLE p1 (extra int4) INHERITS (p)",
        'CREATE TABLE p (id int8, name text, "odd ""name" int4[], ts timestamptz, n numeric, b bytea)',
    ],
)
def test_other_kinds_of_tables_are_remembered_the_same(database18, redis, tmp_path, ddl):
    for statement in ddl.split("; "):
        database18.execute(statement)
    database18.execute("INSERT INTO p (id, name) SELECT i, md5(i::text) FROM generate_series(1, 5000) AS i")
    planner = Planner(database18, redis, tmp_path, spec=SMALL | {"table": "public.p"})
    first, _ = planner.remembered()
    second, hit = planner.remembered()
    assert hit == {"introspection": (1, 0, 0), "pages": (1, 0, 0)}
    assert first == second == planner.plan()


def test_a_partition_that_is_attached_is_read(database18, redis, tmp_path):
    database18.execute("CREATE TABLE p (id int8, name text) PARTITION BY RANGE (id)")
    database18.execute("CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (5000)")
    planner = Planner(database18, redis, tmp_path, spec={"table": "public.p"})
    planner.remembered()
    database18.execute("CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (5000) TO (100000)")
    plan, _ = planner.remembered()
    assert [leaf.name for leaf in plan.leaves] == ["public.p1", "public.p2"]
    assert plan == planner.plan()


@pytest.mark.parametrize("spec", [
    {"where": "id < 5000"}, {"columns": ["amount", "id"]}, {"where": "name > 'b'", "columns": ["name"]},
    {"partitioning": {"strategy": "None"}},
])  # fmt: skip
def test_plans_of_other_jobs_on_the_table_are_not_mixed_up(table, redis, tmp_path, spec):
    one = Planner(table, redis, tmp_path / "one", spec=SMALL)
    other = Planner(table, redis, tmp_path / "other", spec=SMALL | spec)
    assert one.remembered()[0] == one.plan()
    plan, used = other.remembered()
    assert used["introspection"] == (1, 0, 0)
    assert plan == other.remembered()[0] == other.plan()


def test_plans_for_more_threads_are_others(planner):
    planner.remembered()
    assert planner.plan(planner.new_cache(), threads=1) == planner.plan(threads=1)
    assert planner.plan(planner.new_cache(), threads=64) == planner.plan(threads=64)


def test_an_edited_data_source_remembers_nothing(table, redis, tmp_path):
    Planner(table, redis, tmp_path / "one", spec=SMALL).remembered()
    edited = Planner(table, redis, tmp_path / "two", spec=SMALL, source={"limits": {"maxConnections": 7}})
    assert edited.remembered()[1]["introspection"] == (0, 1, 0)


def test_errors_are_those_without_a_cache(table, redis, tmp_path):
    for spec, message in (
        ({"columns": ["id", "nme"]}, "name"),
        ({"partitioning": {"column": "nme"}}, "nme"),
        ({"partitioning": {"column": "colour"}}, "colour"),
    ):
        planner = Planner(table, redis, tmp_path, spec=spec)
        with pytest.raises(Exception, match=message) as without:
            planner.plan()
        for _ in range(2):
            with pytest.raises(type(without.value)) as found:
                planner.remembered()
            assert str(found.value) == str(without.value)


def test_privileges_are_looked_up_anew(table, redis, tmp_path):
    reader = table.role("revoked", password="canary-of-the-password")
    table.execute(f"GRANT SELECT ON t TO {reader}")
    planner = Planner(table, redis, tmp_path, spec=SMALL, user=reader, password="canary-of-the-password")
    planner.remembered()
    planner.remembered()
    table.execute(f"REVOKE SELECT ON t FROM {reader}")
    with pytest.raises(PermissionDenied):
        planner.remembered()
    table.execute(f"GRANT SELECT (id) ON t TO {reader}")
    with pytest.raises(PermissionDenied, match="amount"):
        planner.remembered()
    table.execute("DROP TABLE t")
    with pytest.raises(NotFound):
        planner.remembered()


def test_views_queries_and_foreign_tables_are_not_remembered(table, redis, tmp_path):
    table.execute("CREATE VIEW v AS SELECT id FROM t")
    for spec in ({"table": "public.v"}, {"query": "SELECT id FROM public.t"}):
        plan, used = Planner(table, redis, tmp_path, spec=spec).remembered()
        assert used == {}
        assert plan.columns[0].name == "id"
    assert redis.client().keys("*") == []


def test_no_value_of_a_row_and_no_secret_is_in_redis(table, redis, tmp_path):
    reader = table.role("canaries", password="canary-of-the-password")
    table.execute(f"GRANT SELECT ON t TO {reader}")
    table.execute("CREATE INDEX ON t (name)")
    # A bound of the histogram, and of a range that is planned, is one of these values.
    assert "canary-in-a-row" in str(table.execute("SELECT histogram_bounds FROM pg_stats WHERE attname = 'name'"))
    for spec in (SMALL, {"partitioning": {"strategy": "Range", "column": "name", "targetBytes": "64Ki"}},
                 SMALL | {"where": "name <> 'canary-in-a-row of a predicate'"}):  # fmt: skip
        planner = Planner(table, redis, tmp_path, spec=spec, user=reader, password="canary-of-the-password")
        plan, _ = planner.remembered()
        if plan.strategy == "range":
            assert "canary" in str(plan.chunks[0].read.upper)
    assert_clean(redis)
    assert len(redis.client().keys("*")) >= 5


def assert_clean(redis) -> None:
    """Look through every key, value and field, unpacked too."""
    client = redis.client()
    for key in client.keys("*"):
        kind = client.type(key)
        stored = {b"": client.get(key)} if kind == b"string" else client.hgetall(key)
        values = [part for pair in stored.items() for part in pair]
        for value in (key, *values):
            shown = value
            if value[:1] == b"x":
                shown = zlib.decompress(value)
            assert not any(canary.encode() in text for canary in CANARIES for text in (value, shown)), key


def test_another_role_that_may_read_everything_shares_what_is_remembered(table, redis, tmp_path):
    reader = table.role("sharing")
    table.execute(f"GRANT SELECT ON t TO {reader}")
    Planner(table, redis, tmp_path / "one", spec=SMALL).remembered()
    other = Planner(table, redis, tmp_path / "two", spec=SMALL, user=reader, password="reader-password")
    plan, used = other.remembered()
    assert used["introspection"] == (1, 0, 0)
    assert plan == other.plan()


def test_on_an_older_server_too(postgres15, redis, tmp_path):
    database = Database(postgres15)
    try:
        database.execute("CREATE TABLE t (id int8 PRIMARY KEY, name text)")
        database.execute("INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 5000) AS i")
        planner = Planner(database, redis, tmp_path, spec=SMALL)
        planner.remembered()
        plan, used = planner.remembered()
        assert used["introspection"] == (1, 0, 0)
        assert plan == planner.plan()
    finally:
        database.drop()
