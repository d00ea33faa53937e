"""The loop, on a clock and servers that are simulated: 60 requests a second, split by the weights."""

import dataclasses
import math
from pathlib import Path

import pytest

from hounsfield.audit import log
from hounsfield.errors import RolloutError
from hounsfield.rollout.controller import run_canary
from hounsfield.rollout.evidence import Snapshot
from hounsfield.rollout.ledger import Ledger
from hounsfield.rollout.policy import load_policy

POLICY = load_policy(Path(__file__).parents[3] / "manifests/base/rollout/policy.yaml")


class World:
    """Clock, servers and actuator in one; `error_share` of the canary's answers are errors."""

    def __init__(self, weight=0, requests_per_s=60, error_share=0.0, latency_s=0.05):
        self.time, self.stable_weight, self.canary_weight = 1000.0, 100 - weight, weight
        self.requests_per_s, self.error_share, self.latency_s = requests_per_s, error_share, latency_s
        self.served = {"stable": 0.0, "canary": 0.0}
        self.failed = {"stable": 0.0, "canary": 0.0}
        self.down, self.edit, self.commits, self.evidence = set(), None, 0, []
        self.at_sleep = {}
        self.sleeps = 0

    def now(self):
        return self.time

    def sleep(self, seconds):
        self.time += seconds
        for role, weight in (("stable", self.stable_weight), ("canary", self.canary_weight)):
            self.served[role] += seconds * self.requests_per_s * weight / 100
        self.failed["canary"] += seconds * self.requests_per_s * self.canary_weight / 100 * self.error_share
        self.sleeps += 1
        self.at_sleep.get(self.sleeps, lambda: None)()

    def read(self, now):
        def snapshot(role):
            served, failed = math.floor(self.served[role]), math.floor(self.failed[role])
            quick = served if self.latency_s <= 0.1 else 0
            latency = ((0.1, quick), (1.0, served), (math.inf, served))
            return Snapshot(now, ok=served - failed, errors=failed, latency=latency, model_versions=(role,))

        return {role: None if role in self.down else snapshot(role) for role in ("stable", "canary")}

    def weights(self):
        return self.stable_weight, self.canary_weight

    def head(self):
        return f"commit-{self.commits}"

    def set_weights(self, stable, canary, evidence):
        self.stable_weight, self.canary_weight = stable, canary
        self.commits += 1
        self.evidence.append(evidence)
        return self.head()

    def foreign_edit(self):
        return self.edit


@pytest.fixture
def rollout(tmp_path):
    def run(world, policy=POLICY, on_event=lambda event: None):
        return run_canary(policy, world, world, Ledger(tmp_path / "ledger.jsonl"), world, on_event)

    run.ledger = tmp_path / "ledger.jsonl"
    return run


def test_a_clean_canary_climbs_every_step_and_is_promoted_within_a_minute(rollout):
    world = World()
    result = rollout(world)
    assert result.outcome == "promoted"
    assert [step.weight for step in result.steps] == [5, 25, 50, 100]
    assert {step.decision for step in result.steps} == {"PROMOTE"}
    assert [step.commit for step in result.steps] == ["commit-1", "commit-2", "commit-3", "commit-4"]
    # 72 requests at 3 a second are 24 s, at 15 a second 6 s (rounded up to looks of 2 s), then 4 s and 2 s.
    assert [step.at for step in result.steps] == [1024, 1030, 1034, 1036]
    assert result.steps[0].requests == 72
    assert world.weights() == (0, 100)


def test_every_commit_says_what_led_there_and_where_the_ledger_was(rollout):
    world = World()
    rollout(world)
    assert world.evidence[0]["verdict"] is None
    assert world.evidence[1]["verdict"]["decision"] == "PROMOTE"
    assert world.evidence[1]["verdict"]["numbers"]["canary_requests"] == 72
    for evidence in world.evidence:
        log.verify(rollout.ledger, expected_head=evidence["ledger"])


def test_the_ledger_holds_the_whole_story(rollout):
    world = World()
    rollout(world)
    records = list(Ledger(rollout.ledger).records())
    kinds = [record["kind"] for record in records]
    assert kinds[0] == "rollout_started"
    assert kinds[-1] == "rollout_ended"
    assert kinds.count("weights_set") == 4
    assert records[0]["policy_digest"] == POLICY.digest
    assert records[-1]["outcome"] == "promoted"


def test_a_canary_that_fails_is_at_weight_0_after_one_look(rollout):
    world = World(error_share=1.0)
    result = rollout(world)
    assert result.outcome == "rolled_back"
    assert world.weights() == (100, 0)
    assert world.time == 1002
    assert "error rate" in result.reason
    assert world.evidence[-1]["verdict"]["decision"] == "ROLLBACK"


def test_a_canary_that_starts_failing_late_is_back_within_two_intervals(rollout):
    world = World()

    def break_it():
        world.error_share = 1.0

    world.at_sleep[13] = break_it  # in the second step, at 1026
    result = rollout(world)
    assert result.outcome == "rolled_back"
    assert [step.weight for step in result.steps] == [5, 25]
    assert world.time <= 1026 + 2 * POLICY.interval_s


def test_a_slow_canary_is_rolled_back_after_the_failures_that_are_allowed(rollout):
    world = World(latency_s=0.9)
    result = rollout(world)
    assert result.outcome == "rolled_back"
    assert result.steps[0].numbers["latency_p95_s_canary"] == pytest.approx(0.955)
    # 30 requests take 10 s; that check and the 5 after it fail, and 5 are allowed.
    assert world.time == 1020


def test_a_canary_that_cannot_be_reached_is_never_promoted(rollout):
    world = World()
    world.down = {"canary"}
    result = rollout(world)
    assert result.outcome == "rolled_back"
    assert world.commits == 2


def test_a_stable_source_that_is_down_holds_until_the_longest_time(rollout):
    world = World()
    world.down = {"stable"}
    result = rollout(world)
    assert result.outcome == "rolled_back"
    assert "the policy allows 300 s" in result.reason
    assert [step.weight for step in result.steps] == [5]


def test_a_source_that_comes_back_starts_its_window_anew(rollout):
    world = World()
    world.at_sleep[2] = lambda: world.down.add("canary")
    world.at_sleep[3] = lambda: world.down.clear()
    result = rollout(world)
    assert result.outcome == "promoted"


def test_a_restarted_canary_must_earn_its_step_again(rollout):
    world = World()

    def restart():
        world.served["canary"] = 0.0

    world.at_sleep[11] = restart  # 2 s before the step would have passed
    result = rollout(world)
    assert result.outcome == "promoted"
    assert result.steps[0].at == 1022 + 24


def test_no_traffic_ends_in_no_promotion(rollout):
    result = rollout(World(requests_per_s=0))
    assert result.outcome == "rolled_back"
    assert result.steps[0].requests == 0


def test_a_persons_edit_wins(rollout):
    world = World()

    def edit():
        world.edit = "someone committed 0123456789 to the tree"

    world.at_sleep[14] = edit
    result = rollout(world)
    assert result.outcome == "held"
    assert result.reason == world.edit
    assert world.weights() == (75, 25)
    assert next(reversed(list(Ledger(rollout.ledger).records())))["outcome"] == "held"


def test_a_rollout_goes_on_from_the_weight_of_the_tree(rollout):
    world = World(weight=50)
    world.served["stable"] = 500.0
    result = rollout(world)
    assert [step.weight for step in result.steps] == [50, 100]
    assert result.steps[0].commit == "commit-0"
    assert world.commits == 1


def test_a_rollout_that_was_stopped_at_the_last_step_compares_with_stables_whole_life(rollout):
    world = World(weight=100)
    world.served["stable"] = 500.0
    result = rollout(world)
    assert result.outcome == "promoted"
    assert result.steps[0].numbers["stable_requests"] == 500


def test_a_weight_that_is_no_step_is_refused(rollout):
    with pytest.raises(RolloutError, match="the canary has 10 % of the requests"):
        rollout(World(weight=10))


def test_what_happens_is_told(rollout):
    events = []
    rollout(World(), on_event=events.append)
    assert events[0].kind == "rollout_started"
    assert [event.weight for event in events if event.kind == "weights_set"] == [5, 25, 50, 100]
    assert events[2].message.startswith("HOLD: 6 of the 30 requests")
    assert events[-1].message.startswith("promoted")


def test_a_killed_controller_goes_on_where_it_was(rollout):
    world = World()

    def kill():
        raise KeyboardInterrupt

    world.at_sleep[14] = kill
    with pytest.raises(KeyboardInterrupt):
        rollout(world)
    assert world.weights() == (75, 25)
    result = rollout(world)
    assert result.outcome == "promoted"
    assert world.commits == 4
    assert log.verify(rollout.ledger).count > 0


def test_a_result_can_be_written_as_json(rollout):
    import json

    values = json.loads(json.dumps(rollout(World()).as_dict(), allow_nan=False))
    assert values["steps"][3]["weight"] == 100
    assert dataclasses.is_dataclass(POLICY)
