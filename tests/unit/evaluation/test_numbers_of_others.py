"""The evaluation's numbers beside published ones and those of statsmodels, torchmetrics and fairlearn."""

import numpy as np
import pandas as pd
import pytest

from hounsfield.evaluation.bootstrap import intervals
from hounsfield.evaluation.calibration import (
    brier,
    calibrated,
    expected_calibration_error,
    fit_temperature,
)
from hounsfield.evaluation.decision_curve import advantage, decision_curve, net_benefit
from hounsfield.evaluation.metrics import auroc, call_metrics
from hounsfield.evaluation.subgroups import METRICS, largest_gaps, subgroups, with_groups


def counted(*groups):
    """Arrays (N,) from (count, value, ...) groups."""
    return [np.repeat(column, [group[0] for group in groups]) for column in zip(*groups, strict=True)][1:]


@pytest.fixture(scope="module")
def rated():
    """109 CT images that a reader rated from 1 to 5 (Hanley and McNeil, Radiology 143:29, 1982)."""
    normal, abnormal = (33, 6, 6, 11, 2), (3, 2, 2, 11, 33)
    return counted(
        *((count, 0, rating) for rating, count in enumerate(normal, start=1)),
        *((count, 1, rating) for rating, count in enumerate(abnormal, start=1)),
    )


def test_auroc_of_hanley_and_mcneil(rated):
    # Published: an area of 0.893 with a standard error of 0.032.
    label, rating = rated
    found = intervals(
        np.arange(len(label)), lambda weight: {"auroc": auroc(label, rating, weight)}, seed=7, count=2000
    )["auroc"]
    assert found["value"] == pytest.approx(0.893, abs=0.0005)
    assert (found["high"] - found["low"]) / (2 * 1.96) == pytest.approx(0.032, abs=0.003)


@pytest.fixture(scope="module")
def liver_scans():
    """344 liver scans against pathology (Altman and Bland, BMJ 308:1552 and 309:102, 1994)."""
    return counted((231, 1, 1), (27, 1, 0), (32, 0, 1), (54, 0, 0))


def test_calls_of_altman_and_bland(liver_scans):
    found = call_metrics(*liver_scans, np.ones(344))
    assert {name: round(value, 2) for name, value in found.items()} == {
        "sensitivity": 0.90,
        "specificity": 0.63,
        "ppv": 0.88,
        "npv": 0.67,
    }


def test_intervals_of_proportions_are_wilsons_where_a_patient_has_one_image(liver_scans):
    from statsmodels.stats.proportion import proportion_confint

    label, called = liver_scans
    found = intervals(np.arange(344), lambda weight: call_metrics(label, called, weight), seed=7, count=2000)
    of = {"sensitivity": (231, 258), "specificity": (54, 86), "ppv": (231, 263), "npv": (54, 81)}
    for name, (hits, cases) in of.items():
        low, high = proportion_confint(hits, cases, method="wilson")
        assert found[name]["low"] == pytest.approx(low, abs=0.02)
        assert found[name]["high"] == pytest.approx(high, abs=0.02)


def test_intervals_by_patient_have_the_cluster_robust_width_and_not_that_of_images():
    import statsmodels.api as sm

    rng = np.random.default_rng(3)
    patient = np.repeat(np.arange(60), 5)
    share = np.clip(rng.normal(0.7, 0.25, 60), 0, 1)
    right = (rng.random(300) < share[patient]).astype(float)  # the images of a patient are alike
    found = intervals(patient, lambda w: {"right": float(np.average(right, weights=w))}, 7, 2000)["right"]
    plain = sm.OLS(right, np.ones(300)).fit()
    robust = sm.OLS(right, np.ones(300)).fit(cov_type="cluster", cov_kwds={"groups": patient})
    width = (found["high"] - found["low"]) / (2 * 1.96)
    assert width == pytest.approx(float(robust.bse[0]), rel=0.08)
    assert width > 1.3 * float(plain.bse[0])


def test_temperature_is_the_reciprocal_of_the_slope_of_a_logistic_regression():
    import statsmodels.api as sm

    rng = np.random.default_rng(1)
    logit = rng.normal(0, 3, 500)
    label = (rng.random(500) < calibrated(logit, 1.7)).astype(int)
    slope = sm.Logit(label, logit).fit(disp=False).params[0]
    assert fit_temperature(label, logit) == pytest.approx(1 / slope, rel=1e-4)


def test_calibration_error_is_that_of_torchmetrics():
    import torch
    from torchmetrics.functional.classification import binary_calibration_error

    rng = np.random.default_rng(2)
    probability = rng.random(400)
    label = (rng.random(400) < probability**2).astype(int)
    weight = rng.integers(0, 3, 400)  # how often a bootstrap draws each
    for times in (np.ones(400, dtype=int), weight):
        drawn = torch.tensor(probability.repeat(times)), torch.tensor(label.repeat(times))
        theirs = binary_calibration_error(*drawn, n_bins=10, norm="l1")
        assert expected_calibration_error(label, probability, times) == pytest.approx(float(theirs), abs=1e-6)


def test_brier_score_by_hand():
    # Squares of 0.1, 0.4, 0.2 and 0.7, in the mean: (0.01 + 0.16 + 0.04 + 0.49) / 4.
    label, probability = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.8, 0.3])
    assert brier(label, probability, np.ones(4)) == pytest.approx(0.175)
    # The first twice, the third not at all: (0.01 + 0.01 + 0.16 + 0.49) / 4.
    assert brier(label, probability, np.array([2.0, 1, 0, 1])) == pytest.approx(0.1675)


def test_net_benefit_by_hand():
    # 10 of 40 have the finding. At 0.2 a false positive costs a quarter of a true one's worth. 8 true and 6
    # false positives: (8 - 6 / 4) / 40; everybody: (10 - 30 / 4) / 40.
    label, called = counted((8, 1, 1), (2, 1, 0), (6, 0, 1), (24, 0, 0))
    assert net_benefit(label, called, np.ones(40), 0.2) == (pytest.approx(0.1625), pytest.approx(0.0625))
    assert advantage(label, called, np.ones(40), 0.2) == pytest.approx(0.1)
    # At 0.5 calling everybody is worse than calling nobody: (10 - 30) / 40; the model has (8 - 6) / 40.
    assert advantage(label, called, np.ones(40), 0.5) == pytest.approx(0.05)
    curve = decision_curve(label, called * 0.45 + 0.05)
    at = curve["threshold"].index(0.2)
    assert (curve["model"][at], curve["all"][at]) == (pytest.approx(0.1625), pytest.approx(0.0625))
    # Below every probability all are called; above every one nobody is.
    assert curve["model"][0] == curve["all"][0]
    assert curve["model"][-1] == 0


@pytest.fixture(scope="module")
def table():
    """600 images of 300 patients, of two machines, one of which the model cannot read."""
    rng = np.random.default_rng(5)
    label = rng.integers(0, 2, 600)
    machine = np.where(np.arange(600) % 3 == 0, "Bo", "Ada")
    signal = np.where(machine == "Ada", 1.6 * (label - 0.5), 0.0)
    columns = {
        "patient_id": np.arange(600) // 2,
        "label": label,
        "probability": calibrated(signal + rng.normal(0, 1, 600), 1.0),
        "manufacturer": machine,
        "patient_sex": ["F"] * 596 + ["O"] * 4,
        "site": [""] * 600,
    }
    return with_groups(pd.DataFrame(columns))


def test_gaps_are_those_of_fairlearn_and_their_intervals_tell_the_unread_machine(table):
    from fairlearn.metrics import MetricFrame
    from sklearn.metrics import recall_score, roc_auc_score

    rows = {(row["attribute"], row["value"]): row for row in subgroups(table, 0.5, seed=7)}
    columns = {"y_true": table["label"], "sensitive_features": table["manufacturer"]}
    ranked = MetricFrame(metrics=roc_auc_score, y_pred=table["probability"], **columns)
    called = MetricFrame(metrics=recall_score, y_pred=table["probability"] >= 0.5, **columns)
    for machine in ("Ada", "Bo"):
        row = rows["manufacturer", machine]
        assert row["auroc"]["value"] == pytest.approx(ranked.by_group[machine])
        assert row["gap"]["auroc"]["value"] == pytest.approx(ranked.by_group[machine] - ranked.overall)
        assert row["gap"]["sensitivity"]["value"] == pytest.approx(called.by_group[machine] - called.overall)
    assert rows["manufacturer", "Bo"]["gap"]["auroc"]["high"] < 0 < 0.7 < ranked.by_group["Ada"]
    assert rows["manufacturer", "Bo"]["auroc"]["low"] < 0.5 < rows["manufacturer", "Bo"]["auroc"]["high"]
    (gap,) = largest_gaps(list(rows.values()), table, 0.5)
    assert (gap["attribute"], gap["groups"]) == ("manufacturer", ["Ada", "Bo"])
    assert gap["auroc"] == pytest.approx(ranked.difference())
    assert gap["sensitivity"] == pytest.approx(called.difference())
    assert set(gap) == {"attribute", "groups", *METRICS}


def test_a_group_of_all_images_has_no_gap_and_what_is_not_recorded_is_said_so(table):
    rows = {(row["attribute"], row["value"]): row for row in subgroups(table, 0.5, seed=7)}
    assert rows["site", "unknown"]["note"] == "not recorded in this data set"
    assert rows["site", "unknown"]["auroc"] is None
    assert rows["patient_sex", "O"]["note"].startswith("too few images to judge: ")
    alone = {**rows["patient_sex", "F"]["gap"]["auroc"]}
    assert abs(alone["value"]) < 0.01
    assert [row["attribute"] for row in largest_gaps(list(rows.values()), table, 0.5)] == ["manufacturer"]
