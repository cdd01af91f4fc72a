"""What publishing takes grows with the number of results by what their names and places take, not by what they hold."""

import tracemalloc

import pytest

from extraction_worker.model import Chunk, ChunkResult, ColumnDigest, CtidRead, Part, Plan, Verification
from extraction_worker.sink.digests import Digester
from extraction_worker.sink.folder import FolderSink
from extraction_worker.stages.pod.collect import Collector
from extraction_worker.stages.publish import publish
from extraction_worker.stages.results import put_result
from support.plans import make_plan

MOST_BYTES = 1200
"""For each result: 100,000 of them leave half of 256 MiB to the program itself."""


@pytest.fixture(autouse=True)
def neither_waits_nor_buffers(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _: None)
    # Each of the threads that read files again has one of a MiB: as much as a thousand results take.
    monkeypatch.setattr("extraction_worker.sink.folder.BLOCK", 4096)


def peak(folder, count: int) -> int:
    """Publish so many results; return the most memory that was held meanwhile."""
    folder.mkdir()
    sink = FolderSink(folder, "published", run_id="run", if_exists="Fail")
    chunks = tuple(
        Chunk(index=n, read=CtidRead(first_page=n, end_page=n + 1), estimated_rows=1, estimated_bytes=1)
        for n in range(count)
    )
    plan = make_plan(chunks=chunks, verification=Verification.DECODED)
    digest, document = plan.plan_digest(), plan.to_json()
    digester = Digester()
    digester.update(b"x")
    held = digester.digest()
    columns = tuple(ColumnDigest(name=f"c{n}", nulls=0, digest=held.xxh3_128) for n in range(20))
    for n in range(count):
        name = f"part-{n:05d}-00000000.parquet"
        stream = sink.open_part(name)
        stream.write(b"x")
        stream.close()
        part = Part(name=name, chunk=n, rows=1, bytes=1, xxh3_128=held.xxh3_128, crc32=held.crc32)
        put_result(sink, ChunkResult(
            plan_digest=digest, worker="pod", chunk=n, rows=1, source_bytes=1, parts=(part,), columns=columns,
            verified=Verification.DECODED, seconds=1,
        ))  # fmt: skip
    del plan, chunks
    tracemalloc.start()
    try:
        read = Plan.from_json(document)
        collector = Collector(read, sink, 1)
        assert collector.look()
        manifest = publish(read, "default/t", collector.chosen(), sink, writer="pod")
        assert (manifest.rows, len(manifest.parts), len(manifest.chunks)) == (count, count, count)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_is_bounded_by_names_not_by_results(tmp_path):
    # What is taken once, for imports and the like, isn't what this is about.
    peak(tmp_path / "first", 10)
    few, many = peak(tmp_path / "few", 100), peak(tmp_path / "many", 1100)
    assert (many - few) / 1000 < MOST_BYTES
