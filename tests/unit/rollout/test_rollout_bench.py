"""The benchmark's own parts, and the promise of alpha on a few hundred simulated rollouts."""

import dataclasses
import json
import math

import pytest

from bench.rollout import fixed
from bench.rollout.__main__ import main
from bench.rollout.report import wilson
from bench.rollout.simulation import Truth, flagger, run

ERRORS = Truth("error rate", margin=0.05, stable=0.02, canary=0.07, expected=0.01)
ROLLOUTS = 400
LUCK = 3 * math.sqrt(0.05 * 0.95 / ROLLOUTS)


def decided(at):
    return float((at < math.inf).mean())


def test_at_the_margin_both_wrong_decisions_stay_under_alpha_after_a_hundred_looks():
    runs = run([ERRORS], rollouts=ROLLOUTS, looks=100, batch=20)
    assert decided(runs.promoted_at) <= 0.05 + LUCK
    assert decided(runs.rolled_back_at) <= 0.05 + LUCK
    # And alpha is what does it: at 0.5 both happen more often than that.
    loose = run([ERRORS], rollouts=ROLLOUTS, looks=100, batch=20, alpha=0.5)
    assert min(decided(loose.promoted_at), decided(loose.rolled_back_at)) > 0.1


def test_one_bad_share_of_several_is_enough_against_a_promotion():
    sound = dataclasses.replace(ERRORS, canary=0.02)
    runs = run([sound, sound, ERRORS], rollouts=ROLLOUTS, looks=60, batch=40)
    assert decided(runs.promoted_at) <= 0.05 + LUCK
    assert decided(run([sound] * 3, rollouts=100, looks=60, batch=40).promoted_at) > 0.95


def test_a_loss_is_found_and_a_sound_canary_is_not_taken_back():
    lost = run([dataclasses.replace(ERRORS, canary=0.2)], rollouts=100, looks=60, batch=20)
    assert decided(lost.rolled_back_at) == 1
    assert decided(lost.promoted_at) == 0
    sound = run([dataclasses.replace(ERRORS, canary=0.02)], rollouts=ROLLOUTS, looks=60, batch=20)
    assert decided(sound.rolled_back_at) <= 0.05 + LUCK


def test_the_fixed_size_is_the_one_of_the_formula_and_has_its_power():
    # Margin near 0, rates 0.5 and 0.6, by hand: ((1.6449 sqrt(0.495) + 0.8416 sqrt(0.49)) / 0.1)^2 = 305.
    size = fixed.requests_needed(0.5, 0.6, 1e-9, alpha=0.05, power=0.8)
    assert size == pytest.approx(305, abs=2)
    assert fixed.power_at(0.5, 0.6, 1e-9, 0.05, size) == pytest.approx(0.8, abs=0.02)


def test_a_fixed_size_test_that_is_peeked_at_errs_far_more_often_than_its_level():
    assert fixed.wrong_when_peeked_at(0.02, 0.05, 0.05, batch=20, looks=100, tests=500) > 0.15


def test_wilson_by_hand():
    # 1 of 10: (0.1 + 0.19208 -+ 1.96 sqrt(0.009 + 0.009604)) / 1.38416
    assert wilson(1, 10) == pytest.approx((0.01788, 0.40415), abs=1e-4)


def test_flaggers_rule_counts_failed_checks():
    always = flagger(dataclasses.replace(ERRORS, canary=1.0), rollouts=3, batch=50)
    assert set(always.rolled_back_at) == {250}
    never = flagger(dataclasses.replace(ERRORS, canary=0.0), rollouts=3, batch=50)
    assert set(never.promoted_at) == {500}


def test_the_command_writes_table_numbers_and_picture(tmp_path, capsys):
    assert main(["--rollouts", "40", "--only", "no sensitivity loss", "--out", str(tmp_path)]) == 0
    assert "| no sensitivity loss, margin 10 points (promotion) | 163 | 225 |" in capsys.readouterr().out
    found = json.loads((tmp_path / "rollout.json").read_text())
    assert found["races"][0]["median"] > 0
    assert (tmp_path / "rollout.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "rollout.md").exists()
