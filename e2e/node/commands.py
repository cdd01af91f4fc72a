"""Running other programs, and waiting for what they bring about."""

import contextlib
import fcntl
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from e2e.node.errors import NodeError

# Of the environment of programs in Go: memory is there, processors are few. They collect garbage a quarter as often as
# Go's default has it.
GO_GARBAGE = {"GOGC": "400"}


def run(*command: str | Path, stdin: str | None = None, timeout: float = 120) -> str:
    """Run a command and return what it printed.

    Raises
    ------
    NodeError
        If the command can't be found, takes too long or fails; the message ends with its own last words.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    except FileNotFoundError:
        raise NodeError(f"{words[0]} isn't installed") from None
    except subprocess.TimeoutExpired:
        raise NodeError(f"`{' '.join(words)}` did not end within {timeout:.0f} s") from None
    if done.returncode:
        raise NodeError(f"`{' '.join(words)}` ended with code {done.returncode}: {_tail(done.stderr or done.stdout)}")
    return done.stdout


def succeeds(*command: str | Path, timeout: float = 20) -> bool:
    """Tell whether a command exists and ends with code 0."""
    try:
        run(*command, timeout=timeout)
    except NodeError:
        return False
    return True


def is_layered(folder: Path) -> bool:
    """Tell whether a folder lies on an overlay, as in a container; another overlay can't lie on top of it."""
    return run("stat", "--file-system", "--format=%T", folder).strip() == "overlayfs"


def snapshotter(folder: Path) -> str:
    """Return the way in which containerd can lay out images below a folder."""
    return "native" if is_layered(folder) else "overlayfs"


def wait_until(happened: Callable[[], bool], what: str, seconds: float, hint: str = "") -> None:
    """Ask again and again, at most for `seconds`, until something has happened.

    Raises
    ------
    NodeError
        If it has not happened in time.
    """
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            raise NodeError(f"{what} within {seconds:.0f} s: did not happen{hint and '; ' + hint}")
        time.sleep(0.1)


@contextlib.contextmanager
def exclusive(file: Path, waiting: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Let one process of this machine at a time do what a file stands for; tell who has to wait."""
    with file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _tail(text: str, lines: int = 12) -> str:
    kept: Sequence[str] = text.strip().splitlines()[-lines:]
    return "\n".join(kept) or "it printed nothing"
