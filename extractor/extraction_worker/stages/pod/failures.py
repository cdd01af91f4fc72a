"""Errors as messages, and back: how a failure travels from a container to the operator and to other containers."""

import traceback
from pathlib import Path

from extraction_contract.messages import FailureMessage
from extraction_contract.problems import ManifestError
from extraction_worker.errors import ExtractionError, InvalidManifest, Transient, scrub
from extraction_worker.report.exit_codes import all_errors

_MAX_CHARACTERS = 1500
_KINDS: dict[str, type[ExtractionError]] = {kind.reason: kind for kind in all_errors()}


def failure_of(error: BaseException, *, bundle: int | None = None) -> FailureMessage:
    """Return the message of an error.

    Of one that isn't ours it has the type and the place alone: its text may hold a value of a row.
    """
    if isinstance(error, ManifestError):
        error = InvalidManifest(str(error))
    elif not isinstance(error, ExtractionError):
        *_, place = ["an unknown place", *trace_of(error)]
        error = ExtractionError(f"Unexpected {type(error).__name__} at {place}.", hint="This is a bug.")
    return FailureMessage(
        reason=error.reason,
        exit_code=error.exit_code,
        transient=isinstance(error, Transient),
        message=scrub(str(error))[:_MAX_CHARACTERS],
        bundle=bundle if bundle is not None else error.bundle,
        chunk=error.chunk,
        retries=error.retries,
        connections=error.connections,
    )


def error_of(failure: FailureMessage) -> ExtractionError:
    """Return the error that a message was made of."""
    error = _KINDS.get(failure.reason, ExtractionError)(failure.message)
    error.chunk = failure.chunk
    return error


def trace_of(error: BaseException) -> list[str]:
    """Return the places that an error went through, from the outermost; its text may hold a value of a row."""
    frames = traceback.extract_tb(error.__traceback__)
    return [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames]
