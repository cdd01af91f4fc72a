"""Live progress, as pods tell it through Redis: read for all jobs at once, every ten seconds, and never waited for.

Without Redis statuses lack rows and rates while pods read, and nothing else.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from extraction_contract.live import LiveProgress, live_key
from extraction_contract.redis_url import RedisUrl
from extraction_operator.store import Ref

log = logging.getLogger(__name__)

_READ_SECONDS = 5.0
"""All jobs together; then the rest is left."""


class Observer(Protocol):
    """Who counts; :class:`extraction_operator.observe.metrics.Metrics` in the operator."""

    def read_live(self, *, failed: bool) -> None:
        """Count a read of live progress."""


class LiveReader:
    """What pods told last, by attempt.

    Parameters
    ----------
    url_file
        Read anew for each connection; None is no Redis.
    """

    def __init__(self, url_file: Path | None, observer: Observer) -> None:
        self._file = url_file
        self._observer = observer
        self._known: dict[str, LiveProgress] = {}
        self._is_away = False

    def of(self, uid: str, attempt: int) -> LiveProgress | None:
        """Return what is known of an attempt."""
        return self._known.get(f"{uid}-{attempt}")

    async def run(
        self, reading: Callable[[], Mapping[Ref, str]], changed: Callable[[Ref, float], None], seconds: float
    ) -> None:
        """Read again and again.

        Parameters
        ----------
        reading
            Returns the jobs whose pods read, each with its ``UID-ATTEMPT``.
        changed
            Told of a job of which there is news.
        """
        while self._file is not None:
            await asyncio.sleep(seconds)
            await self.look(reading(), changed)

    async def look(self, jobs: Mapping[Ref, str], changed: Callable[[Ref, float], None]) -> None:
        """Read once. Never raises: what can't be read stays as it was."""
        if not jobs or self._file is None:
            self._known = {}
            return
        try:
            async with asyncio.timeout(_READ_SECONDS):
                found = await asyncio.to_thread(_read, self._file, tuple(jobs.values()))
        except Exception as error:  # noqa: BLE001 - whatever is wrong with Redis, jobs go on; its text may be its URL
            self._observer.read_live(failed=True)
            self._known = {run: known for run, known in self._known.items() if run in jobs.values()}
            if not self._is_away:
                self._is_away = True
                log.warning("Live progress can't be read.", extra={"error": type(error).__name__})
            return
        self._observer.read_live(failed=False)
        self._is_away = False
        before = self._known
        self._known = found
        for ref, run in jobs.items():
            if found.get(run) != before.get(run):
                changed(ref, 0.0)


def _read(file: Path, runs: tuple[str, ...]) -> dict[str, LiveProgress]:
    """Return what pods told of attempts: one round trip."""
    client = RedisUrl.read(file, seconds=2.0).open()
    try:
        pipeline = client.pipeline(transaction=False)
        for run in runs:
            pipeline.hgetall(live_key(run))
        answers = pipeline.execute()
    finally:
        client.close()
    progress = {run: LiveProgress.of(answer) for run, answer in zip(runs, answers, strict=True)}
    return {run: found for run, found in progress.items() if found is not None}
