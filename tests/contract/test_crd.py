"""The generated CRDs: current, structural, bounded, described."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from extraction_contract.crd import DIRECTORY, KINDS, generated, main
from extraction_contract.models import DataSource, ExtractionJob

Node = dict


def walk(node: Node, path: str = "") -> Iterator[tuple[str, Node]]:
    """Yield every schema with its path."""
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from walk(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in node:
            yield from walk(node[key], f"{path}[]")


NODES = [
    pytest.param(path, node, id=f"{kind.name}{path}")
    for kind in KINDS
    for path, node in walk(kind.schema())
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
        assert (DIRECTORY / name).read_text() == text, "run: python -m extraction_contract.crd"


def test_a_stale_file_is_shown_as_a_diff(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", "--directory", str(tmp_path)]) == 1
    assert main(["--directory", str(tmp_path)]) == 0
    assert main(["--check", "--directory", str(tmp_path)]) == 0
    capsys.readouterr()
    file = tmp_path / "datasources.yaml"
    file.write_text(file.read_text().replace("default: 5432", "default: 5433"))
    assert main(["--check", "--directory", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert "-                    default: 5433" in shown
    assert "+                    default: 5432" in shown


@pytest.mark.parametrize(("path", "node"), NODES)
def test_a_schema_is_structural_and_bounded(path: str, node: Node) -> None:
    assert set(node) <= ALLOWED
    free = node.get("x-kubernetes-preserve-unknown-fields", False)
    assert ("type" in node) != node.get("x-kubernetes-int-or-string", False)
    if node.get("type") == "string" and path not in {".apiVersion", ".kind"}:
        assert node.keys() & {"maxLength", "enum", "format"}
    if node.get("type") == "array":
        assert "maxItems" in node
    if node.get("type") == "object" and not free:
        assert "properties" in node or "maxProperties" in node
    for rule in node.get("x-kubernetes-validations", []):
        assert len(rule["message"]) <= 2048
        assert "\n" not in rule["message"]
        if "fieldPath" in rule:
            field = node
            for step in rule["fieldPath"].lstrip(".").split("."):
                field = field["properties"][step]


@pytest.mark.parametrize(("path", "node"), [p for p in NODES if re.fullmatch(r"\.(spec|status)(\.\w+)+", p.values[0])])
def test_every_field_is_described(path: str, node: Node) -> None:
    assert node["description"].endswith((".", "``"))
    assert "``" not in node["description"]


def test_fields_that_say_they_may_change_are_those_that_may() -> None:
    spec = next(kind for kind in KINDS if kind.name == "ExtractionJob").schema()["properties"]["spec"]
    fixed = {rule["fieldPath"][1:] for rule in spec["x-kubernetes-validations"] if "can't change" in rule["message"]}
    said = {
        name for name, node in spec["properties"].items()
        if re.search(r"May (change|become)|when this grows", node["description"])
    }  # fmt: skip
    assert set(spec["properties"]) - fixed == said


def test_kubectl_shows_what_people_look_for() -> None:
    job = yaml.safe_load(generated()["extractionjobs.yaml"])["spec"]
    assert job["names"]["shortNames"] == ["exj"]
    assert job["names"]["categories"] == ["extraction"]
    assert job["versions"][0]["subresources"] == {"status": {}}
    columns = job["versions"][0]["additionalPrinterColumns"]
    assert [c["name"] for c in columns if "priority" not in c] == ["Phase", "Progress", "Rows", "Age"]
    assert [c["name"] for c in columns if "priority" in c] == ["Source", "Rate", "Consistency", "Message"]
    assert (
        job["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["default"]["observedGeneration"] == -1
    )


@pytest.mark.parametrize("model", [DataSource, ExtractionJob])
def test_names_leave_room_for_the_names_of_children(model: type) -> None:
    name = next(kind for kind in KINDS if kind.model is model).schema()["properties"]["metadata"]["properties"]["name"]
    assert name["maxLength"] == 52
    # NAME-UID8-lead-N is a DNS label, of at most 63.
    assert 52 + len("-") + 8 + 2 <= 63
