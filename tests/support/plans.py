"""Small plans for tests of what works with plans."""

from datetime import UTC, datetime

from extraction_worker.model import (
    Chunk,
    ColumnPlan,
    Consistency,
    Format,
    Leaf,
    PgType,
    Plan,
    SnapshotIdentity,
    Verification,
    WholeRead,
)

INT8 = PgType(oid=20, namespace="pg_catalog", name="int8", kind="b", formatted="bigint")
TEXT = PgType(oid=25, namespace="pg_catalog", name="text", kind="b", formatted="text")

IDENTITY = SnapshotIdentity(
    snapshot_id="00000003-0000001B-1",
    snapshot="756:756:",
    system_identifier="7710819652474949074",
    timeline=1,
    postmaster_start=datetime(2026, 1, 1, tzinfo=UTC),
    in_recovery=False,
    server_address="127.0.0.1:5432",
    server_version=180006,
    lsn="0/1",
)


def make_plan(**changes: object) -> Plan:
    """Return a plan of one whole chunk of ``public.t (id int8, name text)``, with fields changed."""
    fields: dict[str, object] = {
        "program": "0",
        "run_id": "run",
        "source": "default/shop",
        "consistency": Consistency.SNAPSHOT,
        "identity": IDENTITY,
        "planned_at": datetime(2026, 1, 1, tzinfo=UTC),
        "relation": '"public"."t"',
        "locks": ('"public"."t"',),
        "leaves": (Leaf(oid=1, name='"public"."t"', relfilenode=1, pages=1, heap=True),),
        "from_sql": '"public"."t"',
        "columns": (
            ColumnPlan(name="id", type=INT8, nullable=False, expression='"id"', conversion="keep", arrow="int64"),
            ColumnPlan(name="name", type=TEXT, nullable=True, expression='"name"', conversion="keep", arrow="string"),
        ),
        "on_unrepresentable": "Fail",
        "format": Format(type="Parquet", compression="zstd"),
        "verification": Verification.WRITTEN,
        "strategy": "none",
        "strategy_reason": "a test",
        "chunks": (Chunk(index=0, read=WholeRead(), estimated_rows=1, estimated_bytes=1),),
    }
    return Plan.model_validate(fields | changes)
