"""The processes of pods; those of the node of e2e/node run on this machine."""

import contextlib
from pathlib import Path


def process_of(uid: str, *words: str) -> Path | None:
    """Return the folder in /proc of a process of a pod whose command line has these words in a row; None without."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"pod{uid}" not in (folder / "cgroup").read_text():
                continue
            line = (folder / "cmdline").read_text().split("\0")
            if any(tuple(line[at : at + len(words)]) == words for at in range(len(line))):
                return folder
    return None
