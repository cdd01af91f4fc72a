"""Publishing: every chunk exactly once, of this plan, with parts that the sink really holds."""

from datetime import UTC, datetime

import pytest

from extraction_worker.errors import VerificationFailed
from extraction_worker.model import Chunk, ChunkResult, CtidRead, Manifest, Part, Replaced, Verification
from extraction_worker.stages.publish import complete_results, make_manifest, publish
from extraction_worker.stages.results import ChunkResults
from support.plans import make_plan

CHUNKS = tuple(
    Chunk(index=index, read=CtidRead(first_page=index, end_page=index + 1), estimated_rows=1, estimated_bytes=1)
    for index in range(3)
)
PLAN = make_plan(chunks=CHUNKS)
DIGEST = PLAN.plan_digest()


def part(chunk: int, rows: int = 5, name: str = "") -> Part:
    name = name or f"part-{chunk:05d}-0000000{chunk}.parquet"
    return Part(name=name, chunk=chunk, rows=rows, bytes=10, xxh3_128="a" * 32, crc32="b" * 8)


def result(chunk: int, **changes) -> ChunkResult:
    fields = {
        "plan_digest": DIGEST, "worker": "w", "chunk": chunk, "rows": 5, "source_bytes": 50, "parts": (part(chunk),),
        "verified": Verification.WRITTEN, "seconds": 0.1,
    }  # fmt: skip
    return ChunkResult.model_validate(fields | changes)


def by_chunk(*results: ChunkResult) -> ChunkResults:
    found = ChunkResults()
    for entry in results:
        found.put(entry)
    return found


def complete(*results: ChunkResult) -> list[ChunkResult]:
    return list(complete_results(PLAN, frozenset({DIGEST}), by_chunk(*results)))


def test_results_come_in_the_order_of_chunks():
    assert [entry.chunk for entry in complete(result(2), result(0), result(1))] == [0, 1, 2]


def test_results_are_kept_by_chunk_and_the_last_of_a_chunk_stays():
    found = by_chunk(result(2), result(0), result(2, worker="again"))
    assert (len(found), list(found), 1 in found, 9 in found) == (2, [0, 2], False, False)
    assert found[2].worker == "again"
    with pytest.raises(KeyError):
        found[1]


def test_a_result_at_the_place_of_another_is_refused():
    with pytest.raises(VerificationFailed, match="Chunk 1: its result is that of chunk 2"):
        list(complete_results(PLAN, frozenset({DIGEST}), {0: result(0), 1: result(2), 2: result(2)}))


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ((result(0), result(1)), "Chunk 2 has no result"),
        ((result(1),), "Chunk 0 and 1 more has no result"),
        ((result(0), result(1), result(2), result(3)), "Chunk 3 has a result, but isn't in the plan"),
        ((result(0), result(1), result(2, plan_digest="stale")), "Chunk 2: its result belongs to plan stale"),
        ((result(0), result(1), result(2, parts=(part(1),))), "Chunk 2: its result names parts of another chunk"),
        ((result(0), result(1), result(2, rows=6)), "Chunk 2: its parts don't have the rows"),
    ],
)
def test_a_wrong_result_is_refused_and_the_chunk_named(results, message):
    with pytest.raises(VerificationFailed, match=message):
        complete(*results)


def test_results_of_the_plan_that_a_degraded_one_continues_are_taken():
    results = by_chunk(result(0, plan_digest="before"), result(1), result(2))
    assert len(list(complete_results(PLAN, frozenset({DIGEST, "before"}), results))) == 3


def test_the_manifest_sums_up_and_its_digest_covers_every_part():
    replaced = (Replaced(column="at", kind="infinity", count=2),)
    results = complete(result(0, replaced=replaced), result(1, replaced=replaced), result(2, rows=0, parts=()))
    manifest = make_manifest(PLAN, DIGEST, "default/orders", results, published_at=datetime(2026, 1, 2, tzinfo=UTC))
    assert (manifest.rows, manifest.bytes, len(manifest.parts)) == (10, 20, 2)
    assert manifest.replaced == (Replaced(column="at", kind="infinity", count=4),)
    assert manifest.digest == Manifest.set_digest(manifest.parts)
    changed = (manifest.parts[0], manifest.parts[1].model_copy(update={"xxh3_128": "c" * 32}))
    assert Manifest.set_digest(changed) != manifest.digest
    assert Manifest.from_json(manifest.to_json()) == manifest


class OneBadPart:
    """A sink that holds another part than was written; nothing else of it may be asked."""

    def check_part(self, checked):
        if checked.chunk == 1:
            raise VerificationFailed(f"Chunk {checked.chunk}: {checked.name} differs")


def test_nothing_is_published_when_a_part_differs():
    with pytest.raises(VerificationFailed, match="Chunk 1: part-00001"):
        publish(PLAN, "default/orders", by_chunk(result(0), result(1), result(2)), OneBadPart(), writer="w")
