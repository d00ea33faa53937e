"""A Katib Experiment run on the laptop by Optuna: same space, same objective, same metric lines."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hounsfield.errors import TrainingError
from hounsfield.progress import Reporter
from hounsfield.training.experiment import Experiment, Parameter, load_experiment
from hounsfield.training.metric_lines import read_metrics

TUNING_FILE = "tuning.json"


def tune(
    experiment: Path,
    tensors: Path,
    out: Path,
    max_trials: int | None = None,
    processes: int = 2,
    fixed: Mapping[str, Any] | None = None,
    seed: int = 7,
    run_trial: Callable[[list[str], int, Callable[[str], None]], None] | None = None,
) -> dict[str, Any]:
    """The best parameters found, named and typed as in TrainingParams; `tuning.json` keeps every trial.

    `fixed` overrides the arguments of the trial template that the space does not vary. `max_trials`
    lowers the Experiment's own count. `run_trial(arguments, processes, on_line)` runs one trial;
    torchrun by default. Raises ConfigError for an Experiment that the laptop cannot honour, and
    TrainingError when more trials fail than it allows or none reports the objective.
    """
    import optuna

    from hounsfield.training.launcher import run_torchrun

    plan = load_experiment(Path(experiment))
    run_trial = run_trial or run_torchrun
    count = min(plan.max_trials, max_trials or plan.max_trials)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="maximize" if plan.maximize else "minimize",
        sampler=optuna.samplers.RandomSampler(seed=seed if plan.seed is None else plan.seed),
    )
    reporter, rows, failures = Reporter("tune", count), [], []
    for number in range(count):
        trial = study.ask()
        chosen = {parameter.name: _draw(trial, parameter) for parameter in plan.parameters}
        arguments = _arguments(plan, chosen, fixed or {}, Path(tensors), Path(out) / f"trial-{number:03d}")
        lines: list[str] = []

        def keep(line: str, lines: list[str] = lines) -> None:
            lines.append(line)
            print(line, flush=True)

        value, failure = None, None
        try:
            run_trial(arguments, processes, keep)
            value = _objective(plan, lines)
        except TrainingError as error:
            failure = str(error)
            failures.append(failure)
        study.tell(trial, value, state=None if value is not None else optuna.trial.TrialState.FAIL)
        rows.append({"number": number, "parameters": chosen, "objective": value, "failure": failure})
        _write(Path(out), plan, rows)
        if len(failures) > plan.max_failed_trials:
            raise TrainingError(
                f"{len(failures)} trials failed, more than maxFailedTrialCount; last: {failure}"
            )
        best = _best(plan, rows)
        reporter.update(
            number + 1, f"trials, best {plan.metric} {best['objective']:.4f}" if best else "trials"
        )
        if best and plan.goal is not None and _reached(plan, best["objective"]):
            print(f"the goal {plan.goal:g} is reached after {number + 1} trials", flush=True)
            break
    best = _best(plan, rows)
    if best is None:
        raise TrainingError(f"no trial reported {plan.metric}; the last failure: {failures[-1]}")
    return {name.replace("-", "_"): value for name, value in best["parameters"].items()}


def _draw(trial: Any, parameter: Parameter) -> Any:
    if parameter.kind == "categorical":
        return trial.suggest_categorical(parameter.name, parameter.values)
    if parameter.kind == "discrete":
        values = tuple(int(text) if text.lstrip("+-").isdigit() else float(text) for text in parameter.values)
        return trial.suggest_categorical(parameter.name, values)
    if parameter.kind == "int":
        return trial.suggest_int(
            parameter.name,
            int(parameter.low),
            int(parameter.high),
            step=int(parameter.step or 1),
            log=parameter.log,
        )
    return trial.suggest_float(
        parameter.name, parameter.low, parameter.high, step=parameter.step, log=parameter.log
    )


def _arguments(
    plan: Experiment, chosen: Mapping[str, Any], fixed: Mapping[str, Any], tensors: Path, out: Path
) -> list[str]:
    """The trial's own arguments, then what the laptop sets instead; argparse takes the last of each."""
    ours = {name: value for name, value in fixed.items() if name.replace("_", "-") not in chosen}
    ours |= {"tensors": tensors, "out": out}
    return plan.trial_arguments(chosen) + [
        f"--{name.replace('_', '-')}={value}" for name, value in ours.items()
    ]


def _objective(plan: Experiment, lines: list[str]) -> float:
    values = read_metrics(lines, [plan.metric], plan.filters)[plan.metric]
    if not values:
        raise TrainingError(f"the trial printed no line with {plan.metric}=value")
    return {"max": max, "min": min, "latest": lambda all_values: all_values[-1]}[plan.strategy](values)


def _best(plan: Experiment, rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    judged = [row for row in rows if row["objective"] is not None]
    if not judged:
        return None
    return (max if plan.maximize else min)(judged, key=lambda row: row["objective"])


def _reached(plan: Experiment, value: float) -> bool:
    return value >= plan.goal if plan.maximize else value <= plan.goal


def _write(out: Path, plan: Experiment, rows: list[dict[str, Any]]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    temporary = out / f".{TUNING_FILE}.{os.getpid()}"
    record = {"objective": plan.metric, "best": _best(plan, rows), "trials": rows}
    temporary.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
    temporary.replace(out / TUNING_FILE)
