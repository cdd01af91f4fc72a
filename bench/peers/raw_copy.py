"""The ceiling: as many psql as threads, each a range of pages by COPY in binary format, read and thrown away."""

import re
import subprocess

import psycopg

from bench.peers.protocol import Task, clocked, parse_task


def extract(task: Task) -> int:
    with psycopg.connect() as connection:
        found = connection.execute("SELECT pg_relation_size(%s::text::regclass) / 8192", [task.table]).fetchone()
    pages = int(found[0]) if found is not None else 0
    borders = [pages * index // task.threads for index in range(task.threads)]
    readers = []
    for first, end in zip(borders, [*borders[1:], None], strict=True):
        below = "" if end is None else f" AND ctid < '({end},0)'"
        copy = f"\\copy (SELECT * FROM {task.table} WHERE ctid >= '({first},0)'{below}) TO '/dev/null' (FORMAT binary)"
        command = [str(task.binaries / "psql"), "-X", "-v", "ON_ERROR_STOP=1", "-c", copy]
        readers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    rows = 0
    for reader in readers:
        output, _ = reader.communicate()
        counted = re.fullmatch(r"COPY (\d+)\s*", output)
        if reader.returncode or counted is None:
            raise RuntimeError(f"psql ended with {reader.returncode}: {output}")
        rows += int(counted[1])
    return rows


if __name__ == "__main__":
    TASK = parse_task()
    clocked(lambda: extract(TASK))
