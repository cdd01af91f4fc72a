"""Work that is done again and again, in a thread of its own."""

import threading
from collections.abc import Callable


class Repeated:
    """Does something again and again between :meth:`start` and :meth:`stop`.

    Parameters
    ----------
    name
        Of the thread.
    work
        Does it once; returns the seconds until the next time.
    pause
        Seconds before the first time.
    at_end
        Called in the thread when it ends.
    """

    def __init__(
        self, name: str, work: Callable[[], float], pause: float, *, at_end: Callable[[], object] = lambda: None
    ) -> None:
        self._name = name
        self._work = work
        self._first_pause = pause
        self._at_end = at_end
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; wait a while for work that is under way. Idempotent."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
            self._thread = None

    def _run(self) -> None:
        pause = self._first_pause
        while not self._ended.wait(pause):
            pause = self._work()
        self._at_end()
