"""What the exit codes of pods mean, for those who only see the code.

Generated from ``extraction_worker/errors.py`` by ``make generate``.
"""

EXIT_CODES = {
    10: ("InvalidManifest", "A manifest doesn't follow the contract, or refers to something that isn't there."),
    11: ("InvalidQuery", "`query` or `where` can't be parsed, isn't one plain SELECT, or uses what isn't allowed."),
    12: ("NotFound", "The database, schema, table or column isn't there, or can't be seen by this role."),
    13: ("InvalidPartitioning", "The partition column or strategy can't split this table."),
    14: ("AuthenticationFailed", "The server refused the role or its password."),
    15: ("PermissionDenied", "The role may connect but not read what was asked."),
    16: ("RowSecurity", "Row-level security would hide rows from this role."),
    17: (
        "UnsupportedSource",
        "The server can't be read safely: a pooler in transaction mode, an old version, SQL_ASCII.",
    ),
    18: ("TLSFailed", "The connection can't be made as securely as declared."),
    19: ("Unrepresentable", "A value that the target type can't hold, under `onUnrepresentable: Fail`."),
    20: ("RowTooLarge", "One row needs more memory than this process may use."),
    21: ("SchemaDrift", "What is read differs from what was planned."),
    22: ("SnapshotLost", "The snapshot ended before everything was read."),
    23: ("SourceNotPinned", "A session reached another server than the one that holds the snapshot."),
    24: ("SourceInDanger", "The job gave way to the source: waiting DDL, an old xmin, a standby conflict."),
    25: ("SinkRefused", "The sink isn't there, isn't ours to write, or can't give the guarantees that were declared."),
    26: ("SinkExists", "A published set, or something else, is already at the sink's path."),
    27: ("SinkFull", "No space is left where the files go."),
    28: ("VerificationFailed", "The proof failed: what the sink holds isn't what the source gave."),
    29: ("DeadlineExceeded", "`activeDeadlineSeconds` passed."),
    40: ("SourceUnavailable", "The source can't be reached, or ended a session."),
    41: ("SourceBusy", "The source has no free connection for us (53300, or every slot of its budget is taken)."),
    42: ("SourceStalled", "The source sent nothing for too long while it should have."),
    43: ("SinkUnavailable", "The sink can't be reached, or answered with a server error."),
    130: ("Interrupted", "Somebody asked the process to stop."),
}  # fmt: skip
"""Reason and meaning of each error, by its exit code."""
