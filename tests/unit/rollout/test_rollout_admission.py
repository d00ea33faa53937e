"""Attempts to get past the gate: each is refused by a sentence, and no traffic has moved."""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hounsfield.audit.chain import ChainError
from hounsfield.errors import RolloutError
from hounsfield.rollout.controller import SystemClock, run_canary
from hounsfield.rollout.ledger import Ledger
from hounsfield.rollout.policy import Policy
from tests.passes import ADMISSION, entry

STABLE, CANARY, OTHER = "a" * 64, "b" * 64, "c" * 64
EVE = Ed25519PrivateKey.generate()
POLICY = Policy.from_mapping(
    {
        "steps": [5, 100],
        "interval_s": 1,
        "min_requests": 1,
        "guardrails": {"error_rate": {"margin": 0.2}, "latency": {"limit_s": 0.5}},
        "budgets": {"max_duration_s": 60, "failures_allowed": 1},
    }
)


class Untouched:
    """Actuator of a canary that has nothing yet, and provider: whatever moves or looks fails the test."""

    def weights(self):
        return 100, 0

    def shadow(self):
        return 0

    def first(self):
        return 0

    def revisions(self):
        return {"stable": STABLE, "canary": CANARY}

    def head(self):
        return "commit-0"

    def foreign_edit(self):
        return None

    def set_weights(self, *arguments, **named):
        raise AssertionError("traffic was moved")

    def read(self, now):
        raise AssertionError("the canary was looked at")


@pytest.fixture
def start(tmp_path):
    """Starts a rollout on a ledger with these gate records."""
    ledger = Ledger(tmp_path / "ledger.jsonl")

    def run(*entries):
        for number, each in enumerate(entries):
            ledger.record("gate", float(number), entry=each)
        untouched = Untouched()
        run_canary(POLICY, untouched, untouched, ledger, SystemClock(), admission=ADMISSION)

    run.ledger = ledger
    return run


def edited(**changes):
    """A record of a refusal that someone has turned into a pass, or of another package into one of this."""
    found = entry(OTHER, STABLE, passed=False)
    found["statement"].update(changes)
    return found


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ([], "the package bbbbbbbbbbbb has no gate record: nothing gets traffic past the gate"),
        ([entry(OTHER, STABLE)], "the gate record is of the package cccccccccccc, not of bbbbbbbbbbbb"),
        ([entry(CANARY, OTHER)], "is of the champion cccccccccccc, not of aaaaaaaaaaaa"),
        ([entry(CANARY, None)], "is of the champion none, not of aaaaaaaaaaaa"),
        ([entry(CANARY, STABLE, policy_digest="lax")], "is of the gate policy lax, not of policy"),
        ([entry(CANARY, STABLE, plan_digest="wide")], "is of the change plan wide, not of plan"),
        ([entry(CANARY, STABLE, passed=False)], "the gate has refused the package bbbbbbbbbbbb"),
        ([entry(CANARY, STABLE, passed="true")], "the gate has refused the package bbbbbbbbbbbb"),
        ([entry(CANARY, STABLE), entry(CANARY, STABLE, passed=False)], "the gate has refused"),
        ([edited(passed=True, package_digest=CANARY)], "it was edited, or is of something else"),
        ([entry(CANARY, STABLE, key=EVE)], "which is not the gate's"),
        ([{"statement": {"package_digest": CANARY, "passed": True}}], "this is no signed gate"),
        ([None], "this is no signed gate"),
    ],
)
def test_nothing_reaches_shadow_without_a_pass_of_just_this(start, entries, sentence):
    with pytest.raises(RolloutError) as caught:
        start(*entries)
    assert sentence in str(caught.value)
    assert [record["kind"] for record in start.ledger.records()] == ["gate"] * len(entries)


def test_a_pass_is_looked_for_among_the_records_of_other_packages(start):
    with pytest.raises(AssertionError, match="the canary was looked at"):  # past the gate
        start(entry(CANARY, STABLE), entry(OTHER, STABLE, passed=False))


def test_a_record_that_was_edited_in_the_ledger_breaks_the_chain(start):
    with pytest.raises(RolloutError, match="has refused"):
        start(entry(CANARY, STABLE, passed=False))
    lines = start.ledger.path.read_text().splitlines()
    line = json.loads(lines[-1])
    line["record"]["entry"]["statement"]["passed"] = True
    start.ledger.path.write_text(json.dumps(line, sort_keys=True, separators=(",", ":")) + "\n")
    with pytest.raises(ChainError, match="the record was edited"):
        start()
