"""The groups of patients and machines that results are counted in: one definition for evaluation and serving.

Fixed and small, so that no group is a person and no metric grows with the data.
"""

from __future__ import annotations

from collections.abc import Mapping

ATTRIBUTES = ("patient_sex", "age_band", "view_position", "manufacturer")
SITE = "site"
COUNTED = (*ATTRIBUTES, SITE)
"""What served requests are counted by: the site is the request's, and only there where sites are declared."""
UNKNOWN = "unknown"
OTHER = "other"

AGE_EDGES_YEARS = (0, 40, 60, 80)
AGE_BANDS = ("0-39", "40-59", "60-79", "80+")

SEXES = ("F", "M", "O")
"""PS3.3 C.7.1.1, Patient's Sex: female, male, other."""
VIEW_POSITIONS = ("AP", "PA", "LL", "RL", "RLD", "LLD", "RLO", "LLO")
"""PS3.3 C.8.1.1 (CR Series), View Position."""
MOST_MANUFACTURERS = 20


def age_band(age_years: float | None) -> str:
    """The band that holds `age_years`; UNKNOWN for None, NaN and a negative age."""
    band = UNKNOWN
    for edge, name in zip(AGE_EDGES_YEARS, AGE_BANDS, strict=True):
        if age_years is not None and age_years >= edge:
            band = name
    return band


def manufacturers(profile: Mapping) -> tuple[str, ...]:
    """The manufacturers of a package's `profile.json`, most frequent first, at most MOST_MANUFACTURERS."""
    counts = profile.get("fields", {}).get("manufacturer", {}).get("counts", {})
    ranked = sorted(filter(None, counts), key=lambda name: (-counts[name], name))
    return tuple(ranked[:MOST_MANUFACTURERS])


def groups_of(attributes: Mapping[str, object], known_manufacturers: tuple[str, ...]) -> tuple[str, ...]:
    """The group of one image in each of ATTRIBUTES, from its header's columns (see `reading.describe`).

    What the header leaves empty is UNKNOWN, what is not one of the fixed values is OTHER.
    """
    return (
        _one_of(attributes.get("patient_sex"), SEXES),
        age_band(attributes.get("age_years")),
        _one_of(attributes.get("view_position"), VIEW_POSITIONS),
        _one_of(attributes.get("manufacturer"), known_manufacturers),
    )


def site_of(site: str, declared: tuple[str, ...]) -> tuple[str, ...]:
    """The group of SITE of a request that names `site` ('' for none); empty where no sites are declared."""
    return (_one_of(site, declared),) if declared else ()


NO_GROUPS = (UNKNOWN,) * len(ATTRIBUTES)
"""The groups of an image without a header."""


def _one_of(value: object, known: tuple[str, ...]) -> str:
    if not value:
        return UNKNOWN
    return value if value in known else OTHER
