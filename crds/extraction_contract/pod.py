"""What a job's pods may be given: a bounded part of a pod template."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler, JsonValue
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from extraction_contract.base import Contract, Matches, Schema
from extraction_contract.meta import SecretRef
from extraction_contract.scalars import ObjectName

_QUALIFIED = r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
_AMOUNT = r"[0-9]{1,15}(\.[0-9]{1,9})?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?"


class _Amount:
    """Annotates ``int | str``: a quantity of a resource, e.g. ``500m`` or ``2Gi``; kept as it is."""

    message = "must be a quantity, e.g. 500m, 2 or 2Gi"

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {
            "x-kubernetes-int-or-string": True,
            "maxLength": 32,
            "x-kubernetes-validations": [{"rule": f"string(self).matches(r'^({_AMOUNT})$')", "message": self.message}],
        }

    def _check(self, value: Any) -> int | str:
        if isinstance(value, bool) or not isinstance(value, int | str) or re.fullmatch(_AMOUNT, str(value)) is None:
            raise PydanticCustomError("amount", "{message}", {"message": self.message})
        return value


class _QualifiedKeys:
    """Annotates a mapping: its keys are names with or without a domain, e.g. ``example.com/team``."""

    message = "must have keys that are names with or without a domain, e.g. team or example.com/team"

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        rule = {"rule": f"self.all(key, key.matches(r'^{_QUALIFIED}$'))", "message": self.message}
        return handler(schema) | {"x-kubernetes-validations": [rule]}

    def _check(self, value: dict[str, Any]) -> dict[str, Any]:
        if not all(re.fullmatch(_QUALIFIED, key) for key in value):
            raise PydanticCustomError("keys", "{message}", {"message": self.message})
        return value


Amount = Annotated[int | str, _Amount()]
LabelValue = Annotated[
    str,
    Field(max_length=63),
    Matches(
        r"([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)?",
        "must be the value of a label: letters, digits and ._-, at both ends a letter or digit",
    ),
]
Labels = Annotated[dict[str, LabelValue], Field(max_length=64), _QualifiedKeys()]
Annotations = Annotated[dict[str, Annotated[str, Field(max_length=4096)]], Field(max_length=64), _QualifiedKeys()]
Resources = Annotated[dict[str, Amount], Field(max_length=16), _QualifiedKeys()]


class ResourceRequirements(Contract):
    """What each container of a worker requests, and what it may use at most."""

    requests: Resources = Field(default_factory=dict)
    """Reserved for the container, e.g. ``cpu: 500m``."""
    limits: Resources = Field(default_factory=dict)
    """At most this much; memory bounds how many bytes a worker keeps in flight."""


class Toleration(Contract):
    """Lets pods onto nodes with a matching taint."""

    key: Annotated[str, Field(max_length=317)] | None = None
    """The taint's key; unset matches every key and needs ``Exists``."""
    operator: Literal["Equal", "Exists"] = "Equal"
    """How ``value`` is compared."""
    value: Annotated[str, Field(max_length=63)] | None = None
    """The taint's value, under ``Equal``."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """The effect to tolerate; unset is all."""
    toleration_seconds: Annotated[int, Field(ge=0)] | None = None
    """How long to stay after a taint with ``NoExecute`` came."""


class PodTemplate(Contract):
    """What the job's pods are given besides what the operator decides."""

    labels: Labels = Field(default_factory=dict)
    """Labels of the pods."""
    annotations: Annotations = Field(default_factory=dict)
    """Annotations of the pods."""
    node_selector: Labels = Field(default_factory=dict)
    """Labels that a node must have."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=32)] = ()
    """Taints that the pods tolerate."""
    affinity: Annotated[dict[str, JsonValue], Schema((("x-kubernetes-preserve-unknown-fields", True),))] | None = None
    """As in a pod's ``spec.affinity``."""
    resources: ResourceRequirements = ResourceRequirements()
    """What each worker requests and may use."""
    service_account_name: ObjectName | None = None
    """The pods' identity, e.g. to reach a bucket; unset is one without permissions."""
    priority_class_name: ObjectName | None = None
    """The pods' priority."""
    image_pull_secrets: Annotated[tuple[SecretRef, ...], Field(max_length=16)] = ()
    """Secrets to pull the image with."""
