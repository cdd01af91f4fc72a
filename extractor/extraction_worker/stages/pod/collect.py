"""Gathering the results of all bundles from staging."""

import time
from collections.abc import Callable

from extraction_worker.errors import VerificationFailed
from extraction_worker.model import ChunkResult, Plan
from extraction_worker.parallel import in_order
from extraction_worker.sink.abc import Sink
from extraction_worker.stages.bundles import bundle_span
from extraction_worker.stages.pod import starts
from extraction_worker.stages.results import FOLDER, ChunkResults, check_result, chunk_of, read_result, without_result

_READERS = 8
SETTLE_SECONDS = 10.0
"""After the end of a bundle, a store may take so long to list what was written before."""


class Collector:
    """The results of one plan, as they come. Each document is read once; those of other plans are ignored.

    Parameters
    ----------
    bundles
        Into how many the plan is divided.
    clock
        Seconds, monotonic.
    """

    def __init__(self, plan: Plan, sink: Sink, bundles: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._sink = sink
        self._digest = plan.plan_digest()
        self._total = len(plan.chunks)
        self._bundles = bundles
        self._clock = clock
        self._missing = set(range(self._total))
        self._found = ChunkResults()
        self._others: dict[int, list[ChunkResult]] = {}
        """Further results of a chunk, of a bundle that was worked twice."""
        self._unreadable: dict[int, str] = {}
        self._seen: set[str] = set()
        self._finished: dict[int, float] = {}
        """When it was seen first that a bundle is finished."""

    @property
    def done(self) -> int:
        """Chunks that have a result."""
        return len(self._found)

    def look(self) -> bool:
        """Read what is new in staging; return whether every chunk has a result.

        Raises
        ------
        VerificationFailed
            A chunk's result is missing or can't be read although its bundle is finished, or because nothing else is
            missing any more; the chunk is named.
        SinkUnavailable
            The sink can't be read now; nothing is forgotten, so look again.
        """
        # Before the results: whoever finished a bundle had written all of its results.
        finished = dict(starts.finished(self._sink))
        new = sorted(name for name in self._sink.list_state(FOLDER) if name not in self._seen)
        results = in_order(lambda name: read_result(self._sink, name), new, _READERS, name="collect")
        for name, result in zip(new, results, strict=True):
            self._take(name, result)
        if self._missing and self._missing <= self._unreadable.keys():
            chunk = min(self._missing)
            raise VerificationFailed(f"Chunk {chunk}: {self._unreadable[chunk]} in staging isn't a result.")
        self._require_finished(finished)
        return not self._missing

    def _require_finished(self, finished: dict[int, str]) -> None:
        now = self._clock()
        for bundle, pod in finished.items():
            if now - self._finished.setdefault(bundle, now) < SETTLE_SECONDS:
                continue
            first, end = bundle_span(self._total, bundle, self._bundles)
            missing = [chunk for chunk in range(first, end) if chunk in self._missing]
            if missing:
                name = self._unreadable.get(missing[0])
                what = f"{name} in staging isn't one" if name is not None else "it isn't in staging"
                raise VerificationFailed(
                    f"{without_result(missing)}: pod {pod} finished bundle {bundle}, but {what}.",
                    hint="Something changes or removes what is below _staging: a lifecycle rule, perhaps.",
                )

    def _take(self, name: str, result: ChunkResult | None) -> None:
        self._seen.add(name)
        chunk = chunk_of(name)
        if chunk is None:
            return
        if result is None or result.chunk != chunk:
            self._unreadable[chunk] = name
        elif result.plan_digest == self._digest and chunk < self._total:
            if chunk in self._found:
                self._others.setdefault(chunk, []).append(result)
            else:
                self._found.put(result)
                self._missing.discard(chunk)

    def chosen(self) -> ChunkResults:
        """Return one result for each chunk: of several, the first that is whole, in the order of who wrote them.

        Of several of which none is whole it is the last: publishing checks that, and names the chunk.
        """
        for chunk, others in self._others.items():
            self._found.put(self._choose([self._found[chunk], *others]))
        self._others.clear()
        return self._found

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
