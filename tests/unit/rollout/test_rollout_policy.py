"""A policy is read as it is written, and a wrong one is refused by the key and the value."""

from pathlib import Path

import pytest

from hounsfield.errors import ConfigError, RolloutError
from hounsfield.rollout.policy import GatePolicy, Policy, load_policy

SHIPPED = Path(__file__).parents[3] / "manifests/base/rollout/policy.yaml"


def write(tmp_path, old, new):
    text = SHIPPED.read_text()
    assert old in text
    path = tmp_path / "policy.yaml"
    path.write_text(text.replace(old, new))
    return path


def test_the_shipped_policy_loads():
    policy = load_policy(SHIPPED)
    assert policy.steps == (5, 25, 50, 100)
    assert policy.min_requests == 30
    assert policy.gate.max_auroc_decrease == 0.03


def test_the_digest_ignores_comments_and_sees_values(tmp_path):
    policy = load_policy(SHIPPED)
    assert load_policy(write(tmp_path, "# How a candidate", "# Or how a candidate")).digest == policy.digest
    assert load_policy(write(tmp_path, "min_requests: 30", "min_requests: 31")).digest != policy.digest


def test_a_policy_survives_being_written_as_json():
    policy = load_policy(SHIPPED)
    assert Policy.from_mapping(policy.as_dict()) == policy


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("min_requests: 30", "min_requests: many", "min_requests is 'many'; it must be a whole number"),
        ("min_requests: 30", "min_requests: 0", "min_requests is 0"),
        ("min_requests: 30", "min_requests: true", "min_requests is True"),
        ("min_requests: 30", "min_request: 30", "unknown key 'min_request'"),
        ("min_requests: 30", "", "key 'min_requests' is missing"),
        ("interval_s: 2", "interval_s: 0", "interval_s is 0; it must be a number above 0"),
        ("interval_s: 2", "interval_s: .nan", "interval_s is nan"),
        ("rate_increase: 0.05", "rate_increase: 5", "max_error_rate_increase is 5; .* between 0 and 1"),
        ("[5, 25, 50, 100]", "[5, 50, 25, 100]", r"steps is \[5, 50, 25, 100\]"),
        ("[5, 25, 50, 100]", "[5, 25, 50]", "end at 100"),
        ("[5, 25, 50, 100]", "100", "steps is 100; it must be a list"),
        ("min_auroc: 0.75", "min_auroc: 75", "gate: min_auroc is 75"),
        ("min_auroc: 0.75", "min_auc: 0.75", "gate: unknown key 'min_auc'"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_by_key_and_value(tmp_path, old, new, sentence):
    with pytest.raises(ConfigError, match=f"policy.yaml: .*{sentence}"):
        load_policy(write(tmp_path, old, new))


def test_a_file_that_is_no_yaml_is_refused_with_the_line(tmp_path):
    with pytest.raises(RolloutError, match=r"policy.yaml line 2: this is not YAML"):
        load_policy(write(tmp_path, SHIPPED.read_text().splitlines()[1], "steps: ]"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RolloutError, match="does not exist"):
        load_policy(tmp_path / "policy.yaml")


def test_a_gate_policy_that_is_no_mapping_is_refused():
    with pytest.raises(ConfigError, match="gate must be a mapping"):
        GatePolicy.from_mapping(None)
