"""Following a job to its end."""

import time
from collections.abc import Callable
from typing import Protocol

from extraction_contract.live import LiveProgress
from extraction_operator.kubectl.exit_codes import OTHER
from extraction_operator.kubectl.program import Kubectl, KubectlFailed
from extraction_operator.kubectl.view import JobView

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 10.0


class Display(Protocol):
    """Where a job is shown."""

    def show(self, job: JobView) -> None:
        """Show how a job is now."""

    def show_live(self, live: LiveProgress) -> None:
        """Show how far the pods are."""

    def end_live(self) -> None:
        """Show the status alone again: what pods tell can't be read any more."""

    def say(self, text: str) -> None:
        """Show a line that stays."""


def follow(
    kubectl: Kubectl, name: str, display: Display, sleep: Callable[[float], None] = time.sleep,
    seen_by: Callable[[JobView], None] = lambda _: None,
) -> int:  # fmt: skip
    """Show a job until it ends; return the exit code that says how.

    A watch that the server ends, or that breaks, is begun again.

    Parameters
    ----------
    seen_by
        Told of each version of the job.

    Raises
    ------
    KubectlFailed
        The job can't be looked at in the first place.
    """
    seen: JobView | None = None
    pause = _FIRST_PAUSE
    while True:
        try:
            for event in kubectl.watch(name):
                pause = _FIRST_PAUSE
                if event.get("type") not in {"ADDED", "MODIFIED", "DELETED"}:
                    break
                seen = JobView.of(event["object"])
                display.show(seen)
                seen_by(seen)
                if (code := seen.exit_code()) is not None:
                    return code
                if event["type"] == "DELETED":
                    display.say(f"{name} was deleted.")
                    return OTHER
        except KubectlFailed as error:
            if seen is None:
                raise
            if error.is_not_found:
                display.say(f"{name} was deleted.")
                return OTHER
            display.say(f"{error} Trying again in {pause:g} s.")
        sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)
