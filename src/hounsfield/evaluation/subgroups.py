"""The same metrics in each group of patients and machines; groups too small are named, not judged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from hounsfield.dicom.groups import ATTRIBUTES, UNKNOWN, age_band
from hounsfield.evaluation.bootstrap import intervals
from hounsfield.evaluation.metrics import auroc, call_metrics

JUDGED_BY = (*ATTRIBUTES, "site")
"""The groups that serving counts, and where the image was made, as far as the index says so."""
METRICS = ("auroc", "sensitivity", "specificity")
MINIMUM_OF_A_CLASS = 10
SUBGROUP_RESAMPLES = 200


def with_groups(table: pd.DataFrame) -> pd.DataFrame:
    """The index with `JUDGED_BY` as text columns: `age_band` from `age_years`, `unknown` where empty."""
    table = table.copy()
    if "age_years" in table:
        ages = pd.to_numeric(table["age_years"], errors="coerce")
        table["age_band"] = ages.map(age_band)
    for attribute in JUDGED_BY:
        column = table[attribute] if attribute in table else pd.Series(None, index=table.index, dtype=object)
        table[attribute] = column.replace("", None).fillna(UNKNOWN).astype(str)
    return table


def subgroups(table: pd.DataFrame, threshold: float, seed: int) -> list[dict[str, Any]]:
    """One row a value of each attribute, of `table` with label, probability, patient_id and `JUDGED_BY`.

    `gap` of a row is each metric's distance from that of all images, of the same resampled patients. A group
    with fewer than `MINIMUM_OF_A_CLASS` images of a class has null metrics and a note that says so; so has an
    attribute that no image has.
    """
    rows, judged = [], {}
    for attribute in JUDGED_BY:
        for value, group in table.groupby(attribute, sort=True):
            negative, positive = (int((group["label"] == label).sum()) for label in (0, 1))
            note = ""
            if value == UNKNOWN and len(group) == len(table):
                note = "not recorded in this data set"
            elif min(negative, positive) < MINIMUM_OF_A_CLASS:
                note = (
                    f"too few images to judge: {negative} negative, {positive} positive; "
                    f"{MINIMUM_OF_A_CLASS} of each are needed"
                )
            else:
                judged[len(rows)] = (table[attribute] == value).to_numpy()
            rows.append(
                {
                    "attribute": attribute,
                    "value": value,
                    "n": len(group),
                    "n_positive": positive,
                    **dict.fromkeys(METRICS),
                    "gap": None,
                    "note": note,
                }
            )
    found = intervals(
        table["patient_id"].to_numpy(),
        lambda weight: _measured(table, judged, threshold, weight),
        seed,
        SUBGROUP_RESAMPLES,
    )
    for number in judged:
        rows[number] |= {name: found[number, name] for name in METRICS}
        rows[number]["gap"] = {name: found[number, name, "gap"] for name in METRICS}
    return rows


def largest_gaps(rows: list[dict[str, Any]], table: pd.DataFrame, threshold: float) -> list[dict[str, Any]]:
    """Of each attribute with two judged groups: the `METRICS` of its best less those of its worst group.

    `rows` is what `subgroups` answered for `table`. By fairlearn's MetricFrame.
    """
    from fairlearn.metrics import MetricFrame

    gaps = []
    for attribute in JUDGED_BY:
        values = [row["value"] for row in rows if row["attribute"] == attribute and row["auroc"] is not None]
        if len(values) < 2:
            continue
        part = table[table[attribute].isin(values)]
        frame = MetricFrame(
            metrics={name: _metric(name, threshold) for name in METRICS},
            y_true=part["label"].to_numpy(),
            y_pred=part["probability"].to_numpy(),
            sensitive_features=part[attribute].to_numpy(),
        )
        gaps.append(
            {"attribute": attribute, "groups": values}
            | {name: float(gap) for name, gap in frame.difference(method="between_groups").items()}
        )
    return gaps


def _metrics(
    label: np.ndarray, probability: np.ndarray, threshold: float, weight: np.ndarray
) -> dict[str, float | None]:
    calls = call_metrics(label, (probability >= threshold).astype(int), weight)
    return {"auroc": auroc(label, probability, weight)} | {name: calls[name] for name in METRICS[1:]}


def _metric(name: str, threshold: float):
    return lambda label, probability: _metrics(label, probability, threshold, np.ones(len(label)))[name]


def _measured(
    table: pd.DataFrame, judged: dict[int, np.ndarray], threshold: float, weight: np.ndarray
) -> dict[tuple, float | None]:
    """By the number of its row: each judged group's metrics, and their distances from those of all images."""
    label, probability = table["label"].to_numpy(), table["probability"].to_numpy()
    overall = _metrics(label, probability, threshold, weight)
    found: dict[tuple, float | None] = {}
    for number, member in judged.items():
        group = _metrics(label[member], probability[member], threshold, weight[member])
        for name, value in group.items():
            absent = value is None or overall[name] is None
            found[number, name] = value
            found[number, name, "gap"] = None if absent else value - overall[name]
    return found
