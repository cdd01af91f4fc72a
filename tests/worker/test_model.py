"""Values between the stages: canonical JSON, and digests that cover what decides rows and bytes, no more."""

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from extraction_worker.model import Chunk, Consistency, CtidRead, Leaf, Plan, RangeRead, Verification
from support.plans import IDENTITY, make_plan


def test_values_survive_json():
    plan = make_plan(
        chunks=(
            Chunk(index=0, read=CtidRead(end_page=7), estimated_rows=1, estimated_bytes=2),
            Chunk(index=1, read=RangeRead(column="id", lower="1", upper="5"), estimated_rows=1, estimated_bytes=2),
        )
    )
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.fingerprint() == Plan.from_json(plan.to_json()).fingerprint()
    assert (plan.estimated_rows, plan.estimated_bytes) == (2, 4)


def test_bounds_are_row_data_and_no_repr_shows_them():
    chunk = Chunk(index=1, read=RangeRead(column="id", lower="4711"), estimated_rows=1, estimated_bytes=2)
    assert "4711" not in repr(make_plan(chunks=(chunk,)))
    assert "4711" in make_plan(chunks=(chunk,)).to_json().decode()


def test_unknown_fields_are_refused():
    with pytest.raises(ValidationError, match="surprise"):
        Plan.from_json(make_plan().to_json().replace(b'"runId"', b'"surprise":1,"runId"'))


COVERED = [
    {"identity": IDENTITY.model_copy(update={"snapshot": "800:800:"})},
    {"identity": IDENTITY.model_copy(update={"postmaster_start": datetime(2026, 2, 1, tzinfo=UTC)})},
    {"columns": make_plan().columns[:1]},
    {"where_sql": "id > 1"},
    {"from_sql": "public.u"},
    {"on_unrepresentable": "Null"},
    {"program": "another version"},
    {"planned_at": "2026-02-01T00:00:00Z"},
    {"leaves": (Leaf(oid=1, name="t", relfilenode=2, pages=1, heap=True),)},
    {"chunks": (Chunk(index=0, read=CtidRead(end_page=9), estimated_rows=1, estimated_bytes=1),)},
]


@pytest.mark.parametrize("change", COVERED, ids=lambda change: next(iter(change)))
def test_the_digest_of_a_plan_covers_what_decides_the_rows(change):
    assert make_plan(**change).plan_digest() != make_plan().plan_digest()


@pytest.mark.parametrize(
    "change",
    [
        {"run_id": "another"},
        {"warnings": ("slow",)},
        {"strategy_reason": "because"},
        {"verification": Verification.SOURCE},
        {"chunks": (make_plan().chunks[0].model_copy(update={"estimated_rows": 9}),)},
        {"leaves": (make_plan().leaves[0].model_copy(update={"pages": 9}),)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_digest_of_a_plan_leaves_out_what_does_not(change):
    assert make_plan(**change).plan_digest() == make_plan().plan_digest()


def test_under_per_partition_the_moment_is_no_part_of_the_digest_but_the_server_is():
    plan = make_plan(consistency=Consistency.PER_PARTITION)
    later = IDENTITY.model_copy(update={"snapshot": "900:900:", "lsn": "0/9"})
    assert make_plan(consistency=Consistency.PER_PARTITION, identity=later).plan_digest() == plan.plan_digest()
    other = IDENTITY.model_copy(update={"system_identifier": "1"})
    assert make_plan(consistency=Consistency.PER_PARTITION, identity=other).plan_digest() != plan.plan_digest()
