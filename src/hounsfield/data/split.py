"""Train, validation and test: by patient, with the same share of positives in each."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd

from hounsfield.config import CLASS_NAMES, SPLITS
from hounsfield.errors import DataError

FOLDS = 5
"""One fold is test, one validation, three are train: about 60/20/20."""


def assign_splits(index: pd.DataFrame, seed: int) -> pd.Series:
    """The split of each row of `index` (columns patient_id, label, sha256), aligned with it.

    A patient is in one split only. Depends on the content of the files, their labels and the seed, not on
    the order of the rows nor on the pseudonyms (so not on the de-identification key). Raises DataError
    when there is one class only, or a split would miss a class.
    """
    classes = sorted(index["label"].unique())
    if len(classes) < 2:
        raise DataError(
            f"all {len(index)} labelled images have the label {CLASS_NAMES[classes[0]]}: "
            "training needs both classes"
        )
    ordered = index.sort_values("sha256")
    # Number patients by their first file: the pseudonyms themselves change with the key.
    groups = pd.factorize(ordered["patient_id"])[0]
    by_class = [np.unique(groups[ordered["label"].to_numpy() == label]).size for label in classes]
    if min(by_class) < FOLDS:
        raise DataError(
            f"the images are of {by_class[0]} patients with negative and {by_class[1]} with positive labels: "
            f"at least {FOLDS} patients of each are needed to fill train, validation and test"
        )
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(n_splits=FOLDS, shuffle=True, random_state=seed)
    assigned = np.full(len(ordered), SPLITS[0], dtype=object)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folds = [held_out for _, held_out in splitter.split(np.zeros(len(ordered)), ordered["label"], groups)]
    assigned[folds[0]], assigned[folds[1]] = SPLITS[2], SPLITS[1]
    splits = pd.Series(assigned, index=ordered.index).reindex(index.index)
    for split in SPLITS:
        present = index.loc[splits == split, "label"].nunique()
        if present < 2:
            raise DataError(
                f"the split {split} would lack a class: add patients or try another seed than {seed}"
            )
    return splits
