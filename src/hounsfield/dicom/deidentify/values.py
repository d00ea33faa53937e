"""New values for old ones: dates, times and ages as PS3.5 6.2 writes them."""

from __future__ import annotations

import datetime
import re

from hounsfield.dicom.deidentify.keys import Shift
from hounsfield.dicom.reading import OLDEST_AGE_YEARS

_AGE = re.compile(r"(\d{3})([DWMY])")
_DATE = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})")
_TIME = re.compile(r"(\d{2})(?::?(\d{2})(?::?(\d{2})(\.\d{1,6})?)?)?")
_DATETIME = re.compile(r"(\d{4})(\d{2})?(\d{2})?(\d{2})?(\d{2})?(\d{2})?(\.\d{1,6})?(?:[+-]\d{4})?")
_DAY = datetime.date(2000, 1, 1)
_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}


def shift_date(date: str, time: str, shift: Shift) -> str | None:
    """DA moved back; None where it is no date. `time` is the TM of the same moment, '' where there is none.

    Setting the clock back across midnight is a day more, or the order of two moments could turn round.
    """
    match = _DATE.fullmatch(date.strip())
    if match is None:
        return None
    try:
        moved = datetime.date(int(match[1]), int(match[2]), int(match[3])) - datetime.timedelta(
            days=shift.days
        )
        clock = _moment(time)
        if clock is not None and not _is_placeholder(clock) and clock.second_of_day < shift.seconds:
            moved -= datetime.timedelta(days=1)
    except (ValueError, OverflowError):
        return None
    return moved.strftime("%Y%m%d") if moved.year >= 1000 else None


def shift_time(time: str, shift: Shift) -> str | None:
    """TM set back within its day, written as precisely as before; None where it is no time.

    000000 stays: it stands for an unknown time more often than for midnight.
    """
    clock = _moment(time)
    if clock is None:
        return None
    if _is_placeholder(clock):
        return clock.format(0)
    return clock.format((clock.second_of_day - shift.seconds) % 86400)


def shift_datetime(moment: str, shift: Shift) -> str | None:
    """DT moved back, as precisely as before and without its offset from UTC; None where it is none."""
    match = _DATETIME.fullmatch(moment.strip())
    if match is None:
        return None
    given = [int(part) for part in match.groups()[:6] if part is not None]
    try:
        full = datetime.datetime(*(given + [1, 1][len(given) - 1 :] if len(given) < 3 else given))
        # A date without a time of day moves like a DA without a TM.
        moved = full - (shift.delta if len(given) > 3 else datetime.timedelta(days=shift.days))
    except (ValueError, OverflowError):
        return None
    if moved.year < 1000:
        return None
    length = (4, 6, 8, 10, 12, 14)[len(given) - 1]
    return moved.strftime("%Y%m%d%H%M%S")[:length] + (match[7] or "")


def cap_age(age: str) -> str | None:
    """AS, 090Y for every age over 89 years; None where it is no age (PS3.5 AS: nnnD, nnnW, nnnM or nnnY)."""
    match = _AGE.fullmatch(age.strip())
    if match is None:
        return None
    return match[0] if int(match[1]) * _YEARS[match[2]] < OLDEST_AGE_YEARS else f"{OLDEST_AGE_YEARS:03d}Y"


class _Clock:
    """A TM: whole seconds since midnight, the digits after the point, and how many digits were written."""

    def __init__(self, hour: int, minute: int, second: int, fraction: str, length: int) -> None:
        # PS3.5 6.2 allows second 60 for a leap second.
        datetime.time(hour, minute, min(second, 59))
        self.second_of_day = hour * 3600 + minute * 60 + second
        self.fraction, self.length = fraction, length

    def format(self, second_of_day: int) -> str:
        hour, rest = divmod(second_of_day, 3600)
        return f"{hour:02d}{rest // 60:02d}{rest % 60:02d}"[: self.length] + self.fraction


def _moment(time: str) -> _Clock | None:
    match = _TIME.fullmatch(time.strip())
    if match is None:
        return None
    length = 2 * sum(part is not None for part in match.groups()[:3])
    try:
        return _Clock(int(match[1]), int(match[2] or 0), int(match[3] or 0), match[4] or "", length)
    except ValueError:
        return None


def _is_placeholder(clock: _Clock) -> bool:
    return clock.second_of_day == 0 and not clock.fraction.strip(".0")
