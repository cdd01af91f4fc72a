"""Gathering the results of all bundles from staging."""

from concurrent.futures import ThreadPoolExecutor

from extraction_worker.errors import VerificationFailed
from extraction_worker.model import ChunkResult, Plan
from extraction_worker.sink.abc import Sink
from extraction_worker.stages.results import FOLDER, check_result, chunk_of, read_result

_READERS = 8


class Collector:
    """The results of one plan, as they come. Each document is read once; those of other plans are ignored."""

    def __init__(self, plan: Plan, sink: Sink) -> None:
        self._sink = sink
        self._digest = plan.plan_digest()
        self._chunks = [chunk.index for chunk in plan.chunks]
        self._missing = set(self._chunks)
        self._found: dict[int, list[ChunkResult]] = {}
        self._unreadable: dict[int, str] = {}
        self._seen: set[str] = set()

    @property
    def done(self) -> int:
        """Chunks that have a result."""
        return len(self._found)

    def look(self) -> bool:
        """Read what is new in staging; return whether every chunk has a result.

        Raises
        ------
        VerificationFailed
            Nothing is missing any more but results that can't be read; one is named.
        SinkUnavailable
            The sink can't be read now; nothing is forgotten, so look again.
        """
        new = sorted(name for name in self._sink.list_state(FOLDER) if name not in self._seen)
        with ThreadPoolExecutor(_READERS, thread_name_prefix="collect") as executor:
            for name, result in zip(new, executor.map(lambda name: read_result(self._sink, name), new), strict=True):
                self._take(name, result)
        if self._missing and self._missing <= self._unreadable.keys():
            chunk = min(self._missing)
            raise VerificationFailed(f"Chunk {chunk}: {self._unreadable[chunk]} in staging isn't a result.")
        return not self._missing

    def _take(self, name: str, result: ChunkResult | None) -> None:
        self._seen.add(name)
        chunk = chunk_of(name)
        if chunk is None:
            return
        if result is None or result.chunk != chunk:
            self._unreadable[chunk] = name
        elif result.plan_digest == self._digest:
            self._found.setdefault(chunk, []).append(result)
            self._missing.discard(chunk)

    def chosen(self) -> list[ChunkResult]:
        """Return one result for each chunk: of several, the first that is whole, in the order of who wrote them.

        Raises
        ------
        VerificationFailed
            Of several results of a chunk, the sink holds none as it was written.
        """
        return [self._choose(self._found[chunk]) for chunk in self._chunks]

    def _choose(self, results: list[ChunkResult]) -> ChunkResult:
        *others, last = sorted(results, key=lambda result: result.worker)
        for result in others:
            try:
                check_result(self._sink, result)
            except VerificationFailed:
                continue
            return result
        # The only one left, whole or not: publishing checks it.
        return last
