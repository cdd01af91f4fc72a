"""Multi-document YAML as kubectl reads it: JSON's values, nulls left out, no key twice, no bomb."""

import re
from collections.abc import Iterator
from typing import Any

import yaml

MAX_BYTES = 1 << 20
"""Bytes of a file; about what the API server takes, too."""
MAX_VALUES = 100_000
"""Values in a document after its anchors are expanded."""

_TAG = "tag:yaml.org,2002:"
_SCALARS = ("null", "bool", "int", "float", "str", "seq", "map")


class InvalidDocument(ValueError):
    """YAML that can't be read. ``document`` counts from 1, 0 is the file; ``path`` is the field, if it is known."""

    def __init__(self, message: str, *, path: str = "", document: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        self.document = document


class _Loader(yaml.SafeLoader):
    """YAML whose scalars are JSON's: a date stays text, other tags are refused."""

    yaml_implicit_resolvers = {  # noqa: RUF012 -- PyYAML's name and type
        first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    yaml_constructors = {  # noqa: RUF012 -- PyYAML's name and type
        tag: constructor
        for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.removeprefix(_TAG) in _SCALARS
    }


def parse_documents(content: bytes) -> Iterator[tuple[int, Any]]:
    """Yield the number, from 1, and the value of each document that isn't empty.

    Raises
    ------
    InvalidDocument
        It isn't YAML that kubectl would take; what follows in the file isn't read.
    """
    if len(content) > MAX_BYTES:
        raise InvalidDocument(f"is larger than {MAX_BYTES} bytes")
    number = 1
    try:
        loader = _Loader(content.decode())
        while loader.check_node() and (node := loader.get_node()) is not None:
            _Inspection().visit(node, "")
            value = _without_nulls(loader.construct_document(node))
            if value is not None:
                yield number, value
            number += 1
    except InvalidDocument as error:
        error.document = number
        raise
    except UnicodeDecodeError:
        raise InvalidDocument("isn't UTF-8 text") from None
    except yaml.MarkedYAMLError as error:
        # What stands in quotes in the problem is copied from the file, and may be a part of a secret.
        problem = re.sub(r"(['\"]).*\1", "…", error.problem or "can't be read", flags=re.DOTALL)
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InvalidDocument(f"isn't valid YAML{line}: {problem}", document=number) from None
    except yaml.YAMLError:
        raise InvalidDocument("isn't valid YAML: it contains characters that aren't allowed") from None
    except RecursionError:
        raise InvalidDocument("is nested too deeply", document=number) from None
    except ValueError:
        raise InvalidDocument("contains a number that is too long", document=number) from None


def join_path(path: str, step: str | int) -> str:
    """Return ``path`` with one more step: ``spec`` and ``columns`` and ``2`` become ``spec.columns[2]``."""
    if isinstance(step, int):
        return f"{path}[{step}]"
    shown = step if re.fullmatch(r"[A-Za-z0-9_./-]{1,64}", step) else "…"
    return f"{path}.{shown}" if path else shown


class _Inspection:
    """Looks through a document before anything is built from it."""

    def __init__(self) -> None:
        self._values = 0

    def visit(self, node: yaml.Node, path: str) -> None:
        """Refuse duplicate keys, keys that aren't text, and too many values; an alias counts as often as it is used."""
        self._values += 1
        if self._values > MAX_VALUES:
            raise InvalidDocument(f"has more than {MAX_VALUES} values once its anchors are expanded")
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self.visit(item, join_path(path, index))
        elif isinstance(node, yaml.MappingNode):
            seen = set()
            for key, item in node.value:
                merge = key.tag == f"{_TAG}merge"
                if not merge and key.tag != f"{_TAG}str":
                    raise InvalidDocument("has a key that isn't text; put it in quotes", path=path)
                if not merge and key.value in seen:
                    raise InvalidDocument("is there twice", path=join_path(path, key.value))
                seen.add(key.value)
                self.visit(item, path if merge else join_path(path, key.value))


def _without_nulls(value: Any) -> Any:
    """Leave out keys without a value, as the API server does."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
