"""The gate passes what is measured and met, and nothing else."""

import dataclasses
import json

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from hounsfield.errors import ConfigError
from hounsfield.evaluation.calibration import expected_calibration_error
from hounsfield.rollout.gate import Drift, Paperwork, Standing, judge, not_answered
from hounsfield.rollout.gate_policy import GapPolicy, GatePolicy
from hounsfield.rollout.measurements import Answers, Cases, measurements

POLICY = GatePolicy()
DIGEST, OTHER = "a" * 64, "b" * 64
PAPERS = Paperwork("3", DIGEST, signature=None, plan=(), drift=(Drift("score", 0.4), Drift("fields", 0.2)))

# 200 cases of as many patients, every second positive. A sound model: 90 of 100 right in each class.
N = 200
LABEL = np.arange(N) % 2
PLACE = np.arange(N) // 2  # of a case within its class, 0 to 99
SEX = np.where(PLACE % 2 == 0, "F", "M")
CASES = Cases(LABEL, np.arange(N), {"patient_sex": SEX})


def answers(wrong, **changes):
    """A model that calls the cases `wrong` (N,) falsely: probability 0.9 or 0.1 of what it calls."""
    called = (LABEL == 1) != wrong
    found = Answers(
        is_scored=np.ones(N, dtype=bool),
        probability=np.where(called, 0.9, 0.1),
        called=called,
        latency_p95_s=0.05,
        versions=("3",),
        digests=(DIGEST,),
    )
    return dataclasses.replace(found, **changes)


GOOD = answers(PLACE < 10)


def verdict(candidate=GOOD, champion=None, policy=POLICY, papers=PAPERS, cases=CASES):
    found = judge(cases, candidate, champion, policy, papers)
    json.dumps(found.as_dict(), allow_nan=False)
    return found


def the(found, name, group=""):
    (check,) = (check for check in found.checks if (check.name, check.group) == (name, group))
    return check


def test_a_good_candidate_passes_and_every_check_has_a_number_a_bound_and_a_standing():
    found = verdict(champion=answers(PLACE < 12))
    assert found.passed
    assert found.reasons == ("every check of the gate is met",)
    assert {check.name for check in found.checks} == {
        "model version", "package", "signature", "change plan", "cases scored", "positive cases scored",
        "failed requests", "refused images", "AUROC", "sensitivity", "AUROC beside the champion's",
        "sensitivity beside the champion's", "calibration error (ECE)", "Brier score", "log loss",
        "latency p95", "drift",
    }  # fmt: skip
    assert {check.standing for check in found.checks} == {Standing.PASS}
    assert (the(found, "AUROC").number, the(found, "AUROC").bound) == (pytest.approx(0.9), 0.75)


def test_attribution_stability_is_asked_beside_a_champion_and_not_known_is_no_pass():
    policy = dataclasses.replace(POLICY, min_attribution_stability=0.4)
    champion = answers(PLACE < 12)
    low, high = (dataclasses.replace(PAPERS, stability=value) for value in (0.39, 0.4))
    assert verdict(champion=champion, policy=policy, papers=high).passed
    assert verdict(champion=champion, policy=policy, papers=low).reasons == (
        "attribution stability 0.390 is below the bound of 0.4",
    )
    unknown = verdict(champion=champion, policy=policy)
    assert the(unknown, "attribution stability").standing is Standing.UNASSESSABLE
    assert not unknown.passed
    assert verdict(policy=policy).passed  # without a champion there is nothing to agree with
    assert verdict(champion=champion, papers=low).passed  # not asked


def test_the_numbers_are_those_of_scikit_learn():
    rng = np.random.default_rng(5)
    probability = np.clip(0.25 + 0.4 * LABEL + rng.normal(0, 0.2, N), 0, 1).round(2)
    found = measurements(CASES, answers(PLACE < 0, probability=probability, called=probability >= 0.5))
    assert found["auroc"] == pytest.approx(roc_auc_score(LABEL, probability), abs=1e-12)
    assert found["brier"] == pytest.approx(brier_score_loss(LABEL, probability))
    assert found["ece"] == pytest.approx(expected_calibration_error(LABEL, probability, np.ones(len(LABEL))))
    inner = np.clip(probability, 1e-6, 1 - 1e-6)
    assert found["log_loss"] == pytest.approx(log_loss(LABEL, inner), rel=1e-3)


def test_a_candidate_may_be_worse_than_the_champion_by_the_margin_and_no_more():
    # The champion misses none of 100 positives, the candidate 4: 4 lost, none won. Agresti and Min: centre
    # -4 / 102, error sqrt(5 - 16/102) / 102 = 0.02158, lower bound -0.0392 - 1.645 * 0.02158 = -0.0747.
    champion, candidate = answers(PLACE < 0), answers((PLACE < 4) & (LABEL == 1))
    check = the(verdict(candidate, champion), "sensitivity beside the champion's")
    assert check.number == pytest.approx(-0.0747, abs=1e-4)
    assert (check.standing, check.bound) == (Standing.PASS, -0.1)
    strict = dataclasses.replace(POLICY, max_sensitivity_decrease=0.07)
    found = verdict(candidate, champion, strict)
    assert not found.passed
    sentence = "sensitivity beside the champion's differs by -0.040, and a loss above 0.07 is not ruled out"
    assert any(said.startswith(sentence) for said in found.reasons)


def test_an_equal_candidate_does_not_pass_on_a_set_too_small_to_show_it():
    few = np.arange(N) < 20  # 10 positives: no loss was seen, and one of 0.1 is not ruled out
    small = answers(PLACE < 0, is_scored=few)
    lax = GatePolicy(min_cases=1, min_positives=1)
    check = the(verdict(small, small, lax), "sensitivity beside the champion's")
    assert (check.standing, check.number) == (Standing.FAIL, pytest.approx(-1.645 / 12, abs=1e-3))


def test_auroc_is_held_to_the_champions():
    found = verdict(answers(PLACE < 15), answers(PLACE < 5))
    assert the(found, "AUROC beside the champion's").standing is Standing.FAIL
    assert not found.passed


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"probability": np.full(N, 0.5)}, "AUROC 0.500 is below the bound of 0.75"),
        ({"called": np.zeros(N, dtype=bool)}, "sensitivity 0.000 is below the bound of 0.5"),
        ({"probability": np.full(N, np.nan)}, "AUROC cannot be measured"),
        ({"probability": np.full(N, np.nan)}, "Brier score cannot be measured"),
        ({"is_scored": np.zeros(N, dtype=bool)}, "AUROC cannot be measured"),
        ({"is_scored": np.zeros(N, dtype=bool)}, "sensitivity cannot be measured"),
        ({"is_scored": np.arange(N) < 29}, "cases scored 29 is below the bound of 30"),
        ({"is_scored": LABEL == 0}, "positive cases scored 0 is below the bound of 5"),
        ({"errors": 1}, "failed requests 1 is above the bound of 0"),
        ({"refusals": 2}, "refused images 2 is above the bound of 0"),
        ({"latency_p95_s": 1.5}, "latency p95 1.500 s is above the bound of 1 s"),
        ({"latency_p95_s": None}, "latency p95 cannot be measured"),
        ({"latency_p95_s": float("nan")}, "latency p95 cannot be measured"),
        ({"probability": np.where(LABEL == 1, 0.02, 0.01)}, "calibration error (ECE) 0.485 is above"),
        ({"probability": np.where(LABEL == 1, 0.02, 0.01)}, "Brier score 0.480 is above the bound of 0.2"),
        ({"probability": np.where(LABEL == 1, 0.02, 0.01)}, "log loss 1.961 is above the bound of 0.6"),
        ({"versions": ("2", "3")}, "model version 3 was to be judged, but 2, 3 answered"),
        ({"versions": ()}, "model version 3 was to be judged, but none answered"),
        ({"digests": (OTHER,)}, "package aaaaaaaaaaaa was to be judged, but bbbbbbbbbbbb answered"),
    ],
)
def test_each_check_fails_with_its_reason(changes, reason):
    found = verdict(dataclasses.replace(GOOD, **changes))
    assert not found.passed
    assert any(said.startswith(reason) for said in found.reasons), found.reasons


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"signature": "model package aaaa is not signed"}, "model package aaaa is not signed"),
        (
            {"plan": ("change-plan.yaml line 7: the architecture 'vit' is not listed",)},
            "change-plan.yaml line 7",
        ),
        ({"plan": None}, "the change plan could not be asked"),
        ({"drift": (Drift("embedding", 0.0001),)}, "embedding of the inputs has drifted from the reference"),
        ({"drift": (Drift("score", float("nan")),)}, "score of the inputs has drifted from the reference"),
        (
            {"drift": (), "no_drift": "it has no detectors"},
            "drift of the inputs is UNASSESSABLE: it has no det",
        ),
    ],
)
def test_the_package_its_changes_and_its_inputs_are_judged_too(changes, reason):
    found = verdict(papers=dataclasses.replace(PAPERS, **changes))
    assert not found.passed
    assert any(said.startswith(reason) for said in found.reasons), found.reasons


def test_the_policy_may_pass_over_a_package_without_detectors():
    papers = dataclasses.replace(PAPERS, drift=())
    assert verdict(papers=papers, policy=dataclasses.replace(POLICY, drift_when_unassessable="ignore")).passed


def gaps(**changes):
    return dataclasses.replace(POLICY, subgroups=GapPolicy({"patient_sex": ("F", "M")}, **changes))


def test_a_gap_that_is_shown_fails_whatever_the_policy_says_of_small_groups():
    # All 40 misses are of men: 50 men with 10 hits, 50 women with 50.
    uneven = answers((SEX == "M") & (LABEL == 1) & (PLACE < 80))
    found = verdict(uneven, policy=gaps(when_unassessable="ignore"))
    check = the_of_sensitivity(found, "patient_sex=M")
    assert (check.standing, check.number, check.bound) == (Standing.FAIL, 0.8, 0.15)
    assert "sensitivity of patient_sex M is +0.800 below that of the others" in check.said
    assert check.said in found.reasons


def the_of_sensitivity(found, group):
    return next(check for check in found.checks if check.group == group and "sensitivity" in check.said)


def test_a_gap_that_is_ruled_out_passes_and_one_between_is_unassessable_and_holds():
    even = verdict(answers(PLACE < 0), policy=gaps())
    assert the_of_sensitivity(even, "patient_sex=M").standing is Standing.PASS
    assert even.passed
    # 46 of 50 beside 50 of 50: 8 points. Agresti and Caffo's upper bound is .0769 + 1.645 * .0448 = 0.1506.
    between = answers((SEX == "M") & (LABEL == 1) & (PLACE < 8))
    held = verdict(between, policy=gaps())
    assert the_of_sensitivity(held, "patient_sex=M").standing is Standing.UNASSESSABLE
    assert not held.passed
    assert verdict(between, policy=gaps(when_unassessable="ignore")).passed


def test_too_few_of_a_group_or_an_attribute_that_is_not_there_is_unassessable():
    found = verdict(policy=gaps(minimum=51))
    assert the_of_sensitivity(found, "patient_sex=F").standing is Standing.UNASSESSABLE
    assert "50 cases on one side, and 51 are needed" in found.reasons[0]
    bare = verdict(policy=gaps(), cases=dataclasses.replace(CASES, groups={}))
    assert not bare.passed
    assert the_of_sensitivity(bare, "patient_sex=F").number is None


def test_what_was_not_answered_is_no_pass():
    found = not_answered("no model answers", POLICY)
    assert (found.passed, found.reasons) == (False, ("no model answers",))
    json.dumps(found.as_dict(), allow_nan=False)


def test_a_gate_policy_goes_to_the_gate_and_back_and_its_digest_covers_every_value():
    assert GatePolicy.from_mapping(gaps().as_dict()) == gaps()
    assert gaps().digest == GatePolicy.from_mapping(gaps().as_dict()).digest
    assert gaps().digest != gaps(minimum=21).digest != POLICY.digest
    assert GatePolicy.from_mapping({}).digest == POLICY.digest


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"min_auroc": 1.5}, "gate: min_auroc is 1.5; it must be a number between 0 and 1"),
        ({"confidence": 0.2}, "confidence is 0.2; it must be a number from 0.5 to below 1"),
        ({"min_cases": 0}, "min_cases is 0; it must be a whole number of at least 1"),
        ({"subgroups": {"attributes": {"shoe": ["9"]}}}, "unknown key 'subgroups.attributes.shoe'"),
        ({"subgroups": {"max_gap": 0.1}}, "key 'subgroups.attributes' is missing"),
        ({"max_brier": float("nan")}, "max_brier is nan; it must be a finite number"),
    ],
)
def test_a_gate_policy_that_errs_is_refused_by_its_key(values, sentence):
    with pytest.raises(ConfigError) as caught:
        GatePolicy.from_mapping(values)
    assert sentence in str(caught.value)
