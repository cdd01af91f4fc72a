"""YAML as kubectl reads it, which takes far longer to read than JSON."""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from extraction_contract.documents import MAX_VALUES, InvalidDocument, join_path, without_nulls

_TAG = "tag:yaml.org,2002:"
_SCALARS = ("null", "bool", "int", "float", "str", "seq", "map")


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


def parse_yaml(content: bytes) -> Iterator[tuple[int, Any]]:
    """Yield the number, from 1, and the value of each document that isn't empty.

    Raises
    ------
    InvalidDocument
        It isn't YAML that kubectl would take; what follows in the file isn't read.
    """
    number = 1
    try:
        loader = _Loader(content.decode())
        while loader.check_node() and (node := loader.get_node()) is not None:
            _Inspection().visit(node, "")
            value = without_nulls(loader.construct_document(node))
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
