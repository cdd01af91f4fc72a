"""How a command ends when its job didn't succeed: with the exit code that the same failure has in local mode."""

CODES = {
    "InvalidManifest": 10, "InvalidQuery": 11, "NotFound": 12, "InvalidPartitioning": 13, "AuthenticationFailed": 14,
    "PermissionDenied": 15, "RowSecurity": 16, "UnsupportedSource": 17, "TLSFailed": 18, "Unrepresentable": 19,
    "RowTooLarge": 20, "SchemaDrift": 21, "SnapshotLost": 22, "SourceNotPinned": 23, "SourceInDanger": 24,
    "SinkRefused": 25, "SinkExists": 26, "SinkFull": 27, "VerificationFailed": 28, "DeadlineExceeded": 29,
    "SourceUnavailable": 40, "SourceBusy": 41, "SourceStalled": 42, "SinkUnavailable": 43, "Interrupted": 130,
}  # fmt: skip
"""By condition reason, as in docs/exit-codes.md."""

OTHER = 1
"""Of a failure that local mode doesn't know, e.g. of a pod that was killed; and of one of kubectl."""
CANCELLED = CODES["Interrupted"]
"""Somebody asked it to end."""


def code_of(reason: str) -> int:
    """Return the exit code of a job that failed for this reason."""
    return CODES.get(reason, OTHER)
