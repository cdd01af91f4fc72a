"""Pydantic models → structural schemas, as Kubernetes wants them: no references, no nulls, every field described."""

import ast
import inspect
from itertools import pairwise
from typing import Any, cast

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import NullableSchema

from extraction_contract.base import Contract, Rule, model_in
from extraction_contract.scalars import Duration, Quantity


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
    return _Inliner(generated["$defs"], models).inline_model(model, generated)


def models_in(model: type[Contract]) -> set[type[Contract]]:
    """Return a model and all models within its fields."""
    inner = [found for field in model.model_fields.values() if (found := model_in(field.annotation))]
    return {model}.union(*(models_in(found) for found in inner))


def _field_documents(model: type[Contract]) -> dict[str, str]:
    """Return the docstring below each field of a model, by alias."""
    body = cast("ast.ClassDef", ast.parse(inspect.getsource(model)).body[0]).body
    documents = {}
    for statement, following in pairwise(body):
        match statement, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                documents[model.model_fields[name].alias or name] = _one_line(text)
    return documents


def _one_line(text: str) -> str:
    """Return a docstring on one line, with code in single backticks."""
    return " ".join(text.replace("``", "`").split())


def _rule(rule: Rule) -> dict[str, str]:
    """Return a rule as an entry of ``x-kubernetes-validations``."""
    entry = {"rule": rule.cel, "message": rule.message}
    return entry | {"fieldPath": f".{rule.field}"} if rule.field else entry


def _immutability(model: type[Contract]) -> list[dict[str, str]]:
    """Return a rule for each field that must not change: it stays set or unset, and equal."""
    if model.MUTABLE is None:
        return []
    aliases = [field.alias or name for name, field in model.model_fields.items()]
    return [
        {
            "rule": f"has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || self.{name} == oldSelf.{name})",
            "message": f"{name} can't change: make another object",
            "fieldPath": f".{name}",
        }
        for name in aliases
        if name not in model.MUTABLE
    ]


class _Inliner:
    """Puts definitions where they are referred to, and into each what JSON schema doesn't know."""

    def __init__(self, definitions: JsonSchemaValue, models: dict[str, type[Contract]]) -> None:
        self._definitions = definitions
        self._models = models

    def inline(self, node: JsonSchemaValue) -> JsonSchemaValue:
        """Return a schema that refers to nothing."""
        if "$ref" in node:
            name = node["$ref"].rpartition("/")[2]
            definition, model = self._definitions[name], self._models.get(name)
            inlined = self.inline_model(model, definition) if model else self.inline(definition)
            return _tidy(inlined | _without(node, "$ref"))
        result = _without(node, "title", "additionalProperties", "const")
        if "const" in node:
            result["enum"] = [node["const"]]
        if "items" in node:
            result["items"] = self.inline(node["items"])
        if "additionalProperties" in node and "x-kubernetes-preserve-unknown-fields" not in node:
            result["additionalProperties"] = self.inline(node["additionalProperties"])
        return _tidy(result)

    def inline_model(self, model: type[Contract], node: JsonSchemaValue) -> JsonSchemaValue:
        """Return the schema of a model, with its rules and the descriptions of its fields."""
        result = _without(node, "title", "additionalProperties", "$defs")
        result["description"] = _one_line(node["description"])
        result["properties"] = {name: self.inline(child) for name, child in node["properties"].items()}
        for name, text in _field_documents(model).items():
            result["properties"][name] = {"description": text} | _without(result["properties"][name], "description")
        rules = [_rule(rule) for rule in model.RULES] + _immutability(model)
        return result | {"x-kubernetes-validations": rules} if rules else result


def _without(node: JsonSchemaValue, *keys: str) -> JsonSchemaValue:
    return {key: value for key, value in node.items() if key not in keys}


def _tidy(node: JsonSchemaValue) -> JsonSchemaValue:
    """Leave out a default that says nothing, and put what people look for first."""
    if node.get("default") in (None, [], {}):
        node = _without(node, "default")
    first = ("description", "type", "x-kubernetes-int-or-string", "enum", "default")
    return {key: node[key] for key in first if key in node} | node


def _without_empty(default: Any) -> Any:
    """Leave out what is unset or empty.

    The rest is written in full: the API server judges a default by the rules before it fills in the defaults within.
    """
    if isinstance(default, dict):
        kept = {key: _without_empty(value) for key, value in default.items()}
        return {key: value for key, value in kept.items() if value not in (None, [], {})}
    return default
