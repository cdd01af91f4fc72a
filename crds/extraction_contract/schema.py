"""Pydantic models → structural schemas, as Kubernetes wants them: no references, no nulls, every field described."""

import ast
import inspect
from itertools import pairwise
from typing import Any, cast, get_args

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import NullableSchema

from extraction_contract.base import Contract, Rule
from extraction_contract.scalars import Duration, Quantity

_DROPPED = {"title", "additionalProperties", "$defs", "const"}


class _Generator(GenerateJsonSchema):
    """JSON schema without nulls: ``has()`` is how Kubernetes asks whether an optional field is set."""

    def nullable_schema(self, schema: NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def encode_default(self, dft: Any) -> Any:
        if isinstance(dft, Contract):
            return _without_empty(dft.model_dump(mode="json", by_alias=True))
        return dft.text if isinstance(dft, Quantity | Duration) else super().encode_default(dft)


def structural_schema(model: type[Contract]) -> JsonSchemaValue:
    """Return the structural schema of a model, with the descriptions, defaults, bounds and rules of all it contains."""
    generated = model.model_json_schema(by_alias=True, schema_generator=_Generator, mode="validation")
    models = {found.__name__: found for found in models_in(model)}
    return _inline(generated | {"$name": model.__name__}, generated.get("$defs", {}), models)


def field_documents(model: type[Contract]) -> dict[str, str]:
    """Return the docstring below each field of a model, by alias; one line, code in single backticks."""
    body = cast("ast.ClassDef", ast.parse(inspect.getsource(model)).body[0]).body
    documents = {}
    for statement, following in pairwise(body):
        match statement, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                if name in model.model_fields:
                    documents[model.model_fields[name].alias or name] = one_line(text)
    return documents


def one_line(text: str) -> str:
    """Return a docstring on one line, with code in single backticks."""
    return " ".join(text.replace("``", "`").split())


def rule_schema(rule: Rule) -> dict[str, str]:
    """Return a rule as an entry of ``x-kubernetes-validations``."""
    entry = {"rule": rule.cel, "message": rule.message}
    return entry | {"fieldPath": f".{rule.field}"} if rule.field else entry


def immutability(model: type[Contract], mutable: frozenset[str]) -> list[dict[str, str]]:
    """Return a rule for each field of ``model`` that isn't mutable: it stays set or unset, and equal."""
    aliases = (field.alias or name for name, field in model.model_fields.items())
    return [
        {
            "rule": f"has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || self.{name} == oldSelf.{name})",
            "message": f"{name} can't change: make another object",
            "fieldPath": f".{name}",
        }
        for name in aliases
        if name not in mutable
    ]


def models_in(model: type[Contract]) -> set[type[Contract]]:
    """Return a model and all models within its fields."""
    found = {model}
    pending: list[Any] = [field.annotation for field in model.model_fields.values()]
    while pending:
        annotation = pending.pop()
        if isinstance(annotation, type) and issubclass(annotation, Contract):
            found |= models_in(annotation)
        else:
            pending.extend(get_args(annotation))
    return found


def _inline(node: JsonSchemaValue, definitions: JsonSchemaValue, models: dict[str, type[Contract]]) -> JsonSchemaValue:
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        own = {key: value for key, value in node.items() if key != "$ref"}
        return _inline(definitions[name] | {"$name": name} | own, definitions, models)
    result = {key: value for key, value in node.items() if key not in _DROPPED and key != "$name"}
    model = models.get(node.get("$name", ""))
    documents = field_documents(model) if model else {}
    if model is not None:
        result["description"] = one_line(node.get("description", ""))
        rules = [rule_schema(rule) for rule in model.RULES] + immutability_of(model)
        if rules:
            result["x-kubernetes-validations"] = rules
    if "properties" in node:
        result["properties"] = {}
        for name, child in node["properties"].items():
            inlined = _inline(child, definitions, models)
            if name in documents:
                inlined["description"] = documents[name]
            result["properties"][name] = inlined
    if "const" in node:
        result["enum"] = [node["const"]]
    if "items" in node:
        result["items"] = _inline(node["items"], definitions, models)
    if isinstance(node.get("additionalProperties"), dict) and "x-kubernetes-preserve-unknown-fields" not in node:
        result["additionalProperties"] = _inline(node["additionalProperties"], definitions, models)
    if result.get("default") in (None, [], {}):
        result.pop("default", None)
    return _ordered(result)


def immutability_of(model: type[Contract]) -> list[dict[str, str]]:
    """Return the rules that keep a model's fields as they are, for a model that declares what is ``MUTABLE``."""
    mutable = getattr(model, "MUTABLE", None)
    return [] if mutable is None else immutability(model, mutable)


def _without_empty(default: Any) -> Any:
    """Leave out what is unset or empty.

    The rest is written in full: the API server judges a default by the rules before it fills in the defaults within.
    """
    if isinstance(default, dict):
        kept = {key: _without_empty(value) for key, value in default.items()}
        return {key: value for key, value in kept.items() if value not in (None, [], {})}
    return default


def _ordered(node: JsonSchemaValue) -> JsonSchemaValue:
    """Put what people look for first."""
    first = ("description", "type", "x-kubernetes-int-or-string", "enum", "default")
    return {key: node[key] for key in first if key in node} | node
