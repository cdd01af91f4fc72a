"""Letting go of everything, before the operator is uninstalled: nobody would take its finalizer off objects any more.

The operator is stopped first. It would put the finalizer on new objects again, and once no replica holds the Lease, no
write of one can follow (:mod:`extraction_operator.cluster.fence`).
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from extraction_operator.cluster.client import Api
from extraction_operator.cluster.errors import ApiError
from extraction_operator.cluster.fence import Fence
from extraction_operator.cluster.kinds import DATA_SOURCE, EXTRACTION_JOB, Kind
from extraction_operator.cluster.leader import ApiLeases, Leases
from extraction_operator.cluster.login import log_in
from extraction_operator.observe.metrics import Metrics
from extraction_operator.plan.values import FINALIZER, Key

log = logging.getLogger(__name__)

DEPLOYMENT = Kind("apps", "v1", "deployments", "Deployment")
_EXPIRED = 410
_TRIES = 5
"""Of one object that others change at the same time."""
_PARALLEL = 8


async def release(
    namespaces: Sequence[str],
    *,
    deployment: Key | None,
    lease: Key | None,
    kubeconfig: Path | None,
    context: str | None,
) -> None:
    """Stop the operator, wait until it can't write any more, and let go of everything.

    Parameters
    ----------
    namespaces
        Where to look; empty is everywhere.
    deployment, lease
        Of the operator; None where there is none.

    Raises
    ------
    ApiError, UnreachableError
        Doing it again goes on where this ended.
    """
    fence = Fence()
    # We are no replica: whether somebody leads is asked below, once.
    fence.open_until(math.inf)
    api = Api(await log_in(kubeconfig, context), fence, Metrics())
    try:
        if deployment is not None:
            await stop_operator(api, deployment)
        if lease is not None:
            await wait_for_no_leader(ApiLeases(api, lease))
        released = await release_finalizers(api, namespaces)
        log.info("Finalizers were taken off.", extra={"objects": released})
    finally:
        await api.close()


async def stop_operator(api: Api, deployment: Key) -> None:
    """Scale the operator's Deployment to nothing; one that is gone has stopped.

    Raises
    ------
    ApiError, UnreachableError
    """
    try:
        await api.merge(DEPLOYMENT, deployment.namespace, deployment.name, {"spec": {"replicas": 0}}, "scale")
    except ApiError as error:
        if not error.is_gone:
            raise


async def wait_for_no_leader(leases: Leases, *, poll: float = 0.5, clock: Callable[[], float] = time.monotonic) -> None:
    """Wait until nobody holds the Lease: it was released, or wasn't renewed for as long as it lasts.

    Raises
    ------
    ApiError, UnreachableError
    """
    seen, since = await leases.read(), clock()
    while seen is not None and seen.holder and clock() < since + seen.duration:
        await asyncio.sleep(poll)
        found = await leases.read()
        if found != seen:
            seen, since = found, clock()


async def release_finalizers(api: Api, namespaces: Sequence[str] = ()) -> int:
    """Take our finalizer off every ExtractionJob and DataSource; return off how many.

    Parameters
    ----------
    namespaces
        Where to look; empty is everywhere.

    Raises
    ------
    ApiError, UnreachableError
        What was released until then stays released; doing it again goes on.
    """
    released = 0
    for kind in (EXTRACTION_JOB, DATA_SOURCE):
        for namespace in tuple(namespaces) or (None,):
            released += await _release_all(api, kind, namespace)
    return released


async def _release_all(api: Api, kind: Kind, namespace: str | None) -> int:
    released = 0
    while True:
        try:
            async for page in api.pages(kind, namespace):
                held = [raw for raw in page.items if FINALIZER in (raw["metadata"].get("finalizers") or ())]
                for batch in _batches(held):
                    await asyncio.gather(*(_release(api, kind, raw) for raw in batch))
                released += len(held)
        except ApiError as error:
            if error.is_gone:
                # Without its CRD there are no objects of a kind.
                return released
            if error.status != _EXPIRED:
                raise
            log.info("The LIST expired before its end; it is begun again.", extra={"kind": str(kind)})
        else:
            return released


def _batches(items: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    for begin in range(0, len(items), _PARALLEL):
        yield items[begin : begin + _PARALLEL]


async def _release(api: Api, kind: Kind, raw: dict[str, Any]) -> None:
    metadata = raw["metadata"]
    namespace, name = metadata["namespace"], metadata["name"]
    for tried in range(1, _TRIES + 1):
        kept = [finalizer for finalizer in metadata.get("finalizers") or () if finalizer != FINALIZER]
        # The list is shared with others' finalizers: only the version that was read may be changed.
        patch = {
            "metadata": {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"], "finalizers": kept}
        }
        try:
            await api.merge(kind, namespace, name, patch)
        except ApiError as error:
            if error.is_gone:
                return
            if not error.is_conflict or tried == _TRIES:
                raise
            metadata = (await api.get(kind, namespace, name))["metadata"]
        else:
            return
