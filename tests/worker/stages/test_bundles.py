"""Bundles: every chunk in exactly one, as the contract of operator and pods says."""

from hypothesis import given
from hypothesis import strategies as st

from extraction_worker.model import Chunk, WholeRead
from extraction_worker.stages.bundles import BUNDLE_BYTES, MAX_BUNDLES, SMALL_BYTES, bundle_chunks, bundle_count
from support.plans import make_plan


def plan_of(chunks: int, each: int = 1):
    return make_plan(
        chunks=tuple(
            Chunk(index=index, read=WholeRead(), estimated_rows=1, estimated_bytes=each) for index in range(chunks)
        )
    )


@given(chunks=st.integers(1, 300), share=st.floats(0, 1))
def test_every_chunk_is_in_the_bundle_that_the_contract_names(chunks, share):
    bundles = max(1, round(chunks * share))
    plan = plan_of(chunks)
    found = [(bundle, chunk.index) for bundle in range(bundles) for chunk in bundle_chunks(plan, bundle, bundles)]
    assert found == [(index * bundles // chunks, index) for index in range(chunks)]
    assert {bundle for bundle, _ in found} == set(range(bundles))


def test_a_small_plan_and_a_plan_of_one_chunk_are_one_bundle():
    assert bundle_count(plan_of(4, SMALL_BYTES // 4), 4) == 1
    assert bundle_count(plan_of(4, SMALL_BYTES // 4 + 1), 4) == 4
    assert bundle_count(plan_of(1, 1 << 40), 8) == 1


def test_bundles_keep_every_pod_busy_and_are_of_a_bounded_size():
    assert bundle_count(plan_of(100, BUNDLE_BYTES // 10), 4) == 10
    assert bundle_count(plan_of(100, BUNDLE_BYTES // 100), 64) == 64
    assert bundle_count(plan_of(8, BUNDLE_BYTES * 10), 4) == 8
    # A minute's work at 8 MiB/s for two pods is 240 MiB; never less than what is worth a pod.
    assert bundle_count(plan_of(100, 24 << 20), 2, 8 << 20) == 10
    assert bundle_count(plan_of(100, 24 << 20), 2, 1 << 10) == -(-2400 // 64)
    assert bundle_count(plan_of(MAX_BUNDLES + 5, BUNDLE_BYTES), 4) == MAX_BUNDLES


def test_bundles_beyond_the_chunks_are_empty():
    assert list(bundle_chunks(plan_of(2), 2, 3)) == []
