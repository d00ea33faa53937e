"""The gate passes what is measured and met, and nothing else."""

import dataclasses

import pytest

from hounsfield.rollout.gate import GateVerdict, Measurements, judge
from hounsfield.rollout.policy import GatePolicy

POLICY = GatePolicy()
GOOD = Measurements(
    cases=100,
    scored=100,
    positives=40,
    errors=0,
    refusals=0,
    auroc=0.90,
    sensitivity=0.85,
    specificity=0.80,
    latency_p95_s=0.05,
    model_versions=("3",),
)


def but(**changes):
    return dataclasses.replace(GOOD, **changes)


def test_a_good_candidate_without_a_champion_passes():
    verdict = judge(GOOD, None, POLICY)
    assert verdict.passed
    assert verdict.numbers["champion"] is None


def test_a_candidate_may_be_worse_than_the_champion_by_the_margin_and_no_more():
    champion = but(auroc=0.93)
    assert judge(GOOD, champion, POLICY).passed
    verdict = judge(but(auroc=0.899), champion, POLICY)
    assert not verdict.passed
    assert verdict.reasons == ("AUROC 0.899 is more than 0.030 below the champion's 0.930",)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"auroc": 0.74}, "AUROC 0.740 is below the floor of 0.750"),
        ({"auroc": None}, "AUROC cannot be measured"),
        ({"auroc": float("nan")}, "AUROC nan is below"),
        ({"sensitivity": 0.49}, "sensitivity 0.490 is below the floor of 0.500"),
        ({"errors": 1}, "1 requests failed; the policy allows 0"),
        ({"refusals": 2}, "2 images were refused; the policy allows 0"),
        ({"latency_p95_s": 1.5}, "latency p95 1.500 s is above 1 s"),
        ({"latency_p95_s": None}, "latency cannot be measured"),
        ({"scored": 29}, "only 29 cases were scored"),
        ({"positives": 4}, "only 4 scored cases are positive"),
        ({"model_versions": ("2", "3")}, "more than one model version answered: 2, 3"),
    ],
)
def test_each_check_fails_with_its_reason(changes, reason):
    verdict = judge(but(**changes), None, POLICY)
    assert not verdict.passed
    assert any(said.startswith(reason) for said in verdict.reasons)


def test_another_version_than_the_candidate_is_not_judged_in_its_place():
    assert judge(GOOD, None, POLICY, expected_version="3").passed
    verdict = judge(GOOD, None, POLICY, expected_version="4")
    assert verdict.reasons == ("model version 4 was to be judged, but 3 answered",)


def test_a_champion_that_cannot_be_measured_is_not_beaten():
    assert not judge(GOOD, but(auroc=None), POLICY).passed


def test_only_the_literal_true_is_read_as_passed():
    values = judge(GOOD, None, POLICY).as_dict()
    assert GateVerdict.from_dict(values).passed
    assert not GateVerdict.from_dict({**values, "passed": "false"}).passed
    assert not GateVerdict.from_dict({**values, "passed": 1}).passed
