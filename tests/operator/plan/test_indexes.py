"""Sets of completion indexes, and the chunks that they stand for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extraction_operator.plan.indexes import chunks_in, parse, shorten


def render(indexes: set[int]) -> str:
    """Return a set as the Job controller writes it."""
    ranges: list[list[int]] = []
    for index in sorted(indexes):
        if ranges and ranges[-1][1] == index - 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


@given(st.sets(st.integers(0, 500)))
def test_what_the_controller_writes_is_read(indexes):
    found = parse(render(indexes))
    assert [index for part in found for index in part] == sorted(indexes)


@given(st.integers(1, 60), st.data())
def test_chunks_are_counted_as_they_are_dealt_to_bundles(bundles, data):
    chunks = data.draw(st.integers(bundles, 400))
    done = data.draw(st.sets(st.integers(0, bundles - 1)))
    expected = sum(chunk * bundles // chunks in done for chunk in range(chunks))
    assert chunks_in(parse(render(done)), bundles=bundles, chunks=chunks) == expected
    assert chunks_in(parse(f"0-{bundles - 1}"), bundles=bundles, chunks=chunks) == chunks


@given(st.sets(st.integers(0, 10_000), min_size=1, max_size=300), st.integers(8, 200))
def test_a_long_set_is_cut_between_ranges(indexes, longest):
    text = render(indexes)
    cut = shorten(text, longest)
    assert len(cut) <= longest
    assert text.startswith(cut)
    assert cut == text or text[len(cut)] == ","
    assert {i for part in parse(cut) for i in part} <= indexes


def test_other_text_is_refused():
    with pytest.raises(ValueError, match="invalid literal"):
        parse("none")
