"""Object metadata, references and conditions: what every kind has in common."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from extraction_contract.base import Contract, Matches, Schema
from extraction_contract.scalars import LABEL, ObjectName


class Metadata(Contract):
    """The part of an object's metadata that is read; an object from ``kubectl get -o yaml`` is taken as it is."""

    name: Annotated[
        str,
        Field(min_length=1, max_length=52),
        Matches(LABEL, "must be a DNS label: lower case letters, digits and '-'"),
    ]
    """A DNS label of at most 52 characters: the names of Jobs and pods are made from it."""
    namespace: Annotated[str, Field(min_length=1, max_length=63), Matches(LABEL, "must be a DNS label")] | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    uid: str | None = None
    generation: int = 0
    resource_version: str | None = None
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    deletion_grace_period_seconds: int | None = None
    finalizers: tuple[str, ...] = ()
    # Taken and never read. (A validator that drops them would turn JSON into Python objects, where types are strict.)
    generate_name: JsonValue = Field(default=None, repr=False)
    managed_fields: JsonValue = Field(default=None, repr=False)
    owner_references: JsonValue = Field(default=None, repr=False)
    self_link: JsonValue = Field(default=None, repr=False)


class SecretRef(Contract):
    """A Secret in the same namespace."""

    name: ObjectName
    """Name of the Secret."""


class CASecretRef(Contract):
    """One key of a Secret in the same namespace that holds certificate authorities in PEM."""

    name: ObjectName
    """Name of the Secret."""
    key: Annotated[
        str, Field(min_length=1, max_length=253), Matches(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", "must be a key of a Secret")
    ] = "ca.crt"
    """The key that holds the certificates."""


class Condition(Contract):
    """One aspect of an object's state, as Kubernetes' tools read it."""

    type: Annotated[str, Field(min_length=1, max_length=316)]
    """Name of the condition, e.g. ``Ready``."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    observed_generation: Annotated[int, Field(ge=0)] = 0
    """The generation of the spec that this was found for."""
    last_transition_time: datetime
    """When ``status`` changed last."""
    reason: Annotated[str, Field(min_length=1, max_length=128)]
    """One word for programs, e.g. ``SnapshotLost``; docs/exit-codes.md lists them."""
    message: Annotated[str, Field(max_length=4096)] = ""
    """One sentence for people."""


Conditions = Annotated[
    tuple[Condition, ...],
    Field(max_length=16),
    Schema((("x-kubernetes-list-type", "map"), ("x-kubernetes-list-map-keys", ["type"]))),
]
"""At most one condition of each type."""
