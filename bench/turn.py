"""One turn of one contender: an empty folder, a process, the check of what it left."""

import shutil
from dataclasses import dataclass, replace

from bench.check import Written, check_files
from bench.contenders import Contender, Place
from bench.measure import RunFailed, Usage, measure
from bench.peers.protocol import Outcome


@dataclass(frozen=True)
class Turn:
    """What a contender cost and left."""

    usage: Usage
    outcome: Outcome
    written: Written
    server_cpu_seconds: float


def take_turn(contender: Contender, place: Place) -> Turn:
    """Run a contender in an empty folder, check that every row came once, and remove the folder.

    Raises
    ------
    RunFailed
        It failed, or rows are missing or double.
    """
    place = replace(place, folder=place.folder / contender.name)
    shutil.rmtree(place.folder, ignore_errors=True)
    place.folder.mkdir(parents=True)
    source = place.source
    try:
        command = contender.command(place)
        before = source.cpu.seconds()
        finished = measure(command, place.environment)
        spent = source.cpu.seconds() - before
        outcome = Outcome.parse(finished.output)
        if contender.writes:
            written = check_files(place.folder, source.key)
        else:
            written = Written(0, 0, outcome.rows or 0, source.key_sum)
    finally:
        shutil.rmtree(place.folder, ignore_errors=True)
    if (written.rows, written.key_sum) != (source.rows, source.key_sum):
        raise RunFailed(
            f"{contender.title}: {written.rows:,} rows with a sum of {source.key} of {written.key_sum}, "
            f"the table has {source.rows:,} and {source.key_sum}."
        )
    return Turn(finished.usage, outcome, written, spent)
