import json
import math

import numpy as np
import pandas as pd
import pytest

from hounsfield.errors import DataError, TrainingError
from hounsfield.evaluation.bootstrap import intervals, resamples
from hounsfield.evaluation.calibration import (
    calibrated,
    expected_calibration_error,
    fit_temperature,
    reliability,
)
from hounsfield.evaluation.evaluate import evaluate
from hounsfield.evaluation.metrics import auprc, auroc, call_metrics
from hounsfield.evaluation.operating_point import choose_threshold, review_band
from hounsfield.evaluation.subgroups import subgroups, with_groups
from hounsfield.training.baseline import fit_baseline


def test_auroc_counts_pairs_in_order():
    # Positives 0.8 and 0.4 against negatives 0.6 and 0.2: 3 of the 4 pairs are in order.
    label, probability = np.array([1, 1, 0, 0]), np.array([0.8, 0.4, 0.6, 0.2])
    assert auroc(label, probability, np.ones(4)) == 0.75
    # Without the negative at 0.6 every pair is.
    assert auroc(label, probability, np.array([1.0, 1, 0, 1])) == 1.0
    one_class = np.array([1.0, 1, 0, 0])
    assert auroc(label, probability, one_class) is None
    assert auprc(label, probability, one_class) is None


def test_call_metrics_by_hand():
    label, called = np.array([1, 1, 1, 0, 0]), np.array([1, 1, 0, 1, 0])
    assert call_metrics(label, called, np.ones(5)) == {
        "sensitivity": pytest.approx(2 / 3),
        "specificity": 0.5,
        "ppv": pytest.approx(2 / 3),
        "npv": 0.5,
    }
    assert call_metrics(label, np.zeros(5, dtype=int), np.ones(5))["ppv"] is None


def test_bootstrap_draws_whole_patients():
    patient = np.array(["a", "a", "b", "c", "c", "c"])
    for weight in resamples(patient, 50, seed=1):
        assert weight[0] == weight[1]
        assert weight[3] == weight[4] == weight[5]
        assert weight[0] + weight[2] + weight[3] == 3  # as many draws as patients


def test_interval_holds_the_value_and_skips_draws_without_one():
    patient = np.arange(40)
    value = np.tile([0.0, 1.0], 20)

    def share(weight):
        return {"share": float(np.average(value, weights=weight)), "none": None}

    found = intervals(patient, share, seed=7)
    assert found["share"]["value"] == 0.5
    # The share of 20 in 40 has a standard error of sqrt(0.25 / 40) = 0.079.
    assert found["share"]["low"] == pytest.approx(0.5 - 1.96 * 0.079, abs=0.04)
    assert found["share"]["high"] == pytest.approx(0.5 + 1.96 * 0.079, abs=0.04)
    assert found["none"] == {"value": None, "low": None, "high": None}
    assert intervals(patient, share, seed=7) == found


def test_temperature_finds_the_factor_that_was_put_in():
    rng = np.random.default_rng(0)
    logit = rng.normal(0, 2, 20_000)
    label = (rng.random(20_000) < calibrated(logit, 1.0)).astype(int)
    assert fit_temperature(label, logit * 3.0) == pytest.approx(3.0, rel=0.05)


def test_calibration_error_by_hand():
    # One bin at 0.15 with 1 positive in 2, one at 0.95 with 2 in 2: (0.35 + 0.05) / 2.
    label, probability = np.array([0, 1, 1, 1]), np.array([0.15, 0.15, 0.95, 0.95])
    assert reliability(label, probability)["count"] == [2, 2]
    assert expected_calibration_error(label, probability, np.ones(4)) == pytest.approx(0.20)


def test_threshold_is_the_most_specific_that_keeps_the_sensitivity():
    # 20 positives at 0.50..0.69: 17 of them, down to 0.53, are 85 %; negatives lie at 0.1 and at 0.6.
    positives = np.arange(20) / 100 + 0.50
    probability = np.concatenate([positives, np.full(10, 0.1), np.full(5, 0.6)])
    label = np.concatenate([np.ones(20, dtype=int), np.zeros(15, dtype=int)])
    threshold = choose_threshold(label, probability)
    # No specificity is gained above 0.1 before the sensitivity is lost: the highest allowed is taken.
    assert 0.1 < threshold <= 0.53
    assert (positives >= threshold).mean() >= 0.85
    assert (probability[label == 0] >= threshold).sum() == 5


def test_review_band_holds_its_share_around_the_threshold():
    probability = np.linspace(0.01, 0.99, 200)
    low, high = review_band(probability, 0.5)
    assert low < 0.5 < high
    assert low == pytest.approx(1 - high)
    assert ((probability >= low) & (probability <= high)).mean() == pytest.approx(0.15, abs=0.01)


def test_small_subgroup_is_named_not_judged():
    table = with_groups(
        pd.DataFrame(
            {
                "patient_id": np.arange(50).astype(str),
                "label": [0, 1] * 25,
                "probability": [0.2, 0.8] * 25,
                "patient_sex": ["F"] * 40 + ["M"] * 9 + [None],
                "age_years": [39.9] * 49 + [40.0],
            }
        )
    )
    rows = {(row["attribute"], row["value"]): row for row in subgroups(table, 0.5, seed=7)}
    assert rows["patient_sex", "F"]["auroc"]["value"] == 1.0
    assert rows["patient_sex", "F"]["note"] == ""
    small = rows["patient_sex", "M"]
    assert (small["n"], small["n_positive"], small["auroc"]) == (9, 4, None)
    assert small["note"] == "too few images to judge: 5 negative, 4 positive; 10 of each are needed"
    assert rows["patient_sex", "unknown"]["n"] == 1
    assert rows["age_band", "0-39"]["n"] == 49
    assert rows["age_band", "40-59"]["n"] == 1
    assert rows["view_position", "unknown"]["n"] == 50


def test_evaluation_writes_numbers_that_agree_with_its_predictions(tensors, tmp_path):
    fit_baseline(tensors, tmp_path / "model")
    metrics = evaluate(tmp_path / "model", tmp_path / "model", tensors, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == metrics
    predictions = pd.read_parquet(tmp_path / "out" / "predictions.parquet")
    assert predictions["split"].value_counts().to_dict() == {"validation": 16, "test": 16}
    test = predictions[predictions["split"] == "test"]
    called = test["probability"] >= metrics["operating_point"]["threshold"]
    (tn, fp), (fn, tp) = metrics["confusion_matrix"]
    assert (tn + fp, fn + tp) == (8, 8)
    assert tp == int((called & (test["label"] == 1)).sum())
    assert metrics["sensitivity"]["value"] == tp / 8
    for name in ("ece", "brier", "ece_uncalibrated", "brier_uncalibrated"):
        assert metrics[name]["low"] < metrics[name]["high"]
    assert metrics["counts"] == {"train": 32, "validation": 16, "test": 16, "test_positive": 8}
    assert metrics["baseline"]["auroc"] == metrics["auroc"]  # it is its own baseline here
    assert metrics["baseline"]["difference"] == {"value": 0, "low": 0, "high": 0}
    assert metrics["baseline"]["beaten"] is False
    (row,) = [row for row in metrics["subgroups"] if row["attribute"] == "site"]
    assert (row["n"], row["note"]) == (16, "not recorded in this data set")
    logit = test["logit"].iloc[0]
    assert test["probability"].iloc[0] == pytest.approx(1 / (1 + math.exp(-logit / metrics["temperature"])))


def test_test_split_of_one_class_is_refused(make_tensors, tmp_path):
    tensors = make_tensors()
    index = pd.read_parquet(tensors / "index.parquet")
    fit_baseline(tensors, tmp_path / "model")
    index[(index["split"] != "test") | (index["label"] == 1)].to_parquet(tensors / "index.parquet")
    with pytest.raises(DataError, match="the test split holds one class only"):
        evaluate(tmp_path / "model", None, tensors, tmp_path / "out")


def test_what_is_chosen_does_not_see_the_test_split(make_tensors, tmp_path):
    tensors = make_tensors()
    fit_baseline(tensors, tmp_path / "model")
    honest = evaluate(tmp_path / "model", None, tensors, tmp_path / "honest")
    index = pd.read_parquet(tensors / "index.parquet")
    swapped = index["split"] == "test"
    index.loc[swapped, "label"] = 1 - index.loc[swapped, "label"]
    index.to_parquet(tensors / "index.parquet")
    upset = evaluate(tmp_path / "model", None, tensors, tmp_path / "upset")
    for name in ("operating_point", "temperature", "review_band"):
        assert upset[name] == honest[name]
    assert upset["auroc"]["value"] == pytest.approx(1 - honest["auroc"]["value"])


def test_a_model_that_is_worse_than_the_baseline_has_not_beaten_it(make_tensors, tmp_path):
    from hounsfield.training.network import build_network, save_network

    tensors = make_tensors()
    fit_baseline(tensors, tmp_path / "baseline")
    save_network(
        build_network("pixel-statistics", 3), tmp_path / "model", {"architecture": "pixel-statistics"}
    )
    found = evaluate(tmp_path / "model", tmp_path / "baseline", tensors, tmp_path / "out")["baseline"]
    assert found["difference"]["high"] < 0
    assert found["beaten"] is False


def test_pixels_and_answers_that_are_no_numbers_are_refused_and_leave_nothing(make_tensors, tmp_path):
    import torch

    from hounsfield.training.network import load_network, save_network

    tensors = make_tensors()
    fit_baseline(tensors, tmp_path / "model")
    network = load_network(tmp_path / "model")
    torch.nn.init.constant_(network.head.bias, float("nan"))
    save_network(network, tmp_path / "diverged", {"architecture": "pixel-statistics"})
    with pytest.raises(TrainingError, match="validation split with what is not a finite number"):
        evaluate(tmp_path / "diverged", None, tensors, tmp_path / "out")
    images = np.load(tensors / "shard-00000.npy")
    images[-1, 0, 3, 3] = np.nan
    np.save(tensors / "shard-00000.npy", images)
    with pytest.raises(DataError, match="1 images of the test split hold a pixel that is not a finite"):
        evaluate(tmp_path / "model", None, tensors, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("seed", range(5))
def test_weighted_ranking_metrics_equal_scikit_learn_ties_included(seed):
    from sklearn.metrics import average_precision_score, roc_auc_score

    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, 150)
    score = np.round(rng.random(150) + 0.3 * label, 1)  # one decimal: most scores are tied
    weight = rng.integers(0, 4, 150).astype(float)
    kept = weight > 0
    drawn = (label[kept], score[kept])
    assert auroc(label, score, weight) == pytest.approx(
        roc_auc_score(*drawn, sample_weight=weight[kept]), abs=1e-12
    )
    assert auprc(label, score, weight) == pytest.approx(
        average_precision_score(*drawn, sample_weight=weight[kept]), abs=1e-12
    )
