"""A dead man's switch in the kernel: a process that doesn't renew in time is ended before it runs another instruction.

A timer of the interval kind (``ITIMER_REAL``) runs on while the process is stopped. Its signal waits, and when the
process is continued, the kernel delivers it on the way back to user mode: what was about to be sent isn't.
"""

import ctypes
import os
import signal

EXIT_CODE = 14
"""What the process ends with where it is the first of its container: the number of SIGALRM."""


class Switch:
    """Ends this process unless it is armed again, or disarmed, in time. For the main thread."""

    def install(self) -> None:
        """Say what the signal does.

        The default action ends the process with all its threads. But the kernel spares the first process of a container
        from default actions, and Python's handlers wait for the interpreter. There the handler is the C library's
        ``_exit`` itself: called with the number of the signal as the exit code, it is safe in a handler, and no
        instruction of ours runs before it (those of other threads may, for microseconds; only the main one writes).
        """
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        if os.getpid() == 1:
            libc = ctypes.CDLL(None)
            libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
            libc.signal.restype = ctypes.c_void_p
            libc.signal(int(signal.SIGALRM), ctypes.cast(libc._exit, ctypes.c_void_p))

    def arm(self, seconds: float) -> None:
        """End the process in so many seconds."""
        # Zero would disarm; a moment that has passed must not.
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6))

    def disarm(self) -> None:
        """Let the process live."""
        signal.setitimer(signal.ITIMER_REAL, 0)
