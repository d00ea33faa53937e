"""The published schema and the reader of a policy agree: each key is read, each wrong value has its line."""

import base64
import copy
import io
import json
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from hounsfield.errors import ConfigError
from hounsfield.rollout import policy
from hounsfield.rollout.policy import Policy, load_policy

SCHEMA = json.loads(policy.SCHEMA_FILE.read_text())
KEY = base64.b64encode(bytes([88] + [102] * 31)).decode()  # RFC 8032's base point is a public key
BY_HAND = {
    ("strategy",): "header_match",
    ("shadow_first",): True,
    ("steps",): [{"weight": 40, "approval": 1, "min_requests": 99}, {"weight": 100}],
    ("approvals",): {"promotion": 1, "approvers": {"Ada": KEY}},
    ("first", "approval"): 0,
    ("notifications", 0, "url"): "http://127.0.0.1:9/hook",
}
"""What other keys have to fit, so that the schema alone cannot make it up."""


def example(schema, keys=(), part=0.25):
    """A value that fits `schema`, with every key that it knows."""
    if keys in BY_HAND:
        return BY_HAND[keys]
    kind = schema.get("type")
    if kind == "object" and "properties" in schema:
        return {key: example(inner, (*keys, key), part) for key, inner in schema["properties"].items()}
    if kind == "object":
        names = schema["propertyNames"]["enum"]
        return {name: example(schema["additionalProperties"], (*keys, name), part) for name in names}
    if kind == "array":
        return [example(schema["items"], (*keys, 0), part)]
    if "enum" in schema:
        return schema["enum"][0 if part < 0.5 else -1]
    if kind == "boolean":
        return part >= 0.5
    if kind == "string":
        return "north" if part < 0.5 else "south"
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum", low + 40))
    value = low + (high - low) * part
    return round(value) if kind == "integer" else round(value, 3)


WHOLE = example(SCHEMA)


def leaves(value, keys=()):
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        if isinstance(inner, dict | list):
            yield from leaves(inner, (*keys, key))
        else:
            yield (*keys, key)


def at(schema, keys):
    """The schema of the value at `keys`; None where it is one of several."""
    for key in keys:
        if schema is None or "oneOf" in schema:
            return None
        if isinstance(key, int):
            schema = schema["items"]
        else:
            schema = schema.get("properties", {}).get(key) or schema.get("additionalProperties")
    return None if "oneOf" in schema else schema


def put(values, keys, value):
    found = copy.deepcopy(values)
    inner = found
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return found


LEAVES = list(leaves(WHOLE))


def write(tmp_path, values):
    yaml, text = YAML(), io.StringIO()
    yaml.dump(values, text)  # block style: a leaf a line
    (tmp_path / "policy.yaml").write_text(text.getvalue())
    return tmp_path / "policy.yaml"


def test_there_is_a_policy_with_every_key_of_the_schema():
    jsonschema.validate(WHOLE, SCHEMA)
    read = Policy.from_mapping(WHOLE)
    assert len(LEAVES) > 60
    assert {guardrail.name for guardrail in read.guardrails} == set(policy.EXPECTED)
    assert {step.kind for step in read.all_steps} == set(policy.Kind)


@pytest.mark.parametrize("keys", LEAVES, ids=lambda keys: ".".join(map(str, keys)))
def test_a_wrong_value_is_refused_with_its_line(tmp_path, keys):
    is_text = (at(SCHEMA, keys) or {}).get("type") == "string"
    wrong = 98765.25 if is_text else "no such value!"
    path = write(tmp_path, put(WHOLE, keys, wrong))
    (line,) = [n for n, text in enumerate(path.read_text().splitlines(), 1) if str(wrong) in text]
    with pytest.raises(ConfigError) as raised:
        load_policy(path)
    assert str(raised.value).startswith(f"policy.yaml line {line}: ")
    assert str(keys[-1] if isinstance(keys[-1], str) else keys[-2]) in str(raised.value)


def mappings(schema, keys=()):
    if schema.get("type") == "object" and "properties" in schema:
        yield keys
        for key, inner in schema["properties"].items():
            yield from mappings(inner, (*keys, key))


@pytest.mark.parametrize("keys", mappings(SCHEMA), ids=lambda keys: ".".join(map(str, keys)) or "top")
def test_an_unknown_key_is_refused_with_its_line(tmp_path, keys):
    path = write(tmp_path, put(WHOLE, (*keys, "tpyo"), 1))
    (line,) = [n for n, text in enumerate(path.read_text().splitlines(), 1) if "tpyo" in text]
    with pytest.raises(ConfigError, match=rf"^policy.yaml line {line}: unknown key '.*tpyo'"):
        load_policy(path)


MADE_UP = [keys for keys in LEAVES if at(SCHEMA, keys) and keys not in BY_HAND and keys[0] != "approvals"]


@pytest.mark.parametrize("keys", MADE_UP, ids=lambda keys: ".".join(map(str, keys)))
def test_every_key_of_the_schema_is_read(keys):
    other = put(WHOLE, keys, example(at(SCHEMA, keys), part=0.5))
    assert other != WHOLE
    jsonschema.validate(other, SCHEMA)
    assert Policy.from_mapping(other) != Policy.from_mapping(WHOLE)


@pytest.mark.parametrize(
    ("keys", "value", "name"),
    [
        (("steps", 0, "weight"), 41, "steps"),
        (("steps", 0, "min_requests"), 98, "steps"),
        (("shadow_first",), False, "shadow"),
        (("first", "approval"), 1, "first_step"),
        (("notifications", 0, "url"), "https://127.0.0.1/hook", "notifications"),
        (("approvals", "promotion"), 0, "promotion_approvals"),
    ],
)
def test_so_are_those_that_others_have_to_fit(keys, value, name):
    assert getattr(Policy.from_mapping(put(WHOLE, keys, value)), name) != getattr(
        Policy.from_mapping(WHOLE), name
    )


def test_a_missing_key_is_named_with_the_line_of_what_it_is_missing_from(tmp_path):
    values = copy.deepcopy(WHOLE)
    del values["budgets"]["max_duration_s"]
    path = write(tmp_path, values)
    line = path.read_text().splitlines().index("budgets:") + 1
    with pytest.raises(ConfigError, match=f"line {line}: key 'budgets.max_duration_s' is missing"):
        load_policy(path)


def test_header_match_needs_those_who_go_first_and_nothing_else_does():
    with pytest.raises(ConfigError, match="header_match needs the key 'first'"):
        Policy.from_mapping({key: value for key, value in WHOLE.items() if key != "first"})
    with pytest.raises(
        ConfigError, match="'first' is for the strategy header_match, and the strategy is canary"
    ):
        Policy.from_mapping({**WHOLE, "strategy": "canary"})


def test_the_example_of_the_documentation_is_a_policy():
    text = (
        (Path(__file__).parents[3] / "docs" / "rollout.md").read_text().split("```yaml\n")[1].split("```")[0]
    )
    read = Policy.from_mapping(YAML(typ="safe").load(text))
    assert [step.kind for step in read.all_steps[:3]] == ["shadow", "first", "weight"]
    assert read.promotion_approvals == 2
