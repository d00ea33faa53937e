"""A tree that a person edits by hand gives no request to a canary that the gate has not passed."""

from pathlib import Path

import pytest

from hounsfield.config import Home
from hounsfield.errors import RolloutError
from hounsfield.laptop.admitted import admission, check_admitted, read_rules
from hounsfield.laptop.processes import GATE_KEY
from hounsfield.rollout import manifest, repository, seed, signed
from hounsfield.rollout.ledger import Ledger
from tests.passes import entry

MANIFESTS = Path(__file__).parents[3] / "manifests"
STABLE, CANARY = "a" * 64, "b" * 64


@pytest.fixture
def home(tmp_path):
    home = Home.at(tmp_path)
    seed.seed_tree(MANIFESTS, home.tree)
    for role, digest in (("stable", STABLE), ("canary", CANARY)):
        revision = {"storage_uri": "file:///x", "model_version": "1", "package_digest": digest}
        manifest.set_revision(home.tree, role, **revision)
        repository.commit(home.tree, f"{role} serves", {"role": role, "package_digest": digest})
    return home


def record_pass(home, **changes):
    rules = admission(home, *read_rules(home))
    values = {"policy_digest": rules.policy_digest, "plan_digest": rules.plan_digest, **changes}
    key = signed.load_key(home.keys / GATE_KEY)
    Ledger(home.ledger).record("gate", 0.0, entry=entry(CANARY, STABLE, key=key, **values))


@pytest.mark.parametrize(("canary", "shadow"), [(5, 0), (0, 100)])
def test_a_canary_with_traffic_needs_a_pass(home, canary, shadow):
    check_admitted(home)  # it has none yet
    manifest.set_weights(home.tree, 100 - canary, canary, shadow)
    with pytest.raises(RolloutError, match="bbbbbbbbbbbb has no gate record: nothing gets traffic past the"):
        check_admitted(home)
    record_pass(home, passed=False)
    with pytest.raises(RolloutError, match="the gate has refused the package bbbbbbbbbbbb"):
        check_admitted(home)
    record_pass(home)
    check_admitted(home)


def test_a_pass_is_void_once_the_policy_or_the_plan_is_changed(home):
    record_pass(home)
    manifest.set_weights(home.tree, 95, 5)
    check_admitted(home)
    policy = home.tree / "base/rollout/policy.yaml"
    policy.write_text(policy.read_text().replace("max_errors: 0", "max_errors: 9"))
    with pytest.raises(RolloutError, match="the gate record is of the gate policy"):
        check_admitted(home)


def test_a_promotion_that_is_being_finished_and_a_former_champion_need_none(home):
    manifest.set_weights(home.tree, 0, 100)
    promoted = {"storage_uri": "file:///x", "model_version": "2", "package_digest": CANARY}
    manifest.set_revision(home.tree, "stable", **promoted)
    check_admitted(home)
    repository.commit(home.tree, "Promote", {"role": "stable", "package_digest": CANARY})
    manifest.set_revision(home.tree, "canary", **{**promoted, "package_digest": STABLE})
    check_admitted(home)
    manifest.set_revision(home.tree, "canary", **{**promoted, "package_digest": "c" * 64})
    with pytest.raises(RolloutError, match="no gate record"):
        check_admitted(home)
