"""How long an election takes. Apart from it, because options need no client of the API server."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Seconds."""

    duration: float = 10.0
    """Others wait for this long, since they saw a renewal, before they take over."""
    deadline: float = 6.0
    """The leader gives up when its last renewal began this long ago."""
    retry: float = 2.0
    """Between attempts, and the longest time that one may take."""
