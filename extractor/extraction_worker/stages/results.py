"""Results of chunks in staging: what a pod that ended, or an interrupted run, has finished."""

import itertools
import os
import re
import threading
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence

from extraction_worker.errors import VerificationFailed
from extraction_worker.lines import Scratch
from extraction_worker.model import Chunk, ChunkResult, Plan
from extraction_worker.sink.abc import Sink

FOLDER = "results/"
_NAME = re.compile(rf"{FOLDER}(\d+)-.+\.json")


class ChunkResults(Mapping[int, ChunkResult]):
    """One result for each chunk, by its index, in a temporary file: there may be 100,000. Safe for threads."""

    def __init__(self) -> None:
        self._scratch = Scratch()
        self._starts, self._ends = array("q"), array("q")
        """By chunk; an end of 0 is that of one without a result."""
        self._count = 0
        self._lock = threading.Lock()

    def put(self, result: ChunkResult) -> None:
        """Keep a result in the place of one that the chunk may have."""
        data = result.to_json()
        with self._lock:
            for places in (self._starts, self._ends):
                places.extend(itertools.repeat(0, result.chunk + 1 - len(places)))
            self._count += result.chunk not in self
            self._starts[result.chunk], self._ends[result.chunk] = self._scratch.append(data)

    def __getitem__(self, chunk: int) -> ChunkResult:
        if chunk not in self:
            raise KeyError(chunk)
        return ChunkResult.from_json(self._scratch.read(self._starts[chunk], self._ends[chunk]))

    def __contains__(self, chunk: object) -> bool:
        return isinstance(chunk, int) and 0 <= chunk < len(self._ends) and self._ends[chunk] > 0

    def __iter__(self) -> Iterator[int]:
        return (chunk for chunk, end in enumerate(self._ends) if end)

    def __len__(self) -> int:
        return self._count


def put_result(sink: Sink, result: ChunkResult) -> None:
    """Write a result to staging; its parts must be durable there."""
    sink.put_state(f"{FOLDER}{result.chunk:05d}-{result.worker}.json", result.to_json())


def without_result(missing: Sequence[int]) -> str:
    """Return the words for chunks that have no result: the first is named."""
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return f"Chunk {missing[0]}{more} has no result"


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


def finished_results(sink: Sink, plan: Plan, chunks: Sequence[Chunk], say: Callable[[str], None]) -> ChunkResults:
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
    results = ChunkResults()
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
        results.put(result)
    return results


def check_result(sink: Sink, result: ChunkResult) -> None:
    """Raise VerificationFailed unless the sink holds each part of a result as it was written."""
    for part in result.parts:
        sink.check_part(part)


def _common_prefix(chunks: Sequence[Chunk]) -> str:
    """Return how the names of the chunks' results begin, so that one short list has them all."""
    ends = (chunks[0].index, chunks[-1].index)
    return os.path.commonprefix([f"{FOLDER}{index:05d}" for index in ends])  # noqa: RUF071 - digits are meant
