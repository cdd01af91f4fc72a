"""Maps what psycopg and libpq raise to our errors: by SQLSTATE, then by the words of a failed connection."""

import re

import psycopg

from extraction_worker.errors import (
    AuthenticationFailed,
    ExtractionError,
    InvalidQuery,
    NotFound,
    PermissionDenied,
    RowSecurity,
    SchemaDrift,
    SnapshotLost,
    SourceBusy,
    SourceUnavailable,
    TLSFailed,
    UnsupportedSource,
    scrub,
)

_BY_STATE: dict[str, tuple[type[ExtractionError], str]] = {
    "28P01": (AuthenticationFailed, "Check username and password in the Secret that credentialsSecretRef names."),
    "28000": (AuthenticationFailed, "Check the role, and the server's pg_hba.conf for this client."),
    "3D000": (NotFound, "Check connection.database."),
    "3F000": (NotFound, "Check the schema's name."),
    "42P01": (NotFound, "Check the table's name and schema."),
    "42703": (NotFound, "Check the column's name."),
    "42883": (InvalidQuery, "Check the function's name and its arguments' types."),
    "42704": (NotFound, "Check the name."),
    "53300": (SourceBusy, ""),
    "53200": (SourceUnavailable, ""),
    "57P01": (SourceUnavailable, ""),
    "57P02": (SourceUnavailable, ""),
    "57P03": (SourceUnavailable, ""),
    "57P05": (SourceUnavailable, ""),
    "25P03": (SourceUnavailable, ""),
    "25P04": (SourceUnavailable, ""),
    "55P03": (SourceUnavailable, "Another session holds a lock on the table."),
    "57014": (SourceUnavailable, ""),
    "40001": (SnapshotLost, "The server ended the snapshot (a recovery conflict on a standby)."),
    "40P01": (SourceUnavailable, ""),
    "72000": (SnapshotLost, ""),
    "42501": (PermissionDenied, "Grant SELECT on what the job reads to the role."),
    "0A000": (UnsupportedSource, ""),
}
_BY_CLASS: dict[str, type[ExtractionError]] = {
    "08": SourceUnavailable,
    "22": InvalidQuery,
    "25": SourceUnavailable,
    "42": InvalidQuery,
    "53": SourceUnavailable,
    "57": SourceUnavailable,
    "58": SourceUnavailable,
    "XX": SourceUnavailable,
}
_BY_WORDS: tuple[tuple[re.Pattern[str], type[ExtractionError], str], ...] = (
    (
        re.compile(r"password authentication failed|no password supplied|authentication failed", re.IGNORECASE),
        AuthenticationFailed,
        "Check username and password in the Secret that credentialsSecretRef names.",
    ),
    (re.compile(r"no pg_hba.conf entry", re.IGNORECASE), AuthenticationFailed, "The server's pg_hba.conf refuses us."),
    (re.compile(r"role .* (does not exist|is not permitted to log in)"), AuthenticationFailed, "Check the username."),
    (re.compile(r"database .* does not exist"), NotFound, "Check connection.database."),
    (re.compile(r"too many (clients|connections)|remaining connection slots"), SourceBusy, ""),
    # A server that ends, or is killed, while it shakes hands: libpq and OpenSSL call that an error of SSL, too.
    (
        re.compile(r"unexpected eof|EOF detected|closed (the connection )?unexpectedly|reset by peer", re.IGNORECASE),
        SourceUnavailable,
        "",
    ),
    (
        re.compile(r"server does not support SSL|certificate|SSL error|sslmode|root\.crt|sslrootcert", re.IGNORECASE),
        TLSFailed,
        "Check connection.sslMode, caSecretRef and that the host's name is in the server's certificate.",
    ),
    (
        re.compile(r"could not translate host name|Name or service not known", re.IGNORECASE),
        SourceUnavailable,
        "Check connection.host.",
    ),
)

ROW_TOO_WIDE = "extraction-row-too-wide"
"""Begins the only message of a data error that is shown as it is: our own guard's (:mod:`source.width`)."""

# 22023 "invalid snapshot identifier" up to PostgreSQL 16, 42704 "snapshot … does not exist" since; 55000 when the
# exporting transaction ended in between.
_NO_SNAPSHOT = re.compile(
    r"invalid snapshot identifier|snapshot \S+ does not exist|could not import the requested snapshot"
)


def _name_of(state: str) -> str:
    """Return PostgreSQL's name of an SQLSTATE, e.g. ``InvalidTextRepresentation``."""
    try:
        return psycopg.errors.lookup(state).__name__
    except KeyError:
        return "DataError"


def translate(error: BaseException, doing: str, *, state: str | None = None, quoting: bool = True) -> ExtractionError:
    """Return our error for a driver's.

    Parameters
    ----------
    error
        What psycopg raised; an ExtractionError is returned as it is.
    doing
        What we were doing and on which object, to begin the message with, e.g. ``reading chunk 12``.
    state
        SQLSTATE where the caller knows better than ``error.sqlstate``.
    quoting
        Whether the server may quote the statement (``LINE 1: …``), as helps who wrote it; not where it may hold
        bounds of a chunk, which are values of rows.
    """
    if isinstance(error, ExtractionError):
        return error
    state = state or getattr(error, "sqlstate", None) or None
    primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    text = scrub(str(error) if quoting or primary is None else primary)
    for pattern, words_kind, hint in _BY_WORDS:
        if state is None and pattern.search(text):
            return words_kind(f"{doing}: {text}.", hint=hint)
    if state == "42501" and "row-level security" in text:
        hint = "Use a role with BYPASSRLS, or the table's owner: hidden rows would be missing silently."
        return RowSecurity(f"{doing}: {text}.", hint=hint)
    if _NO_SNAPSHOT.search(text):
        return SnapshotLost(f"{doing}: {text}.", hint="The session that held the snapshot ended.")
    if state == "0A000" and "cached plan" in text:
        return SchemaDrift(f"{doing}: {text}.")
    if state is not None and state.startswith("22") and ROW_TOO_WIDE not in text:
        # "invalid input syntax for type integer: …" quotes a value of a row.
        return InvalidQuery(
            f"{doing}: a value can't be computed ({_name_of(state)}, SQLSTATE {state}).",
            hint="Look at the casts and functions of the query or predicate; the server's log has the value.",
        )
    if state is not None and state in _BY_STATE:
        kind, hint = _BY_STATE[state]
        return kind(f"{doing}: {text} (SQLSTATE {state}).", hint=hint)
    if state is not None:
        known = _BY_CLASS.get(state[:2])
        if known is None:
            # Words of a function (RAISE), a constraint or an extension: whatever they put into them.
            return UnsupportedSource(
                f"{doing}: the server refused it ({_name_of(state)}, SQLSTATE {state}).",
                hint="The server's log has its words.",
            )
        return known(f"{doing}: {text} (SQLSTATE {state}).")
    return SourceUnavailable(f"{doing}: {text}.")
