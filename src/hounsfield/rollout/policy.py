"""The policy of a rollout: a YAML file that says how a candidate earns traffic and what takes it away.

`policy.schema.json` beside this module is its published schema: keys, types, bounds, and in its
descriptions the words of the errors. What a schema cannot say (steps rise, strategies fit) is checked here.
An error names the line.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hounsfield.config import from_mapping
from hounsfield.errors import ConfigError, RolloutError

SCHEMA_FILE = Path(__file__).with_name("policy.schema.json")

Keys = tuple[str | int, ...]
"""Where a value stands: keys of mappings and indices of lists, from the top."""

EXPECTED = {
    "error_rate": 0.01,
    "refusal_rate": 0.02,
    "review_share": 0.2,
    "sensitivity": 0.15,
    "specificity": 0.15,
    "score_distribution": 0.5,
    "agreement": 0.05,
    "latency": 0.01,
}
"""The guardrails, and the rate of bad outcomes that is guessed before any is seen (misses for
sensitivity)."""


@dataclass(frozen=True)
class GatePolicy:
    """What the validation gate asks of a candidate before any traffic. Rates and areas are 0 to 1."""

    min_auroc: float = 0.75
    max_auroc_decrease: float = 0.03
    min_sensitivity: float = 0.5
    max_latency_p95_s: float = 1.0
    max_errors: int = 0
    max_refusals: int = 0
    min_cases: int = 30
    min_positives: int = 5

    def __post_init__(self) -> None:
        for key in ("min_auroc", "max_auroc_decrease", "min_sensitivity"):
            _check_number(self, key, low=0, high=1)
        _check_number(self, "max_latency_p95_s", low=0)
        for key in ("max_errors", "max_refusals"):
            _check_number(self, key, low=0, whole=True)
        for key in ("min_cases", "min_positives"):
            _check_number(self, key, low=1, whole=True)

    @classmethod
    def from_mapping(cls, values: Any, source: str = "policy") -> GatePolicy:
        """Read without the schema: the guard environment, which has no jsonschema for it, calls this too."""
        source = f"{source}: gate"
        if not isinstance(values, Mapping):
            raise ConfigError(f"{source} must be a mapping of keys to values, not {type(values).__name__}")
        try:
            return from_mapping(cls, values, source)
        except ConfigError as error:
            message = str(error)
            raise ConfigError(message if message.startswith(source) else f"{source}: {message}") from None


@dataclass(frozen=True)
class Step:
    """The canary gets `weight` percent until it has had `min_requests` and is proven; with `approval`,
    until a person has also said so."""

    weight: int
    min_requests: int
    approval: bool = False


@dataclass(frozen=True)
class Guardrail:
    """One bound on the canary. Rates are shares of bad outcomes, 0 to 1.

    `margin` is by how much the canary's rate may be above the stable revision's; for `agreement` the share
    of cases that it may call differently; for `latency` the share of requests that may take longer than
    `limit_s` (1 less the quantile). Below `minimum` outcomes of either revision it is UNASSESSABLE.
    """

    name: str
    margin: float
    minimum: int = 1
    when_unassessable: str = "hold"
    expected: float = 0.1
    limit_s: float | None = None


@dataclass(frozen=True)
class Budgets:
    """`alpha_promotion` and `alpha_rollback` bound the chances of a wrong promotion and of a wrong rollback
    over the whole rollout; see `hounsfield.rollout.decide`."""

    max_duration_s: float
    failures_allowed: int
    alpha_promotion: float = 0.05
    alpha_rollback: float = 0.05


@dataclass(frozen=True)
class Notification:
    url: str
    on: tuple[str, ...]


@dataclass(frozen=True)
class Policy:
    """A rollout policy. `subgroups` lists (attribute, group) pairs, each guarded by `subgroup_guardrails`."""

    steps: tuple[Step, ...]
    interval_s: float
    guardrails: tuple[Guardrail, ...]
    budgets: Budgets
    strategy: str = "canary"
    shadow: Step | None = None
    subgroups: tuple[tuple[str, str], ...] = ()
    subgroup_guardrails: tuple[Guardrail, ...] = ()
    notifications: tuple[Notification, ...] = ()
    gate: GatePolicy = field(default_factory=GatePolicy)
    source: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """The mapping that it was read from."""

    @classmethod
    def from_mapping(
        cls, values: Any, source: str = "policy", line_of: Callable[[Keys], int | None] = lambda keys: None
    ) -> Policy:
        """Build a policy; ConfigError names `source`, the line by `line_of` where known, the key and the
        value."""
        try:
            _check_schema(values)
            return _build(values)
        except _WrongError as wrong:
            line = line_of(wrong.keys)
            where = source if line is None else f"{source} line {line}"
            raise ConfigError(f"{where}: {wrong}") from None

    def as_dict(self) -> dict[str, Any]:
        """The mapping that it was read from, as JSON would give it."""
        return json.loads(json.dumps(self.source))

    @property
    def digest(self) -> str:
        """SHA-256 of the policy's values: the same for two files that differ in comments only."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()


def load_policy(path: Path) -> Policy:
    """Read the YAML policy at `path`; RolloutError when missing or no YAML, ConfigError for a value."""
    from ruamel.yaml import YAML  # the guard environment, which gets its policy as JSON, has no ruamel
    from ruamel.yaml.error import YAMLError

    if not path.is_file():
        raise RolloutError(
            f"the policy {path} does not exist; manifests/base/rollout/policy.yaml is one to start from"
        )
    try:
        text = path.read_text(encoding="utf-8")
        document, values = YAML().load(text), YAML(typ="safe").load(text)
    except (YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path.name} line {mark.line + 1}" if mark else path.name
        raise RolloutError(
            f"{where}: this is not YAML: {getattr(error, 'problem', None) or 'it is not text'}"
        ) from None
    return Policy.from_mapping(values, path.name, lambda keys: _line(document, keys))


class _WrongError(Exception):
    """A value that is not allowed, and the keys that lead to it."""

    def __init__(self, keys: Keys, message: str) -> None:
        super().__init__(message)
        self.keys = keys


def _build(values: Mapping[str, Any]) -> Policy:
    strategy = values.get("strategy", "canary")
    asked = int(values["min_requests"])
    weights = [step["weight"] if isinstance(step, Mapping) else step for step in values["steps"]]
    if weights != sorted(set(weights)) or weights[-1] != 100:
        raise _WrongError(
            ("steps",),
            f"steps is {weights}; it must be whole percents that rise and end at 100, "
            "such as [5, 25, 50, 100]",
        )
    if strategy == "blue_green" and weights != [100]:
        raise _WrongError(("steps",), f"steps is {weights}; the strategy blue_green has the one step 100")
    shadow_first = strategy == "shadow" or values.get("shadow_first", True)
    if strategy == "blue_green" and not shadow_first:
        raise _WrongError(
            ("strategy",),
            "the strategy blue_green needs shadow_first: nothing else would show the candidate's worth",
        )
    subgroups, budgets = values.get("subgroups", {}), values["budgets"]
    steps = [step if isinstance(step, Mapping) else {"weight": step} for step in values["steps"]]
    return Policy(
        strategy=strategy,
        shadow=Step(0, asked) if shadow_first else None,
        steps=tuple(
            Step(int(step["weight"]), int(step.get("min_requests", asked)), step.get("approval", False))
            for step in steps
        ),
        interval_s=float(values["interval_s"]),
        guardrails=tuple(_guardrails(values["guardrails"])),
        subgroups=tuple(
            (attribute, group)
            for attribute, groups in subgroups.get("attributes", {}).items()
            for group in groups
        ),
        subgroup_guardrails=tuple(_guardrails(subgroups.get("guardrails", {}))),
        budgets=Budgets(**budgets),
        notifications=tuple(Notification(n["url"], tuple(n["on"])) for n in values.get("notifications", ())),
        gate=GatePolicy(**values.get("gate", {})),
        source=dict(values),
    )


def _guardrails(values: Mapping[str, Mapping[str, Any]]) -> Iterator[Guardrail]:
    """In the order of EXPECTED, so that the order of the file's keys decides nothing."""
    for name in EXPECTED:
        if name in values:
            given = {"expected": EXPECTED[name], **values[name]}
            if name == "latency":
                given["margin"] = round(1 - given.pop("quantile", 0.95), 12)
            yield Guardrail(name, **given)


def _check_schema(values: Any) -> None:
    from jsonschema import Draft202012Validator

    if not isinstance(values, Mapping):
        raise _WrongError((), f"it must be a mapping of keys to values, not {type(values).__name__}")
    for keys, value in _leaves(values, ()):
        if isinstance(value, float) and not math.isfinite(value):  # a schema lets NaN through every bound
            raise _WrongError(keys, f"{_dotted(keys)} is {value}; it must be a finite number")
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    errors = sorted(
        Draft202012Validator(schema).iter_errors(values), key=lambda error: list(map(str, error.path))
    )
    for error in errors:
        keys = tuple(error.absolute_path)
        if error.validator == "oneOf" and isinstance(error.instance, Mapping):
            # A step that is written as a mapping: what is wrong inside it, not that it is no number.
            error = next(inner for inner in error.context if inner.schema_path[0] == 1)
            keys += tuple(error.path)
        if error.validator == "additionalProperties" and error.validator_value is False:
            known = error.schema["properties"]
            unknown = sorted(key for key in error.instance if key not in known)[0]
            raise _WrongError(
                (*keys, unknown),
                f"unknown key {_dotted((*keys, unknown))!r}; known keys are {', '.join(known)}",
            )
        if error.validator == "required":
            missing = next(key for key in error.validator_value if key not in error.instance)
            raise _WrongError(keys, f"key {_dotted((*keys, missing))!r} is missing")
        wanted = error.schema.get("description", error.message)
        raise _WrongError(keys, f"{_dotted(keys)} is {error.instance!r}; it must be {wanted}")


def _leaves(value: Any, keys: Keys) -> Iterator[tuple[Keys, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, (*keys, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _leaves(inner, (*keys, index))
    else:
        yield keys, value


def _dotted(keys: Keys) -> str:
    return ".".join(map(str, keys))


def _line(document: Any, keys: Keys) -> int | None:
    """The line (from 1) at which ruamel's round-trip `document` has the last of `keys` that it has."""
    line = None
    for key in keys:
        try:
            line = (document.lc.item(key) if isinstance(key, int) else document.lc.key(key))[0] + 1
            document = document[key]
        except (AttributeError, KeyError, IndexError, TypeError):
            break
    return line


def _check_number(owner: Any, key: str, *, low: float, high: float = math.inf, whole: bool = False) -> None:
    value = getattr(owner, key)
    kinds = (int,) if whole else (int, float)
    is_number = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
    if is_number and low <= value <= high:
        return
    wanted = "a whole number" if whole else "a number"
    bounds = f"between {low} and {high}" if high < math.inf else f"of at least {low}"
    raise ConfigError(f"{key} is {value!r}; it must be {wanted} {bounds}")
