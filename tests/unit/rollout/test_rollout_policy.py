"""A policy is read as it is written, and a wrong one is refused by the line, the key and the value."""

from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from hounsfield.errors import ConfigError, RolloutError
from hounsfield.rollout import guardrails, policy
from hounsfield.rollout.policy import GatePolicy, Kind, Policy, Step, load_policy
from hounsfield.serving import metrics

SHIPPED = Path(__file__).parents[3] / "manifests/base/rollout/policy.yaml"
SCHEMA = YAML(typ="safe").load(policy.SCHEMA_FILE.read_text())
WHOLE = {
    "strategy": "canary",
    "steps": [5, {"weight": 50, "approval": True, "min_requests": 99}, 100],
    "interval_s": 1,
    "min_requests": 10,
    "guardrails": {"error_rate": {"margin": 0.02}, "latency": {"limit_s": 0.5, "quantile": 0.9}},
    "subgroups": {
        "attributes": {"patient_sex": ["F", "M"], "manufacturer": ["ACME Imaging"]},
        "guardrails": {"review_share": {"margin": 0.2, "minimum": 40}},
    },
    "budgets": {"max_duration_s": 60, "failures_allowed": 1, "alpha_rollback": 0.01},
    "approvals": {"approvers": {"Ada": "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="}},
    "notifications": [{"url": "http://127.0.0.1:9/hook", "on": ["rollout_ended"]}],
}


def write(tmp_path, old, new):
    text = SHIPPED.read_text()
    assert old in text
    path = tmp_path / "policy.yaml"
    path.write_text(text.replace(old, new))
    return path


def test_the_shipped_policy_loads():
    policy = load_policy(SHIPPED)
    assert [step.weight for step in policy.steps] == [5, 25, 50, 100]
    assert {step.min_requests for step in policy.steps} == {30}
    assert policy.budgets.alpha_promotion == 0.05
    assert policy.gate.max_auroc_decrease == 0.03


def test_everything_that_a_policy_may_say_is_read():
    read = Policy.from_mapping(WHOLE)
    assert read.shadow == Step(0, 10, kind=Kind.SHADOW)
    assert read.steps == (Step(5, 10), Step(50, 99, approval=True), Step(100, 10))
    assert [guardrail.name for guardrail in read.guardrails] == ["error_rate", "latency"]
    assert read.guardrails[1].margin == 0.1
    assert read.subgroups == (("patient_sex", "F"), ("patient_sex", "M"), ("manufacturer", "ACME Imaging"))
    assert read.subgroup_guardrails[0].minimum == 40
    assert (read.budgets.alpha_promotion, read.budgets.alpha_rollback) == (0.05, 0.01)
    assert read.notifications[0].on == ("rollout_ended",)


def test_the_candidate_is_shadowed_first_unless_the_policy_says_no():
    assert Policy.from_mapping(WHOLE).shadow is not None
    assert Policy.from_mapping({**WHOLE, "shadow_first": False}).shadow is None


def test_the_published_schema_is_a_schema_and_takes_the_shipped_policy():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(YAML(typ="safe").load(SHIPPED.read_text()), SCHEMA)
    assert SCHEMA["additionalProperties"] is False


def test_schema_and_code_know_the_same_guardrails_bounds_and_defaults():
    properties = SCHEMA["properties"]
    assert set(properties["guardrails"]["properties"]) == set(policy.EXPECTED)
    assert set(properties["gate"]["properties"]) == set(GatePolicy.__dataclass_fields__)
    limits = properties["guardrails"]["properties"]["latency"]["properties"]["limit_s"]["enum"]
    assert tuple(limits) == metrics.LATENCY_BUCKETS_S
    assert metrics.SCORE_BUCKETS[:-1] == guardrails.SCORE_BOUNDS


def test_the_digest_ignores_comments_and_sees_values(tmp_path):
    policy = load_policy(SHIPPED)
    assert load_policy(write(tmp_path, "# How a candidate", "# Or how a candidate")).digest == policy.digest
    assert load_policy(write(tmp_path, "min_requests: 30", "min_requests: 31")).digest != policy.digest


def test_the_order_of_the_guardrails_in_the_file_decides_nothing():
    turned = {**WHOLE, "guardrails": dict(reversed(WHOLE["guardrails"].items()))}
    assert Policy.from_mapping(turned).guardrails == Policy.from_mapping(WHOLE).guardrails


def test_a_policy_survives_being_written_as_json():
    policy = load_policy(SHIPPED)
    again = Policy.from_mapping(policy.as_dict())
    assert again == policy
    assert again.digest == policy.digest


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("min_requests: 30", "min_requests: many", "min_requests is 'many'; it must be a whole number"),
        ("min_requests: 30", "min_requests: 0", "min_requests is 0"),
        ("min_requests: 30", "min_requests: true", "min_requests is True"),
        ("min_requests: 30", "min_request: 30", "unknown key 'min_request'"),
        ("interval_s: 2", "interval_s: 0", "interval_s is 0; it must be a number above 0"),
        ("interval_s: 2", "interval_s: .nan", "interval_s is nan; it must be a finite number"),
        ("error_rate: {margin: 0.05}", "error_rate: {margin: 5}", "error_rate.margin is 5; it must"),
        ("error_rate: {margin: 0.05}", "error_rate: {}", "key 'guardrails.error_rate.margin' is missing"),
        ("limit_s: 0.5", "limit_s: 0.4", "latency.limit_s is 0.4; .* one of the histogram's"),
        ("[5, 25, 50, 100]", "[5, 50, 25, 100]", r"steps is \[5, 50, 25, 100\]"),
        ("[5, 25, 50, 100]", "[5, 25, 50]", "end at 100"),
        ("[5, 25, 50, 100]", "100", "steps is 100; it must be a list"),
        ("[5, 25, 50, 100]", "[5, {weight: 200}]", r"steps.1.weight is 200; it must be a whole percent"),
        ("strategy: canary", "strategy: fast", "strategy is 'fast'; it must be canary"),
        ("min_auroc: 0.75", "min_auroc: 75", "gate.min_auroc is 75"),
        ("min_auroc: 0.75", "min_auc: 0.75", "unknown key 'gate.min_auc'"),
        ("alpha_rollback: 0.05", "alpha_rollback: 0", "budgets.alpha_rollback is 0"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_by_line_key_and_value(tmp_path, old, new, sentence):
    line = next(n for n, text in enumerate(SHIPPED.read_text().splitlines(), start=1) if old in text)
    with pytest.raises(ConfigError, match=rf"policy.yaml line {line}: .*{sentence}"):
        load_policy(write(tmp_path, old, new))


def test_a_missing_key_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"policy\.yaml: key 'min_requests' is missing"):
        load_policy(write(tmp_path, "min_requests: 30", ""))


def test_a_strategy_that_would_show_nothing_is_refused():
    with pytest.raises(ConfigError, match="blue_green has the one step 100"):
        Policy.from_mapping({**WHOLE, "strategy": "blue_green"})
    wrong = {**WHOLE, "strategy": "blue_green", "steps": [100], "shadow_first": False}
    with pytest.raises(ConfigError, match="needs shadow_first"):
        Policy.from_mapping(wrong)


def test_a_file_that_is_no_yaml_is_refused_with_the_line(tmp_path):
    with pytest.raises(RolloutError, match=r"policy.yaml line 2: this is not YAML"):
        load_policy(write(tmp_path, SHIPPED.read_text().splitlines()[1], "steps: ]"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RolloutError, match="does not exist"):
        load_policy(tmp_path / "policy.yaml")


def test_a_policy_or_a_gate_that_is_no_mapping_is_refused():
    with pytest.raises(ConfigError, match="policy: it must be a mapping"):
        Policy.from_mapping([1])
    with pytest.raises(ConfigError, match="gate: it must be a mapping"):
        GatePolicy.from_mapping(None)
