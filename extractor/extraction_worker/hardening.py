"""What a process that holds credentials does about its own memory."""

import contextlib
import ctypes
import resource

_PR_SET_DUMPABLE = 4


def keep_memory_private() -> None:
    """Leave no core dump, and let no other process of this user look into this one. Never raises.

    ``PR_SET_DUMPABLE`` also makes what ``/proc`` shows of the process belong to root, and keeps debuggers away
    (``prctl(2)``, ``ptrace(2)``); the limit is there for a core pattern that ignores it.
    """
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
