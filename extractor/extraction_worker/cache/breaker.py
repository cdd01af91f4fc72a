"""A circuit breaker: after some failures in a row nothing is tried for a while. Pure but for the clock."""

import time
from collections.abc import Callable

FAILURES = 2
"""In a row, until nothing is tried."""
PAUSE_SECONDS = 15.0
"""Then one try decides whether it goes on."""


class Breaker:
    """For one thread at a time.

    Parameters
    ----------
    failures
        In a row, until it opens.
    pause
        Seconds for which it stays open.
    """

    def __init__(
        self, failures: int = FAILURES, pause: float = PAUSE_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._allowed = failures
        self._pause = pause
        self._clock = clock
        self._failed = 0
        self._opened = 0.0

    @property
    def is_open(self) -> bool:
        """Whether nothing is to be tried now."""
        return self._failed >= self._allowed and self._clock() < self._opened + self._pause

    def succeeded(self) -> None:
        """Take note of a success: everything is forgiven."""
        self._failed = 0

    def failed(self) -> None:
        """Take note of a failure; one after a pause opens it again at once."""
        self._failed += 1
        if self._failed >= self._allowed:
            self._opened = self._clock()
