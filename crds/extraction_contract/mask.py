"""Masks: what is written in place of a column's values."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from extraction_contract.base import Contract, Matches, Rule
from extraction_contract.scalars import ObjectName

ColumnName = Annotated[
    str,
    Field(min_length=1, max_length=63),
    Matches(r"[^\x00-\x1f\x7f]+", "must be the name of a column, without control characters"),
]
_PRINTABLE = Matches(r"[^\x00-\x1f\x7f]*", "must not contain control characters")
MASK_KEY_BYTES = 32
"""The least length of a key: shorter ones could be found by trying."""


class MaskKeyRef(Contract):
    """One key of a Secret in the same namespace that holds the key of a hash: 32 bytes of text or more."""

    name: ObjectName
    """Name of the Secret."""
    key: Annotated[
        str, Field(min_length=1, max_length=253), Matches(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", "must be a key of a Secret")
    ] = "key"
    """The key of the Secret that holds it, e.g. the output of ``openssl rand -hex 32``."""


class Mask(Contract):
    """What is written in place of one column's values, before anything else sees them."""

    column: ColumnName
    """Exact name of the column."""
    method: Literal["Nullify", "Constant", "Hash", "Partial", "Truncate"]
    """``Nullify`` and ``Constant`` don't even read the column. ``Hash`` writes HMAC-SHA-256 of the value's text, the
    same in every run with the same key. ``Partial`` keeps some characters at the ends of the value's text.
    ``Truncate`` rounds dates and timestamps down. NULL stays NULL under these three."""
    value: Annotated[str, Field(max_length=256), _PRINTABLE] | None = None
    """What ``Constant`` writes in every row, as text; it must be a value of the column's type."""
    key_secret_ref: MaskKeyRef | None = None
    """The key of ``Hash``."""
    keep_first: Annotated[int, Field(ge=0, le=64)] = 0
    """Characters at the beginning that ``Partial`` keeps. No more than half of a value is ever shown: shorter values
    are hidden wholly."""
    keep_last: Annotated[int, Field(ge=0, le=64)] = 0
    """Characters at the end that ``Partial`` keeps."""
    replacement: Annotated[str, Field(max_length=16), _PRINTABLE] = "***"
    """What ``Partial`` writes for all that it hides; it doesn't tell how much that was."""
    to: Literal["Year", "Quarter", "Month", "Week", "Day", "Hour"] | None = None
    """What ``Truncate`` rounds down to; weeks begin on Monday, and times with a zone are taken in UTC."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "value",
            "value is what method Constant needs, and no other",
            "has(self.value) == (self.method == 'Constant')",
            lambda self: (self.value is not None) == (self.method == "Constant"),
        ),
        Rule(
            "keySecretRef",
            "keySecretRef is what method Hash needs, and no other",
            "has(self.keySecretRef) == (self.method == 'Hash')",
            lambda self: (self.key_secret_ref is not None) == (self.method == "Hash"),
        ),
        Rule(
            "to",
            "to is what method Truncate needs, and no other",
            "has(self.to) == (self.method == 'Truncate')",
            lambda self: (self.to is not None) == (self.method == "Truncate"),
        ),
        Rule(
            "keepFirst",
            "keepFirst, keepLast and replacement are for method Partial",
            "self.method == 'Partial' || (self.keepFirst == 0 && self.keepLast == 0 && self.replacement == '***')",
            lambda self: (
                self.method == "Partial" or (self.keep_first, self.keep_last, self.replacement) == (0, 0, "***")
            ),
        ),
    )
