"""Which functions a user's SQL may call: built-in ones that only compute, and those the DataSource allows by name.

Volatility is no allow-list (``table_to_xml`` is STABLE and runs SQL), and READ ONLY stops no function from sending
notifications, taking advisory locks or changing settings. So a function is allowed when

- it is built in and each of its overloads that this call could mean is IMMUTABLE: it sees nothing but its arguments;
- or it is built in, STABLE, and in ``vocabulary.REVIEWED``;
- or ``policy.allowFunctions`` names it.

Operators, types of casts, and columns that may turn out to be functions (``(5).pg_sleep``) follow the same rule.
The server is asked once for all names, because only it knows what they mean there.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from extraction_worker.errors import InvalidQuery
from extraction_worker.source.lookup import Catalog, Connection, Function, folded, look_up
from extraction_worker.source.references import Attribute, Call, Name, References, inspect
from extraction_worker.source.syntax import parse
from extraction_worker.source.vocabulary import ONCE_VOLATILE, RENAMED

# It could end the session contract: hidden rows and writes would follow.
_NEVER = frozenset({Name("pg_catalog", "set_config")})

# Enums and domains; their input functions are built in.
_PLAIN_KINDS = frozenset({"e", "d"})

# 0x1F and 1_000 are numbers since then; 14 reads `0 AS x1F`.
_MODERN_NUMBERS = 160000

_OTHER_CLOCKS = frozenset({"statement_timestamp", "clock_timestamp", "timeofday", "age"})


@dataclass(frozen=True, slots=True)
class FunctionFacts:
    """What the server said about the names."""

    unchunkable: tuple[str, ...] = ()
    """What chunks would compute anew, each in a few words, e.g. ``the volatile function public.roll``."""
    repeatable: bool = True
    """Whether each call gives the same for the same arguments, in every session of one role under the contract."""

    @property
    def chunk_reason(self) -> str:
        """A sentence for people; empty where chunks change nothing."""
        if not self.unchunkable:
            return ""
        return f"It calls {', '.join(self.unchunkable)}, which each chunk would compute anew."


def check_functions(
    connection: Connection, references: References, allow: Iterable[str] = (), *, field: str = "spec.query"
) -> FunctionFacts:
    """Check every function, operator and type that a text names: one query, and one more for domains' constraints.

    Parameters
    ----------
    connection
        In a transaction under the session contract.
    allow
        ``policy.allowFunctions`` of the DataSource: ``schema.name``, or ``name`` for a function of pg_catalog.
    field
        What the text is called in messages.

    Raises
    ------
    InvalidQuery
        A function that isn't allowed, or isn't there; the message names it and says how to allow it.
    RuntimeError
        The session isn't under the contract: the text could mean something else there.
    """
    return check_texts(connection, {field: references}, allow)[field]


def check_texts(
    connection: Connection, texts: Mapping[str, References], allow: Iterable[str]
) -> dict[str, FunctionFacts]:
    """Do what :func:`check_functions` does for several texts at once, by their names in messages."""
    allowed = frozenset(_in_catalog(Name(*entry.rpartition(".")[::2])) for entry in allow)
    unchunkable: dict[str, dict[str, None]] = {field: {} for field in texts}
    unrepeatable: set[str] = set()
    seen: set[Name] = set()
    while texts:
        everything = References()
        for references in texts.values():
            everything |= references
        catalog = look_up(connection, everything)
        seen |= everything.types
        behind: dict[str, References] = {}
        for field, references in texts.items():
            check = _Check(allowed, field, catalog)
            unchunkable[field] |= check.run(references, connection.info.server_version)
            if not check.repeatable:
                unrepeatable.add(field)
            constraints = replace(check.behind, types=check.behind.types - seen)
            if constraints != References():
                behind[field] = constraints
        texts = behind
    return {field: FunctionFacts(tuple(found), field not in unrepeatable) for field, found in unchunkable.items()}


class _Check:
    """One round: the names of a text against what the server knows of them."""

    def __init__(self, allowed: frozenset[Name], field: str, catalog: Catalog) -> None:
        self.allowed = allowed
        self.field = field
        self.catalog = catalog
        self.behind = References()
        """What the constraints of domains refer to: the next round."""
        self.repeatable = True

    def run(self, references: References, server_version: int) -> dict[str, None]:
        if references.modern_number and server_version < _MODERN_NUMBERS:
            raise InvalidQuery(
                f"{self.field}: PostgreSQL {server_version // 10000} doesn't read {references.modern_number} as one "
                "number.", hint="Write it in decimal digits.",
            )  # fmt: skip
        unchunkable: dict[str, None] = {}
        for call in sorted(references.calls):
            unchunkable |= self.call(call)
        for attribute in sorted(references.attributes):
            self.attribute(attribute)
        for operator in sorted(references.operators):
            unchunkable |= self.operator(operator)
        for name in sorted(references.types):
            self.type(name)
        return unchunkable

    def call(self, call: Call) -> dict[str, None]:
        name = _in_catalog(call.function)
        known = self.catalog.functions.get(name, [])
        if name in _NEVER:
            raise InvalidQuery(f"{self.field}: function {name} would end the session's safeguards.")
        if not known:
            if call.arguments == 1 and name in self.catalog.types:  # date('2026-01-01') is a cast
                self.type(call.function)
                return {}
            if call.by_syntax and name.name in RENAMED:
                return {}
            raise InvalidQuery(
                f"{self.field}: there is no function {call.function}.",
                hint="" if call.function.schema else "search_path is empty: write the schemas of your own functions.",
            )
        meant = [function for function in known if function.takes(call.arguments)] or known
        if name not in self.allowed and not all(function.harmless() for function in meant):
            raise self.refusal(name)
        self.repeatable = self.repeatable and all(function.steady() for function in meant)
        return _changed_by_chunks(name, meant, in_from=call.in_from)

    def attribute(self, attribute: Attribute) -> None:
        name = Name("pg_catalog", folded(attribute.name))
        for function in self.catalog.functions.get(name, []):
            callable_so = function.takes(1) and (attribute.of_value or function.takes_row)
            if callable_so and name not in self.allowed and not function.harmless():
                raise InvalidQuery(
                    f'{self.field}: where there is no column "{attribute.name}", .{attribute.name} calls a function '
                    "that isn't allowed.",
                    hint="If it is a column, write it without the table's name, or rename it in a subquery.",
                )
            if callable_so and not function.steady():
                self.repeatable = False

    def operator(self, operator: Name) -> dict[str, None]:
        unchunkable: dict[str, None] = {}
        for function in self.catalog.operators.get(_in_catalog(operator), []):
            if function.name in _NEVER:
                raise InvalidQuery(f"{self.field}: operator {operator} would end the session's safeguards.")
            harmless = function.built_in and function.volatility != "v"
            if function.name not in self.allowed and not harmless:
                raise self.refusal(function.name, f"of operator {operator} ")
            # What a built-in one depends on beside its operands is the session contract.
            self.repeatable = self.repeatable and (harmless or function.steady())
            unchunkable |= _changed_by_chunks(function.name, [function], in_from=False)
        return unchunkable

    def type(self, asked: Name) -> None:
        name = _in_catalog(asked)
        known = self.catalog.types.get(name, [])
        if not known:
            raise InvalidQuery(
                f"{self.field}: there is no type {asked}.",
                hint="" if asked.schema else "search_path is empty: write the schemas of your own types.",
            )
        if name in self.allowed:
            self.repeatable = False
            return
        for part in known:
            if part.built_in or part.is_array:
                continue
            if part.name in self.allowed:
                self.repeatable = False
                continue
            if part.kind not in _PLAIN_KINDS:
                raise InvalidQuery(
                    f"{self.field}: a cast to type {part.name} runs functions of its own.",
                    hint=f"If they only compute, add {part.name} to policy.allowFunctions of the DataSource.",
                )
            for function in part.casts:
                if function not in self.allowed:
                    raise self.refusal(function, f"of a cast to {part.name} ")
                self.repeatable = False
            for constraint in part.constraints:
                # CHECK ((VALUE > 0)) NOT VALID: as the server prints it.
                condition = constraint.removeprefix("CHECK ").removesuffix(" NOT VALID")
                tree = parse(f"SELECT WHERE {condition}".encode(), f"type {part.name}")
                self.behind |= inspect(tree, f"type {part.name}").references

    def refusal(self, name: Name, whose: str = "") -> InvalidQuery:
        shown = name.name if name.schema == "pg_catalog" else str(name)
        hint = f"If it only computes its result, add {shown} to policy.allowFunctions of the DataSource."
        if name.schema == "pg_catalog" and name.name in _OTHER_CLOCKS:
            hint = "Use now(), which becomes the moment of the plan."
        return InvalidQuery(f"{self.field}: function {shown} {whose}isn't allowed.", hint=hint)


def _in_catalog(name: Name) -> Name:
    """Return what a name without a schema means while search_path is empty."""
    return name if name.schema else Name("pg_catalog", name.name)


def _changed_by_chunks(name: Name, meant: Iterable[Function], *, in_from: bool) -> dict[str, None]:
    """Return what chunks would change about a call of one of these functions, and the text alone didn't show."""
    changed: dict[str, None] = {}
    for function in meant:
        if function.volatility == "v" and name.name not in ONCE_VOLATILE:
            changed[f"the volatile function {name}"] = None
        if function.built_in:  # its name, or OVER, has shown the rest
            continue
        if function.kind in {"a", "w"}:
            changed[f"the aggregate {name}"] = None
        if function.returns_set and not in_from:
            changed[f"the set-returning function {name}"] = None
    return changed
