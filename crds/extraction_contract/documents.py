"""Files of several documents as kubectl reads them: JSON's values, nulls left out, no key twice, no bomb."""

import json
import re
from collections.abc import Iterator
from typing import Any, Never

MAX_BYTES = 1 << 20
"""Bytes of a file; about what the API server takes, too."""
MAX_VALUES = 100_000
"""Values in a document after its anchors are expanded."""


class InvalidDocument(ValueError):
    """It can't be read. ``document`` counts from 1, 0 is the file; ``path`` is the field, if it is known."""

    def __init__(self, message: str, *, path: str = "", document: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        self.document = document


def parse_documents(content: bytes) -> Iterator[tuple[int, Any]]:
    """Yield the number, from 1, and the value of each document that isn't empty.

    Raises
    ------
    InvalidDocument
        It isn't YAML that kubectl would take; what follows in the file isn't read.
    """
    if len(content) > MAX_BYTES:
        raise InvalidDocument(f"is larger than {MAX_BYTES} bytes")
    documents = _json_documents(content)
    if documents is None:
        # Here and not above: pods read JSON, and start sooner without it.
        from extraction_contract.yaml_documents import parse_yaml

        yield from parse_yaml(content)
    else:
        yield from enumerate(documents, start=1)


def join_path(path: str, step: str | int) -> str:
    """Return ``path`` with one more step: ``spec`` and ``columns`` and ``2`` become ``spec.columns[2]``."""
    if isinstance(step, int):
        return f"{path}[{step}]"
    shown = step if re.fullmatch(r"[A-Za-z0-9_./-]{1,64}", step) else "…"
    return f"{path}.{shown}" if path else shown


def without_nulls(value: Any) -> Any:
    """Leave out keys without a value, as the API server does."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def _json_documents(content: bytes) -> list[Any] | None:
    """Return the documents of a file that has an object of JSON in each of them; None where it isn't, or is wrong.

    What is wrong is for the reader of YAML to say. All JSON is YAML, nearly: 1e5 is a number in JSON alone.
    """
    if not content.startswith(b"{") or sum(content.count(mark) for mark in (b",", b"{", b"[")) > MAX_VALUES:
        return None
    try:
        documents = [without_nulls(_JSON.decode(text)) for text in content.decode().split("\n---\n")]
    except (ValueError, RecursionError):
        return None
    return documents if all(isinstance(document, dict) for document in documents) else None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError
    return found


def _refuse(_: str) -> Never:
    raise ValueError


_JSON = json.JSONDecoder(object_pairs_hook=_without_duplicates, parse_constant=_refuse)
