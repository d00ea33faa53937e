import hashlib

import numpy as np
import pandas as pd
import pytest

from hounsfield.data.split import assign_splits
from hounsfield.errors import DataError


def index(patients=60, salt=""):
    rng = np.random.default_rng(0)
    rows = []
    for patient in range(patients):
        for image in range(int(rng.integers(1, 5))):
            sha = hashlib.sha256(f"{patient}/{image}".encode()).hexdigest()
            pseudonym = hashlib.sha256(f"{salt}{patient}".encode()).hexdigest()
            rows.append({"patient_id": pseudonym, "label": int(patient % 3 == 0), "sha256": sha})
    return pd.DataFrame(rows)


def test_no_patient_crosses_a_split_and_classes_are_in_proportion():
    table = index()
    splits = assign_splits(table, seed=7)
    assert table.assign(split=splits).groupby("patient_id")["split"].nunique().max() == 1
    shares = splits.value_counts(normalize=True)
    assert shares["train"] == pytest.approx(0.6, abs=0.06)
    assert shares["validation"] == pytest.approx(0.2, abs=0.05)
    assert shares["test"] == pytest.approx(0.2, abs=0.05)
    positives = table["label"].groupby(splits).mean()
    assert positives.max() - positives.min() < 0.08


def test_neither_order_nor_pseudonyms_change_the_split():
    table, renamed = index(), index(salt="another key")
    first = dict(zip(table["sha256"], assign_splits(table, seed=7), strict=True))
    mixed = renamed.sample(frac=1, random_state=1)
    assert dict(zip(mixed["sha256"], assign_splits(mixed, seed=7), strict=True)) == first


def test_the_seed_changes_the_split():
    table = index()
    assert (assign_splits(table, seed=7) != assign_splits(table, seed=8)).any()


def test_one_class_only_is_refused():
    with pytest.raises(DataError, match="have the label positive: training needs both classes"):
        assign_splits(index().assign(label=1), seed=7)


def test_too_few_patients_of_a_class_are_refused():
    table = index(patients=12)
    with pytest.raises(DataError, match=r"8 patients with negative and 4 with positive labels: at least 5"):
        assign_splits(table, seed=7)
