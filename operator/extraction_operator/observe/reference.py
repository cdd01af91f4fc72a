"""Writes docs/metrics.md from the catalog. ``python -m extraction_operator.observe.reference [--check]``."""

import sys
from pathlib import Path

from extraction_operator.observe.catalog import CATALOG, Definition

PATH = Path("docs/metrics.md")
_HEAD = """<!-- Made by `make generate` from operator/extraction_operator/observe/catalog.py. -->
# Metrics

The operator serves them at `/metrics` (port 8080; `metrics.*` in the chart's values), beside those of its process
(`process_*`). Names are those of Prometheus, units are base units, and every label is bounded: no metric grows with the
number of jobs, tables or pods.

Pods live too briefly to be scraped. What they counted reaches the operator with their last words, and is added when
their attempt ends, by the replica that leads, once for each container of a pod: counters of extractions are exact over
restarts and changes of the leader, but for those that a process had counted and nobody had scraped when it died. Of a
pod that failed or was killed, the pod in its place counts the chunks that it had finished; its connections, its memory
and what it had read of other chunks aren't counted. As all counters do, they begin at 0 with the process, so sum
`increase()` or `rate()` over replicas.

`metrics.prometheusRule` and `metrics.dashboard` in the chart's values add alerts, and a dashboard for Grafana.

| metric | type | labels | meaning |
|---|---|---|---|
"""


def page() -> str:
    """Return the page."""
    return _HEAD + "".join(map(_row, CATALOG))


def _row(found: Definition) -> str:
    labels = "; ".join(f"`{name}`: {values}" for name, values in found.labels.items())
    return f"| `{found.shown}` | {found.kind} | {labels} | {found.text} |\n"


def main(arguments: list[str]) -> int:
    """Write the page, or compare it."""
    if "--check" not in arguments:
        PATH.write_text(page())
        return 0
    if PATH.exists() and PATH.read_text() == page():
        return 0
    sys.stderr.write(f"{PATH} isn't what the code says: make generate\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
