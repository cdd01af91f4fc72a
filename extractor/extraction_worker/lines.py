"""Long lists of values outside of the heap: each is a line of JSON, in memory or in a file, parsed when asked for.

A plan has up to 100,000 chunks, a manifest as many parts. As objects they take ten times the memory of their JSON.
"""

import itertools
import os
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar, overload

from pydantic import BaseModel

_Model = TypeVar("_Model", bound=BaseModel)

Read = Callable[[int, int], bytes]
"""Returns the bytes from one offset up to another."""


class Lines(Sequence[_Model]):
    """An immutable sequence of values; ``starts`` and ``ends`` are where ``read`` finds the JSON of each."""

    def __init__(self, model: type[_Model], read: Read, starts: "array[int]", ends: "array[int]") -> None:
        self._model = model
        self._read = read
        self._starts = starts
        self._ends = ends

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> _Model: ...
    @overload
    def __getitem__(self, index: slice) -> "Lines[_Model]": ...
    def __getitem__(self, index: int | slice) -> "_Model | Lines[_Model]":
        if isinstance(index, slice):
            return Lines(self._model, self._read, self._starts[index], self._ends[index])
        return self._model.model_validate_json(self._read(self._starts[index], self._ends[index]))

    def __iter__(self) -> Iterator[_Model]:
        return map(self._model.model_validate_json, self.raw())

    def raw(self) -> Iterator[bytes]:
        """Yield the JSON of each value."""
        return itertools.starmap(self._read, zip(self._starts, self._ends, strict=True))

    def __eq__(self, other: object) -> bool:
        return _are_equal(self, other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self)} × {self._model.__name__}>"


class Changed(Sequence[_Model]):
    """Another sequence, whose values are changed when they are asked for."""

    def __init__(self, values: Sequence[_Model], change: Callable[[_Model], _Model]) -> None:
        self._values = values
        self._change = change

    def __len__(self) -> int:
        return len(self._values)

    @overload
    def __getitem__(self, index: int) -> _Model: ...
    @overload
    def __getitem__(self, index: slice) -> "Changed[_Model]": ...
    def __getitem__(self, index: int | slice) -> "_Model | Changed[_Model]":
        if isinstance(index, slice):
            return Changed(self._values[index], self._change)
        return self._change(self._values[index])

    def __iter__(self) -> Iterator[_Model]:
        return map(self._change, self._values)

    def __eq__(self, other: object) -> bool:
        return _are_equal(self, other)

    __hash__ = None  # type: ignore[assignment]


def _are_equal(one: Sequence[Any], two: object) -> bool:
    if not isinstance(two, Sequence) or len(one) != len(two):
        return False
    return all(left == right for left, right in zip(one, two, strict=True))


class Descriptor:
    """An open file, apart from who opened it: closed when nobody needs it any more. Reading is safe for threads."""

    def __init__(self, file: int) -> None:
        self._descriptor = os.dup(file)

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from one offset up to another."""
        return os.pread(self._descriptor, end - start, start)

    def __del__(self) -> None:
        # Not set where there was none to be had.
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


class Scratch(Descriptor):
    """A temporary file without a name, to which is only appended, by one thread."""

    def __init__(self) -> None:
        with tempfile.TemporaryFile() as file:
            super().__init__(file.fileno())
        self.size = 0

    def append(self, data: bytes) -> tuple[int, int]:
        """Append all of it; return where it begins and ends."""
        start, view = self.size, memoryview(data)
        while view.nbytes:
            written = os.pwrite(self._descriptor, view, self.size)
            self.size += written
            view = view[written:]
        return start, self.size


class Writer(Generic[_Model]):
    """Makes a sequence of values in a temporary file. Not safe for threads."""

    def __init__(self, model: type[_Model]) -> None:
        self._model = model
        self._scratch = Scratch()
        self._starts, self._ends = array("Q"), array("Q")

    def append(self, value: _Model) -> None:
        """Append a value."""
        start, end = self._scratch.append(_json(value))
        self._starts.append(start)
        self._ends.append(end)

    def lines(self) -> Lines[_Model]:
        """Return the values so far."""
        return Lines(self._model, self._scratch.read, self._starts[:], self._ends[:])


# A document: a JSON object whose last fields are long lists, with a line for each of their elements ----------------


def document(head: bytes, lists: Iterable[tuple[str, Iterable[BaseModel]]]) -> Iterator[bytes]:
    """Yield the document of an object and the lists that follow its fields, by name, in blocks.

    Parameters
    ----------
    head
        The object without the lists, as JSON; not empty.
    """
    block = bytearray(head.removesuffix(b"}"))
    for name, values in lists:
        block += f',"{name}":['.encode()
        comma = b"\n"
        for text in values.raw() if isinstance(values, Lines) else map(_json, values):
            block += comma + text
            comma = b",\n"
            if len(block) >= _BLOCK:
                yield bytes(block)
                block.clear()
        block += b"\n]"
    yield bytes(block + b"}")


_BLOCK = 64 << 10


def _json(value: BaseModel) -> bytes:
    return value.model_dump_json(exclude_none=True).encode()


def split(
    lines: Iterable[bytes], names: Sequence[str]
) -> tuple[bytes, dict[str, tuple["array[int]", "array[int]"]]] | None:
    """Find the head of a document, and where the elements of its lists begin and end; None where it has other lines.

    Parameters
    ----------
    lines
        Of the document, with their ends.
    names
        Of the lists, in their order.
    """
    found: dict[str, tuple[array[int], array[int]]] = {}
    head, offset, left, is_whole, comma = b"", 0, list(names), False, False
    for line in lines:
        text = line.removesuffix(b"\n")
        opening = f',"{left[0]}":['.encode() if left else b"]}"
        if is_whole:
            return None
        if not found:
            if not text.endswith(opening):
                return None
            head = text.removesuffix(opening) + b"}"
            found[left.pop(0)] = array("Q"), array("Q")
        elif text.startswith(b"]"):
            if comma or text != (b"]" + opening if left else opening):
                return None
            if left:
                found[left.pop(0)] = array("Q"), array("Q")
            else:
                is_whole = True
        else:
            starts, ends = found[names[len(found) - 1]]
            if starts and not comma:
                return None
            comma = text.endswith(b",")
            starts.append(offset)
            ends.append(offset + len(text) - comma)
        offset += len(line)
    return (head, found) if is_whole else None
