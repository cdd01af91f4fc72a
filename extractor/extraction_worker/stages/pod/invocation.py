"""How a command was started. Imports little: signals must be taken before anything takes long."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from extraction_worker.stages.pod.log import EventLog
from extraction_worker.stages.pod.mounts import Mounts
from extraction_worker.stages.pod.stop import Stop

if TYPE_CHECKING:
    from tenacity import RetryCallState, Retrying

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Invocation:
    """What every command is given."""

    mounts: Mounts
    variables: Mapping[str, str] = field(repr=False)
    stop: Stop
    log: EventLog

    def patiently(self, call: Callable[[], _Result], *, seconds: float = math.inf) -> _Result:
        """Repeat a call until the budget of the source has room for it; raises Interrupted when stopped."""
        from extraction_worker.source.slots import patiently

        def say(why: str) -> None:
            self.log.warning("waiting", message=why)

        return patiently(call, wait=self.stop.wait, say=say, seconds=seconds)

    def retrying(self, seconds: float, doing: str) -> "Retrying":
        """Return what repeats a call for some time while its error may pass; a stop ends the waiting.

        SourceBusy isn't repeated here: that is for :meth:`patiently`.
        """
        import tenacity

        from extraction_worker.errors import SourceBusy, Transient

        def before_sleep(state: "RetryCallState") -> None:
            error = state.outcome.exception() if state.outcome else None
            self.log.warning("retry", doing=doing, message=str(error))

        return tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Transient) & tenacity.retry_if_not_exception_type(SourceBusy),
            stop=tenacity.stop_after_delay(seconds) | tenacity.stop_when_event_set(self.stop.event),
            wait=tenacity.wait_exponential_jitter(multiplier=0.5, max=10, jitter=0.5),
            sleep=tenacity.sleep_using_event(self.stop.event),
            before_sleep=before_sleep,
            reraise=True,
        )
