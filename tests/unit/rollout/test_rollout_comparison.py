"""The comparisons of the gate against statsmodels, hand-worked numbers and a bootstrap by patient."""

import numpy as np
import pytest
from statsmodels.stats.proportion import confint_proportions_2indep

from hounsfield.evaluation.bootstrap import resamples
from hounsfield.evaluation.metrics import auroc
from hounsfield.rollout.comparison import auroc_difference, paired_share_difference, share_difference


def test_two_areas_are_compared_as_delong_does_when_each_patient_has_one_image():
    # Positives score 3, 1 and negatives 2, 0 in one model; 3, 2 and 1, 0 in the other.
    # Placements: V10 = (1, .5) and (1, 1), V01 = (.5, 1) and (1, 1); areas .75 and 1, the difference -.25.
    # Differences of placements less -.25: (.25, -.25) twice. Each variance .125, over 2 images .0625 each.
    label, score, other = [1, 1, 0, 0], [3, 1, 2, 0], [3, 2, 1, 0]
    found = auroc_difference(label, score, other, np.arange(4))
    assert found.value == -0.25
    assert found.error == pytest.approx(np.sqrt(0.0625 + 0.0625))
    assert found.low(0.95) == pytest.approx(-0.25 - 1.644854 * np.sqrt(0.125), abs=1e-6)


def test_areas_of_patients_with_several_images_agree_with_a_bootstrap_by_patient():
    rng = np.random.default_rng(3)
    patient = np.repeat(np.arange(150), rng.integers(1, 5, 150))
    shared = rng.normal(size=150)[patient]  # what all images of a patient have in common
    label = (rng.random(len(patient)) < 0.4).astype(int)
    score = 1.2 * label + shared + rng.normal(size=len(patient))
    other = 0.9 * label + 0.3 * shared + rng.normal(size=len(patient))
    drawn = [
        auroc(label, score, weight) - auroc(label, other, weight) for weight in resamples(patient, 1000, 1)
    ]
    found = auroc_difference(label, score, other, patient)
    assert found.value == pytest.approx(
        auroc(label, score, np.ones(len(label))) - auroc(label, other, 1.0 + 0 * label)
    )
    assert found.error == pytest.approx(np.std(drawn), rel=0.1)


def test_paired_shares_are_agresti_and_mins():
    # 91 images: one model alone is right on 2, the other alone on 7. With half an observation in each cell
    # n = 93, the centre is -5/93, and the variance ((2 + 7 + 1) - 25/93) / 93^2.
    hit = np.array([True] * 2 + [False] * 7 + [True] * 82)
    other = np.array([False] * 2 + [True] * 7 + [True] * 82)
    found = paired_share_difference(hit, other, np.arange(91))
    assert found.value == pytest.approx(-5 / 91)
    assert found.centre == pytest.approx(-5 / 93)
    assert found.error == pytest.approx(np.sqrt((10 - 25 / 93) / 93**2))


def test_two_models_that_never_differ_are_not_certain_to_be_the_same():
    hit = np.ones(20, dtype=bool)
    assert paired_share_difference(hit, hit, np.arange(20)).low(0.95) == pytest.approx(
        -1.644854 / 22, abs=1e-6
    )


def test_images_of_one_patient_count_as_one_when_they_fail_together():
    hit, other = np.repeat([True, False], 20), np.repeat([True, True], 20)
    alone = paired_share_difference(hit, other, np.arange(40))
    together = paired_share_difference(hit, other, np.arange(40) // 20)
    assert together.value == alone.value
    assert together.error > 3 * alone.error


def test_shares_of_a_group_and_the_others_are_agresti_and_caffos():
    hit = np.array([True] * 24 + [False] * 9 + [True] * 54 + [False] * 4)
    is_member = np.arange(91) < 33
    found = share_difference(hit, is_member, np.arange(91))
    low, high = confint_proportions_2indep(54, 58, 24, 33, method="agresti-caffo", compare="diff", alpha=0.1)
    assert (found.low(0.95), found.high(0.95)) == (pytest.approx(low), pytest.approx(high))
    assert found.value == pytest.approx(54 / 58 - 24 / 33)


def test_what_cannot_be_compared_is_none():
    assert auroc_difference([1, 1], [0.1, 0.2], [0.1, 0.2], np.arange(2)) is None
    assert auroc_difference([1, 0, 0], [0.1, 0.2, 0.3], [0.1, 0.2, 0.3], np.arange(3)) is None
    assert paired_share_difference(np.array([]), np.array([]), np.array([])) is None
    assert share_difference(np.array([True]), np.array([True]), np.array([0])) is None
