"""Windows: when the jobs of a source may begin, by wall clocks. Pure; zones are the database's that Python brings."""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import get_args
from zoneinfo import ZoneInfo

from extraction_contract.source import Day, Window

_DAYS = get_args(Day)
_DAY = timedelta(days=1)
_MINUTE = timedelta(minutes=1)
_AHEAD = 9
"""Days in which every window has opened and closed, whatever the zone and the day of the week."""


def open_window(windows: Sequence[Window], now: datetime) -> Window | None:
    """Return the first window that is open; None where there is none."""
    return next((window for window in windows if _is_open(window, now)), None)


def next_change(windows: Sequence[Window], now: datetime) -> datetime | None:
    """Return when another window than now will be the first that is open, in UTC; None where that never comes."""
    present = open_window(windows, now)
    moments = sorted({moment for window in windows for moment in _moments(window, now)})
    return next((moment for moment in moments if moment > now and open_window(windows, moment) != present), None)


def opening(windows: Sequence[Window], now: datetime) -> datetime | None:
    """Return when the next window opens while none is open, by the clock of its zone."""
    moment = next_change(windows, now)
    found = open_window(windows, moment) if moment is not None else None
    return moment.astimezone(ZoneInfo(found.time_zone)) if moment is not None and found is not None else None


def _is_open(window: Window, now: datetime) -> bool:
    local = now.astimezone(ZoneInfo(window.time_zone))
    clock, start, end = local.time().replace(fold=0), time.fromisoformat(window.start), time.fromisoformat(window.end)
    if start < end:
        return start <= clock < end and _has(window, local.date())
    return (clock >= start and _has(window, local.date())) or (clock < end and _has(window, local.date() - _DAY))


def _has(window: Window, day: date) -> bool:
    return not window.days or _DAYS[day.weekday()] in window.days


def _moments(window: Window, now: datetime) -> Iterator[datetime]:
    """Yield moments, in UTC, among which are all at which the window opens or closes in the days to come."""
    zone = ZoneInfo(window.time_zone)
    today = now.astimezone(zone).date()
    for days in range(-1, _AHEAD):
        for text in (window.start, window.end):
            wall = datetime.combine(today + days * _DAY, time.fromisoformat(text), zone)
            once, again = sorted(wall.replace(fold=fold).astimezone(UTC) for fold in (0, 1))
            yield once
            # The clock shows this time twice, or leaves it out, and then jumps over it somewhere in between.
            while once < again:
                once += _MINUTE
                yield once
