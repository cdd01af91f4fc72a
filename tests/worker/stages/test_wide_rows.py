"""Wide rows: read alone, or refused by the server before they are sent; never a surprise."""

import pyarrow.parquet as pq
import pytest

from extraction_worker.errors import RowTooLarge
from extraction_worker.model import ColumnPlan, Leaf, PgType
from extraction_worker.source.width import find_wide_row, guard_width, may_be_wide
from extraction_worker.stages.work import ChunkWorker
from extraction_worker.stream.admission import MIB
from support.jobs import everything, local_run, published
from support.plans import INT8, TEXT, make_plan


def leaf(toast_pages: int, *, heap: bool = True) -> Leaf:
    return Leaf(oid=1, name="public.t", relfilenode=1, pages=1, heap=heap, toast_pages=toast_pages)


def test_only_tables_that_store_values_out_of_line_are_guarded():
    assert not may_be_wide(make_plan(leaves=(leaf(0),)))
    assert may_be_wide(make_plan(leaves=(leaf(0), leaf(1))))
    assert may_be_wide(make_plan(leaves=(leaf(0, heap=False),)))
    assert may_be_wide(make_plan(leaves=()))
    plan = make_plan(leaves=(leaf(0),))
    assert guard_width(plan, 1000) is plan


def test_tables_of_narrow_types_are_not_guarded():
    narrow = ColumnPlan(name="id", type=INT8, nullable=False, expression='"id"', conversion="keep", arrow="int64")
    assert not may_be_wide(make_plan(leaves=(leaf(9),), columns=(narrow,)))


def test_a_domain_is_as_wide_as_its_base():
    domain = PgType(oid=9, namespace="public", name="int2", kind="d", formatted="public.int2", base=TEXT)
    column = ColumnPlan(name="d", type=domain, nullable=True, expression='"d"', conversion="keep", arrow="string")
    assert may_be_wide(make_plan(leaves=(leaf(9),), columns=(column,)))


@pytest.mark.parametrize("text", ["", 'invalid input syntax for type boolean: "maybe"', "bytes=1 at=(0,1) of t"])
def test_other_messages_are_not_the_guards(text):
    assert find_wide_row(text) is None


@pytest.fixture
def table(database):
    """Rows of 100 bytes, one of 1 MiB and one of 12 MiB, each value incompressible and compressible in turn."""
    database.execute("CREATE TABLE t (id int8, body text, raw bytea, doc jsonb, words text[])")
    database.execute(
        "INSERT INTO t SELECT i, repeat('x', 100), 'abc', '{\"a\": 1}', '{a,b}' FROM generate_series(1, 500) AS i"
    )
    return database


def wide_values(database, kib: int) -> str:
    """Return SQL of a text of so many KiB that doesn't compress."""
    return f"(SELECT string_agg(md5(i::text || random()::text), '') FROM generate_series(1, {kib * 32}) AS i)"


@pytest.mark.parametrize(
    "change",
    [
        "body = {text}",
        "body = repeat('y', {bytes})",
        "raw = convert_to({text}, 'UTF8')",
        "raw = convert_to(repeat('y', {bytes}), 'UTF8')",
        "doc = jsonb_build_object('k', repeat('z', {bytes}))",
        "words = ARRAY[repeat('w', {bytes}), NULL, 'v']",
    ],
)
def test_a_row_wider_than_a_batch_is_read_alone_and_kept_exactly(table, tmp_path, monkeypatch, change):
    table.execute(f"UPDATE t SET {change.format(text=wide_values(table, 12 * 1024), bytes=12 * MIB)} WHERE id = 250")
    wide = []
    original = ChunkWorker._extract

    def extract(self, chunk, *arguments, **options):
        wide.append(options["wide"])
        return original(self, chunk, *arguments, **options)

    monkeypatch.setattr(ChunkWorker, "_extract", extract)
    local_run(tmp_path, table, memory=512 * MIB).run()
    assert wide.count(True) == 1
    files = published(tmp_path).glob("*.parquet")
    found = {row["id"]: row for file in files for row in pq.read_table(file).to_pylist()}
    assert len(found) == 500
    names = "body", "raw", "doc::text", "words"
    [(body, raw, doc, words)] = table.execute(f"SELECT {', '.join(names)} FROM t WHERE id = 250")
    assert (found[250]["body"], found[250]["raw"], found[250]["doc"], found[250]["words"]) == (body, raw, doc, words)


def test_a_row_that_needs_more_than_the_memory_is_refused_by_name_before_it_is_sent(table, tmp_path):
    table.execute(f"UPDATE t SET body = repeat('y', {60 * MIB}) WHERE id = 250")
    with pytest.raises(
        RowTooLarge, match=r"the row at \(\d+,\d+\) of public\.t has 62,914,\d{3} bytes.*Give the process"
    ):
        local_run(tmp_path, table, memory=256 * MIB).run()
    assert everything(tmp_path) == []


def test_a_row_of_a_query_is_refused_too(table, tmp_path):
    spec = {"query": f"SELECT id, repeat('y', {60 * MIB}) AS big FROM public.t WHERE id = 1"}
    with pytest.raises(RowTooLarge, match="the row at the query has"):
        local_run(tmp_path, table, memory=256 * MIB, spec=spec).run()


def test_a_filtered_row_is_not_looked_at(table, tmp_path):
    table.execute(f"UPDATE t SET body = repeat('y', {60 * MIB}) WHERE id = 250")
    manifest = local_run(tmp_path, table, memory=256 * MIB, spec={"where": "id <> 250"}).run()
    assert manifest.rows == 499


def test_a_role_that_may_read_only_columns_is_guarded_without_places(database18, tmp_path):
    database18.execute("CREATE TABLE t (id int8, body text)")
    database18.execute("INSERT INTO t VALUES (1, 'short')")
    database18.execute(f"INSERT INTO t VALUES (2, {wide_values(database18, 100)})")
    reader = database18.role(password="p")
    database18.execute(f"GRANT SELECT (id, body) ON t TO {reader}")
    manifest = local_run(tmp_path, database18, user=reader, password="p").run()
    assert manifest.rows == 2
    database18.execute(f"UPDATE t SET body = repeat('y', {60 * MIB}) WHERE id = 2")
    with pytest.raises(RowTooLarge, match="the row at the query has"):
        local_run(tmp_path / "again", database18, user=reader, password="p", memory=256 * MIB).run()
