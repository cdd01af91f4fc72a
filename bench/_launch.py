"""Runs a command and writes what it cost to a file, as JSON. A script without any import that is large.

The kernel's peak of a process includes that of the process which became it by exec. So a measured process mustn't be
started by a large one: this one has 8 MB.
"""

import os
import sys
import time


def main() -> None:
    result, *command = sys.argv[1:]
    started = time.monotonic()
    child = os.posix_spawn(command[0], command, {**os.environ, "BENCH_STARTED": repr(started)})
    _, status, usage = os.wait4(child, 0)
    seconds = time.monotonic() - started
    with open(result, "w") as file:  # noqa: PTH123 - pathlib would be the largest import
        file.write(
            f'{{"started": {started!r}, "wall_seconds": {seconds!r}, "user_seconds": {usage.ru_utime!r}, '
            f'"system_seconds": {usage.ru_stime!r}, "peak_rss_bytes": {usage.ru_maxrss * 1024}, '
            f'"exit_code": {os.waitstatus_to_exitcode(status)}}}'
        )


main()
