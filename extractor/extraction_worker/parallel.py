"""Many small calls, a few at a time, however many there are."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Value = TypeVar("_Value")
_Result = TypeVar("_Result")

_AHEAD = 4
"""Calls that are waiting or done, for each thread, before somebody takes their results."""


def in_order(
    function: Callable[[_Value], _Result], values: Iterable[_Value], threads: int, *, name: str
) -> Iterator[_Result]:
    """Yield what ``function`` returns for each value, in their order.

    The first error, in that order, ends it, after the calls that are under way.

    Parameters
    ----------
    values
        Taken only as fast as results are.
    name
        Of the threads.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix=name) as pool:
        waiting: deque[Future[_Result]] = deque()
        try:
            for value in values:
                waiting.append(pool.submit(function, value))
                if len(waiting) >= threads * _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
