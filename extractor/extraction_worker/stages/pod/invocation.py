"""How a command was started. Imports little: signals must be taken before anything takes long."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from extraction_worker.stages.pod.log import EventLog
from extraction_worker.stages.pod.mounts import Mounts
from extraction_worker.stages.pod.stop import Stop

if TYPE_CHECKING:
    from tenacity import RetryCallState, Retrying


@dataclass(frozen=True)
class Invocation:
    """What every command is given."""

    mounts: Mounts
    variables: Mapping[str, str] = field(repr=False)
    stop: Stop
    log: EventLog

    def retrying(self, seconds: float, doing: str) -> "Retrying":
        """Return what repeats a call for some time while its error may pass; a stop ends the waiting."""
        import tenacity

        from extraction_worker.errors import Transient

        def before_sleep(state: "RetryCallState") -> None:
            error = state.outcome.exception() if state.outcome else None
            self.log.warning("retry", doing=doing, message=str(error))

        return tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Transient),
            stop=tenacity.stop_after_delay(seconds) | tenacity.stop_when_event_set(self.stop.event),
            wait=tenacity.wait_exponential_jitter(multiplier=0.5, max=10, jitter=0.5),
            sleep=tenacity.sleep_using_event(self.stop.event),
            before_sleep=before_sleep,
            reraise=True,
        )
