"""Structural schemas → the reference for people, docs/reference.md."""

from collections.abc import Iterator
from typing import Any

_INTRODUCTION = """<!-- Generated from crds/extraction_contract by `python -m extraction_contract.crd`. Do not edit. -->
# Reference

Every field of every kind, `apiVersion: extraction-operator.io/v1alpha1`. A field without a default is required where
it is marked with *, and otherwise unset. Quantities are numbers of bytes as Kubernetes writes them (`64Mi`, `1.5G`,
`1048576`), durations are hours, minutes, seconds and milliseconds (`1h30m`, `90s`, `500ms`). A Secret is looked for in
the object's own namespace. Names of these objects have at most 52 characters. An ExtractionJob's spec can't change,
except for the fields that say so. The API server and `extraction validate` keep the same rules.
"""


def reference(kinds: list[tuple[str, str, dict[str, Any]]]) -> str:
    """Return the page in Markdown; a kind is its name, its short name and its structural schema."""
    return _INTRODUCTION + "".join(_kind(*kind) for kind in kinds)


def _kind(name: str, short: str, schema: dict[str, Any]) -> str:
    text = f"\n## {name}\n\n{schema['description']} `kubectl get {short}` lists them.\n"
    for part in ("spec", "status"):
        node = schema["properties"][part]
        text += f"\n### {name} {part}\n\n| Field | Type | Default | |\n|---|---|---|---|\n"
        text += "".join(_row(*field) for field in _fields(node, part))
        rules = [f"- `{path}`: {message}\n" for path, message in _rules(node, part)]
        if rules:
            text += "\nRules:\n\n" + "".join(rules)
    return text


def _fields(node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Yield the path and schema of every field below a node, and whether it is required."""
    for name, child in node.get("properties", {}).items():
        below = f"{path}.{name}"
        yield below, child, name in node.get("required", ())
        yield from _fields(child, below)
        yield from _fields(child.get("items", {}), f"{below}[]")


def _row(path: str, node: dict[str, Any], required: bool) -> str:
    default = node.get("default")
    shown = "" if default in (None, "") or isinstance(default, dict) else f"`{_plain(default)}`"
    return f"| `{path}`{' *' if required else ''} | {_type(node)} | {shown} | {node['description']}{_form(node)} |\n"


def _type(node: dict[str, Any]) -> str:
    """Return the type for people, with its bounds."""
    rules = " ".join(rule["message"] for rule in node.get("x-kubernetes-validations", ()))
    bounds = rules.partition(", from ")[2].replace(" to ", "–")
    if node.get("x-kubernetes-int-or-string"):
        return f"quantity {bounds}"
    if "enum" in node:
        return ", ".join(f"`{value}`" for value in node["enum"])
    match node["type"]:
        case "array":
            return f"list, up to {node['maxItems']}"
        case "object" if "maxProperties" in node:
            return f"mapping, up to {node['maxProperties']}"
        case "object":
            return "object"
        case "string" if rules.startswith("must be a duration"):
            return f"duration {bounds}"
        case "string" if "format" in node:
            return "time"
        case "string":
            return f"string, up to {node['maxLength']}"
        case "integer" if "maximum" in node:
            return f"integer {node['minimum']}–{node['maximum']}"
        case plain:
            return str(plain)


def _rules(node: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
    """Yield the rules over several fields, with the path that they blame; that fields stay as they are is said once."""
    if "properties" in node:
        for rule in node.get("x-kubernetes-validations", ()):
            if not rule["message"].endswith("make another object"):
                yield path + rule.get("fieldPath", ""), rule["message"]
    for name, child in node.get("properties", {}).items():
        yield from _rules(child, f"{path}.{name}")


def _form(node: dict[str, Any]) -> str:
    """Return what a value, an item or a key must look like, beyond its type."""
    nodes = [] if "properties" in node else [node, node.get("items", {}), node.get("additionalProperties", {})]
    rules = (rule["message"] for part in nodes for rule in part.get("x-kubernetes-validations", ()))
    said = dict.fromkeys(message for message in rules if ", from " not in message)
    return "".join(f" {message[0].upper()}{message[1:]}." for message in said)


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
