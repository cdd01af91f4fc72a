"""Live progress for `watch`: read from Redis each second, where a URL was given."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from extraction_contract.live import LiveProgress, live_key
from extraction_contract.redis_url import RedisUrl, RedisUrlError
from extraction_operator.kubectl.view import JobView

_SECONDS = 1.0


class Shows(Protocol):
    """Where pods are shown; see :class:`extraction_operator.kubectl.follow.Display`."""

    def show_live(self, live: LiveProgress) -> None:
        """Show how far the pods are."""

    def end_live(self) -> None:
        """Show the status alone again."""

    def say(self, text: str) -> None:
        """Show a line that stays."""


class Live:
    """Reads what the pods of a job tell, in a thread of its own, from when the job is seen.

    Parameters
    ----------
    url
        Of Redis.
    """

    def __init__(self, url: RedisUrl, display: Shows, seconds: float = _SECONDS) -> None:
        self._url = url
        self._display = display
        self._seconds = seconds
        self._run = ""
        self._ended = threading.Event()
        self._is_away = False

    def see(self, job: JobView) -> None:
        """Take note of the attempt that is under way."""
        self._run = f"{job.uid}-{job.attempt}" if job.phase == "Running" else ""

    @contextmanager
    def running(self) -> Iterator["Live"]:
        """Read until the block ends."""
        thread = threading.Thread(target=self._read_for_ever, name="live", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            thread.join(self._seconds)

    def _read_for_ever(self) -> None:
        while not self._ended.wait(self._seconds):
            if self._run:
                self.look()

    def look(self) -> None:
        """Read once, and show what was found. Never raises."""
        try:
            client = self._url.open()
            try:
                live = LiveProgress.of(client.hgetall(live_key(self._run)))
            finally:
                client.close()
        except Exception as error:  # noqa: BLE001 - whatever is wrong with Redis, the status is shown
            if not self._is_away:
                self._is_away = True
                self._display.say(f"Redis can't be read ({type(error).__name__}): showing the status alone.")
                self._display.end_live()
            return
        self._is_away = False
        if live is not None and not self._ended.is_set():
            self._display.show_live(live)


@contextmanager
def live_of(file: Path | None, display: Shows) -> Iterator[Live | None]:
    """Yield a reader for the URL in a file; None without a file, or where it can't be used."""
    if file is None:
        yield None
        return
    try:
        url = RedisUrl.read(file, seconds=1.0)
    except RedisUrlError as error:
        display.say(f"Going on without Redis. {error}")
        yield None
        return
    with Live(url, display).running() as live:
        yield live
