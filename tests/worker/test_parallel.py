"""Many small calls: in order, a few at a time, and none after an error."""

import itertools
import threading

import pytest

from extraction_worker.parallel import in_order


def test_results_come_in_order_and_values_are_taken_as_results_are():
    taken = itertools.count()
    values = (next(taken) for _ in range(10_000))
    found = in_order(lambda value: value * 2, values, 2, name="test")
    assert [next(found) for _ in range(5)] == [0, 2, 4, 6, 8]
    assert next(taken) < 50
    found.close()


def test_the_first_error_ends_it_after_what_is_under_way():
    called = []

    def call(value: int) -> int:
        called.append(value)
        if value == 3:
            raise ValueError(value)
        return value

    with pytest.raises(ValueError, match="3"):
        list(in_order(call, range(1000), 2, name="test"))
    assert len(called) < 20


def test_so_many_calls_run_at_once():
    both = threading.Barrier(2, timeout=10)
    assert len(list(in_order(lambda _: both.wait(), range(6), 2, name="test"))) == 6
