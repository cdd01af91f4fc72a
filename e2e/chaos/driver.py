"""Runs jobs through storms, and judges how they ended and what they left."""

import contextlib
import functools
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from e2e.chaos.faults import faults_of
from e2e.chaos.world import World
from e2e.support.api import Object
from e2e.support.cluster import HOST_NAME, Refused
from e2e.support.extraction import Extraction
from e2e.support.jobs import FINAL, KIND, Job, condition
from extraction_worker.sink.s3_client import S3Credentials
from extraction_worker.verify.manifest import open_set, verify_set
from support.faults import Happened, Run, Storm, schedule, sequence

IS_LONG = "EXTRACTION_CHAOS_SECONDS" in os.environ
SEED = int(os.environ.get("EXTRACTION_CHAOS_SEED", "10"))
SETTLE_SECONDS = 300.0
"""Until every job must have ended when nothing goes wrong any more: a silent node, and three attempts with their
back-offs."""
LEFT_SECONDS = 60.0
PATIENCE = 180.0
"""For what takes some seconds on a machine that has nothing else to do."""
ON_LOSS = ("Restart", "Fail", "Restart", "Degrade")
LARGE, SMALL = "public.large", "public.small"
"""The first is read by several pods, the other by its lead alone."""
SPEC: dict[str, Any] = {
    # Pages, also where an attempt is degraded, so that all cut the same chunks.
    "partitioning": {"strategy": "Ctid", "targetBytes": "4Mi"}, "verification": "Decoded",
}  # fmt: skip
_PODS = {"resources": {"requests": {"cpu": "50m", "memory": "400Mi"}, "limits": {"memory": "400Mi"}}}

Essence = list[tuple[int, int, Any]]
"""Of each chunk: its number, its rows, and the digests of its columns."""


def essence(manifest: dict[str, Any]) -> Essence:
    """Return what has to be the same in every run; files have names of their own, and batches may be smaller."""
    return [(chunk["chunk"], chunk["rows"], chunk.get("columns")) for chunk in manifest["chunks"]]


class Chaos:
    """Jobs, and what goes wrong around them. :meth:`judge` comes last, and looks at all that was begun.

    ``name`` is that of its bucket, and what those of its jobs begin with.
    """

    def __init__(self, world: World, undisturbed: dict[str, Essence], name: str, seed: int) -> None:
        self.world, self.undisturbed, self.name, self.seed = world, undisturbed, name, seed
        world.store.client().create_bucket(Bucket=name)
        self.began: dict[str, float] = {}
        self.jobs: dict[str, Job] = {}
        self.ended: dict[str, Object] = {}
        self.seconds: dict[str, float] = {}
        self.reasons: dict[str, dict[int, str]] = {}
        self.happened: list[Happened] = []
        self.runs: list[Run] = []
        self.violations: list[str] = []

    # Jobs --------------------------------------------------------------------------------------------------------

    def begin(self, table: str, on_loss: str) -> Job:
        """Begin a job.

        Raises
        ------
        Refused
            The API server is away.
        """
        name = f"{self.name}-{len(self.jobs)}"
        spec = SPEC | {
            "parallelism": 2, "snapshot": {"onLoss": on_loss}, "ttlSecondsAfterFinished": 0, "podTemplate": _PODS,
        }  # fmt: skip
        extraction = Extraction(
            self.world.jobs.namespace, self.world.source, table, HOST_NAME, self.world.store, self.name,
            f"{name}/", spec,
        )  # fmt: skip
        job = Job(self.world.jobs, extraction, name)
        job.apply_alone()
        self.jobs[name], self.began[name] = job, time.monotonic()
        return job

    @property
    def active(self) -> int:
        """How many jobs haven't ended."""
        return len(self.jobs) - len(self.ended)

    def look(self) -> None:
        """See which jobs have ended, and why attempts did."""
        try:
            found = {job["metadata"]["name"]: job for job in self.world.jobs.get_all(KIND)}
        except Refused:
            return
        for name in self.jobs.keys() & found.keys():
            status = found[name].get("status", {})
            attempt, phase = status.get("attempt", 1), status.get("phase")
            if phase == "Pending" and attempt > 1:
                self.reasons.setdefault(name, {})[attempt] = condition(status, "Ready")["reason"]
            if phase in FINAL and name not in self.ended:
                self.ended[name] = found[name]
                self.seconds[name] = time.monotonic() - self.began[name]

    # What goes wrong ---------------------------------------------------------------------------------------------

    def strike(self, names: Sequence[str], seconds: float, *, longest: float) -> None:
        """Let these faults happen, one after the other within so many seconds; return when all are healed.

        Those that this world doesn't know are left out. None lasts longer than ``longest`` seconds.
        """
        faults = faults_of(self.world, longest)
        known = [name for name in names if any(fault.name == name for fault in faults)]
        storm = Storm(faults, sequence(f"{self.seed}/{known}", faults, known, seconds))
        self._pass(storm, lambda _: storm.is_over, seconds + longest + 60)

    def settle(self) -> None:
        """Return when every job has ended; nothing goes wrong any more."""
        self._pass(Storm([], []), lambda _: not self.active, SETTLE_SECONDS)

    def run(self, strikes: int, seconds: float, *, longest: float, width: int) -> None:
        """Let so many faults happen within so many seconds, among so many jobs at the same time.

        A job that ends is followed by another. Returns when every one has ended.
        """
        faults = faults_of(self.world, longest)
        storm = Storm(faults, schedule(self.seed, faults, strikes, seconds))

        def fill() -> None:
            # Where the API server is away, the same job comes next.
            with contextlib.suppress(Refused):
                while self.active < width:
                    number = len(self.jobs)
                    self.begin(SMALL if number % 4 == 3 else LARGE, ON_LOSS[number % len(ON_LOSS)])

        def is_over(now: float) -> bool:
            # Who begins late is hit by nothing.
            if now < 0.75 * seconds:
                fill()
            return storm.is_over and not self.active

        fill()
        for job in self.jobs.values():
            # Before, there is nobody to hit.
            job.wait_for_phase("Running", *FINAL, seconds=PATIENCE)
        self._pass(storm, is_over, seconds + SETTLE_SECONDS)

    def _pass(self, storm: Storm, is_over: Callable[[float], bool], seconds: float) -> None:
        """Let time pass, and the storm with it, until it is over, which is asked once a second; so long at most."""
        began, looked = time.monotonic(), 0.0
        try:
            while True:
                now = time.monotonic() - began
                storm.advance(now)
                if now >= looked:
                    looked = now + 1
                    self.look()
                    if is_over(now):
                        return
                assert now < seconds, f"{sorted(self.jobs.keys() - self.ended.keys())} don't end"
                time.sleep(0.1)
        finally:
            storm.end()
            self.happened += storm.happened

    # How it ended ------------------------------------------------------------------------------------------------

    def judge(self) -> None:
        """Every job ended with the undisturbed result, or with a reason and without one; nothing else is left."""
        for name in self.jobs:
            self._note(functools.partial(self._judge, name))
        self._note(self._require_nothing_left)
        self._note(self._require_recorded)
        assert not self.violations, "\n".join(self.violations)

    def _note(self, require: Callable[[], None]) -> None:
        """Note what isn't as it has to be, and go on: one storm shall tell all that it found."""
        try:
            require()
        except AssertionError as error:
            self.violations.append(str(error))

    def _judge(self, name: str) -> None:
        found, job = self.ended[name], self.jobs[name]
        status, prefix = found["status"], f"{name}/"
        keys, uploads = self.world.kept(self.name, prefix)
        assert uploads == [], f"{name} left uploads"
        reasons = [reason for _, reason in sorted(self.reasons.get(name, {}).items())]
        if status["phase"] == "Succeeded":
            manifest = self.world.manifest(self.name, prefix)
            assert keys == {part["name"] for part in manifest["parts"]} | {"_manifest.json"}, name
            assert essence(manifest) == self.undisturbed[job.extraction.table], f"{name} published another set"
            result = status["result"]
            same = ("rows", "bytes", "digest", "consistency")
            assert [result[key] for key in same] == [manifest[key] for key in same]
            store = self.world.store
            verify_set(
                open_set(
                    result["manifest"], endpoint=store.endpoint(store.address), region="us-east-1",
                    credentials=lambda: S3Credentials(store.access_key, store.secret_key),
                ),
                columns=False,
            ).require_whole()  # fmt: skip
        else:
            assert status["phase"] == "Failed", f"{name} ended {status['phase']}"
            assert keys == set(), f"{name} failed, and left {sorted(keys)[:3]}"
            assert "result" not in status
            failed = condition(status, "Failed")
            assert failed["message"], name
            reasons.append(failed["reason"])
        published = status["phase"] == "Succeeded"
        self.runs.append(Run(name, self.seed, published, reasons, status.get("attempt", 1), self.seconds[name]))

    def _require_nothing_left(self) -> None:
        """Neither a session, a pod nor a finalizer is left; what is being ended gets a while for it."""
        deadline = time.monotonic() + LEFT_SECONDS
        while left := [*self.world.sessions(), *self._children(), *self._held()]:
            assert time.monotonic() < deadline, f"left: {left}"
            time.sleep(0.5)

    def _require_recorded(self) -> None:
        """The record has every job as it ended: what happened while it was away was told when it came back."""
        expected = {name: found["status"]["phase"] for name, found in self.ended.items()}
        deadline = time.monotonic() + LEFT_SECONDS
        while not expected.items() <= (recorded := self.world.recorded()).items():
            assert time.monotonic() < deadline, f"recorded: {recorded}"
            time.sleep(0.5)

    def _held(self) -> list[str]:
        """Return the jobs that can't be deleted yet: the last that the operator does for one."""
        jobs = [found["metadata"] for found in self.world.jobs.get_all(KIND)]
        return [f"finalizer of {found['name']}" for found in jobs if found.get("finalizers")]

    def _children(self) -> list[str]:
        return [found["metadata"]["name"] for kind in ("pods", "jobs.batch") for found in self.world.jobs.get_all(kind)]
