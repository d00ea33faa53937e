"""The sampler of Optuna that matches an algorithm of Katib, with Katib's names for its settings."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from hounsfield.errors import ConfigError

if TYPE_CHECKING:
    from hounsfield.training.experiment import Parameter

# Katib 0.19 runs random and tpe by hyperopt, grid and multivariate-tpe by Optuna itself.
SETTINGS: dict[str, dict[str, Callable[[str], Any]]] = {
    "random": {"random_state": int},
    "grid": {"random_state": int},
    # Not gamma and prior_weight: Optuna 5 is giving them up.
    "tpe": {"random_state": int, "n_EI_candidates": int},
    "multivariate-tpe": {"random_state": int, "n_startup_trials": int, "n_ei_candidates": int},
}


def read_settings(algorithm: str, items: list[Mapping[str, str]], where: str) -> dict[str, Any]:
    """The algorithmSettings as numbers. Raises ConfigError that names what the laptop cannot honour."""
    if algorithm not in SETTINGS:
        raise ConfigError(
            f"{where}: algorithmName {algorithm!r} cannot be honoured on the laptop; it knows "
            f"{', '.join(SETTINGS)}"
        )
    settings = {}
    for item in items:
        name, text = item["name"], str(item["value"])
        if name not in SETTINGS[algorithm]:
            raise ConfigError(f"{where}: algorithmSettings {name!r} cannot be honoured on the laptop")
        try:
            settings[name] = SETTINGS[algorithm][name](text)
        except ValueError:
            raise ConfigError(
                f"{where}: algorithmSettings {name!r} is {text!r}, which is no number"
            ) from None
    return settings


def make_sampler(
    algorithm: str, settings: Mapping[str, Any], parameters: tuple[Parameter, ...], parallel: int, seed: int
) -> Any:
    """An optuna sampler; `seed` where the Experiment sets no random_state.

    Katib's tpe draws at random as many trials as it runs at once (`parallel`), and then learns from them.
    """
    import optuna

    samplers, seed = optuna.samplers, settings.get("random_state", seed)
    if algorithm == "random":
        return samplers.RandomSampler(seed=seed)
    if algorithm == "grid":

        class Grid(samplers.GridSampler):
            def after_trial(self, *_: Any) -> None:
                """Leave it to the caller when to end: Optuna would stop a loop of its own."""

        return Grid(grid(parameters), seed=seed)
    if algorithm == "multivariate-tpe":
        return samplers.TPESampler(
            seed=seed,
            multivariate=True,
            n_startup_trials=settings.get("n_startup_trials", 10),
            n_ei_candidates=settings.get("n_ei_candidates", 24),
        )
    return samplers.TPESampler(
        seed=seed, n_startup_trials=parallel, n_ei_candidates=settings.get("n_EI_candidates", 24)
    )


def grid(parameters: tuple[Parameter, ...]) -> dict[str, list[Any]]:
    """Every value of every axis, as Katib lists them: bounds included, an int's step 1 by default."""
    return {parameter.name: parameter.grid() for parameter in parameters}


def grid_size(parameters: tuple[Parameter, ...]) -> int:
    return sum(1 for _ in itertools.product(*grid(parameters).values()))
