"""Logs are read while they are written."""

from e2e.support.lines import whole_lines


def test_a_line_that_is_half_written_is_none_yet() -> None:
    assert whole_lines('{"a": "\x85"}\n{"b": 2}\n{"c"') == ['{"a": "\x85"}', '{"b": 2}']
    assert whole_lines('{"a": 1}\n') == ['{"a": 1}']
    assert whole_lines("") == whole_lines('{"a"') == []
