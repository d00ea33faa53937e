"""The policy of a rollout: a YAML file that says how a candidate earns traffic and what takes it away."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hounsfield.config import from_mapping
from hounsfield.errors import ConfigError, RolloutError


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
        return _build(cls, values, f"{source}: gate")


@dataclass(frozen=True)
class Policy:
    """A canary policy.

    `steps` are percents of requests, rising to 100. A `max_..._increase` is a difference of rates (0 to 1)
    between canary and stable. `min_requests` is asked of the canary in every step; `confidence` (0.5 to 1) is
    that of the bounds in `hounsfield.rollout.decide`. `failures_allowed` is how many checks of a step may
    find the canary beyond a limit, or unreachable, before the step is given up.
    """

    steps: tuple[int, ...]
    interval_s: float
    min_requests: int
    max_error_rate_increase: float
    max_refusal_rate_increase: float
    max_latency_p95_s: float
    max_review_share_increase: float
    max_duration_s: float
    failures_allowed: int
    confidence: float = 0.95
    gate: GatePolicy = field(default_factory=GatePolicy)

    def __post_init__(self) -> None:
        steps = self.steps
        whole = all(isinstance(step, int) and not isinstance(step, bool) for step in steps)
        if not steps or not whole or list(steps) != sorted(set(steps)) or steps[0] < 1 or steps[-1] != 100:
            raise ConfigError(
                f"steps is {list(steps)}; it must be whole percents that rise and end at 100, "
                "such as [5, 25, 50, 100]"
            )
        for key in ("max_error_rate_increase", "max_refusal_rate_increase", "max_review_share_increase"):
            _check_number(self, key, low=0, high=1)
        for key in ("interval_s", "max_latency_p95_s", "max_duration_s"):
            _check_number(self, key, low=0, exclusive=True)
        _check_number(self, "min_requests", low=1, whole=True)
        _check_number(self, "failures_allowed", low=0, whole=True)
        _check_number(self, "confidence", low=0.5, high=0.9999)

    @classmethod
    def from_mapping(cls, values: Any, source: str = "policy") -> Policy:
        """Build a policy, raising ConfigError that names `source`, the key and the value."""
        if isinstance(values, Mapping):
            values = dict(values)
            if isinstance(values.get("steps"), list):
                values["steps"] = tuple(values["steps"])
            elif "steps" in values:
                raise ConfigError(
                    f"{source}: steps is {values['steps']!r}; "
                    "it must be a list of percents, such as [5, 25, 50, 100]"
                )
            if "gate" in values:
                values["gate"] = GatePolicy.from_mapping(values["gate"], source)
        return _build(cls, values, source)

    def as_dict(self) -> dict[str, Any]:
        return json.loads(json.dumps(dataclasses.asdict(self)))

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
        values = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path.name} line {mark.line + 1}" if mark else path.name
        raise RolloutError(
            f"{where}: this is not YAML: {getattr(error, 'problem', None) or 'it is not text'}"
        ) from None
    return Policy.from_mapping(values, path.name)


def _build(kind: type, values: Any, source: str) -> Any:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{source} must be a mapping of keys to values, not {type(values).__name__}")
    try:
        return from_mapping(kind, values, source)
    except ConfigError as error:
        message = str(error)
        raise ConfigError(message if message.startswith(source) else f"{source}: {message}") from None


def _check_number(
    owner: Any, key: str, *, low: float, high: float = math.inf, whole: bool = False, exclusive: bool = False
) -> None:
    value = getattr(owner, key)
    kinds = (int,) if whole else (int, float)
    is_number = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
    if is_number and low <= value <= high and not (exclusive and value == low):
        return
    wanted = "a whole number" if whole else "a number"
    bounds = (
        f"between {low} and {high}" if high < math.inf else f"{'above' if exclusive else 'of at least'} {low}"
    )
    raise ConfigError(f"{key} is {value!r}; it must be {wanted} {bounds}")
