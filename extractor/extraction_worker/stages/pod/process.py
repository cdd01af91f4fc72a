"""Running one command to its end: signals, the termination message, the exit code.

The command runs in a thread of its own, so that this one can end the process in time, whatever the command waits
for. Only this one writes the message, so that it can't contradict the exit code.
"""

import importlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from extraction_worker.errors import ExtractionError, Interrupted
from extraction_worker.loading import uncollected
from extraction_worker.stages.pod.invocation import Invocation

COMMANDS = ("hold", "plan", "publish", "work", "clean", "check")
_GRACE_SECONDS = 1.8
"""How long a command that is to stop may take to clean up; what it leaves in staging, ``clean`` removes."""
_HOLD_GRACE_SECONDS = 0.8


@dataclass(frozen=True)
class _Ending:
    code: int
    message: str


def run_command(name: str, invocation: Invocation) -> int:
    """Run a command of :data:`COMMANDS`; write its termination message and return its exit code.

    A command that doesn't end in time once it is to stop ends with this process, here.
    """
    endings: list[_Ending] = []
    with _wakeups() as (wakeups, wake):

        def work() -> None:
            endings.append(_run(name, invocation))
            wake.send(b"\0")

        threading.Thread(target=work, name=name, daemon=True).start()
        [number] = wakeups.recv(1)
        if number:
            asked = signal.Signals(number).name
            invocation.log.info("stopping", signal=asked)
            # In a thread: cancelling what runs may take long, too.
            threading.Thread(target=invocation.stop.request, args=(asked,), name="stop", daemon=True).start()
            wakeups.settimeout(_HOLD_GRACE_SECONDS if name == "hold" else _GRACE_SECONDS)
            _wait_for_end(wakeups)
    if endings:
        [ending] = endings
        _write_last_words(invocation, ending)
        return ending.code
    # The transaction of a holder ends with its connection.
    late = _Ending(0, "") if name == "hold" else _failed(Interrupted("Stopped; it didn't end in time."), invocation)
    _write_last_words(invocation, late)
    os._exit(late.code)


def _run(name: str, invocation: Invocation) -> _Ending:
    try:
        with uncollected():
            command = importlib.import_module(f"{__package__}.{name}")
        message = command.run(invocation)
        return _Ending(0, message.encode() if message is not None else "")
    except BaseException as error:  # noqa: BLE001 - the last resort of a process
        return _failed(error, invocation)


def _failed(error: BaseException, invocation: Invocation) -> _Ending:
    from extraction_worker.stages.pod.environment import INDEX
    from extraction_worker.stages.pod.failures import failure_of, trace_of

    index = invocation.variables.get(INDEX, "")
    failure = failure_of(error, bundle=int(index) if index.isdecimal() else None)
    trace = {} if isinstance(error, ExtractionError) else {"trace": trace_of(error)}
    invocation.log.failure(
        "failed", reason=failure.reason, message=failure.message, exit_code=failure.exit_code, **trace
    )
    return _Ending(failure.exit_code, failure.encode())


def _write_last_words(invocation: Invocation, ending: _Ending) -> None:
    try:
        # Not by renaming: the kubelet has mounted this very file.
        invocation.mounts.termination_log.write_text(ending.message)
    except OSError as error:
        invocation.log.failure("untold", message=str(error))


@contextmanager
def _wakeups() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yield two ends of a pipe: into the second go the numbers of signals, and 0 by whoever ends.

    The first process of a container ignores a signal that it has no handler for.
    """
    numbers = (signal.SIGTERM, signal.SIGINT)
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    with reader, writer:
        descriptor = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        before = {number: signal.signal(number, lambda *_: None) for number in numbers}
        try:
            yield reader, writer
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(descriptor)


def _wait_for_end(wakeups: socket.socket) -> None:
    """Return when the command has ended, or in time; more signals are no reason to wait less."""
    try:
        while wakeups.recv(1) != b"\0":
            pass
    except TimeoutError:
        pass
