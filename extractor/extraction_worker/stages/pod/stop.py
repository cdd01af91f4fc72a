"""A request to stop, from the thread that takes signals to everything that waits or reads."""

import contextlib
import threading
from collections.abc import Callable, Iterator

from extraction_worker.errors import Interrupted


class Stop:
    """Set once, seen by everybody; safe for threads."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []
        self._by = ""

    def request(self, by: str) -> None:
        """Ask everything to stop.

        Parameters
        ----------
        by
            Name of the signal, for the message.
        """
        with self._lock:
            self._by = self._by or by
            callbacks = list(self._callbacks)
        self.event.set()
        for callback in callbacks:
            callback()

    @contextlib.contextmanager
    def calling(self, callback: Callable[[], None]) -> Iterator[None]:
        """Call ``callback`` when a stop is requested within the block, or at once where it was before."""
        with self._lock:
            self._callbacks.append(callback)
        try:
            if self.event.is_set():
                callback()
            yield
        finally:
            with self._lock:
                self._callbacks.remove(callback)

    def check(self) -> None:
        """Raise Interrupted where a stop was requested."""
        if self.event.is_set():
            raise Interrupted(f"Stopped by {self._by}.")

    def wait(self, seconds: float) -> None:
        """Wait; raise Interrupted as soon as a stop is requested."""
        self.event.wait(seconds)
        self.check()
