"""``policy.sensitiveColumns``: which columns a job may write only masked, and never split by.

Columns of a table are told by their names. Those of a query are told by their own names, by the names of the columns
that they are (the server knows through subqueries, WITH and joins, not through views, set operations and expressions),
and by the names that the query mentions: an expression over a sensitive column is sensitive under whatever name, and so
is what a subquery makes of it (:mod:`extraction_worker.source.taint`). That stops accidents. It doesn't stop somebody
who wants to see the values: the privileges of the role do.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from extraction_worker.errors import InvalidManifest
from extraction_worker.source.catalog import Connection
from extraction_worker.source.taint import tainted_names

_ORIGINS = """
    SELECT a.attname::text
    FROM ROWS FROM (pg_catalog.unnest(%(tables)s::oid[]), pg_catalog.unnest(%(columns)s::int4[]))
         WITH ORDINALITY AS o (relation, number, position)
    LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = o.relation AND a.attnum = o.number AND o.number > 0
    ORDER BY o.position
"""


@dataclass(frozen=True)
class SecretColumns:
    """Columns by patterns, names with ``*`` and ``?`` in any case, and by exact names."""

    patterns: tuple[str, ...] = ()
    names: frozenset[str] = frozenset()

    def including(self, names: Iterable[str]) -> "SecretColumns":
        """Return these and the columns of these names."""
        return SecretColumns(self.patterns, self.names.union(names))

    def __contains__(self, name: object) -> bool:
        return name in self.names or (isinstance(name, str) and self._pattern.fullmatch(name) is not None)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        # Not fnmatch: brackets mean nothing here, and a pattern is one name.
        texts = ("".join(_WILDCARDS.get(one, re.escape(one)) for one in pattern) for pattern in self.patterns)
        return re.compile("|".join(f"(?:{text})" for text in texts) or r"(?!)", re.IGNORECASE | re.DOTALL)


_WILDCARDS = {"*": ".*", "?": "."}


def sensitive_in_query(connection: Connection, text: str, from_sql: str, policy: SecretColumns) -> frozenset[str]:
    """Return the columns of a query that are sensitive, by the names it gives them.

    Parameters
    ----------
    text
        The query, checked.
    from_sql
        The same, wrapped and with its alias.

    Raises
    ------
    InvalidManifest
        Something is made of a sensitive column, and has no name that a mask could name.
    """
    if not policy.patterns:
        return frozenset()
    cursor = connection.execute(f"SELECT * FROM {from_sql} LIMIT 0".encode())
    names, result = [column.name for column in cursor.description or ()], cursor.pgresult
    tables = [result.ftable(index) if result else 0 for index in range(len(names))]
    numbers = [result.ftablecol(index) if result else 0 for index in range(len(names))]
    origins = connection.execute(_ORIGINS, {"tables": tables, "columns": numbers}).fetchall()
    told = {name for name, (origin,) in zip(names, origins, strict=True) if name in policy or origin in policy}
    return frozenset(told) | (frozenset(names) & tainted_names(text, policy))


def refuse_unmasked(sensitive: Iterable[str], masked: Iterable[str]) -> None:
    """Refuse sensitive columns that no mask covers.

    Raises
    ------
    InvalidManifest
        The message names them.
    """
    found = sorted(set(sensitive) - set(masked))
    if found:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise InvalidManifest(
            f"Sensitive by the DataSource's policy.sensitiveColumns, and not masked: "
            f"{', '.join(map(repr, found[:_SHOWN]))}{more}.",
            hint="Mask what is sensitive (masks), or leave it out.",
        )


_SHOWN = 20
