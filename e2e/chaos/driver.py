"""Runs jobs through a storm, and judges how they ended and what they left."""

import time
from typing import Any

from e2e.chaos.faults import faults_of
from e2e.chaos.world import World
from e2e.support.cluster import HOST_NAME, Object, Refused
from e2e.support.extraction import Extraction
from e2e.support.jobs import FINAL, KIND, Job, condition
from extraction_worker.sink.s3_client import S3Credentials
from extraction_worker.verify.manifest import open_set, verify_set
from support.faults import Run, Storm, schedule

SETTLE_SECONDS = 300.0
"""Until every job must have ended when nothing goes wrong any more: a silent node, and three attempts with their
back-offs."""
LEFT_SECONDS = 60.0
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
    """One storm over jobs that come one after the other, ``width`` of them at the same time."""

    def __init__(self, world: World, undisturbed: dict[str, Essence], bucket: str, seed: int, *, width: int) -> None:
        self.world, self.undisturbed, self.bucket, self.seed, self.width = world, undisturbed, bucket, seed, width
        self.began: dict[str, float] = {}
        self.jobs: dict[str, Job] = {}
        self.ended: dict[str, Object] = {}
        self.seconds: dict[str, float] = {}
        self.reasons: dict[str, dict[int, str]] = {}
        self.runs: list[Run] = []

    def run(self, strikes: int, seconds: float, *, longest: float) -> Storm:
        """Let so many faults happen within so many seconds; return when every job has ended, and was judged.

        Parameters
        ----------
        longest
            Seconds that a fault may last.
        """
        faults = faults_of(self.world, longest)
        storm = Storm(faults, schedule(self.seed, faults, strikes, seconds))
        for _ in range(self.width):
            self.begin()
        for job in self.jobs.values():
            # Before, there is nobody to hit.
            job.wait_for_phase("Running", *FINAL)
        began = time.monotonic()
        looked = 0.0
        try:
            while not (storm.is_over and len(self.ended) == len(self.jobs)):
                now = time.monotonic() - began
                assert now < seconds + SETTLE_SECONDS, f"{sorted(set(self.jobs) - set(self.ended))} don't end"
                storm.advance(now)
                if now - looked >= 1:
                    looked = now
                    self.look()
                    # Who begins late is hit by nothing.
                    if now < 0.75 * seconds and len(self.jobs) - len(self.ended) < self.width:
                        self.begin()
                time.sleep(0.1)
        finally:
            storm.end()
        for name in self.jobs:
            self.judge(name)
        self.require_nothing_left()
        self.require_recorded()
        return storm

    def begin(self) -> None:
        """Begin another job."""
        number = len(self.jobs)
        name = f"chaos-{self.seed}-{number}"
        table = SMALL if number % 4 == 3 else LARGE
        spec = SPEC | {
            "parallelism": 2, "snapshot": {"onLoss": ON_LOSS[number % len(ON_LOSS)]}, "ttlSecondsAfterFinished": 0,
            "podTemplate": _PODS,
        }  # fmt: skip
        extraction = Extraction(
            self.world.jobs.namespace, self.world.source, table, HOST_NAME, self.world.store, self.bucket,
            f"{name}/", spec,
        )  # fmt: skip
        job = Job(self.world.jobs, extraction, name)
        try:
            job.apply_alone()
        except Refused:
            # The API server is away. The same job comes next.
            return
        self.jobs[name], self.began[name] = job, time.monotonic()

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

    def judge(self, name: str) -> None:
        """A job ended with the undisturbed result, or with a reason and without one; note which."""
        found, job = self.ended[name], self.jobs[name]
        status, prefix = found["status"], f"{name}/"
        keys, uploads = self.world.kept(self.bucket, prefix)
        assert uploads == [], f"{name} left uploads"
        reasons = [reason for _, reason in sorted(self.reasons.get(name, {}).items())]
        if status["phase"] == "Succeeded":
            manifest = self.world.manifest(self.bucket, prefix)
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
        assert not found["metadata"].get("finalizers"), name
        published = status["phase"] == "Succeeded"
        self.runs.append(Run(name, self.seed, published, reasons, status.get("attempt", 1), self.seconds[name]))

    def require_nothing_left(self) -> None:
        """Neither a session on the source nor a pod is left; those that are being ended get a while for it."""
        deadline = time.monotonic() + LEFT_SECONDS
        while left := [*self.world.sessions(), *self._children()]:
            assert time.monotonic() < deadline, f"left: {left}"
            time.sleep(0.5)

    def require_recorded(self) -> None:
        """The record has every job as it ended: what happened while it was away was told when it came back."""
        expected = {name: found["status"]["phase"] for name, found in self.ended.items()}
        deadline = time.monotonic() + LEFT_SECONDS
        while not expected.items() <= (recorded := self.world.recorded()).items():
            assert time.monotonic() < deadline, f"recorded: {recorded}"
            time.sleep(0.5)

    def _children(self) -> list[str]:
        return [found["metadata"]["name"] for kind in ("pods", "jobs.batch") for found in self.world.jobs.get_all(kind)]
