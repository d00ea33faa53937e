"""The loop, on a clock and servers that are simulated: 60 requests a second, split by the weights."""

import copy
import json
import math
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hounsfield.audit import log
from hounsfield.errors import RolloutError
from hounsfield.rollout import approvals, signed
from hounsfield.rollout.controller import run_canary
from hounsfield.rollout.evidence import Snapshot
from hounsfield.rollout.ledger import Ledger, replay_ledger
from hounsfield.rollout.policy import Policy, load_policy
from tests.passes import admitted

SHIPPED = load_policy(Path(__file__).parents[3] / "manifests/base/rollout/policy.yaml")


def but(**changes):
    values = copy.deepcopy(SHIPPED.as_dict())
    return Policy.from_mapping({**values, **changes})


POLICY = but(shadow_first=False)


class World:
    """Clock, servers and actuator in one; `error_share` of the canary's answers are errors."""

    def __init__(self, weight=0, requests_per_s=60, error_share=0.0, latency_s=0.05):
        self.time, self.stable_weight, self.canary_weight, self.mirrored = 1000.0, 100 - weight, weight, 0
        self.requests_per_s, self.error_share, self.latency_s = requests_per_s, error_share, latency_s
        self.named = None
        self.served = {"stable": 0.0, "canary": 0.0, "shadow": 0.0, "first": 0.0}
        self.failed = dict(self.served)
        self.down, self.edit, self.commits, self.evidence, self.version = set(), None, 0, [], "2"
        self.at_sleep = {}
        self.sleeps = 0

    def now(self):
        return self.time

    def sleep(self, seconds):
        self.time += seconds
        shares = {"stable": self.stable_weight, "canary": self.canary_weight, "shadow": self.mirrored}
        shares["first"] = 20 if self.named else 0
        for role, weight in shares.items():
            requests = seconds * self.requests_per_s * weight / 100
            self.served[role] += requests
            self.failed[role] += 0 if role == "stable" else requests * self.error_share
        self.sleeps += 1
        self.at_sleep.get(self.sleeps, lambda: None)()

    def read(self, now):
        def counters(role, prefix=""):
            served, failed = math.floor(self.served[role]), math.floor(self.failed[role])
            quick = served if self.latency_s <= 0.5 else 0
            ok = served - failed
            counted = {"ok": ok, "error": failed, "refused": 0, "review": ok // 5}
            counted |= {"latency": served, "latency<=0.5": quick}
            return {prefix + name: float(value) for name, value in counted.items()}

        pages = {
            "stable": Snapshot(now, {"": counters("stable") | self.copied(counters)}, ("1",)),
            "canary": Snapshot(
                now,
                {"": counters("canary") | counters("shadow", "shadow/") | counters("first", "first/")},
                (self.version,),
            ),
        }
        return {role: None if role in self.down else page for role, page in pages.items()}

    def copied(self, counters):
        """The stable revision's answers to the copies of the first callers' requests: none failed."""
        found = counters("first", "shadow/")
        return found | {"shadow/ok": found["shadow/latency"], "shadow/error": 0.0}

    def weights(self):
        return self.stable_weight, self.canary_weight

    def shadow(self):
        return self.mirrored

    def first(self):
        return 100 if self.named else 0

    def revisions(self):
        return {"stable": "aa", "canary": "bb"}

    def head(self):
        return f"commit-{self.commits}"

    def set_weights(self, stable, canary, evidence, shadow=0, first=None):
        self.named = first
        self.stable_weight, self.canary_weight, self.mirrored = stable, canary, shadow
        self.commits += 1
        self.evidence.append(evidence)
        return self.head()

    def foreign_edit(self):
        return self.edit


@pytest.fixture
def rollout(tmp_path):
    def run(world, policy=POLICY, on_event=lambda event: None):
        ledger = Ledger(tmp_path / "ledger.jsonl")
        admission = admitted(ledger, *world.revisions().values())
        return run_canary(policy, world, world, ledger, world, on_event, admission=admission)

    run.ledger = tmp_path / "ledger.jsonl"
    return run


def test_a_clean_canary_climbs_every_step_and_is_promoted_within_a_minute(rollout):
    world = World()
    result = rollout(world)
    assert result.outcome == "promoted"
    assert [step.weight for step in result.steps] == [5, 25, 50, 100]
    assert {step.decision for step in result.steps} == {"PROMOTE"}
    assert [step.commit for step in result.steps] == ["commit-1", "commit-2", "commit-3", "commit-4"]
    # 78 requests at 3 a second are 26 s; what is proven stays so, and each step after it asks for 30:
    # 15 a second, 30 and 60, at looks of 2 s.
    assert [step.at for step in result.steps] == [1026, 1028, 1030, 1032]
    assert result.steps[0].requests == 78
    assert world.weights() == (0, 100)


def test_every_commit_says_what_led_there_and_where_the_ledger_was(rollout):
    world = World()
    rollout(world)
    assert world.evidence[0]["verdict"] is None
    assert world.evidence[1]["verdict"]["decision"] == "PROMOTE"
    assert world.evidence[1]["verdict"]["numbers"]["canary_requests"] == 78
    for evidence in world.evidence:
        log.verify(rollout.ledger, expected_head=evidence["ledger"])


def test_the_ledger_holds_the_whole_story(rollout):
    world = World()
    rollout(world)
    records = list(Ledger(rollout.ledger).records())
    kinds = [record["kind"] for record in records]
    assert kinds[:2] == ["gate", "rollout_started"]
    assert kinds[-1] == "rollout_ended"
    assert kinds.count("weights_set") == 4
    assert records[1]["policy_digest"] == POLICY.digest
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

    world.at_sleep[14] = break_it  # in the third step, at 1028
    result = rollout(world)
    assert result.outcome == "rolled_back"
    assert [step.weight for step in result.steps] == [5, 25, 50]
    assert world.time <= 1028 + 2 * POLICY.interval_s


def test_a_slow_canary_is_rolled_back(rollout):
    world = World(latency_s=0.9)
    result = rollout(world)
    assert result.outcome == "rolled_back"
    assert result.reason.startswith("latency 6 of 6 is beyond the margin of 5.0%")
    assert world.time == 1002


def test_a_canary_that_cannot_be_reached_is_given_up_after_the_failures_that_are_allowed(rollout):
    world = World()
    world.down = {"canary"}
    result = rollout(world)
    assert result.outcome == "rolled_back"
    assert "6 looks of this step found the canary unreachable" in result.reason
    assert (world.time, world.commits) == (1012, 2)


def test_a_stable_source_that_is_down_holds_until_the_longest_time(rollout):
    world = World()
    world.down = {"stable"}
    result = rollout(world)
    assert result.outcome == "rolled_back"
    assert "the policy allows 300 s" in result.reason
    assert [step.weight for step in result.steps] == [5]


def test_a_source_that_comes_back_has_lost_nothing(rollout):
    world = World()
    world.at_sleep[2] = lambda: world.down.add("canary")
    world.at_sleep[3] = lambda: world.down.clear()
    result = rollout(world)
    assert result.outcome == "promoted"
    assert result.steps[0].requests == 78


def test_a_restarted_canary_is_not_promoted_at_that_look(rollout):
    world = World()
    world.at_sleep[13] = lambda: world.served.update(canary=0.0)  # at the look that would have been enough
    result = rollout(world)
    assert result.outcome == "promoted"
    verdicts = Ledger(rollout.ledger).stories()[0].verdicts
    assert verdicts[12]["verdict"]["reasons"][0] == "canary was restarted"
    assert result.steps[0].at == 1028


def test_another_model_in_the_canarys_place_is_not_promoted_at_that_look(rollout):
    world = World()
    world.at_sleep[13] = lambda: setattr(world, "version", "3")
    rollout(world)
    verdicts = Ledger(rollout.ledger).stories()[0].verdicts
    assert verdicts[12]["verdict"]["reasons"] == ["canary answers as version 3, it was 2"]


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


def test_a_rollout_that_finds_all_traffic_at_the_canary_has_nothing_to_prove_it_with(rollout):
    world = World(weight=100)
    world.served["stable"] = 500.0
    result = rollout(world)
    assert result.outcome == "rolled_back"
    assert "the policy allows 300 s" in result.reason


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


def killed_at(world, sleep):
    """Have the controller die at its nth sleep."""

    def kill():
        world.at_sleep.clear()
        raise KeyboardInterrupt

    world.at_sleep[sleep] = kill


def test_a_killed_controller_goes_on_with_what_it_knew(rollout):
    world = World()
    killed_at(world, 8)
    with pytest.raises(KeyboardInterrupt):
        rollout(world)
    assert world.weights() == (95, 5)
    result = rollout(world)
    assert result.outcome == "promoted"
    assert world.commits == 4
    # Seven looks of 6 requests before, and as many after as 78 need: 42 + 6 * 6. The look that died is lost.
    assert [step.at for step in result.steps] == [1028, 1030, 1032, 1034]
    assert result.steps[0].requests == 78
    assert len(Ledger(rollout.ledger).stories()) == 1
    assert replay_ledger(Ledger(rollout.ledger)) == 13 + 3


def test_a_controller_killed_in_the_middle_of_a_record_goes_on(rollout):
    world = World()
    killed_at(world, 8)
    with pytest.raises(KeyboardInterrupt):
        rollout(world)
    whole = rollout.ledger.read_bytes()
    rollout.ledger.write_bytes(whole + whole.splitlines(keepends=True)[-1][:100])
    assert rollout(world).outcome == "promoted"
    assert rollout.ledger.read_bytes().startswith(whole)
    log.verify(rollout.ledger)


@pytest.mark.parametrize("decision", ["PROMOTE", "ROLLBACK"])
def test_a_verdict_that_was_recorded_and_not_carried_out_is_carried_out_once(rollout, decision):
    world = World(error_share=1.0 if decision == "ROLLBACK" else 0.0)

    def die_on(event):
        if event.verdict is not None and str(event.verdict.decision) == decision:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rollout(world, on_event=die_on)
    assert world.weights() == (95, 5)
    looks = len(Ledger(rollout.ledger).stories()[0].verdicts)
    result = rollout(world)
    verdicts = Ledger(rollout.ledger).stories()[0].verdicts
    if decision == "ROLLBACK":
        assert (result.outcome, world.weights(), len(verdicts)) == ("rolled_back", (100, 0), looks)
        assert result.reason.startswith("error rate")
    else:
        assert (result.outcome, world.commits) == ("promoted", 4)
        assert verdicts[looks]["weight"] == 25


def test_another_candidate_does_not_inherit_the_evidence(rollout):
    world = World()
    killed_at(world, 8)
    with pytest.raises(KeyboardInterrupt):
        rollout(world)
    world.revisions = lambda: {"stable": "aa", "canary": "cc"}
    result = rollout(world)
    assert result.steps[0].requests == 78
    assert len(Ledger(rollout.ledger).stories()) == 2


def test_a_shadow_comes_first_and_its_evidence_counts(rollout):
    world = World()
    result = rollout(world, but(shadow_first=True))
    assert result.outcome == "promoted"
    assert [(step.weight, step.shadow) for step in result.steps] == [
        (0, True), (5, False), (25, False), (50, False), (100, False)
    ]  # fmt: skip
    assert world.evidence[0]["weights"] == {"stable": 100, "canary": 0, "shadow": 100}
    assert world.evidence[1]["weights"] == {"stable": 95, "canary": 5, "shadow": 0}
    # 120 mirrored requests a look: 2 * 78 prove it, for they count half; then 30 requests at 3 a second.
    assert [step.at for step in result.steps[:2]] == [1004, 1014]


def test_a_candidate_that_fails_in_the_shadow_has_answered_nobody(rollout):
    world = World(error_share=1.0)
    result = rollout(world, but(shadow_first=True))
    assert result.outcome == "rolled_back"
    assert (world.weights(), world.shadow()) == ((100, 0), 0)
    assert world.served["canary"] == 0


def test_a_shadow_strategy_ends_there(rollout):
    world = World()
    result = rollout(world, but(strategy="shadow"))
    assert result.outcome == "shadowed"
    assert (world.weights(), world.shadow()) == ((100, 0), 0)


def test_blue_green_moves_all_at_once_after_the_shadow(rollout):
    world = World()
    result = rollout(world, but(strategy="blue_green", steps=[100], shadow_first=True))
    assert result.outcome == "promoted"
    assert [step.weight for step in result.steps] == [0, 100]


FIRST = {"header": "x-hounsfield-site", "values": ["north"]}


def test_a_site_goes_first_and_stays_with_the_canary_while_the_others_follow(rollout):
    world = World()
    result = rollout(world, but(strategy="header_match", first=FIRST, steps=[25, 100]))
    assert result.outcome == "promoted"
    assert [(step.weight, step.shadow, step.first) for step in result.steps] == [
        (0, True, False), (0, False, True), (25, False, False), (100, False, False)
    ]  # fmt: skip
    assert [evidence["first"] for evidence in world.evidence] == [
        None, *[{"x-hounsfield-site": ["north"]}] * 3
    ]  # fmt: skip
    looks = Ledger(rollout.ledger).stories()[0].observations
    (of_first,) = {(o.first, o.weight, o.shadow) for o in looks if o.first}
    assert of_first == (True, 0, False)
    # 12 requests a second of the site alone: the copies that stable got are what they are held against.
    assert (
        next(o for o in looks if o.first).canary["ok"] == next(o for o in looks if o.first).stable["ok"] == 24
    )
    assert replay_ledger(Ledger(rollout.ledger)) == len(looks)


def test_a_canary_that_fails_its_first_callers_is_taken_from_them_too(rollout):
    world = World()
    world.at_sleep[3] = lambda: setattr(world, "error_share", 1.0)  # passed the shadow
    result = rollout(world, but(strategy="header_match", first=FIRST))
    assert result.outcome == "rolled_back"
    assert (world.first(), world.weights()) == (0, (100, 0))
    assert world.served["canary"] == 0
    assert result.steps[-1].first


def test_a_rollout_killed_among_the_first_callers_goes_on_there(rollout):
    world, policy = World(), but(strategy="header_match", first=FIRST, steps=[100])
    killed_at(world, 3)
    with pytest.raises(KeyboardInterrupt):
        rollout(world, policy)
    assert world.first() == 100
    result = rollout(world, policy)
    assert [(step.weight, step.first) for step in result.steps] == [(0, True), (100, False)]
    assert world.commits == 3


def test_a_promotion_that_was_recorded_and_not_carried_out_needs_no_proof_again(rollout):
    world = World()
    assert rollout(world).outcome == "promoted"
    looks, commits = world.sleeps, world.commits  # the process dies before the champion is moved
    again = rollout(world)
    assert (again.outcome, again.steps, world.sleeps, world.commits) == ("promoted", (), looks, commits)
    assert len(Ledger(rollout.ledger).stories()) == 1


def test_a_shadow_strategy_that_was_killed_after_its_end_does_not_begin_again(rollout):
    world = World()
    policy = but(strategy="shadow")

    def die_on(event):
        if event.kind == "weights_set" and not world.mirrored:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rollout(world, policy, die_on)
    assert rollout(world, policy).outcome == "shadowed"
    assert world.commits == 2


def test_a_rollout_killed_in_the_shadow_goes_on_there(rollout):
    world, policy = World(requests_per_s=10), but(shadow_first=True)
    killed_at(world, 2)
    with pytest.raises(KeyboardInterrupt):
        rollout(world, policy)
    assert world.shadow() == 100
    result = rollout(world, policy)
    assert result.outcome == "promoted"
    assert [step.weight for step in result.steps] == [0, 5, 25, 50, 100]


def test_a_step_waits_for_the_person_that_the_policy_asks_for(rollout):
    world, events = World(), []
    key = Ed25519PrivateKey.generate()
    ada = {"approvers": {"Ada": signed.key_name(key)}}
    policy = but(shadow_first=False, steps=[{"weight": 5, "approval": True}, 100], approvals=ada)
    ledger = Ledger(rollout.ledger)

    def sign() -> None:
        entry = approvals.approve(key, world.revisions()["canary"], "5", world.now())
        ledger.record("approval", world.now(), by="Ada", entry=entry)

    world.at_sleep[20] = sign
    result = rollout(world, policy, events.append)
    assert result.outcome == "promoted"
    assert result.steps[0].at == 1040
    assert [event.kind for event in events].count("approval_wanted") == 1
    assert ledger.stories()[0].observations[19].approved_by == ("Ada",)


def test_the_ledger_replays_every_verdict_to_the_bit(rollout):
    world = World()

    def break_it():
        world.error_share = 0.4

    world.at_sleep[14] = break_it
    rollout(world)
    rollout(World(latency_s=0.9))
    assert replay_ledger(Ledger(rollout.ledger)) == 15 + 1


def test_a_verdict_that_does_not_follow_from_the_ledger_is_found(rollout, tmp_path):
    from hounsfield.errors import AuditError

    rollout(World())
    forged = Ledger(tmp_path / "forged.jsonl")  # its chain holds: whoever writes it can hash
    for record in Ledger(rollout.ledger).records():
        record.pop("hash")
        if record["kind"] == "verdict" and record["weight"] == 5:
            record["observation"]["canary"]["error"] = 1
        forged.record(**record)
    with pytest.raises(AuditError, match="do not follow from the observations"):
        replay_ledger(forged)


def test_a_result_can_be_written_as_json(rollout):
    values = json.loads(json.dumps(rollout(World()).as_dict(), allow_nan=False))
    assert values["steps"][3]["weight"] == 100
