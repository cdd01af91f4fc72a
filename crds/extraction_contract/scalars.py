"""Scalars of the contract: quantities of bytes and durations (parsed once, the text kept), names, paths."""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import timedelta
from decimal import ROUND_CEILING, Decimal
from typing import Annotated, Any, ClassVar, Self
from zoneinfo import ZoneInfo

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from extraction_contract.base import Lacks, Matches

_QUANTITY = r"[0-9]{1,15}(\.[0-9]{1,3})?(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?"
_DURATION = r"([0-9]{1,9}h)?([0-9]{1,9}m)?([0-9]{1,9}s)?([0-9]{1,9}ms)?"
_TIME_ZONE = r"UTC|[A-Z][A-Za-z_]+(/[A-Za-z0-9_+-]+){1,2}"
_FACTORS = {
    "": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50,
}  # fmt: skip


class Quantity(int):
    """A number of bytes, written as Kubernetes writes quantities: ``64Mi``, ``1.5G``, ``1048576``.

    It is an ``int``; ``text`` is what was written. A fraction of a byte is rounded up, as Kubernetes does.
    """

    text: str | int

    def __new__(cls, text: str | int) -> Self:
        """Parse ``text``; raise ValueError when it isn't a quantity of bytes."""
        if re.fullmatch(_QUANTITY, str(text)) is None:
            raise ValueError("not a quantity of bytes")
        number = str(text).rstrip("KMGTPik")
        factor = _FACTORS[str(text)[len(number) :]]
        self = super().__new__(cls, int((Decimal(number) * factor).to_integral_value(ROUND_CEILING)))
        self.text = text
        return self

    def __str__(self) -> str:
        return str(self.text)


class Duration(timedelta):
    """A span of time in hours, minutes, seconds and milliseconds: ``60s``, ``1h30m``, ``500ms``.

    It is a ``timedelta``; ``text`` is what was written.
    """

    text: str

    def __new__(cls, text: str) -> Self:
        """Parse ``text``; raise ValueError when it isn't a duration."""
        match = re.fullmatch(_DURATION, text) if text else None
        if match is None:
            raise ValueError("not a duration")
        hours, minutes, seconds, milliseconds = (int(part.rstrip("hms")) if part else 0 for part in match.groups())
        self = super().__new__(cls, hours=hours, minutes=minutes, seconds=seconds, milliseconds=milliseconds)
        self.text = text
        return self

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        # A timedelta is copied and pickled by its days, seconds and microseconds, which our constructor doesn't take.
        return type(self), (self.text,)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class _Between(ABC):
    """Annotates a scalar: the values that it may have, both ends included."""

    least: str
    most: str

    scalar: ClassVar[type[Quantity] | type[Duration]]
    what: ClassVar[str]

    @property
    @abstractmethod
    def schema(self) -> JsonSchemaValue:
        """The scalar in the CRD, without the rule."""

    @property
    @abstractmethod
    def rule(self) -> str:
        """The rule in CEL: it parses, and it is in between."""

    @property
    def message(self) -> str:
        """What must be true, for people."""
        return f"must be a {self.what}, from {self.least} to {self.most}"

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._parse, serialization=core_schema.plain_serializer_function_ser_schema(lambda value: value.text)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**self.schema, "x-kubernetes-validations": [{"rule": self.rule, "message": self.message}]}

    def _parse(self, value: Any) -> Any:
        least: Any = self.scalar(self.least)
        most: Any = self.scalar(self.most)
        try:
            parsed = value if isinstance(value, self.scalar) else self.scalar(value)
        except (TypeError, ValueError):
            parsed = None
        if parsed is None or not least <= parsed <= most:
            raise PydanticCustomError("between", "{message}", {"message": self.message})
        return parsed


class Bytes(_Between):
    """The bounds of a :class:`Quantity`."""

    scalar = Quantity
    what = "number of bytes (64Mi, 1.5G, 1048576)"

    @property
    def schema(self) -> JsonSchemaValue:
        """An integer or a string."""
        return {"x-kubernetes-int-or-string": True, "maxLength": 24}

    @property
    def rule(self) -> str:
        """A number stands for itself, so that both become text first."""
        return (
            f"string(self).matches(r'^({_QUANTITY})$')"
            f" && quantity(string(self)).compareTo(quantity('{self.least}')) >= 0"
            f" && quantity(string(self)).compareTo(quantity('{self.most}')) <= 0"
        )


class Lasts(_Between):
    """The bounds of a :class:`Duration`."""

    scalar = Duration
    what = "duration (90s, 5m, 1h30m)"

    @property
    def schema(self) -> JsonSchemaValue:
        """A string."""
        return {"type": "string", "minLength": 2, "maxLength": 32}

    @property
    def rule(self) -> str:
        """Go's durations, of which ours are a subset."""
        return (
            f"self.matches(r'^({_DURATION})$')"
            f" && duration(self) >= duration('{self.least}') && duration(self) <= duration('{self.most}')"
        )


# Times of the week -----------------------------------------------------------------------------------------------

TimeOfDay = Annotated[
    str,
    Field(max_length=5),
    Matches(r"([01][0-9]|2[0-3]):[0-5][0-9]", "must be a time of the day, from 00:00 to 23:59"),
]
"""Hours and minutes on a wall clock, e.g. ``07:30``."""


@dataclass(frozen=True)
class _KnownTimeZone:
    """Annotates a string: the name of a time zone in the IANA database."""

    message = "must be the name of a time zone, e.g. UTC or Europe/Berlin"

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        # The API server has the database, too; a zone that it doesn't know is an error of the rule.
        rule = f"self.matches(r'^({_TIME_ZONE})$') && timestamp('2026-01-01T00:00:00Z').getHours(self) >= 0"
        return handler(schema) | {"x-kubernetes-validations": [{"rule": rule, "message": self.message}]}

    def _check(self, value: str) -> str:
        known = re.fullmatch(_TIME_ZONE, value) is not None
        if known:
            try:
                ZoneInfo(value)
            except (KeyError, ValueError, OSError):
                known = False
        if not known:
            raise PydanticCustomError("time_zone", "{message}", {"message": self.message})
        return value


TimeZone = Annotated[str, Field(min_length=3, max_length=64), _KnownTimeZone()]
"""The name of a time zone in the IANA database."""

# Names and paths -------------------------------------------------------------------------------------------------

LABEL = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"
"""Regular expression of a DNS label, without its length."""
_SEGMENT = r"[A-Za-z0-9_=+@,:~-][A-Za-z0-9._=+@,:~-]*"

ObjectName = Annotated[
    str,
    Field(min_length=1, max_length=253),
    Matches(rf"{LABEL}(\.{LABEL})*", "must be the name of an object: lower case letters, digits, '-' and '.'"),
]
"""The name of an object of Kubernetes that we refer to (a DNS subdomain)."""

SinkPath = Annotated[
    str,
    Field(min_length=1, max_length=512),
    Matches(
        rf"{_SEGMENT}(/{_SEGMENT})*/?",
        "must be a relative path whose segments consist of letters, digits and ._=+@,:~- and don't start with '.'",
    ),
    Lacks(r"(^|/)_staging(/|$)", "must not contain the segment _staging: unfinished runs are kept there"),
]
"""Where files go below a bucket or a volume. It can't leave it, and can't reach into staging."""
