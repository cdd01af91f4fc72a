"""Choice of strategy and sizes of chunks; nothing here needs a server."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extraction_worker.errors import InvalidPartitioning
from extraction_worker.model import Chunk, Consistency, CtidRead, Leaf, RangeRead, RelationKind, WholeRead
from extraction_worker.source.chunks import (
    BLOCK_BYTES,
    MAX_CHUNKS,
    MIB,
    ChunkRequest,
    Estimate,
    KeyBound,
    KeyFacts,
    KeySample,
    SplitOptions,
    choose,
    plan_chunks,
    wanted_chunks,
)

ID = KeyFacts("id", "pg_catalog.int8", nullable=False, indexed=True, correlation=1.0)
DAY = KeyFacts("day", "pg_catalog.date", nullable=True, indexed=True, correlation=0.9)


def leaf(mib: float, *, heap: bool = True, toast: float = 0, name: str = "public.t") -> Leaf:
    pages = int(mib * MIB / BLOCK_BYTES)
    return Leaf(oid=1, name=name, relfilenode=1, pages=pages, heap=heap, toast_pages=int(toast * MIB / BLOCK_BYTES))


def request(*leaves: Leaf, version=180000, kind=RelationKind.TABLE, out: float | None = None, rows=1_000_000, **more):
    """A request for a table of these leaves; ``out`` is MiB that come out, all by default."""
    facts = {name: more.pop(name) for name in ("key", "default_key", "sample", "ctid_readable") if name in more}
    size = sum(leaf.pages + leaf.toast_pages for leaf in leaves) * BLOCK_BYTES if out is None else int(out * MIB)
    estimate = Estimate(rows, size, more.pop("reads_toast", True))
    return ChunkRequest(SplitOptions(**more), kind, leaves, version, estimate, **facts)


def even_sample(parts: int, nulls: float = 0.0) -> KeySample:
    return KeySample("sample", tuple(KeyBound(str(i), i / parts) for i in range(1, parts)), nulls)


class TestChoice:
    def test_auto_is_pages_for_heap_tables_whatever_key_there_is(self):
        found = choose(request(leaf(1000), key=DAY, default_key=ID))
        assert (found.strategy, found.key) == ("ctid", None)

    @pytest.mark.parametrize(
        ("changes", "why"),
        [
            ({"version": 130000}, "PostgreSQL 14"),
            ({"ctid_readable": False}, "SELECT on the table"),
            ({"kind": RelationKind.VIEW}, "a view has no pages"),
            ({"kind": RelationKind.FOREIGN}, "a foreign table has no pages"),
            ({"kind": None}, "a query has no pages"),
        ],
    )
    def test_without_page_ranges_auto_takes_a_key_or_one_chunk_and_ctid_is_refused(self, changes, why):
        assert choose(request(leaf(1000), key=DAY, default_key=ID, **changes)).key == DAY
        assert choose(request(leaf(1000), default_key=ID, **changes)).key == ID
        found = plan_chunks(request(leaf(1000), **changes))
        assert [chunk.read for chunk in found.chunks] == [WholeRead()]
        assert why in found.reason
        with pytest.raises(InvalidPartitioning, match=why):
            choose(request(leaf(1000), strategy="Ctid", **changes))

    def test_one_leaf_that_is_no_heap_rules_pages_out_and_is_named(self):
        leaves = (leaf(10), leaf(10, heap=False, name="public.far"), leaf(10, heap=False, name="public.farther"))
        assert "public.far and 1 more is not stored as a heap" in choose(request(*leaves)).reason

    def test_what_chunks_would_change_is_one_chunk_whatever_is_declared(self):
        for strategy in ("Auto", "Range"):
            found = plan_chunks(
                request(
                    leaf(1000),
                    kind=None,
                    strategy=strategy,
                    key=ID,
                    sample=even_sample(9),
                    unchunkable="it has a LIMIT",
                )
            )
            assert ([chunk.read for chunk in found.chunks], found.strategy) == ([WholeRead()], "none")
            assert found.reason == "one chunk, because it has a LIMIT"

    def test_none_is_one_chunk(self):
        assert [chunk.read for chunk in plan_chunks(request(leaf(1000), strategy="None")).chunks] == [WholeRead()]

    def test_range_needs_a_key(self):
        assert choose(request(leaf(1000), strategy="Range", default_key=ID)).key == ID
        with pytest.raises(InvalidPartitioning, match=r"partitioning\.column"):
            choose(request(leaf(1000), strategy="Range"))

    def test_a_key_without_an_index_would_read_the_table_for_each_range(self):
        bare = KeyFacts("day", "pg_catalog.date", nullable=True)
        found = choose(request(leaf(1000), strategy="Range", key=bare))
        assert found.strategy == "ctid"
        assert 'no btree index begins with "day"' in found.warnings[0]
        found = choose(request(leaf(1000), strategy="Range", key=bare, version=120000))
        assert found.strategy == "none"
        # Of a query nothing is known: who declares its key vouches for it.
        assert choose(request(kind=None, strategy="Range", key=bare, out=1000)).strategy == "range"

    def test_rows_far_from_the_order_of_the_key_are_warned_of(self):
        scattered = KeyFacts("id", "pg_catalog.uuid", nullable=False, indexed=True, correlation=0.01)
        assert "stored in the order" in choose(request(leaf(1000), strategy="Range", key=scattered)).warnings[0]
        assert choose(request(leaf(1000), strategy="Range", key=ID)).warnings == ()

    def test_a_snapshot_for_each_chunk_prefers_a_key_because_updates_move_rows_between_pages(self):
        each = {"consistency": Consistency.PER_PARTITION}
        assert choose(request(leaf(1000), key=DAY, default_key=ID, **each)).key == DAY
        assert choose(request(leaf(1000), default_key=ID, **each)).key == ID
        found = choose(request(leaf(1000), **each))
        assert found.strategy == "ctid"
        assert "missed or read twice" in found.warnings[0]
        assert choose(request(leaf(1000), default_key=ID)).strategy == "ctid"


class TestSizes:
    def test_chunks_hold_the_target(self):
        found = plan_chunks(request(leaf(1024)))
        assert len(found.chunks) == 16
        assert {chunk.estimated_bytes for chunk in found.chunks} == {64 * MIB}
        assert sum(chunk.estimated_rows for chunk in found.chunks) == 1_000_000

    @pytest.mark.parametrize(
        ("mib", "threads", "chunks"), [(500, 8, 32), (500, 1, 8), (40, 8, 5), (7, 8, 1), (2048, 2, 32)]
    )
    def test_each_thread_gets_several_but_none_gets_crumbs(self, mib, threads, chunks):
        assert len(plan_chunks(request(leaf(mib), parallelism=threads)).chunks) == chunks

    @pytest.mark.parametrize(("out", "chunks"), [(1024, 16), (128, 16), (32, 4), (0.001, 1)])
    def test_they_grow_where_little_comes_out_but_not_without_bound(self, out, chunks):
        assert len(plan_chunks(request(leaf(1024), out=out)).chunks) == chunks
        assert len(plan_chunks(request(leaf(10240), out=out)).chunks) >= 10

    @pytest.mark.parametrize(
        ("file_mib", "out", "chunks"), [(16, 1024, 16), (256, 1024, 4), (256, 512, 2), (2048, 1, 1)]
    )
    def test_they_grow_until_they_fill_a_file(self, file_mib, out, chunks):
        found = plan_chunks(request(leaf(1024), out=out, target_file_bytes=file_mib * MIB))
        assert len(found.chunks) == chunks

    def test_toast_counts_where_it_is_read(self):
        assert len(plan_chunks(request(leaf(64, toast=64 * 9))).chunks) == 10
        assert len(plan_chunks(request(leaf(64, toast=64 * 9), reads_toast=False, out=64)).chunks) == 1

    def test_a_query_is_measured_by_what_comes_out(self):
        assert wanted_chunks(request(kind=None, out=640)) == 10

    def test_many_leaves_make_larger_chunks_because_each_opens_them_all(self):
        assert len(plan_chunks(request(*[leaf(1)] * 6400)).chunks) == 16

    def test_there_is_an_end_to_the_number_of_chunks(self):
        assert wanted_chunks(request(leaf(64 * MAX_CHUNKS * 3))) == MAX_CHUNKS


class TestPages:
    def test_the_first_and_the_last_are_open_and_the_others_touch(self):
        reads = [chunk.read for chunk in plan_chunks(request(leaf(1000))).chunks]
        assert_pages(reads)

    def test_the_plan_is_the_same_each_time(self):
        leaves = [leaf(size, toast=size % 7) for size in (3, 900, 17, 17, 450)]
        assert plan_chunks(request(*leaves)) == plan_chunks(request(*reversed(leaves)))

    @given(
        st.lists(st.tuples(st.integers(0, 300_000), st.integers(0, 50_000)), min_size=1, max_size=30),
        st.integers(1, 64), st.sampled_from([8 * MIB, 64 * MIB]),
    )  # fmt: skip
    @settings(max_examples=40, deadline=None, derandomize=True, database=None)
    def test_chunks_of_unequal_leaves_are_about_equal_in_bytes(self, sizes, parallelism, target):
        leaves = [Leaf(oid=1, name="l", relfilenode=1, pages=p, heap=True, toast_pages=t if p else 0) for p, t in sizes]
        asked = request(*leaves, parallelism=parallelism, target_bytes=target)
        found = plan_chunks(asked)
        assert sum(chunk.estimated_bytes for chunk in found.chunks) == asked.estimate.bytes
        assert sum(chunk.estimated_rows for chunk in found.chunks) == asked.estimate.rows
        if len(found.chunks) > 1:
            assert_pages([chunk.read for chunk in found.chunks])
            for chunk in found.chunks:
                first, end = chunk.read.first_page or 0, chunk.read.end_page
                size = sum(
                    (min(leaf.pages, end or leaf.pages) - min(leaf.pages, first))
                    * BLOCK_BYTES * (1 + leaf.toast_pages / leaf.pages)
                    for leaf in leaves if leaf.pages
                )  # fmt: skip
                assert chunk.estimated_bytes == pytest.approx(size, abs=2 + size / 1000)
                # A page of every leaf is the least that a bound can move by.
                page = sum(BLOCK_BYTES * (1 + leaf.toast_pages / leaf.pages) for leaf in leaves if leaf.pages)
                assert size <= asked.estimate.bytes / wanted_chunks(asked) + page + 1

    def test_a_hundred_thousand_chunks_are_numbered_and_survive_json(self):
        found = plan_chunks(request(leaf(64 * 100_000), rows=10**10))
        assert len(found.chunks) == 100_000
        assert [chunk.index for chunk in found.chunks] == list(range(100_000))
        assert_pages([chunk.read for chunk in found.chunks])
        assert Chunk.from_json(found.chunks[4711].to_json()) == found.chunks[4711]


def assert_pages(reads: list[CtidRead]) -> None:
    """The ranges cover each page once: by their shape alone."""
    assert reads[0].first_page is None
    assert reads[-1].end_page is None
    for one, next_one in itertools.pairwise(reads):
        assert one.end_page == next_one.first_page
    bounds = [read.end_page for read in reads[:-1]]
    assert bounds == sorted(set(bounds))
    assert bounds[0] > 0


class TestRanges:
    def test_are_open_at_both_ends_and_nulls_have_their_own(self):
        found = plan_chunks(request(leaf(256), strategy="Range", key=DAY, sample=even_sample(4, nulls=0.2)))
        ends = [(chunk.read.lower, chunk.read.upper) for chunk in found.chunks]
        assert ends == [(None, "1"), ("1", "2"), ("2", "3"), ("3", None), (None, None)]
        assert [chunk.read.only_null for chunk in found.chunks] == [False] * 4 + [True]
        assert [chunk.estimated_rows for chunk in found.chunks] == [200_000] * 5
        assert {chunk.read.type for chunk in found.chunks} == {"pg_catalog.date"}
        assert (found.strategy, found.reason) == ("range", 'ranges of the declared column "day"')

    def test_a_key_that_cannot_be_null_has_no_chunk_for_nulls(self):
        found = plan_chunks(request(leaf(256), strategy="Range", default_key=ID, sample=even_sample(4)))
        assert not any(chunk.read.only_null for chunk in found.chunks)
        assert len(found.chunks) == 4
        assert found.reason == 'ranges of the key "id"'

    def test_a_hot_value_is_split_by_pages_that_cover_it_once(self):
        hot = KeySample("sample", (KeyBound("7", 0.1), KeyBound("8", 0.8)))
        found = plan_chunks(request(leaf(1280), strategy="Range", key=ID, sample=hot))
        split = [chunk.read for chunk in found.chunks if chunk.read.lower == "7"]
        assert len(split) == 14
        assert {read.upper for read in split} == {"8"}
        assert_pages([read.pages for read in split])
        assert [chunk.read.pages for chunk in found.chunks if chunk.read.lower != "7"] == [None, None]

    def test_where_pages_cannot_be_split_a_hot_value_is_one_chunk_and_told(self):
        hot = KeySample("sample", (KeyBound("7", 0.1), KeyBound("8", 0.8)))
        found = plan_chunks(request(leaf(1280), strategy="Range", key=ID, sample=hot, version=130000))
        assert len(found.chunks) == 3
        assert "1 of the ranges" in found.warnings[0]

    def test_too_many_hot_values_are_a_case_for_pages(self):
        found = plan_chunks(request(leaf(64 * 100), strategy="Range", key=ID, sample=even_sample(8)))
        assert (found.strategy, len(found.chunks)) == ("ctid", 100)
        assert "few distinct values" in found.warnings[0]

    def test_a_key_of_which_nothing_is_known_is_a_case_for_pages_or_one_chunk(self):
        assert plan_chunks(request(leaf(256), strategy="Range", key=ID)).strategy == "ctid"
        old = plan_chunks(request(leaf(256), strategy="Range", key=ID, version=130000))
        assert [chunk.read for chunk in old.chunks] == [WholeRead()]
        assert "can be learned" in old.reason

    def test_a_single_value_is_one_range_split_by_pages(self):
        found = plan_chunks(request(leaf(640), strategy="Range", key=DAY, sample=KeySample("sample", (), 0.0)))
        ranges = [chunk.read for chunk in found.chunks if not chunk.read.only_null]
        assert {(read.lower, read.upper) for read in ranges} == {(None, None)}
        assert_pages([read.pages for read in ranges])
        assert RangeRead(column="day", type="pg_catalog.date", only_null=True) in [chunk.read for chunk in found.chunks]

    def test_bounds_are_row_data_and_stay_out_of_representations(self):
        assert "secret" not in repr(KeySample("sample", (KeyBound("secret", 0.5),)))
