"""The data profile: counts and ranges a field to read at a glance, and what is expected of later data."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from hounsfield.data.examine import INTENSITY_PERCENTILES
from hounsfield.data.expectations import expectations
from hounsfield.dicom.groups import ATTRIBUTES, groups_of, manufacturers

CATEGORIES = (
    "label", "split", "modality", "manufacturer", "view_position", "patient_sex", "bits_stored",
    "photometric_interpretation", "transfer_syntax_uid", "site",
)  # fmt: skip
NUMBERS = ("age_years", "rows", "columns", "pixel_spacing_mm", *INTENSITY_PERCENTILES)


def profile(index: pd.DataFrame) -> dict:
    """JSON-ready summary of an index: for a category the count of each value, for a number its spread.

    `missing` counts None and the empty string. Quantiles are linear (numpy's default). `expectations` are
    what `hounsfield data check` holds later data against.
    """
    fields: dict[str, dict] = {}
    for name in CATEGORIES:
        seen = index[name].value_counts().sort_index()
        counts = {str(value): int(count) for value, count in seen.items() if value != ""}
        fields[name] = {
            "kind": "category",
            "missing": len(index) - sum(counts.values()),
            "counts": counts,
        }
    for name in NUMBERS:
        values = pd.to_numeric(index[name]).dropna()
        fields[name] = {"kind": "number", "missing": int(len(index) - len(values))}
        if len(values):
            fields[name] |= {
                "min": float(values.min()),
                "p05": float(values.quantile(0.05)),
                "median": float(values.median()),
                "p95": float(values.quantile(0.95)),
                "max": float(values.max()),
            }
    return {
        "images": len(index),
        "patients": int(index["patient_id"].nunique()),
        "fields": fields,
        "expectations": expectations(index),
    }


def header_groups(dataset: Path) -> Callable[[Mapping[str, object]], dict[str, str]]:
    """What gives the groups of one row of the index of `dataset`, as a server gives them to its log."""
    known = manufacturers(json.loads((dataset / "profile.json").read_text(encoding="utf-8")))
    return lambda header: dict(zip(ATTRIBUTES, groups_of(header, known), strict=True))
