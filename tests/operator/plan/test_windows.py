"""Windows: by wall clocks, exact on the days on which they change."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extraction_contract.source import Window
from extraction_operator.plan.windows import next_change, open_window, opening

BERLIN = "Europe/Berlin"
MINUTE = timedelta(minutes=1)


def window(start: str, end: str, *days: str, zone: str = "UTC", most: int | None = None) -> Window:
    return Window(start=start, end=end, days=days, time_zone=zone, max_connections=most)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("found", "opens", "closes"),
    [
        (window("09:00", "17:30"), "2026-11-27T09:00", "2026-11-27T17:30"),
        (window("22:00", "06:00", zone=BERLIN), "2026-11-27T21:00", "2026-11-28T05:00"),
        # Of a Friday night, the early Saturday belongs to Friday.
        (window("22:00", "06:00", "Friday"), "2026-11-27T22:00", "2026-11-28T06:00"),
        (window("00:00", "00:00", "Sunday"), "2026-11-29T00:00", "2026-11-30T00:00"),
        (window("08:00", "08:00", "Saturday", zone="Asia/Kolkata"), "2026-11-28T02:30", "2026-11-29T02:30"),
        # The clock goes from 02:00 to 03:00: what should begin at 02:30 begins when it jumps.
        (window("02:30", "04:00", zone=BERLIN), "2026-03-29T01:00", "2026-03-29T02:00"),
        (window("01:00", "02:30", zone=BERLIN), "2026-03-29T00:00", "2026-03-29T01:00"),
        # The night is an hour longer in autumn, as the clock goes from 03:00 back to 02:00.
        (window("22:00", "06:00", "Saturday", zone=BERLIN), "2026-10-24T20:00", "2026-10-25T05:00"),
        (window("22:00", "06:00", "Saturday", zone=BERLIN), "2026-03-28T21:00", "2026-03-29T04:00"),
        # A zone whose clock changes by half an hour, and one that is a day ahead.
        (window("01:45", "02:15", "Sunday", zone="Australia/Lord_Howe"), "2026-10-03T15:15", "2026-10-03T15:30"),
        (window("00:00", "01:00", "Saturday", zone="Pacific/Kiritimati"), "2026-11-27T10:00", "2026-11-27T11:00"),
    ],
)
def test_a_window_opens_and_closes_by_its_clock(found, opens, closes):
    opens, closes = at(opens), at(closes)
    assert open_window([found], opens - MINUTE / 60) is None
    assert open_window([found], opens) is open_window([found], closes - MINUTE / 60) is found
    assert open_window([found], closes) is None
    assert next_change([found], opens - MINUTE) == opens
    assert next_change([found], opens) == closes
    assert opening([found], opens - MINUTE) == opens


def test_a_time_that_comes_twice_opens_twice():
    found = window("02:15", "02:45", zone=BERLIN)
    moment, changes = at("2026-10-25T00:00"), []
    for _ in range(4):
        moment = next_change([found], moment)
        changes.append(moment.strftime("%H:%M"))
    assert changes == ["00:15", "00:45", "01:15", "01:45"]


def test_the_first_window_that_is_open_counts():
    day, always = window("08:00", "18:00", "Monday", most=4), window("00:00", "00:00", most=20)
    assert open_window([day, always], at("2026-11-30T12:00")) is day
    assert open_window([day, always], at("2026-11-30T18:00")) is always
    assert next_change([day, always], at("2026-11-27T12:00")) == at("2026-11-30T08:00")
    # From one night into the next nothing changes, and no opening is announced where none is waited for.
    assert next_change([always], at("2026-11-27T12:00")) is None
    assert opening([always], at("2026-11-27T12:00")) is None
    assert next_change([], at("2026-11-27T12:00")) is None


TIMES = st.builds("{:02}:{:02}".format, st.integers(0, 23), st.integers(0, 59))
WINDOWS = st.lists(
    st.builds(
        window, TIMES, TIMES, st.sampled_from(["Sunday", "Monday"]),
        zone=st.sampled_from([BERLIN, "America/New_York", "Australia/Lord_Howe", "UTC"]),
    ), min_size=1, max_size=3,
)  # fmt: skip


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(windows=WINDOWS, start=st.sampled_from(["2026-03-28T20:00", "2026-10-24T20:00", "2026-10-31T20:00"]))
def test_no_change_is_missed(windows, start):
    """What is looked at minute by minute changes exactly when it was said, over the days on which clocks change."""
    moment = at(start)
    expected = next_change(windows, moment)
    present = open_window(windows, moment)
    for _ in range(40 * 60):
        moment += MINUTE
        found = open_window(windows, moment)
        if found != present:
            assert moment == expected
            expected, present = next_change(windows, moment), found
    assert expected is None or expected > moment
