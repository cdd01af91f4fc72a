"""``hold``: keeps the snapshot while the job reads it. A native sidecar, so it never ends by itself."""

from datetime import UTC, datetime

from extraction_contract.messages import FailureMessage
from extraction_worker.errors import Interrupted, SnapshotLost
from extraction_worker.model import SnapshotIdentity
from extraction_worker.source.lease import SnapshotLease
from extraction_worker.stages.plan import read_job
from extraction_worker.stages.pod.failures import failure_of
from extraction_worker.stages.pod.invocation import Invocation
from extraction_worker.stages.pod.job import JobPod
from extraction_worker.stages.pod.lead import HeldSnapshot, LeadFiles

_ACQUIRE_SECONDS = 60.0
_POLL_SECONDS = 0.1


def run(invocation: Invocation) -> FailureMessage | None:
    """Hold the snapshot until ``done``, tell by a file what goes wrong, and wait for the signal to end.

    Returns
    -------
    FailureMessage or None
        Why the snapshot was lost, if it was.
    """
    failure: FailureMessage | None = None
    files = LeadFiles(invocation.mounts.run)
    try:
        _hold(invocation, files)
    except Interrupted:
        pass
    except BaseException as error:  # noqa: BLE001 - ended, it would be started again, with another snapshot
        failure = failure_of(error)
        invocation.log.failure("lost", reason=failure.reason, message=failure.message)
        _tell(invocation, files, failure)
    invocation.stop.event.wait()
    return failure


def _tell(invocation: Invocation, files: LeadFiles, failure: FailureMessage) -> None:
    try:
        files.write_error(failure)
    except OSError as error:
        # Nobody can be told; the job's deadline ends it.
        invocation.log.failure("untold", message=str(error))


def _hold(invocation: Invocation, files: LeadFiles) -> None:
    if files.is_released:
        return
    if files.read_snapshot() is not None:
        raise SnapshotLost("The holder of the snapshot was ended and started again: its snapshot ended with it.")
    pod = JobPod.load(invocation)
    source = pod.source()

    def say(message: str) -> None:
        invocation.log.warning("said", message=message)

    def acquire() -> tuple[SnapshotLease, SnapshotIdentity, datetime]:
        # A lease is acquired once; each try needs its own, and its own clock.
        taken_at = datetime.now(UTC)
        lease = source.lease(read_job(pod.resolved.job, pod.resolved.source, taken_at), lambda _: None, say)
        return lease, lease.acquire(), taken_at

    lease, identity, taken_at = invocation.patiently(
        lambda: invocation.retrying(_ACQUIRE_SECONDS, "Taking the snapshot")(acquire)
    )
    try:
        files.write_snapshot(HeldSnapshot(identity=identity, address=lease.address, taken_at=taken_at))
        invocation.log.info("holding")
        while not files.is_done:
            if lease.lost is not None:
                raise lease.lost
            invocation.stop.wait(_POLL_SECONDS)
        lease.finish()
        files.write_released()
        invocation.log.info("released", seconds=round(lease.age, 3))
    finally:
        lease.release()
