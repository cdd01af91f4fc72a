"""What a plan of 100,000 chunks costs: ``python -m bench.scale``; see docs/performance.md.

Each stage is a process of its own: cutting a table into chunks and writing ``plan.json``, reading that, and publishing
as many results from a volume, of one small part each and with digests of ten columns, after checking every part.
"""

import argparse
import json
import shutil
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench.machine import this_machine
from bench.measure import measure
from bench.report import MIB

RESULTS = Path(__file__).with_name("results")
STAGES = ("plan", "read", "publish")
_RUN = "uid-1"


@dataclass(frozen=True)
class Cost:
    """What one stage took."""

    stage: str
    wall_seconds: float
    cpu_seconds: float
    peak_rss_bytes: int


def _plan(folder: Path, chunks: int) -> None:
    from extraction_worker.model import (
        ColumnPlan,
        Consistency,
        Format,
        Leaf,
        PgType,
        Plan,
        RelationKind,
        SnapshotIdentity,
        Verification,
    )
    from extraction_worker.source.chunks import BLOCK_BYTES, ChunkRequest, Estimate, SplitOptions, plan_chunks

    # As many pages as make a chunk of the usual size each.
    pages = chunks * SplitOptions().target_bytes // BLOCK_BYTES
    leaf = Leaf(oid=1, name='"public"."t"', relfilenode=1, pages=pages, heap=True)
    estimate = Estimate(rows=pages * 50, bytes=pages * BLOCK_BYTES)
    found = plan_chunks(ChunkRequest(SplitOptions(), RelationKind.TABLE, (leaf,), 180000, estimate))
    if len(found.chunks) != chunks:
        raise RuntimeError(f"{len(found.chunks)} chunks were planned, not {chunks}")
    kind = PgType(oid=20, namespace="pg_catalog", name="int8", kind="b", formatted="bigint")
    now = datetime.now(UTC)
    plan = Plan(
        program="bench", run_id=_RUN, source="default/bench", consistency=Consistency.SNAPSHOT,
        identity=SnapshotIdentity(
            snapshot_id="1", snapshot="1:1:", system_identifier="1", timeline=1, postmaster_start=now,
            in_recovery=False, server_address="", server_version=180000, lsn="0/1",
        ),
        planned_at=now, relation='"public"."t"', locks=(), leaves=(leaf,), from_sql='"public"."t"',
        columns=tuple(
            ColumnPlan(
                name=f"c{n}", type=kind, nullable=True, expression=f'"c{n}"', conversion="keep", arrow="int64"
            )
            for n in range(10)
        ),
        on_unrepresentable="Fail", format=Format(type="Parquet", compression="zstd"), verification=Verification.DECODED,
        strategy=found.strategy, strategy_reason=found.reason, chunks=found.chunks,
    )  # fmt: skip
    plan.plan_digest()
    (folder / "plan.json").write_bytes(plan.to_json())


def _write_results(folder: Path, chunks: int) -> None:
    """Put parts and results where workers would have put them, without waiting for the disk."""
    from extraction_worker.model import ChunkResult, ColumnDigest, Part, Plan, Verification
    from extraction_worker.sink.digests import Digester

    plan = Plan.from_json((folder / "plan.json").read_bytes())
    digest = plan.plan_digest()
    digester = Digester()
    digester.update(b"x")
    held = digester.digest()
    columns = tuple(ColumnDigest(name=column.name, nulls=0, digest=held.xxh3_128) for column in plan.columns)
    staging = folder / "volume" / "_staging" / _RUN
    for name in ("files", "state/results"):
        (staging / name).mkdir(parents=True)
    for index in range(chunks):
        part = Part(
            name=f"part-{index:05d}-0123abcd.parquet", chunk=index, rows=1, bytes=1, xxh3_128=held.xxh3_128,
            crc32=held.crc32,
        )  # fmt: skip
        result = ChunkResult(
            plan_digest=digest, worker="pod", chunk=index, rows=1, source_bytes=8, parts=(part,),
            columns=columns, verified=Verification.DECODED, seconds=1.0,
        )  # fmt: skip
        (staging / "files" / part.name).write_bytes(b"x")
        (staging / "state" / "results" / f"{index:05d}-pod.json").write_bytes(result.to_json())


def _publish(folder: Path) -> None:
    from extraction_worker.model import Plan
    from extraction_worker.sink.folder import FolderSink
    from extraction_worker.stages.bundles import bundle_count
    from extraction_worker.stages.pod.collect import Collector
    from extraction_worker.stages.publish import publish

    sink = FolderSink(folder / "volume", "published", run_id=_RUN, if_exists="Fail")
    plan = Plan.from_json((folder / "plan.json").read_bytes())
    collector = Collector(plan, sink, bundle_count(plan, 4))
    if not collector.look():
        raise RuntimeError("a result is missing")
    publish(plan, "default/bench", collector.chosen(), sink, writer="pod")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description="What very many chunks cost.")
    parser.add_argument("--chunks", type=int, default=100_000, help="(default: %(default)s)")
    parser.add_argument("--name", default="scale.local", help="of the file in bench/results (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("build/bench/scale"), help="(default: %(default)s)")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    options = _parse()
    folder: Path = options.folder.absolute()
    if options.stage == "plan":
        _plan(folder, options.chunks)
    elif options.stage == "read":
        from extraction_worker.model import Plan

        Plan.from_json((folder / "plan.json").read_bytes())
    elif options.stage == "publish":
        _publish(folder)
    else:
        _measure(folder, options)
    return 0


def _measure(folder: Path, options: argparse.Namespace) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    machine = this_machine()
    costs = []
    print(f"{options.chunks:,} chunks, load average {machine.load_average[0]:.1f}\n")
    print("| stage | seconds | CPU s | peak MiB |\n|---|--:|--:|--:|")
    for stage in STAGES:
        if stage == "publish":
            _write_results(folder, options.chunks)
        command = [sys.executable, "-m", "bench.scale", "--stage", stage, "--folder", str(folder)]
        usage = measure([*command, "--chunks", str(options.chunks)], {}).usage
        costs.append(Cost(stage, usage.wall_seconds, usage.cpu_seconds, usage.peak_rss_bytes))
        print(
            f"| {stage} | {usage.wall_seconds:.1f} | {usage.cpu_seconds:.1f} | {usage.peak_rss_bytes / MIB:.0f} |",
            flush=True,
        )
    size = (folder / "plan.json").stat().st_size
    print(f"\nplan.json has {size / MIB:.1f} MiB.")
    shutil.rmtree(folder)
    RESULTS.mkdir(exist_ok=True)
    document = {"machine": asdict(machine), "chunks": options.chunks, "planBytes": size}
    document["costs"] = [asdict(cost) for cost in costs]
    (RESULTS / f"{options.name}.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
