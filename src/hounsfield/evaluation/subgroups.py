"""The same metrics in each group of patients and machines; groups too small are named, not judged."""

from __future__ import annotations

from typing import Any

import pandas as pd

from hounsfield.dicom.groups import ATTRIBUTES, UNKNOWN, age_band
from hounsfield.evaluation.bootstrap import intervals
from hounsfield.evaluation.metrics import auroc, call_metrics

MINIMUM_OF_A_CLASS = 10
SUBGROUP_RESAMPLES = 200


def with_groups(table: pd.DataFrame) -> pd.DataFrame:
    """The index with `ATTRIBUTES` as text columns: `age_band` from `age_years`, `unknown` where empty."""
    table = table.copy()
    if "age_years" in table:
        ages = pd.to_numeric(table["age_years"], errors="coerce")
        table["age_band"] = ages.map(age_band)
    for attribute in ATTRIBUTES:
        column = table[attribute] if attribute in table else pd.Series(None, index=table.index, dtype=object)
        table[attribute] = column.replace("", None).fillna(UNKNOWN).astype(str)
    return table


def subgroups(table: pd.DataFrame, threshold: float, seed: int) -> list[dict[str, Any]]:
    """One row a value of each attribute, of `table` with label, probability, patient_id and `ATTRIBUTES`.

    A group with fewer than `MINIMUM_OF_A_CLASS` images of a class has null metrics and a note that says so.
    """
    rows = []
    for attribute in ATTRIBUTES:
        for value, group in table.groupby(attribute, sort=True):
            label, probability = group["label"].to_numpy(), group["probability"].to_numpy()
            counts = (int((label == 0).sum()), int((label == 1).sum()))
            row = {
                "attribute": attribute,
                "value": value,
                "n": len(group),
                "n_positive": counts[1],
                "auroc": None,
                "sensitivity": None,
                "specificity": None,
                "note": "",
            }
            if min(counts) < MINIMUM_OF_A_CLASS:
                row["note"] = (
                    f"too few images to judge: {counts[0]} negative, {counts[1]} positive; "
                    f"{MINIMUM_OF_A_CLASS} of each are needed"
                )
            else:
                found = intervals(
                    group["patient_id"].to_numpy(),
                    lambda weight, y=label, p=probability: (
                        {"auroc": auroc(y, p, weight)} | call_metrics(y, (p >= threshold).astype(int), weight)
                    ),
                    seed,
                    SUBGROUP_RESAMPLES,
                )
                row |= {name: found[name] for name in ("auroc", "sensitivity", "specificity")}
            rows.append(row)
    return rows
