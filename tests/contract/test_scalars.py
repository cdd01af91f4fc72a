"""Quantities and durations: parsed once, the text kept, bounds exact."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from extraction_contract.models import Duration, Limits, Partitioning, Quantity, Snapshot

UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


@given(st.integers(0, 10**15 - 1), st.sampled_from(sorted(UNITS)))
def test_a_whole_quantity_is_its_number_times_its_unit(number: int, unit: str) -> None:
    assert Quantity(f"{number}{unit}") == number * UNITS[unit]
    assert str(Quantity(f"{number}{unit}")) == f"{number}{unit}"


@pytest.mark.parametrize(
    ("text", "value"), [("1.5Gi", 3 * 2**29), ("0.001k", 1), ("0.5", 1), ("1.0001", None), (64, 64), ("1P", 10**15)]
)
def test_fractions_are_rounded_up_to_bytes(text: str | int, value: int | None) -> None:
    if value is None:
        with pytest.raises(ValueError, match="not a quantity"):
            Quantity(text)
    else:
        assert Quantity(text) == value


@pytest.mark.parametrize("text", ["", "Mi", "-1", "1 Mi", "1MB", "1e3", "٣Mi", "1Mi\n", "9" * 16])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        Quantity(text)


@given(st.integers(0, 10**6), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_a_duration_is_the_sum_of_its_parts(hours: int, minutes: int, seconds: int, milliseconds: int) -> None:
    text = f"{hours}h{minutes}m{seconds}s{milliseconds}ms"
    assert Duration(text) == timedelta(hours=hours, minutes=minutes, seconds=seconds, milliseconds=milliseconds)
    assert str(Duration(text)) == text


@pytest.mark.parametrize("text", ["", "5", "1d", "1s1m", "1.5h", "-1s", "1 s", "5m\n", "1h 30m"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        Duration(text)


@pytest.mark.parametrize("text", ["64Ki", 65536, "64Gi", "65.536k"])
def test_both_bounds_of_a_quantity_are_included(text: str | int) -> None:
    assert Partitioning(target_bytes=text).target_bytes == Quantity(text)


@pytest.mark.parametrize("text", ["65535", 65535, "68719476737", True, None, 1.5, ["64Mi"]])
def test_beyond_the_bounds_of_a_quantity_is_refused(text: object) -> None:
    with pytest.raises(ValidationError, match="from 64Ki to 64Gi"):
        Partitioning(target_bytes=text)


@pytest.mark.parametrize(("text", "fits"), [("999ms", False), ("1s", True), ("1h", True), ("60m1ms", False)])
def test_both_bounds_of_a_duration_are_included(text: str, fits: bool) -> None:
    if fits:
        assert Limits(statement_timeout=text).statement_timeout.text == text
    else:
        with pytest.raises(ValidationError, match="from 1s to 1h"):
            Limits(statement_timeout=text)


def test_what_was_written_comes_back() -> None:
    for value in (Partitioning(target_bytes="1.5G"), Partitioning(target_bytes=70000), Snapshot(max_age="1h30m")):
        adapter = TypeAdapter(type(value))
        assert adapter.validate_json(adapter.dump_json(value, by_alias=True)) == value
    assert Partitioning(target_bytes=70000).model_dump()["targetBytes"] == 70000
    assert Snapshot(max_age="90m").model_dump()["maxAge"] == "90m"


def test_a_parsed_scalar_is_taken_as_it_is() -> None:
    assert Partitioning(target_bytes=Quantity("1Mi")).target_bytes.text == "1Mi"
    assert Snapshot(max_age=Duration("1m")).max_age.text == "1m"
