"""What every model of the contract shares: frozen, strict, camelCase in YAML, rules in CEL and Python side by side."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, LiteralString, Self, get_args

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel, to_snake
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

GROUP = "extraction-operator.io"
VERSION = "v1alpha1"
API_VERSION: Literal["extraction-operator.io/v1alpha1"] = "extraction-operator.io/v1alpha1"

RULES_BROKEN = "rules_broken"
"""Type of the validation error whose context lists ``(field, message)`` pairs under ``broken``."""


def judged_by_server(_: object) -> bool:
    """Stand in for a rule on a transition: without a former state there is nothing to compare."""
    return True


@dataclass(frozen=True)
class Rule:
    """A rule over several fields of one model, once for the API server and once for the local loader.

    Parameters
    ----------
    field
        The camelCase path, below the model, of the field to blame; empty blames the model itself.
    message
        What must be true, for people. Never a value.
    cel
        The rule in the Common Expression Language, where ``self`` is the model.
    holds
        The same in Python. A field that is None here is one that ``has()`` doesn't find there. Left out where the
        rule compares with ``oldSelf``.
    """

    field: str
    message: str
    cel: str
    holds: Callable[[Any], bool] = judged_by_server


class Contract(BaseModel):
    """A frozen, strict value; unknown fields are refused, and no error shows what was given.

    YAML is read by alias alone (:mod:`extraction_contract.load`); code may use the Python names.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        # Validators of the two kinds are built when they are needed, not those of each of their parts at every start.
        defer_build=True,
        strict=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        hide_input_in_errors=True,
    )

    RULES: ClassVar[tuple[Rule, ...]] = ()
    """Rules over several fields."""
    MUTABLE: ClassVar[frozenset[str] | None] = None
    """The fields that may change, where the others may not; None where all may."""

    @model_validator(mode="after")
    def _follow_rules(self) -> Self:
        broken = [(rule.field, rule.message) for rule in self.RULES if not rule.holds(self)]
        if broken:
            text = "; ".join(message for _, message in broken)
            raise PydanticCustomError(RULES_BROKEN, "{text}", {"text": text, "broken": broken})
        return self


def model_in(annotation: object) -> type[Contract] | None:
    """Return the model that an annotation is about, through ``| None`` and ``tuple[…]``; None when it is a scalar."""
    if isinstance(annotation, type) and issubclass(annotation, Contract):
        return annotation
    return next((found for part in get_args(annotation) if (found := model_in(part))), None)


@dataclass(frozen=True)
class _TextRule:
    """Annotates a string with a rule by a regular expression, on which RE2 and Python agree as it is used here.

    In the CRD it is a CEL rule instead of ``pattern``: the message is for people, and unlike the error of a pattern
    it doesn't repeat the value, which may be a secret in the wrong place.
    """

    regex: str
    message: str

    kind: ClassVar[LiteralString]
    """Of the validation error."""
    cel: ClassVar[str]
    """The rule, with ``{regex}`` in it."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        result = handler(schema)
        rule = self.cel.replace("{regex}", self.regex)
        result.setdefault("x-kubernetes-validations", []).append({"rule": rule, "message": self.message})
        return result

    def _check(self, value: str) -> str:
        if not self._holds(value):
            raise PydanticCustomError(self.kind, "{message}", {"message": self.message})
        return value

    def _holds(self, value: str) -> bool:
        raise NotImplementedError


@dataclass(frozen=True)
class Matches(_TextRule):
    """The whole of the string matches ``regex``."""

    kind = "matches"
    cel = "self.matches(r'^(?:{regex})$')"

    def _holds(self, value: str) -> bool:
        # Not `$`: Python's also matches before a newline at the end.
        return re.fullmatch(self.regex, value) is not None


@dataclass(frozen=True)
class Lacks(_TextRule):
    """``regex`` is found nowhere in the string."""

    kind = "lacks"
    cel = "!self.matches(r'{regex}')"

    def _holds(self, value: str) -> bool:
        return re.search(self.regex, value) is None


@dataclass(frozen=True)
class Schema:
    """Annotates anything: these keys go into the CRD as they are, e.g. ``x-kubernetes-list-type``."""

    extra: tuple[tuple[str, Any], ...]

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        result = handler(schema)
        result.update(self.extra)
        return result


@dataclass(frozen=True)
class Unique:
    """Annotates a tuple: no item twice (``x-kubernetes-list-type: set``).

    Parameters
    ----------
    key
        The camelCase field that tells items which are objects apart (``map`` with this key); None for plain strings.
    """

    key: str | None = None

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        result = handler(schema)
        result["x-kubernetes-list-type"] = "set" if self.key is None else "map"
        if self.key is not None:
            result["x-kubernetes-list-map-keys"] = [self.key]
        return result

    def _check(self, value: tuple[Any, ...]) -> tuple[Any, ...]:
        items = value if self.key is None else [getattr(item, to_snake(self.key)) for item in value]
        if len(set(items)) != len(items):
            raise PydanticCustomError("duplicate", "an item is there twice")
        return value
