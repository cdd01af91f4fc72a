"""CRDs and their reference, generated: ``python -m extraction_contract.crd`` writes them, ``--check`` compares."""

import argparse
import difflib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from extraction_contract.base import GROUP, VERSION, Contract
from extraction_contract.models import DataSource, ExtractionJob
from extraction_contract.reference import reference
from extraction_contract.schema import models_in, structural_schema

ROOT = Path(__file__).parents[2]
_HEADER = "# Generated from crds/extraction_contract by `python -m extraction_contract.crd`. Do not edit.\n"
_STANDARD = {
    "apiVersion": {"type": "string", "description": "Version of the API that this object is written in."},
    "kind": {"type": "string", "description": "The kind of this object."},
    "metadata": {
        "type": "object",
        # Only the name may be restricted here, and by nothing but these two.
        "properties": {"name": {"type": "string", "maxLength": 52, "pattern": "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"}},
    },
}


class _Plain(yaml.SafeDumper):
    """YAML without anchors, although models are used more than once."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 -- PyYAML's signature
        """Write every value in full."""
        return True


@dataclass(frozen=True)
class Column:
    """A column of ``kubectl get``; a wide one is shown by ``-o wide``."""

    name: str
    type: str
    path: str
    wide: bool = False

    def document(self) -> dict[str, Any]:
        """Return the column as a CRD spells it."""
        column: dict[str, Any] = {"name": self.name, "type": self.type, "jsonPath": self.path}
        return column | {"priority": 1} if self.wide else column


@dataclass(frozen=True)
class Kind:
    """A kind and how kubectl shows it."""

    model: type[Contract]
    plural: str
    short: str
    columns: tuple[Column, ...]
    selectable: tuple[str, ...] = ()
    """Paths of fields that may stand in a field selector."""

    @property
    def name(self) -> str:
        """The kind, e.g. ``DataSource``."""
        return self.model.__name__

    @property
    def file(self) -> str:
        """Path of the generated file below the root."""
        return f"crds/{self.plural}.yaml"

    @property
    def chart_file(self) -> str:
        """Path of the chart's copy below the root."""
        return f"charts/extraction-operator/templates/crds/{self.plural}.yaml"

    def models(self) -> dict[str, type[Contract]]:
        """Return every model that the kind contains, by name."""
        return {found.__name__: found for found in models_in(self.model)}

    def schema(self) -> dict[str, Any]:
        """Return the structural schema, with the standard fields as Kubernetes allows them."""
        schema = structural_schema(self.model)
        schema["properties"] |= _STANDARD
        schema["required"] = ["spec"]
        return schema

    def document(self) -> dict[str, Any]:
        """Return the CustomResourceDefinition."""
        version = {
            "name": VERSION,
            "served": True,
            "storage": True,
            "schema": {"openAPIV3Schema": self.schema()},
            "subresources": {"status": {}},
            "additionalPrinterColumns": [column.document() for column in self.columns],
        }
        if self.selectable:
            version["selectableFields"] = [{"jsonPath": path} for path in self.selectable]
        names = {
            "kind": self.name,
            "listKind": f"{self.name}List",
            "plural": self.plural,
            "singular": self.name.lower(),
            "shortNames": [self.short],
            "categories": ["extraction"],
        }
        return {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"{self.plural}.{GROUP}"},
            "spec": {"group": GROUP, "names": names, "scope": "Namespaced", "versions": [version]},
        }

    def text(self) -> str:
        """Return the generated file."""
        return _HEADER + yaml.dump(self.document(), Dumper=_Plain, sort_keys=False, width=118, allow_unicode=True)

    def chart_text(self) -> str:
        """Return the chart's copy: a template, because Helm never upgrades what is in a chart's folder ``crds``."""
        name = f"  name: {self.plural}.{GROUP}\n"
        # What looks like an action of the template must come out as it is.
        plain = self.text().replace("{{", '{{ "{{" }}')
        body = plain.replace(name, f'{name}{{{{- include "extraction-operator.crdMetadata" . | nindent 2 }}}}\n', 1)
        return f"{{{{- if .Values.crds.enabled }}}}\n{body}{{{{- end }}}}\n"


_READY = '.status.conditions[?(@.type=="Ready")]'
_AGE = Column("Age", "date", ".metadata.creationTimestamp")
KINDS = (
    Kind(
        DataSource,
        "datasources",
        "exds",
        (
            Column("Type", "string", ".spec.type"),
            Column("Host", "string", ".spec.connection.host"),
            Column("Ready", "string", f"{_READY}.status"),
            Column("Jobs", "integer", ".status.activeJobs"),
            _AGE,
            Column("Database", "string", ".spec.connection.database", wide=True),
            Column("Connections", "integer", ".status.reservedConnections", wide=True),
            Column("Message", "string", f"{_READY}.message", wide=True),
        ),
    ),
    Kind(
        ExtractionJob,
        "extractionjobs",
        "exj",
        (
            Column("Phase", "string", ".status.phase"),
            Column("Progress", "string", ".status.progress.summary"),
            Column("Rows", "integer", ".status.progress.rows"),
            _AGE,
            Column("Source", "string", ".spec.dataSourceRef.name", wide=True),
            Column("Rate", "integer", ".status.progress.rowsPerSecond", wide=True),
            Column("Consistency", "string", ".status.result.consistency", wide=True),
            Column("Message", "string", f"{_READY}.message", wide=True),
        ),
        selectable=(".status.phase", ".spec.dataSourceRef.name"),
    ),
)


def generated() -> dict[str, str]:
    """Return the text of every generated file by its path below the root."""
    schemas = [(kind.name, kind.short, kind.schema()) for kind in KINDS]
    files = {kind.file: kind.text() for kind in KINDS} | {kind.chart_file: kind.chart_text() for kind in KINDS}
    return files | {"docs/reference.md": reference(schemas)}


def main(arguments: list[str] | None = None) -> int:
    """Write the files, or with ``--check`` print how they differ; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m extraction_contract.crd", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file isn't current")
    parser.add_argument("--root", type=Path, default=ROOT, help="the root of the repository")
    options = parser.parse_args(arguments)
    stale = False
    for name, text in generated().items():
        path = options.root / name
        present = path.read_text() if path.exists() else ""
        if not options.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        elif present != text:
            stale = True
            lines = difflib.unified_diff(present.splitlines(True), text.splitlines(True), str(path), "generated")
            sys.stdout.writelines(lines)
    return int(stale)


if __name__ == "__main__":
    raise SystemExit(main())
