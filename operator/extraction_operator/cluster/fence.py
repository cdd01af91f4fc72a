"""No write of a replica that isn't the leader any more.

A leader may take itself for one until 6 s after it *began* its last successful renewal; others take over 10 s after
they saw that renewal at the earliest. What may happen in between to a write that was begun in time is bounded wherever
it can linger:

1. **In this process**, which may be stopped between any two instructions (SIGSTOP, a frozen cgroup, a starved CPU) with
   the bytes of a write in a buffer of aiohttp or of TLS. So the last check is in ``send`` of the socket itself
   (:class:`FencedSocket`); and between it and the system call the kernel watches (:mod:`~.switch`): its timer ends a
   process that wakes up too late before it runs another instruction.
2. **In the kernel**, which repeats what isn't acknowledged, also for a process that is stopped: ``TCP_USER_TIMEOUT``
   gives up after :data:`LINGER` seconds.
3. **In the API server**: every write says ``?timeout=``, after which the server gives up.

6 s, 0.25 s for the kernel's timer, 1.75 s and again 1.75 s are less than the 10 s of the Lease. What remains is a
machine whose monotonic clock stops with it, e.g. a virtual machine that is suspended: what it sends when it wakes up is
bounded by nothing but the versions and uids that writes carry.
"""

import math
import socket
import time
from collections.abc import Callable
from typing import Any

from extraction_operator.cluster.errors import NotLeaderError

LINGER = 1.75
"""Seconds that a write may travel, and again that the API server may take for it."""
SLACK = 0.25
"""Seconds between the closing of the fence, when a leader gives up in good order, and its end by the kernel."""


class Fence:
    """Whether writes may pass now.

    Parameters
    ----------
    clock
        Monotonic time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until = -math.inf

    @property
    def is_open(self) -> bool:
        """Whether a write may pass now."""
        return self._clock() < self._until

    def open_until(self, moment: float) -> None:
        """Let writes pass until a moment of the clock; ``math.inf`` is for a replica that is alone by declaration."""
        self._until = moment

    def close(self) -> None:
        """Let nothing pass."""
        self._until = -math.inf

    def check(self) -> None:
        """Pass, or raise.

        Raises
        ------
        NotLeaderError
            This replica may not be the leader any more.
        """
        if not self.is_open:
            raise NotLeaderError("Nothing is written: this replica isn't the leader, or couldn't renew its Lease.")


class FencedSocket(socket.socket):
    """A socket that sends nothing while the fence is closed: the last place of ours that bytes pass."""

    fence: Fence

    def send(self, *arguments: Any) -> int:
        """Send, or break the connection."""
        self._check()
        return super().send(*arguments)

    def sendmsg(self, *arguments: Any) -> int:
        """Send, or break the connection; asyncio uses it from Python 3.12 on."""
        self._check()
        return super().sendmsg(*arguments)

    def _check(self) -> None:
        if not self.fence.is_open:
            raise ConnectionAbortedError("Not the leader any more.")


def socket_factory(fence: Fence) -> Callable[[Any], socket.socket]:
    """Return a factory of fenced sockets for aiohttp's connector."""

    def create(address: Any) -> socket.socket:
        family, kind, protocol, _, _ = address
        made = FencedSocket(family, kind, protocol)
        made.fence = fence
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(LINGER * 1000))
        return made

    return create
