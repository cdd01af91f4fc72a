"""How a command ends when its job didn't succeed: with the exit code that the same failure has in local mode."""

from extraction_contract.exit_codes import EXIT_CODES

CODES = {reason: code for code, (reason, _) in EXIT_CODES.items()}
"""By condition reason, as in docs/exit-codes.md."""

OTHER = 1
"""Of a failure that local mode doesn't know, e.g. of a pod that was killed; and of one of kubectl."""
CANCELLED = CODES["Interrupted"]
"""Somebody asked it to end."""


def code_of(reason: str) -> int:
    """Return the exit code of a job that failed for this reason."""
    return CODES.get(reason, OTHER)
