"""The cases under cases/: judged by the loader here, and by an API server in e2e."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent / "cases"


@dataclass(frozen=True)
class Refusal:
    """Which field is blamed, and what is said of it by the loader and by the API server."""

    path: str
    says: str
    server_path: str
    server: str


@dataclass(frozen=True)
class Case:
    """A manifest and whether it is refused."""

    name: str
    manifest: dict[str, Any]
    refused: Refusal | None


@dataclass(frozen=True)
class Update:
    """A job as it is, a change of it, and whether the change is refused."""

    name: str
    job: dict[str, Any]
    before: dict[str, Any]
    after: dict[str, Any]
    status: bool
    refused: Refusal | None


def merged(value: Any, patch: Any) -> Any:
    """Return a JSON merge patch (RFC 7396) applied to a value."""
    if not isinstance(patch, dict):
        return patch
    result = dict(value) if isinstance(value, dict) else {}
    for key, change in patch.items():
        if change is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), change)
    return result


def cases() -> Iterator[Case]:
    """Yield the cases of every kind."""
    for name in ("datasource", "extractionjob"):
        document = _read(name)
        for case in document["cases"]:
            manifest = merged(document["base"], case.get("patch", {}))
            yield Case(f"{document['kind']}: {case['name']}", manifest, _refusal(case))


def updates() -> Iterator[Update]:
    """Yield the changes of a job that is there."""
    base = _read("extractionjob")["base"]
    for case in _read("updates")["cases"]:
        before = case.get("before", {})
        yield Update(case["name"], base, before, case["after"], case.get("status", False), _refusal(case))


def _read(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    return document


def _refusal(case: dict[str, Any]) -> Refusal | None:
    refused = case.get("refused")
    if refused is None:
        return None
    path, says = refused["path"], refused["says"]
    return Refusal(path, says, refused.get("serverPath", path), refused.get("server", says))
