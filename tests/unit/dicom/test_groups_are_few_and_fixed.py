import math

from hounsfield.dicom.groups import (
    MOST_MANUFACTURERS,
    NO_GROUPS,
    age_band,
    groups_of,
    manufacturers,
)


def test_an_age_belongs_to_one_band():
    ages = {0.0: "0-39", 39.9: "0-39", 40.0: "40-59", 79.99: "60-79", 80.0: "80+", 90.0: "80+"}
    assert {age: age_band(age) for age in ages} == ages
    assert [age_band(age) for age in (None, math.nan, -1.0)] == ["unknown"] * 3


def test_what_is_not_listed_is_other_and_what_is_empty_is_unknown():
    header = {"patient_sex": "F", "age_years": 44.0, "view_position": "PA", "manufacturer": "Acme"}
    assert groups_of(header, ("Acme",)) == ("F", "40-59", "PA", "Acme")
    odd = {"patient_sex": "DOE^JANE", "age_years": None, "view_position": "", "manufacturer": "JANE's van"}
    assert groups_of(odd, ("Acme",)) == ("other", "unknown", "unknown", "other")
    assert groups_of({}, ()) == NO_GROUPS


def test_the_manufacturers_are_the_profiles_most_frequent_ones():
    counts = {f"maker {number:02}": number for number in range(30)} | {"": 99}
    profile = {"fields": {"manufacturer": {"counts": counts}}}
    names = manufacturers(profile)
    assert len(names) == MOST_MANUFACTURERS
    assert names[:2] == ("maker 29", "maker 28")
    assert manufacturers({}) == ()
