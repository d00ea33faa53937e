"""What the validation gate asks of a candidate before any traffic: the `gate` of a rollout's policy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hounsfield.errors import ConfigError
from hounsfield.rollout.schema import WrongError, check_schema

SCHEMA_FILE = Path(__file__).with_name("policy.schema.json")

HOLD, IGNORE = "hold", "ignore"


@dataclass(frozen=True)
class GapPolicy:
    """By how much a declared group may fare worse than all others, in sensitivity and in specificity.

    `attributes` lists the groups of each attribute. A group, or its rest, with fewer than `minimum` cases of
    the truth that counts is UNASSESSABLE, and so is one whose interval holds `max_gap`: too few to tell.
    """

    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    max_gap: float = 0.15
    minimum: int = 20
    when_unassessable: str = HOLD


@dataclass(frozen=True)
class GatePolicy:
    """Rates, areas and errors are 0 to 1. What must be shown is shown at `confidence`, one-sided.

    `drift_alpha` is the chance that a frozen set like the model's reference is taken for a shifted one, if
    its images were independent; ADR 12 has what it is when they are not. `min_attribution_stability` is the
    least rank correlation of the two models' attributions, -1 to 1; at -1 it is not asked.
    """

    min_auroc: float = 0.75
    max_auroc_decrease: float = 0.03
    min_sensitivity: float = 0.5
    max_sensitivity_decrease: float = 0.1
    confidence: float = 0.95
    max_ece: float = 0.15
    max_brier: float = 0.2
    max_log_loss: float = 0.6
    max_latency_p95_s: float = 1.0
    max_errors: int = 0
    max_refusals: int = 0
    min_cases: int = 30
    min_positives: int = 5
    min_attribution_stability: float = -1.0
    drift_alpha: float = 0.001
    drift_when_unassessable: str = HOLD
    subgroups: GapPolicy = field(default_factory=GapPolicy)

    @classmethod
    def from_mapping(cls, values: Any, source: str = "policy: gate") -> GatePolicy:
        """Read and check `values`; ConfigError names the key. The guard environment calls this too."""
        try:
            schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))["properties"]["gate"]
            check_schema(values, schema)
        except WrongError as wrong:
            raise ConfigError(f"{source}: {wrong}") from None
        return cls.checked(values)

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> GatePolicy:
        """From values that fit the schema."""
        gaps = dict(values.get("subgroups", {}))
        gaps["attributes"] = {name: tuple(groups) for name, groups in gaps.get("attributes", {}).items()}
        return cls(**{**values, "subgroups": GapPolicy(**gaps)})

    def as_dict(self) -> dict[str, Any]:
        """As JSON; `from_mapping` reads it back."""
        return json.loads(json.dumps(asdict(self)))

    @property
    def digest(self) -> str:
        """SHA-256 of every value, the defaults too: a pass under another policy is none under this one."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()
