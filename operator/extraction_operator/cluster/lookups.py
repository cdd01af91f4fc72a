"""What is asked for only when a decision needs it: watching it for all would need more rights and more memory."""

import time
from collections.abc import Awaitable, Callable

from extraction_operator.cluster.client import Api
from extraction_operator.cluster.errors import ApiError
from extraction_operator.cluster.kinds import CLAIM, NAMESPACE

_NOT_FOR_US = frozenset({403, 404})
_TERMINATING = ("Terminating",)


class Lookups:
    """Facts about namespaces and claims, each asked for at most every ``keep`` seconds."""

    def __init__(self, api: Api, *, keep: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._keep = keep
        self._clock = clock
        self._known: dict[tuple[str, ...], tuple[float, tuple[str, ...]]] = {}

    async def is_terminating(self, namespace: str) -> bool:
        """Whether a namespace is being deleted; False where we may not ask.

        Raises
        ------
        ApiError, UnreachableError
        """

        async def ask() -> tuple[str, ...]:
            found = await self._api.get_unscoped(NAMESPACE, namespace)
            return ((found.get("status") or {}).get("phase", ""),)

        return await self._look(("namespace", namespace), ask) == _TERMINATING

    def note_terminating(self, namespace: str) -> None:
        """Take note that a namespace is being deleted: nothing can be created in it any more."""
        self._known["namespace", namespace] = (self._clock(), _TERMINATING)

    def is_known_terminating(self, namespace: str) -> bool:
        """Whether it was found out lately that a namespace is being deleted; nobody is asked."""
        known = self._known.get(("namespace", namespace))
        return known is not None and known[1] == _TERMINATING

    async def claim_modes(self, namespace: str, claim: str) -> tuple[str, ...]:
        """Return the access modes of a PersistentVolumeClaim; none where there is no claim, or we may not ask.

        Raises
        ------
        ApiError, UnreachableError
        """

        async def ask() -> tuple[str, ...]:
            found = await self._api.get(CLAIM, namespace, claim)
            return tuple(found["spec"].get("accessModes") or ())

        return await self._look(("claim", namespace, claim), ask)

    async def _look(self, key: tuple[str, ...], ask: Callable[[], Awaitable[tuple[str, ...]]]) -> tuple[str, ...]:
        now = self._clock()
        self._known = {known: entry for known, entry in self._known.items() if now - entry[0] < self._keep}
        if key not in self._known:
            try:
                found = await ask()
            except ApiError as error:
                if error.status not in _NOT_FOR_US:
                    raise
                found = ()
            self._known[key] = (now, found)
        return self._known[key][1]
