"""Sets of completion indexes as the Job controller writes them: ``0-11,14``."""

from collections.abc import Iterable


def parse(text: str) -> tuple[range, ...]:
    """Return the ranges; raise ValueError when the text is no such set."""
    ranges = []
    for item in filter(None, text.split(",")):
        first, _, last = item.partition("-")
        ranges.append(range(int(first), int(last or first) + 1))
    return tuple(ranges)


def chunks_in(ranges: Iterable[range], *, bundles: int, chunks: int) -> int:
    """Return how many chunks the bundles have: bundle ``b`` has the chunks ``i`` with ``i * bundles // chunks == b``.

    The first of them is the smallest ``i`` with ``i * bundles >= b * chunks``.
    """

    def first(bundle: int) -> int:
        return -(-bundle * chunks // bundles)

    return sum(first(min(found.stop, bundles)) - first(min(found.start, bundles)) for found in ranges)


def shorten(text: str, longest: int) -> str:
    """Return the set, cut between two ranges where it is too long."""
    return text if len(text) <= longest else text[: longest + 1].rpartition(",")[0]
