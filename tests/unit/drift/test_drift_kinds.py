"""What kind of drift a window shows, from which detectors raised an alarm."""

from dataclasses import replace

import pytest

from hounsfield.drift.detectors import EMBEDDING, FIELDS, LABEL, NAMES, PROJECTION, SCORE, Result
from hounsfield.drift.kinds import SURE, kinds

QUIET = {"manufacturer": 0.5, "view_position": 0.5, "patient_sex": 0.5, "age_band": 0.5}
LEVEL = 0.01


def window(*raised, **fields):
    """Every detector's answer; the p-values of `fields` are those of single tests, at a level of 0.01 / 4."""
    found = {}
    for name in NAMES:
        by_field = {**QUIET, **fields} if name == FIELDS else {}
        found[name] = Result(name in raised, 0.1, 0.001 if name in raised else 0.4, LEVEL, by_field)
    return found


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (window(), ()),
        (window(FIELDS, manufacturer=1e-5), ("acquisition",)),
        (window(FIELDS, view_position=1e-5, age_band=1e-9), ("acquisition", "population")),
        (window(FIELDS, EMBEDDING, age_band=1e-5), ("population",)),
        (window(EMBEDDING), ("acquisition",)),
        (window(PROJECTION), ("acquisition",)),
        (window(EMBEDDING, SCORE), ("label",)),
        (window(LABEL, SCORE, EMBEDDING), ("label",)),
        (window(FIELDS, PROJECTION, LABEL, patient_sex=1e-6), ("population", "label")),
        (window(SCORE), ("model output",)),
    ],
)
def test_a_window_is_of_the_kinds_that_its_alarms_say(found, expected):
    assert kinds(found) == expected


def test_a_field_below_the_level_of_its_own_test_is_not_blamed():
    # 0.01 / 4 is the level of one of four fields: 0.004 is above it.
    assert kinds(window(FIELDS, manufacturer=0.002, age_band=0.004)) == ("acquisition",)


def test_where_pictures_and_calls_both_moved_the_pictures_must_be_sure():
    found = window(EMBEDDING, PROJECTION, LABEL)
    assert kinds(found) == ("label",)
    found[PROJECTION] = replace(found[PROJECTION], p_value=SURE * LEVEL / 2)
    assert kinds(found) == ("acquisition",)
