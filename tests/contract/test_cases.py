"""The loader and the CRD say the same of every case; e2e asks an API server."""

from functools import cache
from pathlib import Path

import pytest
import yaml

from contract.cases import Case, Update, cases, updates
from extraction_contract.crd import KINDS
from extraction_contract.load import load_files
from extraction_contract.models import ExtractionJobSpec
from extraction_contract.problems import ManifestError

CASES = list(cases())
UPDATES = list(updates())


@cache
def rule_messages() -> dict[str, set[str]]:
    """Return the messages of all rules in the CRD of a job, by the path that they blame."""
    found: dict[str, set[str]] = {}

    def visit(node: dict, path: str) -> None:
        for rule in node.get("x-kubernetes-validations", []):
            found.setdefault(path + rule.get("fieldPath", ""), set()).add(rule["message"])
        for name, child in node.get("properties", {}).items():
            visit(child, f"{path}.{name}".lstrip("."))

    visit(next(kind for kind in KINDS if kind.name == "ExtractionJob").schema(), "")
    return found


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_loader_judges_a_manifest(case: Case, tmp_path: Path) -> None:
    file = tmp_path / "manifest.yaml"
    file.write_text("---\n# An empty document counts.\n---\n" + yaml.safe_dump(case.manifest))
    if case.refused is None:
        loaded = load_files([file])
        assert len(loaded.jobs) + len(loaded.sources) == 1
        return
    with pytest.raises(ManifestError) as caught:
        load_files([file])
    assert [problem.path for problem in caught.value.problems] == [case.refused.path]
    assert case.refused.says in caught.value.problems[0].message
    assert str(caught.value).startswith(f"{file}, document 2, {case.refused.path}: ")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("update", [update for update in UPDATES if update.refused], ids=lambda update: update.name)
def test_a_refused_change_has_its_rule_in_the_crd(update: Update) -> None:
    assert update.refused is not None
    if update.refused.says == "Duplicate value":  # a map's keys are unique by themselves
        return
    messages = rule_messages()[update.refused.path]
    assert any(update.refused.says in message for message in messages)


def test_every_rule_of_the_contract_has_a_case() -> None:
    said = {case.refused.says for case in CASES if case.refused} | {u.refused.says for u in UPDATES if u.refused}
    unchanging = {message for messages in rule_messages().values() for message in messages if "can't change" in message}
    for kind in KINDS:
        for name, model in sorted(kind.models().items()):
            for rule in model.RULES:
                assert any(words in rule.message for words in said), f"{name}: {rule.message}"
    assert len(unchanging) == len(ExtractionJobSpec.model_fields) - len(ExtractionJobSpec.MUTABLE)
