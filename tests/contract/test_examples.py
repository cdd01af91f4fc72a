"""The examples can be loaded, and refer to nothing that isn't there."""

from pathlib import Path

import pytest

from extraction_contract.crd import ROOT
from extraction_contract.load import load_files
from extraction_contract.resolve import resolve

EXAMPLES = ROOT / "examples"


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*-to-*.yaml")), ids=lambda file: file.stem)
def test_an_example_is_whole(file: Path) -> None:
    manifests = load_files([file, EXAMPLES / "secrets.yaml"])
    job = resolve(manifests.job(), manifests)
    assert job.credentials().username == "reader"
    assert job.job.sink_path
