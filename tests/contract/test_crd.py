"""The generated CRDs: current, structural, bounded, described."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from extraction_contract.crd import KINDS, ROOT, generated, main
from extraction_contract.scalars import LABEL

Node = dict


def walk(node: Node, path: str = "") -> Iterator[tuple[str, Node]]:
    """Yield every schema with its path."""
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from walk(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in node:
            yield from walk(node[key], f"{path}[]")


SCHEMAS = {kind.name: kind.schema() for kind in KINDS}
NODES = [
    (f"{name}{path}", node)
    for name, schema in SCHEMAS.items()
    for path, node in walk(schema)
    if not path.startswith(".metadata")
]
ALLOWED = {
    "type", "description", "default", "enum", "format", "properties", "required", "items", "additionalProperties",
    "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "maxProperties",
    "x-kubernetes-validations", "x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-list-type", "x-kubernetes-list-map-keys",
}  # fmt: skip


def test_the_generated_files_are_current() -> None:
    for name, text in generated().items():
        assert (ROOT / name).read_text() == text, "run: python -m extraction_contract.crd"


def test_a_stale_file_is_shown_as_a_diff(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", "--root", str(tmp_path)]) == 1
    assert main(["--root", str(tmp_path)]) == 0
    assert main(["--check", "--root", str(tmp_path)]) == 0
    capsys.readouterr()
    file = tmp_path / "crds" / "datasources.yaml"
    file.write_text(file.read_text().replace("default: 5432", "default: 5433"))
    assert main(["--check", "--root", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert "-                    default: 5433" in shown
    assert "+                    default: 5432" in shown


def test_a_schema_is_structural() -> None:
    for path, node in NODES:
        assert set(node) <= ALLOWED, path
        assert ("type" in node) != node.get("x-kubernetes-int-or-string", False), path


def test_every_string_list_and_map_is_bounded() -> None:
    for path, node in NODES:
        if node.get("type") == "string" and not path.endswith((".apiVersion", ".kind")):
            assert node.keys() & {"maxLength", "enum", "format"}, path
        if node.get("type") == "array":
            assert "maxItems" in node, path
        if node.get("type") == "object" and not node.get("x-kubernetes-preserve-unknown-fields"):
            assert node.keys() & {"properties", "maxProperties"}, path


def test_a_rule_blames_a_field_that_is_there() -> None:
    blamed = 0
    for path, node in NODES:
        for rule in node.get("x-kubernetes-validations", []):
            assert "\n" not in rule["message"], path
            field = node
            for step in rule.get("fieldPath", "").split(".")[1:]:
                field = field["properties"][step]
                blamed += 1
    assert blamed > 20


def test_every_field_is_described() -> None:
    fields = [(path, node) for path, node in NODES if re.fullmatch(r"\w+\.(spec|status)(\.\w+|\[\])+", path)]
    assert len(fields) > 100
    for path, node in fields:
        if not path.endswith("[]"):
            assert node["description"].endswith("."), path
            assert "``" not in node["description"], path


def test_fields_that_say_they_may_change_are_those_that_may() -> None:
    spec = SCHEMAS["ExtractionJob"]["properties"]["spec"]
    fixed = {rule["fieldPath"][1:] for rule in spec["x-kubernetes-validations"] if "can't change" in rule["message"]}
    said = {
        name for name, node in spec["properties"].items()
        if re.search(r"May (change|become)|when this grows", node["description"])
    }  # fmt: skip
    assert set(spec["properties"]) - fixed == said


def test_kubectl_shows_what_people_look_for() -> None:
    job = yaml.safe_load(generated()["crds/extractionjobs.yaml"])["spec"]
    assert job["names"]["shortNames"] == ["exj"]
    assert job["names"]["categories"] == ["extraction"]
    assert job["versions"][0]["subresources"] == {"status": {}}
    assert job["versions"][0]["selectableFields"] == [
        {"jsonPath": ".status.phase"}, {"jsonPath": ".spec.dataSourceRef.name"},
    ]  # fmt: skip
    columns = job["versions"][0]["additionalPrinterColumns"]
    assert [c["name"] for c in columns if "priority" not in c] == ["Phase", "Progress", "Rows", "Age"]
    assert [c["name"] for c in columns if "priority" in c] == ["Source", "Rate", "Consistency", "Message"]
    assert (
        job["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["default"]["observedGeneration"] == -1
    )


@pytest.mark.parametrize("kind", sorted(SCHEMAS))
def test_names_leave_room_for_the_names_of_children(kind: str) -> None:
    name = SCHEMAS[kind]["properties"]["metadata"]["properties"]["name"]
    assert name["maxLength"] == 52
    assert name["pattern"] == f"^{LABEL}$"
