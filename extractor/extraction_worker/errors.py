"""Every error the extractor reports, in two families: ``Transient`` is retried, ``Terminal`` is not.

Each class maps once to a condition reason, an exit code and a metric label (the reason in snake case). The exit
codes are a contract: a pod's failure policy is written in them (docs/exit-codes.md is generated from this module).
A message says what happened, to which object, and what the user can do; a secret can't be in it, because
credentials are never formatted and driver messages pass through :func:`scrub`.
"""

import re
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from extraction_contract.status import ConnectionCounts


class ExtractionError(Exception):
    """An error with a name that users, conditions and exit codes share.

    Parameters
    ----------
    message
        What happened and to which object, one sentence, no secret, no value of a row.
    hint
        What the user can do about it, one sentence; empty where the message says it.
    """

    reason: ClassVar[str] = "InternalError"
    exit_code: ClassVar[int] = 1
    bundle: int | None = None
    """The bundle that a lead worked when it happened; of other pods it is the index."""
    chunk: int | None = None
    """The chunk that it happened to, where somebody knows it."""
    retries: int = 0
    """How often a chunk was read again before."""
    connections: "ConnectionCounts | None" = None
    """What the pool did before, where there was one."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()

    @classmethod
    def label(cls) -> str:
        """Return the metric label: the reason in snake case."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.reason).lower()


class Terminal(ExtractionError):
    """Repeating the same work can't help; somebody has to change something."""


class Transient(ExtractionError):
    """Repeating the same work later may succeed."""


# What the user declared ------------------------------------------------------------------------------------------


class InvalidManifest(Terminal):
    """A manifest doesn't follow the contract, or refers to something that isn't there."""

    reason, exit_code = "InvalidManifest", 10


class InvalidQuery(Terminal):
    """``query`` or ``where`` can't be parsed, isn't one plain SELECT, or uses what isn't allowed."""

    reason, exit_code = "InvalidQuery", 11


class NotFound(Terminal):
    """The database, schema, table or column isn't there, or can't be seen by this role."""

    reason, exit_code = "NotFound", 12


class InvalidPartitioning(Terminal):
    """The partition column or strategy can't split this table."""

    reason, exit_code = "InvalidPartitioning", 13


# What the source said --------------------------------------------------------------------------------------------


class AuthenticationFailed(Terminal):
    """The server refused the role or its password."""

    reason, exit_code = "AuthenticationFailed", 14


class PermissionDenied(Terminal):
    """The role may connect but not read what was asked."""

    reason, exit_code = "PermissionDenied", 15


class RowSecurity(Terminal):
    """Row-level security would hide rows from this role."""

    reason, exit_code = "RowSecurity", 16


class UnsupportedSource(Terminal):
    """The server can't be read safely: a pooler in transaction mode, an old version, SQL_ASCII."""

    reason, exit_code = "UnsupportedSource", 17


class TLSFailed(Terminal):
    """The connection can't be made as securely as declared."""

    reason, exit_code = "TLSFailed", 18


class Unrepresentable(Terminal):
    """A value that the target type can't hold, under ``onUnrepresentable: Fail``."""

    reason, exit_code = "Unrepresentable", 19


class RowTooLarge(Terminal):
    """One row needs more memory than this process may use."""

    reason, exit_code = "RowTooLarge", 20


class SchemaDrift(Terminal):
    """What is read differs from what was planned."""

    reason, exit_code = "SchemaDrift", 21


class SnapshotLost(Terminal):
    """The snapshot ended before everything was read."""

    reason, exit_code = "SnapshotLost", 22


class SourceNotPinned(Terminal):
    """A session reached another server than the one that holds the snapshot."""

    reason, exit_code = "SourceNotPinned", 23


class SourceInDanger(Terminal):
    """The job gave way to the source: waiting DDL, an old xmin, a standby conflict."""

    reason, exit_code = "SourceInDanger", 24


# What the sink said ----------------------------------------------------------------------------------------------


class SinkRefused(Terminal):
    """The sink isn't there, isn't ours to write, or can't give the guarantees that were declared."""

    reason, exit_code = "SinkRefused", 25


class SinkExists(Terminal):
    """A published set, or something else, is already at the sink's path."""

    reason, exit_code = "SinkExists", 26


class SinkFull(Terminal):
    """No space is left where the files go."""

    reason, exit_code = "SinkFull", 27


class VerificationFailed(Terminal):
    """The proof failed: what the sink holds isn't what the source gave."""

    reason, exit_code = "VerificationFailed", 28


class DeadlineExceeded(Terminal):
    """``activeDeadlineSeconds`` passed."""

    reason, exit_code = "DeadlineExceeded", 29


# What may pass by itself -----------------------------------------------------------------------------------------


class SourceUnavailable(Transient):
    """The source can't be reached, or ended a session."""

    reason, exit_code = "SourceUnavailable", 40


class SourceBusy(Transient):
    """The source has no free connection for us (53300, or every slot of its budget is taken)."""

    reason, exit_code = "SourceBusy", 41


class SourceStalled(Transient):
    """The source sent nothing for too long while it should have."""

    reason, exit_code = "SourceStalled", 42


class SinkUnavailable(Transient):
    """The sink can't be reached, or answered with a server error."""

    reason, exit_code = "SinkUnavailable", 43


class Interrupted(ExtractionError):
    """Somebody asked the process to stop."""

    reason, exit_code = "Interrupted", 130


_URI_PASSWORD = re.compile(r"(?P<head>[a-zA-Z][a-zA-Z0-9+.-]*://[^\s:/@]*):[^\s@]*@")
_KEY_PASSWORD = re.compile(r"(?P<head>\b(?:password|passwd|pwd|secret|token)\s*[=:]\s*)(?:'[^']*'|\S+)", re.IGNORECASE)


def scrub(text: str) -> str:
    """Return ``text`` without passwords in URIs and ``password=…`` pairs, and on one line.

    Driver messages are formatted by others; this is the second line of defence, the first is that no password is
    ever part of a connection string of ours.
    """
    text = _URI_PASSWORD.sub(r"\g<head>:***@", text)
    text = _KEY_PASSWORD.sub(r"\g<head>***", text)
    return " ".join(text.split())
