"""What lies under views: base tables to lock, functions that reading them calls, and whether chunks change them.

A function in a view runs with the rights of whoever reads the view (only access to its tables is the owner's), in
our session: what holds for functions in a query holds for those in a view. A view's text can't be edited, so a view
that reads the clock is read in one chunk.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from extraction_worker.source.functions import check_texts
from extraction_worker.source.lookup import Connection
from extraction_worker.source.references import References, inspect
from extraction_worker.source.syntax import parse


@dataclass(frozen=True, slots=True)
class BaseRelation:
    """A relation that holds rows: a table, partitioned table, materialised view or foreign table."""

    oid: int
    name: str
    """Quoted ``schema.name``."""
    kind: str
    """``relkind``: r, p, m or f."""


@dataclass(frozen=True, slots=True)
class ViewFacts:
    """What reading some relations means."""

    base: tuple[BaseRelation, ...]
    """Everything that holds the rows, in the order of oids: what each session locks."""
    views: tuple[str, ...]
    """Quoted names of the views in between."""
    unchunkable: tuple[str, ...]

    @property
    def chunk_reason(self) -> str:
        """Why chunks would change what is read, a sentence for people; empty where they wouldn't."""
        return f"{'; '.join(self.unchunkable)}: each chunk would compute that anew." if self.unchunkable else ""


# Only a view's rule ON SELECT is followed: other rules don't run when it is read. Views made by initdb show the
# server's state through functions of its own; they are trusted and not followed.
_UNDER = """
WITH RECURSIVE under (oid) AS (
    SELECT unnest(%(oids)s::oid[])
    UNION
    SELECT d.refobjid
    FROM under u
    JOIN pg_catalog.pg_class c ON c.oid = u.oid AND c.relkind = 'v' AND c.oid >= 16384
    JOIN pg_catalog.pg_rewrite r ON r.ev_class = c.oid AND r.ev_type = '1'
    JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = r.oid
        AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid <> u.oid
)
SELECT c.oid::int8, pg_catalog.format('%%I.%%I', n.nspname, c.relname), c.relkind::text, c.oid < 16384,
    CASE WHEN c.relkind = 'v' AND c.oid >= 16384 THEN pg_catalog.pg_get_viewdef(c.oid) END
FROM under u
JOIN pg_catalog.pg_class c ON c.oid = u.oid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'm', 'f', 'v')
ORDER BY c.oid
"""


def check_views(connection: Connection, oids: Iterable[int], allow: Iterable[str] = ()) -> ViewFacts:
    """Follow relations through views to what holds their rows, and check each view on the way.

    One query finds all definitions, another looks up their functions.

    Parameters
    ----------
    connection
        In a transaction under the session contract.
    oids
        Relations of any kind.
    allow
        ``policy.allowFunctions`` of the DataSource.

    Raises
    ------
    InvalidQuery
        A view calls a function that isn't allowed, or locks rows; the message names the view.
    """
    base: list[BaseRelation] = []
    texts: dict[str, References] = {}
    unchunkable: list[str] = []
    for oid, name, kind, built_in, definition in connection.execute(_UNDER, {"oids": list(oids)}).fetchall():
        if kind != "v":
            base.append(BaseRelation(oid, name, kind))
            continue
        view = f"view {name}"
        texts[view] = References()
        if built_in:
            unchunkable.append(f"{name} shows the server's state, which no snapshot holds")
            continue
        facts = inspect(parse(definition.encode(), view), view)
        # The server printed it: a dotted name there is a column, and no function in disguise.
        texts[view] = replace(facts.references, attributes=frozenset())
        if facts.clocks:
            unchunkable.append(f"{view} reads the clock")
        if facts.unchunkable:
            unchunkable.append(f"{view} uses {', '.join(facts.unchunkable)}")
    for view, found in check_texts(connection, texts, allow).items():
        if found.unchunkable:
            unchunkable.append(f"{view} calls {', '.join(found.unchunkable)}")
    return ViewFacts(tuple(base), tuple(view.removeprefix("view ") for view in texts), tuple(unchunkable))
