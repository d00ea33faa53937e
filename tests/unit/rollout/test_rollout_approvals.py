"""Two different approvers, each by their own key, for just this package and step; all else is refused."""

import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hounsfield.errors import ConfigError, RolloutError
from hounsfield.rollout import approvals, signed
from hounsfield.rollout.policy import Policy, load_policy, policy_file

MANIFESTS = Path(__file__).parents[3] / "manifests"
PRODUCTION = MANIFESTS / "overlays/production/policy.yaml"

ADA, BO, EVE = (Ed25519PrivateKey.generate() for _ in range(3))
APPROVERS = {"Ada": signed.key_name(ADA), "Bo": signed.key_name(BO)}
DIGEST, OTHER = "a" * 64, "b" * 64
VALUES = {
    "steps": [5, 50, 100],
    "interval_s": 2,
    "min_requests": 10,
    "guardrails": {"error_rate": {"margin": 0.2}, "latency": {"limit_s": 0.5}},
    "budgets": {"max_duration_s": 60, "failures_allowed": 1},
    "approvals": {"promotion": 2, "approvers": APPROVERS},
}


def given(*entries):
    return approvals.given(entries, APPROVERS, DIGEST, "50", since=100.0)


def test_a_signature_is_that_of_rfc_8032():
    # RFC 8032, 7.1, test 1: the public key of this secret.
    secret = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    key = Ed25519PrivateKey.from_private_bytes(secret)
    assert signed.key_name(key) == "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
    entry = signed.sign("note", {"b": 1, "a": "é"}, key)
    key.public_key().verify(base64.b64decode(entry["signature"]), b'hounsfield note\n{"a":"\\u00e9","b":1}')


def test_two_approvers_are_two_and_one_who_signs_twice_is_one():
    ada, again = (approvals.approve(ADA, DIGEST, "50", at) for at in (101.0, 102.0))
    assert given(ada, again) == ("Ada",)
    assert given(ada, again, approvals.approve(BO, DIGEST, "50", 103.0)) == ("Ada", "Bo")


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        (approvals.approve(EVE, DIGEST, "50", 101.0), "is of none of the policy's approvers (Ada, Bo)"),
        (approvals.approve(ADA, OTHER, "50", 101.0), "is for the package bbbbbbbbbbbb, not for aaaaaaaaaaaa"),
        (approvals.approve(ADA, DIGEST, "5", 101.0), "is for the step 5, not for 50"),
        (approvals.approve(ADA, DIGEST, "50", 99.0), "was signed before this rollout began"),
        (signed.sign("gate", {"package_digest": DIGEST, "step": "50", "at": 101.0}, ADA), "does not hold"),
        ({"by": "Ada"}, "this is no signed approval: it needs key, signature, statement"),
        (None, "this is no signed approval"),
    ],
)
def test_each_false_approval_is_refused_by_a_sentence_and_counts_for_nothing(entry, sentence):
    with pytest.raises(RolloutError) as caught:
        approvals.approver(entry, APPROVERS, DIGEST, "50", since=100.0)
    assert sentence in str(caught.value)
    assert given(entry) == ()


def test_an_approval_that_was_edited_for_another_package_does_not_hold():
    entry = approvals.approve(ADA, OTHER, "50", 101.0)
    entry["statement"]["package_digest"] = DIGEST
    with pytest.raises(RolloutError, match="was edited, or is of something else"):
        approvals.approver(entry, APPROVERS, DIGEST, "50")
    claimed = {**approvals.approve(EVE, DIGEST, "50", 101.0), "key": APPROVERS["Ada"]}
    with pytest.raises(RolloutError, match="does not hold"):
        approvals.approver(claimed, APPROVERS, DIGEST, "50")


def test_the_step_before_all_of_the_traffic_waits_for_the_approvers_of_a_promotion():
    assert [step.approval for step in Policy.from_mapping(VALUES).steps] == [0, 2, 0]
    blue_green = Policy.from_mapping({**VALUES, "strategy": "blue_green", "steps": [100]})
    assert blue_green.shadow.approval == 2


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"approvals": {"promotion": 3, "approvers": APPROVERS}}, "promotion is 3, and .* lists 2"),
        ({"approvals": {"approvers": {**APPROVERS, "Ada B": APPROVERS["Ada"]}}}, "Ada B has the key of Ada"),
        ({"approvals": {"approvers": {"Ada": "AAAA"}}}, "the key of Ada is no Ed25519 public key"),
        ({"approvals": {}, "steps": [{"weight": 5, "approval": True}, 100]}, "waits for 1 approvers"),
        ({"steps": [100], "shadow_first": False}, "no step before 100 % could wait for them"),
    ],
)
def test_a_policy_that_could_never_or_too_easily_be_approved_is_refused(changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        Policy.from_mapping({**VALUES, **changes})


def test_productions_policy_asks_for_two_people_and_does_not_load_until_they_are_listed(tmp_path):
    shipped = PRODUCTION.read_text()
    with pytest.raises(ConfigError, match=r"policy\.yaml line \d+: approvals.promotion is 2, and .* lists 0"):
        load_policy(PRODUCTION)
    assert shipped.count("approvers: {}") == 1
    (tmp_path / "policy.yaml").write_text(
        shipped.replace("approvers: {}", f"approvers: {json.dumps(APPROVERS)}")
    )
    policy = load_policy(tmp_path / "policy.yaml")
    assert [step.approval for step in policy.steps] == [0, 0, 2, 0]
    assert policy.gate.subgroups.when_unassessable == "hold"
    assert policy_file(MANIFESTS, "production") == PRODUCTION
    laptop = load_policy(policy_file(MANIFESTS, "laptop"))
    assert (laptop.promotion_approvals, laptop.gate.subgroups.when_unassessable) == (0, "ignore")


def test_a_promotion_needs_its_signatures_whoever_asks_for_it():
    policy = Policy.from_mapping(VALUES)
    ada, bo = (approvals.approve(key, DIGEST, "50", 101.0) for key in (ADA, BO))
    approvals.require_promotion([ada, bo], policy, DIGEST, 100.0)
    for entries, sentence in (
        ([], "needs 2 different approvers, and 0 signed it"),
        ([ada, ada, approvals.approve(ADA, DIGEST, "50", 102.0)], "and 1 signed it: Ada"),
        ([ada, approvals.approve(EVE, DIGEST, "50", 102.0)], "and 1 signed it: Ada"),
        ([ada, approvals.approve(BO, OTHER, "50", 102.0)], "and 1 signed it: Ada"),
    ):
        with pytest.raises(RolloutError, match=sentence):
            approvals.require_promotion(entries, policy, DIGEST, 100.0)
    approvals.require_promotion([], Policy.from_mapping({**VALUES, "approvals": {}}), DIGEST, 100.0)


def test_a_private_key_is_its_owners_and_never_replaced(tmp_path):
    key = signed.make_key(tmp_path / "ada.key")
    assert (tmp_path / "ada.key").stat().st_mode & 0o777 == 0o600
    assert signed.key_name(signed.load_key(tmp_path / "ada.key")) == signed.key_name(key)
    with pytest.raises(ConfigError, match="exists already"):
        signed.make_key(tmp_path / "ada.key")
    (tmp_path / "no.key").write_text("no key")
    with pytest.raises(ConfigError, match="not an unencrypted Ed25519 private key"):
        signed.load_key(tmp_path / "no.key")
