"""What a training run is asked to do."""

from __future__ import annotations

from dataclasses import dataclass

from hounsfield.errors import ConfigError

TRAINED = ("efficientnet-b0", "densenet121")
"""The architectures that `fit` trains; the baseline is fitted in closed form."""


@dataclass(frozen=True)
class TrainingParams:
    """Parameters of one run; the defaults suit the sample set on two cores.

    `batch_size` counts images over all processes. `augmentation` is a strength: 0 turns it off, 1 is the
    strength described in `augmentation.py`. `learning_rate` is the peak of a one-cycle schedule.
    """

    architecture: str = "efficientnet-b0"
    epochs: int = 12
    batch_size: int = 16
    learning_rate: float = 5e-3
    weight_decay: float = 1e-2
    dropout: float = 0.2
    augmentation: float = 0.5
    seed: int = 7

    def __post_init__(self) -> None:
        if self.architecture not in TRAINED:
            raise ConfigError(f"architecture {self.architecture!r} is not one of {', '.join(TRAINED)}")
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if not 0 < self.learning_rate < float("inf"):
            raise ConfigError(f"learning_rate is {self.learning_rate}; it must be a number above 0")
        for name in ("weight_decay", "augmentation"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {self.dropout}; it must be in [0, 1)")
