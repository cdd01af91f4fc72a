"""docs/metrics.md is what the operator serves."""

import re

from prometheus_client.parser import text_string_to_metric_families

from extraction_operator.observe import reference
from extraction_operator.observe.catalog import CATALOG
from extraction_operator.observe.metrics import Metrics


def test_the_page_is_that_of_the_code_and_a_change_is_noticed(tmp_path, monkeypatch, capsys):
    assert reference.main(["--check"]) == 0
    monkeypatch.setattr(reference, "PATH", tmp_path / "metrics.md")
    assert reference.main(["--check"]) == 1
    assert reference.main([]) == 0
    assert reference.main(["--check"]) == 0
    reference.PATH.write_text(reference.page().replace("counter", "gauge"))
    assert reference.main(["--check"]) == 1
    assert "make generate" in capsys.readouterr().err


def test_everything_that_is_served_is_in_the_table():
    metrics = Metrics()
    metrics.phases_of(lambda: ["Running"])
    served = {family.name for family in text_string_to_metric_families(metrics.page().decode())}
    documented = {found.name for found in CATALOG}
    others = {name for name in served - documented if not name.startswith("process_") and not name.endswith("_created")}
    assert others == set()
    assert documented - served == set()


def test_names_follow_prometheus():
    names = [found.name for found in CATALOG]
    assert len(set(names)) == len(names)
    for found in CATALOG:
        assert re.fullmatch(r"extraction_[a-z_]+", found.name)
        assert not found.name.endswith("_total")
        assert found.kind != "histogram" or re.search(r"_(seconds|bytes|size|sessions)$", found.name)
        assert found.text.endswith(".")
