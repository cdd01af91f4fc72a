"""Whether anything was written to a source since: a marker that is equal as long as the same reading gives the same.

Every change of a row or of the catalog that others can see is the end of a transaction with an id, and the server's
snapshot says which have ended: ``xmax`` is the id after the newest of these, and where ``xmin`` is equal to it, none
before it is still in flight. Two such snapshots of one server that are equal see the same rows. Counters of the
server (``pg_stat_*``) say less: they lag by seconds and miss TRUNCATE.

What ends otherwise is excluded, or part of the marker:

=========================================  =========================================================================
unlogged tables are emptied by a crash     not of these; nor of temporary and foreign tables, views, other storage
a crash loses what wasn't flushed yet      the moment of the last reset of statistics, which recovery causes, and the
(``synchronous_commit = off``), and its    start of the postmaster, which outlives the crash of one of its processes
ids are given again
a promotion or a restore goes back         system identifier, timeline, whether it recovers, address
functions that aren't immutable            not with these (:mod:`extraction_worker.source.functions`)
rights                                     the role
=========================================  =========================================================================
"""

from collections.abc import Iterable

import xxhash

from extraction_worker.model import SnapshotIdentity
from extraction_worker.source.lookup import Connection

# 16384 is the first oid after initdb's: system catalogs are partly written in place, without a transaction's id.
_STATE = """
SELECT (SELECT pg_catalog.count(*) FROM pg_catalog.pg_class AS c
        LEFT JOIN pg_catalog.pg_am AS a ON a.oid = c.relam
        WHERE c.oid = ANY(%(oids)s::oid[]) AND c.oid >= 16384 AND c.relpersistence = 'p'
          AND (c.relkind = 'p' OR (c.relkind IN ('r', 'm') AND a.amname = 'heap'))),
       pg_catalog.pg_stat_get_bgwriter_stat_reset_time()::pg_catalog.text,
       current_user::pg_catalog.text, pg_catalog.current_database()::pg_catalog.text
"""


def marker_of(connection: Connection, identity: SnapshotIdentity, oids: Iterable[int]) -> str | None:
    """Return the marker of a source for a reading of some relations, 32 hexadecimal digits; None where it has none.

    Parameters
    ----------
    connection
        In a transaction under the session contract, on the snapshot of ``identity``.
    oids
        Every relation that is read, and those above and under them.
    """
    if not is_still(identity.snapshot):
        return None
    relations = sorted(set(oids))
    row = connection.execute(_STATE, {"oids": relations}).fetchone()
    if row is None or row[0] != len(relations):
        return None
    _, reset, role, database = row
    parts = (
        identity.system_identifier, identity.timeline, identity.postmaster_start, identity.in_recovery,
        identity.server_address, identity.server_version, identity.snapshot, reset, role, database,
    )  # fmt: skip
    return xxhash.xxh3_128_hexdigest("\n".join(map(str, parts)).encode())


def is_still(snapshot: str) -> bool:
    """Whether nothing was in flight when a snapshot was taken, given as ``xmin:xmax:xip_list``."""
    xmin, xmax, running = snapshot.split(":")
    return xmin == xmax and not running
