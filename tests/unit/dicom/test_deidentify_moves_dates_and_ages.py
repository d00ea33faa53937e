"""Hand-worked: the clock of a patient is set back by 10 days and 600 seconds."""

import pytest

from hounsfield.dicom.deidentify.keys import MAX_SHIFT_DAYS, MAX_SHIFT_S, Shift
from hounsfield.dicom.deidentify.values import cap_age, shift_date, shift_datetime, shift_time

BACK = Shift(days=10, seconds=600)


@pytest.mark.parametrize(
    ("date", "time", "moved"),
    [
        ("20200301", "", "20200220"),  # 2020 is a leap year
        ("20210301", "", "20210219"),
        ("20200301", "101112", "20200220"),
        ("20200301", "000959.5", "20200219"),  # nine minutes past midnight become yesterday
        ("20200301", "001000", "20200220"),
        ("20200301", "000000", "20200220"),  # stands for no time
        ("2020.03.01", "", "20200220"),  # ACR-NEMA
        ("20200231", "", None),
        ("March", "", None),
        ("00010101", "", None),
    ],
)
def test_a_date_moves_by_whole_days(date, time, moved):
    assert shift_date(date, time, BACK) == moved


@pytest.mark.parametrize(
    ("time", "moved"),
    [
        ("101112", "100112"),
        ("101112.123456", "100112.123456"),
        ("1011", "1001"),
        ("10", "09"),
        ("000959.5", "235959.5"),
        ("000000", "000000"),
        ("10:11:12", "100112"),
        ("2511", None),
        ("noon", None),
    ],
)
def test_a_time_moves_by_seconds_and_keeps_its_precision(time, moved):
    assert shift_time(time, BACK) == moved


@pytest.mark.parametrize(
    ("moment", "moved"),
    [
        ("20200301101112.250000+0100", "20200220100112.250000"),
        ("20200301000959", "20200219235959"),
        ("202003011011", "202002201001"),
        ("20200301", "20200220"),
        ("202003", "202002"),
        ("2020", "2019"),
        ("20201301", None),
    ],
)
def test_a_moment_moves_and_loses_its_time_zone(moment, moved):
    assert shift_datetime(moment, BACK) == moved


def test_a_date_with_its_time_moves_like_the_moment_they_make():
    for date, time in (("20200301", "000959.5"), ("20191231", "235959"), ("20200101", "001001")):
        parts = shift_date(date, time, BACK) + shift_time(time, BACK)
        assert parts == shift_datetime(date + time, BACK)


@pytest.mark.parametrize(
    ("age", "capped"),
    [
        ("089Y", "089Y"),
        ("090Y", "090Y"),
        ("091Y", "090Y"),
        ("006M", "006M"),
        ("003D", "003D"),
        ("999W", "999W"),
    ],
)
def test_ages_over_89_become_90(age, capped):
    assert cap_age(age) == capped  # 999 weeks are 19 years


@pytest.mark.parametrize("age", ["", "40", "040", "40Y", "oldY"])
def test_what_is_no_age_is_none(age):
    assert cap_age(age) is None


def test_a_shift_is_of_the_patient_and_of_the_key_and_never_nothing():
    shifts = [Shift.of(str(number), b"0123456789abcdef") for number in range(500)]
    assert all(1 <= s.days <= MAX_SHIFT_DAYS and 1 <= s.seconds <= MAX_SHIFT_S for s in shifts)
    assert len({(s.days, s.seconds) for s in shifts}) == 500
    assert Shift.of("0", b"0123456789abcdef") == shifts[0] != Shift.of("0", b"fedcba9876543210")
