"""Who of several replicas works: the one that holds the Lease.

A small elector of our own. That of kubernetes.aio 37 can't create a Lease and doesn't stop a leader that lost it; and
only one that knows when a renewal *began* can say until when writes may pass (:mod:`~.fence`).
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from extraction_operator.cluster.client import Api
from extraction_operator.cluster.errors import ApiError, ClusterError
from extraction_operator.cluster.kinds import LEASE
from extraction_operator.cluster.parse import parse_time
from extraction_operator.cluster.timing import Timing
from extraction_operator.plan.values import Key
from extraction_operator.workers import describe

log = logging.getLogger(__name__)

_TIMING = Timing()


class LostLeaseError(Exception):
    """The Lease couldn't be renewed in time, or is somebody else's."""


@dataclass(frozen=True)
class Record:
    """What a Lease says."""

    holder: str
    duration: float
    renewed: datetime | None
    acquired: datetime | None
    transitions: int
    version: str = ""
    """Its ``resourceVersion``; empty for one that doesn't exist yet."""

    @classmethod
    def parse(cls, raw: dict[str, Any]) -> "Record":
        """Return what a Lease says."""
        spec = raw.get("spec") or {}
        renewed, acquired = spec.get("renewTime"), spec.get("acquireTime")
        return cls(
            holder=spec.get("holderIdentity") or "",
            duration=float(spec.get("leaseDurationSeconds") or 0),
            renewed=parse_time(renewed) if renewed else None,
            acquired=parse_time(acquired) if acquired else None,
            transitions=int(spec.get("leaseTransitions") or 0),
            version=raw["metadata"]["resourceVersion"],
        )

    def manifest(self, key: Key) -> dict[str, Any]:
        """Return the Lease."""
        metadata = {"name": key.name, "namespace": key.namespace}
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata | ({"resourceVersion": self.version} if self.version else {}),
            "spec": {
                "holderIdentity": self.holder,
                "leaseDurationSeconds": max(1, int(self.duration)),
                "renewTime": _micro(self.renewed),
                "acquireTime": _micro(self.acquired),
                "leaseTransitions": self.transitions,
            },
        }


class Leases(Protocol):
    """Where the Lease is kept. Every method may raise ``ClusterError``."""

    async def read(self) -> Record | None:
        """Return the Lease; None where there is none."""

    async def write(self, record: Record) -> Record:
        """Write the Lease if it is still of the record's version, or create it; return it as it is now."""


class ApiLeases:
    """The Lease in the API server."""

    def __init__(self, api: Api, key: Key) -> None:
        self._api = api
        self._key = key

    async def read(self) -> Record | None:
        """Return the Lease; None where there is none."""
        try:
            return Record.parse(await self._api.elect("get", LEASE, self._key.namespace, self._key.name))
        except ApiError as error:
            if error.is_gone:
                return None
            raise

    async def write(self, record: Record) -> Record:
        """Write the Lease if it is still of the record's version, or create it; return it as it is now."""
        body = record.manifest(self._key)
        if record.version:
            answer = await self._api.elect("update", LEASE, self._key.namespace, self._key.name, body)
        else:
            answer = await self._api.elect("create", LEASE, self._key.namespace, "", body)
        return Record.parse(answer)


class Elector:
    """Holds the Lease, or waits for it.

    Parameters
    ----------
    identity
        Of this process, not of its pod: a restarted container isn't the leader that it was.
    renewed
        Told after each success when the attempt *began*: the Lease is ours until ``duration`` after it at least.
    clock
        Monotonic time in seconds; wall clocks of replicas are never compared.
    """

    def __init__(
        self, leases: Leases, identity: str, renewed: Callable[[float], None], *, timing: Timing = _TIMING,
        clock: Callable[[], float] = time.monotonic, fraction: Callable[[], float] = random.random,
    ) -> None:  # fmt: skip
        self._leases = leases
        self._identity = identity
        self._renewed = renewed
        self._timing = timing
        self._clock = clock
        self._fraction = fraction
        self._held: Record | None = None
        self._seen: Record | None = None
        self._seen_at = 0.0
        self._last = 0.0

    @property
    def holder(self) -> str:
        """Who held the Lease when it was looked at last."""
        return self._seen.holder if self._seen else ""

    async def acquire(self, looked: Callable[[], None] = lambda: None) -> None:
        """Wait until the Lease is ours; ``looked`` is told of every look that ended without it."""
        while not await self._attempt(self.try_acquire):
            looked()
            await asyncio.sleep(self._pause())

    async def hold(self) -> None:
        """Renew the Lease, again and again.

        Raises
        ------
        LostLeaseError
            It is lost: nothing more may be written.
        """
        pause = self._timing.retry
        while True:
            await asyncio.sleep(min(pause, self._left()))
            # A missed renewal is repeated sooner: time runs out.
            pause = self._timing.retry if await self._attempt(self.try_renew) else self._timing.retry / 4

    async def release(self) -> None:
        """Let others take over at once, as far as the API server can be told so."""
        held, self._held = self._held, None
        if held is None:
            return
        try:
            async with asyncio.timeout(self._timing.retry):
                await self._change(replace(held, holder="", duration=1, renewed=_wall()))
        except (ClusterError, LostLeaseError, TimeoutError) as error:
            log.warning("The Lease wasn't released; it expires.", extra={"error": describe(error)})

    async def try_acquire(self) -> bool:
        """Take the Lease if nobody holds it; return whether it is ours."""
        begin = self._clock()
        found = await self._leases.read()
        if found != self._seen:
            self._seen, self._seen_at = found, self._clock()
        # With our own name it is our own write, whose answer was lost: nobody else has that name, ever.
        others = found is not None and found.holder not in {"", self._identity}
        if found is not None and others and self._clock() < self._seen_at + found.duration:
            return False
        now = _wall()
        transitions = 0 if found is None else found.transitions + 1
        version = "" if found is None else found.version
        self._held = await self._leases.write(
            Record(self._identity, self._timing.duration, now, now, transitions, version)
        )
        self._keep(begin)
        return True

    async def try_renew(self) -> bool:
        """Renew the Lease.

        Raises
        ------
        LostLeaseError
            Somebody else holds it.
        """
        begin = self._clock()
        if self._held is None:
            raise LostLeaseError("The Lease was never acquired, or was released.")
        self._held = await self._change(replace(self._held, renewed=_wall()))
        self._keep(begin)
        return True

    async def _change(self, wanted: Record) -> Record:
        """Write the Lease that is ours; return it as it is now."""
        try:
            return await self._leases.write(wanted)
        except ApiError as error:
            if not error.is_conflict:
                raise
            # Our own write whose answer was lost, or not waited for; or somebody else's.
            found = await self._leases.read()
            if found is None or found.holder != self._identity:
                raise LostLeaseError("The Lease is held by somebody else.") from None
            return await self._leases.write(replace(wanted, version=found.version))

    def _left(self) -> float:
        left = self._last + self._timing.deadline - self._clock()
        if left <= 0:
            raise LostLeaseError(f"The Lease couldn't be renewed for {self._timing.deadline:g} s.")
        return left

    def _keep(self, begin: float) -> None:
        self._last = begin
        self._seen, self._seen_at = self._held, self._clock()
        self._renewed(begin)

    async def _attempt(self, what: Callable[[], Awaitable[bool]]) -> bool:
        """Try once, bounded in time; whatever fails is a missed renewal."""
        try:
            async with asyncio.timeout(self._timing.retry):
                return await what()
        except LostLeaseError:
            raise
        except Exception as error:  # noqa: BLE001 -- a bug in here must not keep a leader that isn't one
            log.warning("An attempt at the Lease failed.", extra={"error": describe(error)})
            return False

    def _pause(self) -> float:
        """Return for how long to wait for the next look: not longer than until the Lease expires."""
        pause = self._timing.retry * (0.8 + 0.2 * self._fraction())
        if self._seen is not None and self._seen.holder:
            pause = min(pause, self._seen_at + self._seen.duration - self._clock())
        return max(pause, 0.05)


def _wall() -> datetime:
    return datetime.now(UTC)


def _micro(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
