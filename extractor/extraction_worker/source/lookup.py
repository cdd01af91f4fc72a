"""What the server knows of functions, operators and types, by their names: SQL in, values out."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg

from extraction_worker.source.references import Name, References
from extraction_worker.source.vocabulary import ONCE_VOLATILE, REVIEWED

Connection = psycopg.Connection[tuple[Any, ...]]

_CONTRACT = {"search_path": "", "standard_conforming_strings": "on"}


class Function(NamedTuple):
    """A function as pg_proc has it."""

    name: Name
    built_in: bool
    """Its oid was given by initdb: no extension's, and no user's put into pg_catalog."""
    volatility: str
    kind: str
    returns_set: bool
    fewest: int
    most: int
    takes_row: bool
    """Its first argument may be a whole row: a composite type, or a pseudo-type such as anyelement."""

    def takes(self, arguments: int) -> bool:
        """Tell whether a call with that many arguments can mean this one."""
        return self.fewest <= arguments <= self.most

    def harmless(self) -> bool:
        """Tell whether anybody may call it: it computes from its arguments, or somebody has looked at it."""
        if not self.built_in:
            return False
        if self.volatility == "i":
            return True
        reviewed = self.name.schema == "pg_catalog" and self.name.name in REVIEWED
        return reviewed and (self.volatility == "s" or self.name.name in ONCE_VOLATILE)

    def steady(self) -> bool:
        """Tell whether it gives the same for the same arguments, in every session of one role under the contract."""
        return self.volatility == "i" or self.harmless()


class Type(NamedTuple):
    """A type that an asked type is, or is made of."""

    name: Name
    built_in: bool
    kind: str
    """``typtype``."""
    is_array: bool
    constraints: tuple[str, ...]
    """A domain's constraints, as the server prints them."""
    casts: tuple[Name, ...]
    """Functions of casts to it; the built-in ones aren't listed."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """What the server found under the asked names; an overloaded function is several."""

    functions: dict[Name, list[Function]]
    operators: dict[Name, list[Function]]
    types: dict[Name, list[Type]]


# Types are followed from domains to bases and from arrays to elements. 16384 is the first oid after initdb's.
_LOOK_UP = """
WITH RECURSIVE
asked_functions AS (SELECT * FROM unnest(%(function_schemas)s::text[], %(functions)s::text[]) AS a (schema, name)),
asked_operators AS (SELECT * FROM unnest(%(operator_schemas)s::text[], %(operators)s::text[]) AS a (schema, name)),
asked_types AS (SELECT * FROM unnest(%(type_schemas)s::text[], %(types)s::text[]) AS a (schema, name)),
types AS (
    SELECT a.schema, a.name, t.oid
    FROM asked_types a
    JOIN pg_catalog.pg_namespace n ON n.nspname = a.schema
    JOIN pg_catalog.pg_type t ON t.typnamespace = n.oid AND t.typname = a.name
    UNION
    SELECT c.schema, c.name, CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.typelem END
    FROM types c
    JOIN pg_catalog.pg_type t ON t.oid = c.oid
    WHERE t.oid >= 16384 AND (t.typtype = 'd' OR EXISTS (
        SELECT FROM pg_catalog.pg_type e WHERE e.oid = t.typelem AND e.typarray = t.oid))
),
functions AS (
    SELECT p.oid, n.nspname, p.proname, p.oid < 16384 AS built_in, p.provolatile, p.prokind, p.proretset,
        p.pronargs - p.pronargdefaults - (p.provariadic <> 0)::int AS fewest,
        CASE WHEN p.provariadic <> 0 THEN 32767 ELSE p.pronargs END AS most,
        EXISTS (SELECT FROM pg_catalog.pg_type t WHERE t.oid = p.proargtypes[0] AND t.typtype IN ('p', 'c')) AS of_row
    FROM pg_catalog.pg_proc p
    JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
)
SELECT 'function', a.schema, a.name, f.nspname, f.proname, f.built_in, f.provolatile::text, f.prokind::text,
    f.proretset, f.fewest, f.most, f.of_row, NULL::text[], NULL::text[], NULL::text[]
FROM asked_functions a
JOIN functions f ON f.nspname = a.schema AND f.proname = a.name
UNION ALL
SELECT 'operator', a.schema, a.name, f.nspname, f.proname, f.built_in, f.provolatile::text, f.prokind::text,
    f.proretset, f.fewest, f.most, f.of_row, NULL, NULL, NULL
FROM asked_operators a
JOIN pg_catalog.pg_namespace n ON n.nspname = a.schema
JOIN pg_catalog.pg_operator o ON o.oprnamespace = n.oid AND o.oprname = a.name
JOIN functions f ON f.oid = o.oprcode
UNION ALL
SELECT 'type', a.schema, a.name, n.nspname, t.typname, t.oid < 16384, '', t.typtype::text,
    t.oid >= 16384 AND EXISTS (SELECT FROM pg_catalog.pg_type e WHERE e.oid = t.typelem AND e.typarray = t.oid),
    0, 0, false,
    ARRAY(SELECT pg_catalog.pg_get_constraintdef(k.oid) FROM pg_catalog.pg_constraint k
          WHERE k.contypid = t.oid AND k.contype = 'c' ORDER BY 1),
    ARRAY(SELECT f.nspname FROM pg_catalog.pg_cast c JOIN functions f ON f.oid = c.castfunc
          WHERE c.casttarget = t.oid AND NOT f.built_in ORDER BY f.oid),
    ARRAY(SELECT f.proname FROM pg_catalog.pg_cast c JOIN functions f ON f.oid = c.castfunc
          WHERE c.casttarget = t.oid AND NOT f.built_in ORDER BY f.oid)
FROM types a
JOIN pg_catalog.pg_type t ON t.oid = a.oid
JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
UNION ALL
SELECT 'setting', '', s, '', pg_catalog.current_setting(s), true, '', '', false, 0, 0, false, NULL, NULL, NULL
FROM unnest(%(settings)s::text[]) AS s
"""


def look_up(connection: Connection, references: References) -> Catalog:
    """Ask the server for everything that a text names, in one query.

    Raises
    ------
    RuntimeError
        The session isn't under the contract: the names, or the strings, could mean something else there.
    """
    functions = {call.function for call in references.calls}
    functions |= {Name("", folded(attribute.name)) for attribute in references.attributes}
    # inet('10.0.0.1') is a cast where no function has the name.
    named_types = references.types | {call.function for call in references.calls if call.arguments == 1}
    rows = connection.execute(
        _LOOK_UP,
        {
            **_arrays("function", functions),
            **_arrays("operator", references.operators),
            **_arrays("type", named_types),
            "settings": list(_CONTRACT),
        },
    ).fetchall()
    catalog = Catalog(defaultdict(list), defaultdict(list), defaultdict(list))
    for what, schema, name, found_schema, found, built_in, volatility, kind, flag, fewest, most, row, *lists in rows:
        asked, found_name = Name(schema, name), Name(found_schema, found)
        if what == "setting":
            if found.strip('"') != _CONTRACT[name]:
                raise RuntimeError(f"the session contract doesn't hold: {name} is {found!r}")
        elif what == "type":
            casts = tuple(map(Name, lists[1], lists[2]))
            catalog.types[asked].append(Type(found_name, built_in, kind, flag, tuple(lists[0]), casts))
        else:
            known = catalog.functions if what == "function" else catalog.operators
            known[asked].append(Function(found_name, built_in, volatility, kind, flag, fewest, most, row))
    return catalog


def folded(name: str) -> str:
    """Return a name as the oddest server folds it: İ is an ASCII i in a Turkish single-byte locale."""
    return name.replace("\u0130", "i")


def _arrays(what: str, asked: Iterable[Name]) -> dict[str, list[str]]:
    """Return the parameters of one kind of name: two arrays of the same length."""
    ordered = sorted(asked)
    return {
        f"{what}_schemas": [name.schema or "pg_catalog" for name in ordered],
        f"{what}s": [name.name for name in ordered],
    }
