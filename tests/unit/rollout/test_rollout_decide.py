"""The decision: proof before promotion, evidence before rollback, no promotion on what is not known."""

import copy
import json
import math

import pytest

from hounsfield.rollout import decide
from hounsfield.rollout.decide import Decision, Standing
from hounsfield.rollout.evidence import Observation
from hounsfield.rollout.guardrails import contrasts
from hounsfield.rollout.policy import Policy

VALUES = {
    "shadow_first": False,
    "steps": [5, 50, 100],
    "interval_s": 2,
    "min_requests": 30,
    "guardrails": {
        "error_rate": {"margin": 0.05},
        "refusal_rate": {"margin": 0.05},
        "review_share": {"margin": 0.25},
        "latency": {"limit_s": 0.5, "quantile": 0.95},
    },
    "budgets": {"max_duration_s": 300, "failures_allowed": 3},
}


def policy(**changes):
    values = copy.deepcopy(VALUES)
    for key, value in changes.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) and key in values else value
    return Policy.from_mapping(values)


POLICY = policy()


def did(n, errors=0, refused=0, reviewed=0.2, slow=0, **more):
    """The counters of a revision that had `n` requests."""
    ok = n - errors - refused
    return {
        "ok": ok, "error": errors, "refused": refused, "review": round(ok * reviewed),
        "latency": n, "latency<=0.5": n - slow, **more,
    }  # fmt: skip


def look(canary, stable=None, at=2.0, weight=5, **more):
    stable = did(19 * 6) if stable is None else stable
    return Observation(at, 2.0, weight, stable, canary, **more)


def walk(observations, policy=POLICY, started_at=0.0):
    return list(decide.replay(policy, started_at, observations))


def looks(canary, count, stable=None, weight=5, policy=POLICY, **more):
    return walk([look(canary, stable, 2.0 * (n + 1), weight, **more) for n in range(count)], policy)


def first(verdicts, decision):
    return next(n for n, verdict in enumerate(verdicts, start=1) if verdict.decision is decision)


def test_a_clean_canary_is_promoted_after_78_requests():
    # Six a look at 5 %. 59 would do if no error were certain: 0.95^59 = 1/20.6; the rest is the price of
    # betting on rates that are a little above it, too.
    verdicts = looks(did(6), 20)
    assert first(verdicts, Decision.PROMOTE) == 13
    promoted = verdicts[12]
    assert all(finding.standing is Standing.PROVEN for finding in promoted.findings)
    assert all(finding.proof >= math.log(20) for finding in promoted.findings)
    assert promoted.numbers["proof_wanted"] == pytest.approx(math.log(20))
    assert not any(verdict.breaches for verdict in verdicts)


def test_what_is_not_proven_is_said_with_its_numbers():
    verdict = looks(did(6), 3)[-1]
    assert verdict.decision is Decision.HOLD
    assert verdict.reasons[0] == "18 of the 30 requests that a step needs"
    assert verdict.reasons[1].startswith("error rate 0 of 18 against 0 of 342 is not proven within 5.0% yet")


def test_a_few_requests_are_never_enough_even_with_a_wide_margin():
    wide = {name: {"margin": 0.9} for name in ("error_rate", "refusal_rate", "review_share")}
    wide["latency"] = {"limit_s": 0.5, "quantile": 0.1}
    assert looks(did(29), 1, policy=policy(guardrails=wide))[-1].decision is Decision.HOLD
    assert looks(did(30), 1, policy=policy(guardrails=wide))[-1].decision is Decision.PROMOTE


def test_a_canary_that_fails_is_rolled_back_at_the_first_look():
    verdict = looks(did(6, errors=6), 1)[-1]
    assert verdict.decision is Decision.ROLLBACK
    assert verdict.reasons[0].startswith("error rate 6 of 6 against 0 of 114 is beyond the margin of 5.0%")


@pytest.mark.parametrize("kind", ["errors", "refused", "slow"])
def test_a_canary_that_starts_failing_late_is_back_within_two_looks(kind):
    good = [look(did(30), did(30), 2.0 * n, 50) for n in range(1, 100)]
    bad = [look(did(30, **{kind: 30}), did(30), 2.0 * n, 50) for n in range(100, 102)]
    verdicts = walk(good + bad)
    assert Decision.ROLLBACK not in [verdict.decision for verdict in verdicts[:99]]
    assert verdicts[-1].decision is Decision.ROLLBACK


def test_a_canary_that_fails_where_stable_gets_nothing_is_rolled_back():
    good = [look(did(60), did(60), 2.0 * n, 50) for n in range(1, 5)]
    last = [look(did(120), did(0), 10.0, 100), look(did(120, errors=60), did(0), 12.0, 100)]
    verdicts = walk(good + last)
    assert verdicts[-2].decision is Decision.PROMOTE
    assert verdicts[-1].decision is Decision.ROLLBACK


def test_refusals_reviews_and_slowness_roll_back_too():
    for canary in (did(30, refused=20), did(30, reviewed=0.9), did(30, slow=20)):
        assert looks(canary, 3)[-1].decision is Decision.ROLLBACK


def test_errors_that_the_stable_revision_makes_too_are_not_held_against_the_canary():
    verdicts = looks(did(20, errors=2), 40, stable=did(380, errors=38))
    assert Decision.ROLLBACK not in [verdict.decision for verdict in verdicts]
    assert Decision.PROMOTE in [verdict.decision for verdict in verdicts]


def test_what_was_proven_is_not_enough_for_a_canary_beyond_its_margin_since():
    good = [look(did(30), did(30), 2.0 * n, 50) for n in range(1, 4)]
    worse = look(did(30, errors=9), did(30), 8.0, 50)
    before, after = walk([*good, worse])[-2:]
    assert before.decision is Decision.PROMOTE
    assert after.decision is not Decision.PROMOTE
    assert after.breaches == ("error rate",)


@pytest.mark.parametrize(
    ("stable", "canary"),
    [
        (did(190), None),
        (None, did(190)),
        ({}, did(190)),
        (did(190), {}),
        (did(190), did(0)),
        (did(0), did(190)),
        (did(190), {key: n for key, n in did(190).items() if not key.startswith("latency")}),
        (did(190), {key: n for key, n in did(190).items() if key != "latency<=0.5"}),
        (did(190), {**did(190), "error": 10**6, "ok": -(10**6)}),
        (did(190, refused=190), did(190, refused=190)),
    ],
    ids=[
        "no canary", "no stable", "no comparison", "silent canary", "no requests", "silent stable",
        "no latency", "another histogram", "nonsense", "all refused",
    ],
)  # fmt: skip
def test_what_is_not_known_is_never_promoted(stable, canary):
    observations = [Observation(2.0 * n, 2.0, 5, stable, canary) for n in range(1, 50)]
    verdicts = walk(observations)
    assert {verdict.decision for verdict in verdicts} == {Decision.HOLD}
    assert all(verdict.reasons for verdict in verdicts)


def test_a_proven_canary_holds_while_its_source_is_down_or_silent_or_restarted():
    good = [look(did(60), did(60), 2.0 * n, 50) for n in range(1, 4)]
    down = Observation(8.0, 2.0, 50, None, None, trouble=("canary does not give its metrics",))
    assert walk([*good, down])[-1].reasons == ("canary does not give its metrics",)
    silent = look(did(0), did(60), 8.0, 50)
    assert walk([*good, silent])[-1].reasons == ("the canary answered nothing since the last look",)
    restarted = look(did(60), did(60), 8.0, 50, restarted=("canary",))
    assert walk([*good, restarted])[-1].reasons == ("canary was restarted",)
    assert walk([*good, look(did(60), did(60), 8.0, 50)])[-1].decision is Decision.PROMOTE


def test_what_was_proven_is_not_enough_when_the_last_look_alone_speaks_against_it():
    good = [look(did(30), did(30), 2.0 * n, 50) for n in range(1, 30)]
    verdict = walk([*good, look(did(20, errors=10), did(20), 60.0, 50)])[-1]
    assert verdict.decision is Decision.HOLD  # 10 errors of 890 are within 5 %
    assert not verdict.breaches
    assert verdict.reasons == ("error rate: the last look alone speaks against what was proven before",)


def test_a_canary_that_cannot_be_reached_too_often_is_rolled_back():
    down = [
        Observation(2.0 * n, 2.0, 5, None, None, trouble=("canary does not give it",)) for n in range(1, 5)
    ]
    verdicts = walk(down)
    assert [verdict.decision for verdict in verdicts] == [Decision.HOLD] * 3 + [Decision.ROLLBACK]
    # Stable's being down is no failure of the canary.
    other = [
        Observation(2.0 * n, 2.0, 5, None, None, trouble=("stable does not give it",)) for n in range(1, 50)
    ]
    assert walk(other)[-1].decision is Decision.HOLD


def test_a_rollout_beyond_its_longest_time_is_rolled_back():
    assert walk([look(did(6), at=300.0)])[-1].decision is Decision.HOLD
    verdict = walk([look(did(6), at=301.0)])[-1]
    assert verdict.decision is Decision.ROLLBACK
    assert "the policy allows 300 s" in verdict.reasons[0]


def test_a_clock_that_is_not_a_number_is_not_a_promotion():
    assert walk([look(did(6), at=math.nan)])[-1].decision is Decision.ROLLBACK


def test_a_step_that_needs_a_person_waits_for_one():
    ada = {"approvers": {"Ada": "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="}}  # RFC 8032, 7.1, test 1
    gated = policy(steps=[{"weight": 5, "approval": True}, 100], approvals=ada)
    observations = [look(did(60), did(60), 2.0 * n) for n in range(1, 5)]
    waiting = walk(observations, gated)[-1]
    assert waiting.reasons == ("a person has to approve going on from 5 %",)
    assert decide.waits_for_a_person(waiting)
    approved = look(did(60), did(60), 10.0, approved_by=("Ada",))
    assert walk([*observations, approved], gated)[-1].decision is Decision.PROMOTE


def test_labels_are_judged_once_they_are_in():
    labelled = policy(
        guardrails={"sensitivity": {"margin": 0.1, "minimum": 20, "when_unassessable": "ignore"}}
    )
    none = looks(did(60), 3, stable=did(60), policy=labelled)[-1]
    assert none.decision is Decision.PROMOTE
    assert none.findings[-2].standing is Standing.UNASSESSABLE
    few = {"positive/negative": 1, "positive/positive": 9}
    some = looks(did(60, **few), 3, stable=did(60, **few), policy=labelled)[-1]
    assert some.decision is Decision.HOLD  # 30 labels are enough to be judged, not to be proven
    misses = {"positive/negative": 8, "positive/positive": 2}
    worse = looks(did(60, **misses), 3, stable=did(60, **few), policy=labelled)[-1]
    assert worse.decision is Decision.ROLLBACK
    assert "sensitivity" in worse.reasons[0]


GROUPED = policy(
    subgroups={
        "attributes": {"patient_sex": ["F", "M"]},
        "guardrails": {"review_share": {"margin": 0.3, "minimum": 25}},
    }
)


def in_groups(n, female_reviewed, male_reviewed=0.2):
    groups = {}
    for group, reviewed in (("F", female_reviewed), ("M", male_reviewed)):
        groups |= {f"patient_sex={group}/ok": n, f"patient_sex={group}/review": round(n * reviewed)}
    return groups


def test_too_few_in_a_subgroup_are_unassessable_and_hold():
    few = did(60, **in_groups(8, 0.2))
    verdict = looks(few, 3, stable=few, policy=GROUPED)[-1]
    assert verdict.decision is Decision.HOLD
    assert [f.standing for f in verdict.findings if f.group] == [Standing.UNASSESSABLE] * 2
    assert (
        "review share of patient_sex=F is UNASSESSABLE: 6 of 24 against 6 of 24 are too few"
        in verdict.reasons
    )
    enough = did(60, **in_groups(30, 0.2))
    assert looks(enough, 3, stable=enough, policy=GROUPED)[-1].decision is Decision.PROMOTE


def test_one_bad_subgroup_of_several_rolls_back():
    stable = did(60, **in_groups(30, 0.2))
    canary = did(60, **in_groups(30, 0.9))
    verdict = looks(canary, 3, stable=stable, policy=GROUPED)[-1]
    assert verdict.decision is Decision.ROLLBACK
    assert verdict.reasons[0].startswith("review share of patient_sex=F")


def test_the_distribution_of_scores_is_compared_at_every_bound():
    shaped = policy(guardrails={"score_distribution": {"margin": 0.2}})

    def scored(n, below):
        """`below` of n scores are in the lowest bin, the rest in the highest."""
        return did(n, score=n, **{f"score<={bound / 10:g}": below for bound in range(1, 10)})

    same = looks(scored(60, 30), 10, stable=scored(60, 30), policy=shaped)
    assert Decision.PROMOTE in [verdict.decision for verdict in same]
    for below in (5, 55):  # shifted up, and down
        moved = looks(scored(60, below), 10, stable=scored(60, 30), policy=shaped)
        decisions = [verdict.decision for verdict in moved]
        assert Decision.ROLLBACK in decisions
        assert Decision.PROMOTE not in decisions


def test_agreement_is_judged_in_the_shadow():
    shadowed = policy(
        shadow_first=True, guardrails={"agreement": {"margin": 0.1, "when_unassessable": "ignore"}}
    )
    agreeing = did(60, agree=59, differ=1)
    verdicts = looks(agreeing, 5, stable=did(60), weight=0, shadow=True, policy=shadowed)
    assert verdicts[-1].decision is Decision.PROMOTE
    differing = did(60, agree=30, differ=30)
    assert (
        looks(differing, 1, stable=did(60), weight=0, shadow=True, policy=shadowed)[-1].decision
        is Decision.ROLLBACK
    )


def test_the_stakes_of_a_policy_sum_to_one():
    shaped = policy(guardrails={"score_distribution": {"margin": 0.2}}, subgroups={
        "attributes": {"patient_sex": ["F", "M"], "site": ["north"]},
        "guardrails": {"review_share": {"margin": 0.3}, "refusal_rate": {"margin": 0.1}},
    })  # fmt: skip
    found = contrasts(shaped)
    assert len(found) == 4 + 18 + 3 * 2
    assert sum(contrast.stake for contrast in found) == pytest.approx(1)


def test_a_look_in_two_halves_or_in_one_decides_alike_when_it_is_clear():
    whole = looks(did(60), 2)[-1]
    halves = looks(did(30), 4, stable=did(57))[-1]
    assert whole.decision is halves.decision is Decision.PROMOTE


def test_the_same_observations_give_the_same_bits_also_through_json():
    observations = [
        look(did(37, errors=n % 3, slow=n % 2), did(211, errors=n % 2), 2.0 * n) for n in range(1, 12)
    ]
    written = [Observation.from_dict(json.loads(json.dumps(found.as_dict()))) for found in observations]
    once, again = walk(observations), walk(written)
    assert once == again
    assert json.loads(json.dumps(once[-1].as_dict(), allow_nan=False)) == again[-1].as_dict()
