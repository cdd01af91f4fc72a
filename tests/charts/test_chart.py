"""What can be said of the chart without Helm; e2e/charts renders and installs it."""

import json
import re
from typing import Any

import jsonschema
import pytest
import yaml

from extraction_contract.crd import KINDS, ROOT, generated
from extraction_operator.observe.catalog import CATALOG

CHART = ROOT / "charts" / "extraction-operator"
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())


def judge(values: dict[str, Any]) -> str:
    """Return what the schema has against values; empty if nothing."""
    problem = jsonschema.Draft7Validator(SCHEMA).iter_errors(values)
    return "\n".join(found.message for found in problem)


def paths(values: dict[str, Any], at: str = "") -> set[str]:
    """Return the path of each value that isn't a mapping with values of its own."""
    found: set[str] = set()
    for key, value in values.items():
        found |= paths(value, f"{at}.{key}") if isinstance(value, dict) and value else {f"{at}.{key}"}
    return found


def test_the_schema_is_one_and_takes_the_defaults() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert judge(VALUES) == ""


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"replica": 3}, "'replica' was unexpected"),
        ({"image": {"tags": "1"}}, "'tags' was unexpected"),
        ({"image": {"digest": "sha256:abc"}}, "does not match"),
        ({"image": {"repository": "example.com/x@sha256:abc"}}, "does not match"),
        ({"watch": {"namespaces": "shop"}}, "is not of type 'array'"),
        ({"watch": {"namespaces": ["Shop"]}}, "does not match"),
        ({"metrics": {"port": 80}}, "less than the minimum"),
        ({"crds": {"keep": "yes"}}, "is not of type 'boolean'"),
        ({"settings": {"logLevel": "trace"}}, "is not one of"),
        ({"livenessProbe": {"periodSeconds": 0}}, "less than the minimum"),
    ],
)
def test_a_wrong_value_is_refused(values: dict[str, Any], problem: str) -> None:
    assert problem in judge(values)


def strict(schema: dict[str, Any], at: str = "") -> list[str]:
    """Return the paths of objects that take any field although the chart knows theirs."""
    if schema.get("properties") is None:
        return []
    inner = [found for key, child in schema["properties"].items() for found in strict(child, f"{at}.{key}")]
    return inner + ([] if schema.get("additionalProperties") is False else [at])


def test_fields_that_the_chart_knows_are_all_it_takes() -> None:
    assert strict(SCHEMA) == []
    assert [name for name, found in SCHEMA["definitions"].items() if strict(found)] == []


def test_every_value_of_the_schema_has_a_default_and_a_comment() -> None:
    def known(schema: dict[str, Any], at: str = "") -> set[str]:
        if "$ref" in schema:
            schema = SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]]
        if "properties" not in schema:
            return {at}
        return set().union(*(known(child, f"{at}.{key}") for key, child in schema["properties"].items()))

    fields = known(SCHEMA) - {".global"}
    defaults = paths(VALUES)
    assert {
        path for path in fields if not any(found == path or found.startswith(f"{path}.") for found in defaults)
    } == set()
    lines = (CHART / "values.yaml").read_text().splitlines()
    keys = {path.rpartition(".")[2] for path in fields}
    for number, line in enumerate(lines):
        match = re.match(r" *(\w+):", line)
        # A value is explained where it is; a group of values may be explained by its values.
        if match and match[1] in keys and not line.lstrip().startswith(("memory", "cpu", "type:")):
            above = next(found for found in reversed(lines[:number]) if not re.match(r" *# (?!--)", found))
            assert "# --" in above or _is_within_a_value(lines, number), f"values.yaml:{number + 1}: {line}"


def _is_within_a_value(lines: list[str], number: int) -> bool:
    """Whether a line belongs to a value that is explained as a whole, as ``resources`` is."""
    indent = len(lines[number]) - len(lines[number].lstrip())
    for above in reversed(range(number)):
        line = lines[above]
        if line.strip() and not line.lstrip().startswith("#") and len(line) - len(line.lstrip()) < indent:
            before = lines[above - 1] if above else ""
            return "# --" in before or before.startswith("#") or _is_within_a_value(lines, above)
    return False


def test_the_charts_definitions_are_the_generated_ones() -> None:
    for kind in KINDS:
        text = (CHART.parents[1] / kind.chart_file).read_text()
        assert text == generated()[kind.chart_file], "run: python -m extraction_contract.crd"
        # Nothing of it is an action of the template but the condition and the labels.
        actions = re.findall(r"{{.*?}}", text)
        assert actions == [
            "{{- if .Values.crds.enabled }}", '{{- include "extraction-operator.crdMetadata" . | nindent 2 }}',
            "{{- end }}",
        ]  # fmt: skip
        plain = "\n".join(line for line in text.splitlines() if not line.startswith("{{"))
        assert yaml.safe_load(plain) == kind.document()


def test_what_looks_like_an_action_is_kept_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = KINDS[0]
    monkeypatch.setattr(type(kind), "text", lambda _: "description: a {{ b }} c\n")
    assert 'a {{ "{{" }} b }} c' in kind.chart_text()


def test_alerts_are_about_metrics_that_there_are() -> None:
    there = {found.shown for found in CATALOG}
    dashboard = (CHART / "dashboards" / "extraction-operator.json").read_text()
    for text in ((CHART / "templates" / "prometheusrule.yaml").read_text(), dashboard):
        asked = set(re.findall(r"\bextraction_[a-z_]+\w", text))
        assert len(asked) > 5
        for name in asked:
            assert {name, name.removesuffix("_count"), name.removesuffix("_bucket")} & there, name
    assert len(json.loads(dashboard)["panels"]) == len({panel["id"] for panel in json.loads(dashboard)["panels"]})


def test_chart_and_package_have_one_version() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    version = re.search(r'^version = "(.+)"', project, re.MULTILINE)
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert version is not None
    assert chart["appVersion"] == version[1]


def test_no_value_is_a_password_nor_has_a_place_for_one() -> None:
    named = {path for path in paths(VALUES) if re.search("password|secretKey|token", path, re.IGNORECASE)}
    assert named == set()
    # The URL of Redis may have one; by default there is none.
    assert VALUES["redis"]["url"] == ""


def test_the_readme_lists_every_value() -> None:
    listed = set(re.findall(r"^\| `([A-Za-z.]+)` \|", (CHART / "README.md").read_text(), re.MULTILINE))
    there = {path.lstrip(".") for path in paths(VALUES)}
    # A value with fields that are Kubernetes' is listed as a whole.
    assert {path for path in there if not any(path == name or path.startswith(f"{name}.") for name in listed)} == set()
    assert {name for name in listed if not any(path == name or path.startswith(f"{name}.") for path in there)} == set()
