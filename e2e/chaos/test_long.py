"""Whatever dies, hangs or comes back, and whenever: the same set is published, or nothing; and nothing is left.

``EXTRACTION_CHAOS_SECONDS`` and ``EXTRACTION_CHAOS_STRIKES`` are how long and how often (``make chaos``).
"""

import os
import time
from pathlib import Path

import pytest

from e2e.chaos.driver import SEED, SETTLE_SECONDS, Chaos, Essence
from e2e.chaos.world import World
from support.faults import Report

SECONDS = float(os.environ["EXTRACTION_CHAOS_SECONDS"])
STRIKES = int(os.environ.get("EXTRACTION_CHAOS_STRIKES", "200"))
REPORTS = Path(__file__).parents[2] / "build" / "chaos"
WIDTH = 4
"""Jobs at the same time."""
LONGEST = 40.0
"""Seconds that a fault may last. A silent node is lost after 20."""
RATE = "24Mi"
"""Bytes a second that a job may read: it lasts long enough to be hit."""


@pytest.mark.timeout(SECONDS + SETTLE_SECONDS + 600)
def test_every_job_ends_with_the_same_set_or_none_and_leaves_nothing(
    world: World, undisturbed: dict[str, Essence]
) -> None:
    world.limit(RATE)
    world.wait_for_source()
    chaos = Chaos(world, undisturbed, "storm", SEED)
    began = time.monotonic()
    try:
        chaos.run(STRIKES, SECONDS, longest=LONGEST, width=WIDTH)
        chaos.judge()
    finally:
        seconds = time.monotonic() - began
        report = Report("Chaos in a cluster", chaos.happened, chaos.runs, seconds, violations=chaos.violations)
        report.write(REPORTS, "cluster")
    assert any(run.published for run in chaos.runs)
