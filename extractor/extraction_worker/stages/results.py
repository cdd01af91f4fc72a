"""Results of chunks in staging: what a pod that ended, or an interrupted run, has finished."""

import os
import re
from collections.abc import Callable, Sequence

from extraction_worker.errors import VerificationFailed
from extraction_worker.model import Chunk, ChunkResult, Plan
from extraction_worker.sink.abc import Sink

FOLDER = "results/"
_NAME = re.compile(rf"{FOLDER}(\d+)-.+\.json")


def put_result(sink: Sink, result: ChunkResult) -> None:
    """Write a result to staging; its parts must be durable there."""
    sink.put_state(f"{FOLDER}{result.chunk:05d}-{result.worker}.json", result.to_json())


def chunk_of(name: str) -> int | None:
    """Return the chunk that a document in staging is the result of, by its name; None when it is no result."""
    found = _NAME.fullmatch(name)
    return int(found[1]) if found else None


def read_result(sink: Sink, name: str) -> ChunkResult | None:
    """Return the result that is stored under a name; None when it can't be read as one."""
    try:
        return ChunkResult.from_json(sink.get_state(name) or b"")
    except ValueError:
        return None


def finished_results(
    sink: Sink, plan: Plan, chunks: Sequence[Chunk], say: Callable[[str], None]
) -> dict[int, ChunkResult]:
    """Return the good results in staging of consecutive chunks, by chunk; a chunk whose result is bad is named.

    Of several results of a chunk it is the first whose parts are in the sink as they were written, in the order of
    their names. Results of other plans are ignored.

    Parameters
    ----------
    say
        Gets a line for each chunk that has to be read again.
    """
    digest = plan.plan_digest()
    wanted = {chunk.index for chunk in chunks}
    results: dict[int, ChunkResult] = {}
    for name in sorted(sink.list_state(_common_prefix(chunks))):
        chunk = chunk_of(name)
        if chunk not in wanted or chunk in results:
            continue
        result = read_result(sink, name)
        if result is None or result.chunk != chunk:
            say(f"{name} in staging isn't a result: its chunk is read again.")
            continue
        if result.plan_digest != digest:
            continue
        try:
            check_result(sink, result)
        except VerificationFailed as error:
            say(f"Chunk {chunk} is read again: {error}")
            continue
        results[chunk] = result
    return results


def check_result(sink: Sink, result: ChunkResult) -> None:
    """Raise VerificationFailed unless the sink holds each part of a result as it was written."""
    for part in result.parts:
        sink.check_part(part)


def _common_prefix(chunks: Sequence[Chunk]) -> str:
    """Return how the names of the chunks' results begin, so that one short list has them all."""
    ends = (chunks[0].index, chunks[-1].index)
    return os.path.commonprefix([f"{FOLDER}{index:05d}" for index in ends])  # noqa: RUF071 - digits are meant
