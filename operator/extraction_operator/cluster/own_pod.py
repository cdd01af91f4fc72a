"""The operator's own pod: where it says what concerns no object of anybody, by conditions and Events."""

from dataclasses import dataclass
from datetime import UTC, datetime

from extraction_contract.base import GROUP
from extraction_operator.cluster.client import Api
from extraction_operator.cluster.events import About, Events
from extraction_operator.cluster.kinds import POD
from extraction_operator.plan.values import Event, Key


@dataclass(frozen=True)
class PodCondition:
    """A condition of the pod, of our own type."""

    type: str
    """Without the group that goes before it."""
    status: bool
    reason: str
    message: str


class OwnPod:
    """The pod of this process.

    Parameters
    ----------
    key
        Its namespace and name.
    """

    def __init__(self, api: Api, events: Events, key: Key) -> None:
        self._api = api
        self._events = events
        self._key = key
        self._told: dict[str, PodCondition] = {}

    async def tell(self, condition: PodCondition) -> None:
        """Write a condition, unless it is written; one that turned is an Event, too: a Warning where it is false.

        Raises
        ------
        ApiError, UnreachableError, NotLeaderError
        """
        before = self._told.get(condition.type)
        if condition == before:
            return
        turned = before is not None and before.status != condition.status
        entry = {
            "type": f"{GROUP}/{condition.type}", "status": str(condition.status), "reason": condition.reason,
            "message": condition.message,
        }  # fmt: skip
        if before is None or turned:
            entry["lastTransitionTime"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        # The kubelet's conditions are in the same list, and stay.
        pod = await self._api.merge_status(POD, self._key.namespace, self._key.name, {"conditions": [entry]})
        self._told[condition.type] = condition
        if turned or (before is None and not condition.status):
            about = About(POD, self._key, str(pod["metadata"]["uid"]))
            self._events.add(about, Event(condition.reason, condition.message, warning=not condition.status))
