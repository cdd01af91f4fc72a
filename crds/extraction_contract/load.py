"""Manifests from files: every document validated, every problem named by file, document and field."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from pydantic import ValidationError

from extraction_contract.documents import InvalidDocument, parse_documents
from extraction_contract.explain import explain, nearest
from extraction_contract.models import DEFAULT_NAMESPACE, DataSource, ExtractionJob, Secret
from extraction_contract.problems import ManifestError, Origin, Problem

_KINDS: dict[str, type[DataSource] | type[ExtractionJob] | type[Secret]] = {
    "DataSource": DataSource,
    "ExtractionJob": ExtractionJob,
    "Secret": Secret,
}


class ObjectKey(NamedTuple):
    """Namespace and name of an object; as text ``NAMESPACE/NAME``."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class Manifests:
    """What was read, by namespace and name. ``origins`` says from where, by kind and key."""

    jobs: Mapping[ObjectKey, ExtractionJob]
    sources: Mapping[ObjectKey, DataSource]
    secrets: Mapping[ObjectKey, Secret]
    origins: Mapping[tuple[str, ObjectKey], Origin]

    def job(self, name: str | None = None) -> ExtractionJob:
        """Return the job called ``NAME`` or ``NAMESPACE/NAME``; without a name, the only one.

        Raises
        ------
        ManifestError
            There is no such job, or more than one.
        """
        found = {key: job for key, job in self.jobs.items() if name in {None, key.name, str(key)}}
        if len(found) == 1:
            return next(iter(found.values()))
        files = Origin(", ".join(dict.fromkeys(origin.file for origin in self.origins.values())) or "no file")
        there = ", ".join(str(key) for key in self.jobs)
        if not self.jobs:
            message = "no ExtractionJob was given"
        elif not found:
            message = f"no ExtractionJob is called {name}; there are {there}"
        else:
            message = f"several ExtractionJobs fit: choose one of {there} by --job NAMESPACE/NAME"
        raise ManifestError([Problem(files, "", message)])


def object_key(value: DataSource | ExtractionJob | Secret) -> ObjectKey:
    """Return the key of an object, in the default namespace where it names none."""
    return ObjectKey(value.metadata.namespace or DEFAULT_NAMESPACE, value.metadata.name)


def load_files(paths: Iterable[Path | str]) -> Manifests:
    """Read manifests of DataSources, ExtractionJobs and Secrets from YAML files.

    Raises
    ------
    ManifestError
        With every problem of every file.
    """
    problems: list[Problem] = []
    objects: dict[tuple[str, ObjectKey], DataSource | ExtractionJob | Secret] = {}
    origins: dict[tuple[str, ObjectKey], Origin] = {}
    for path in paths:
        try:
            for number, document in parse_documents(Path(path).read_bytes()):
                origin = Origin(str(path), number)
                try:
                    value = _parse(document, origin)
                except ManifestError as error:
                    problems.extend(error.problems)
                    continue
                key = (value.kind, object_key(value))
                if key in objects:
                    message = f"{value.kind} {key[1]} is there already ({origins[key]})"
                    problems.append(Problem(origin, "metadata.name", message))
                objects[key], origins[key] = value, origin
        except InvalidDocument as error:
            problems.append(Problem(Origin(str(path), error.document), error.path, error.message))
        except OSError as error:
            problems.append(Problem(Origin(str(path)), "", f"can't be read: {error.strerror}"))
    if problems:
        raise ManifestError(problems)
    return Manifests(
        jobs=MappingProxyType({key: o for (_, key), o in objects.items() if isinstance(o, ExtractionJob)}),
        sources=MappingProxyType({key: o for (_, key), o in objects.items() if isinstance(o, DataSource)}),
        secrets=MappingProxyType({key: o for (_, key), o in objects.items() if isinstance(o, Secret)}),
        origins=MappingProxyType(origins),
    )


def _parse(document: Any, origin: Origin) -> DataSource | ExtractionJob | Secret:
    """Validate one document."""
    if not isinstance(document, dict):
        raise ManifestError([Problem(origin, "", "must be a mapping with apiVersion, kind, metadata and spec")])
    kind = document.get("kind")
    model = _KINDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        meant = nearest(kind, list(_KINDS)) if isinstance(kind, str) else None
        message = f"did you mean {meant}?" if meant else f"must be one of {', '.join(_KINDS)}"
        raise ManifestError([Problem(origin, "kind", message)])
    if "apiVersion" not in document:
        expected = model.model_fields["api_version"].default
        raise ManifestError([Problem(origin, "apiVersion", f"is required: {expected}")])
    try:
        # JSON, because there a list may stand for a tuple although types are strict.
        return model.model_validate_json(json.dumps(document, allow_nan=False), by_alias=True, by_name=False)
    except ValidationError as error:
        raise ManifestError(explain(error, model, origin)) from None
    except ValueError:
        raise ManifestError([Problem(origin, "", "contains a number that isn't finite")]) from None
