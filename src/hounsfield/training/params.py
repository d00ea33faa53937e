"""What a training run is asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hounsfield.config import from_mapping
from hounsfield.errors import ConfigError

TRAINED = ("efficientnet-b0", "densenet121")
"""The architectures that `fit` trains; the baseline is fitted in closed form."""
IMBALANCE = ("auto", "weights", "sampler", "none")
PRECISION = ("auto", "fp32", "bf16", "fp16")


@dataclass(frozen=True)
class TrainingParams:
    """Parameters of one run; the defaults are the preset `quick`, which suits the sample set on two cores.

    `batch_size` counts images over all processes. `augmentation` is a strength: 0 turns it off, 1 is the
    strength described in `augmentation.py`. `learning_rate` is the peak of a one-cycle schedule. Training
    stops early after `patience_epochs` epochs without a better validation AUROC; 0 never does. What
    `imbalance`, `precision` and `batch_parts` may be is said in `imbalance.py`, `precision.py` and
    `batch_parts.py`.
    """

    architecture: str = "efficientnet-b0"
    epochs: int = 16
    batch_size: int = 16
    batch_parts: int = 0
    learning_rate: float = 5e-3
    weight_decay: float = 1e-2
    dropout: float = 0.2
    augmentation: float = 0.5
    imbalance: str = "auto"
    precision: str = "auto"
    patience_epochs: int = 0
    seed: int = 7

    def __post_init__(self) -> None:
        for name, known in (("architecture", TRAINED), ("imbalance", IMBALANCE), ("precision", PRECISION)):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} {getattr(self, name)!r} is not one of {', '.join(known)}")
        for name in ("epochs", "batch_size", "batch_parts", "patience_epochs", "seed"):
            if isinstance(getattr(self, name), bool) or not isinstance(getattr(self, name), int):
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be a whole number")
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if not 0 < self.learning_rate < float("inf"):
            raise ConfigError(f"learning_rate is {self.learning_rate}; it must be a number above 0")
        for name in ("weight_decay", "augmentation", "batch_parts", "patience_epochs"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {self.dropout}; it must be in [0, 1)")


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "quick": {},
    "standard": {"epochs": 40, "batch_size": 32, "augmentation": 1.0, "patience_epochs": 12},
    "full": {
        "architecture": "densenet121",
        "epochs": 120,
        "batch_size": 32,
        "learning_rate": 2e-3,
        "augmentation": 1.0,
        "patience_epochs": 30,
    },
}
"""What differs from the defaults: minutes on two cores, an hour, and a night or a GPU."""


def training_params(values: Mapping[str, Any], source: str) -> TrainingParams:
    """The preset that the key `preset` of `values` names (`quick` without one), the other keys over it.

    Whole numbers may arrive as floats. Raises ConfigError, which calls the mapping `source`.
    """
    # KFP passes a dict as a protobuf Struct, whose only number is a double: 5 arrives as 5.0.
    whole = {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in values.items()
    }
    preset = whole.pop("preset", "quick")
    if preset not in PRESETS:
        raise ConfigError(f"{source}: preset {preset!r} is not one of {', '.join(PRESETS)}")
    return from_mapping(TrainingParams, {**PRESETS[preset], **whole}, source)
