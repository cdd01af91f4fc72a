"""What the operator's own pod says of its stores: whether they are reached safely, and the record is kept."""

import asyncio
import logging
from contextlib import suppress
from typing import Protocol

from extraction_contract.redis_url import RedisUrl, RedisUrlError
from extraction_operator.cluster.errors import ClusterError
from extraction_operator.cluster.own_pod import OwnPod, PodCondition
from extraction_operator.config import Config
from extraction_operator.workers import describe
from extraction_record.connection import PlaceError

log = logging.getLogger(__name__)

_TYPE = "StoresSecure"


class Verdict(Protocol):
    """Of a recorder: :class:`extraction_operator.record.recorder.KeepingUp`."""

    @property
    def status(self) -> bool:
        """Whether everything that happens gets into the record."""

    @property
    def reason(self) -> str:
        """One word."""

    @property
    def message(self) -> str:
        """A sentence."""


class Recorder(Protocol):
    """Who knows whether the record is kept; :class:`extraction_operator.record.recorder.Recorder` in the operator."""

    @property
    def keeping_up(self) -> Verdict:
        """The last verdict."""

    async def turned(self, verdict: Verdict) -> None:
        """Return as soon as the verdict is another one than this."""


async def tell_of_stores(own: OwnPod, config: Config, recorder: Recorder | None) -> None:
    """Say how the operator's stores are reached and kept: at once, then whenever that changes, until nothing can."""
    secure, failed = security(config), False
    if secure is None:
        return
    while True:
        verdict = recorder.keeping_up if recorder is not None else None
        try:
            await own.tell(secure)
            if verdict is not None:
                await own.tell(PodCondition("RecordKeepsUp", verdict.status, verdict.reason, verdict.message))
        except ClusterError as error:
            if not failed:
                log.warning("The pod's condition wasn't written.", extra={"error": describe(error)})
            failed = True
            await asyncio.sleep(config.flush_seconds)
            continue
        failed = False
        if recorder is None or verdict is None:
            return
        await recorder.turned(verdict)


def security(config: Config) -> PodCondition | None:
    """Return the condition of the pod that warns; None where nothing is stored.

    What can't be read is no weakness: whoever uses it says that it can't be.
    """
    if config.record is None and config.redis_url_file is None:
        return None
    found: dict[str, str] = {}
    if config.record is not None:
        with suppress(PlaceError):
            found["RecordNotSecure"] = config.record.place.weakness
    if config.redis_url_file is not None:
        with suppress(RedisUrlError):
            found["RedisNotSecure"] = RedisUrl.read(config.redis_url_file).weakness
    weak = {reason: message for reason, message in found.items() if message}
    if not weak:
        return PodCondition(
            _TYPE, True, _TYPE, "Servers prove their names, and nobody else can read what is sent there."
        )
    return PodCondition(_TYPE, False, next(iter(weak)), " ".join(weak.values()))
