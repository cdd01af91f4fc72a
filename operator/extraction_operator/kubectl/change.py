"""Carrying out a request: read, decide, patch exactly what was read."""

from extraction_operator.kubectl.program import Kubectl, KubectlFailed
from extraction_operator.kubectl.requests import Ask
from extraction_operator.kubectl.view import JobView

_TRIES = 5


def carry_out(kubectl: Kubectl, name: str, ask: Ask) -> str:
    """Change a job as asked for; return what to tell.

    The patch has the version that was looked at: two people who retry at once begin one attempt, not two.

    Raises
    ------
    Refused
        It makes no sense in this phase.
    KubectlFailed
        The job isn't there, may not be changed, or changes all the time.
    """
    for tried in range(1, _TRIES + 1):
        job = JobView.of(kubectl.get(name))
        request = ask(job)
        if request.change is None:
            break
        patch = {"metadata": {"uid": job.uid, "resourceVersion": job.version}, "spec": request.change}
        try:
            kubectl.patch(name, patch)
        except KubectlFailed as error:
            # The operator writes the status of a running job every second.
            if not error.is_conflict or tried == _TRIES:
                raise
        else:
            break
    return f"{name} {request.says}"
