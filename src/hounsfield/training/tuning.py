"""A Katib Experiment run on the laptop by Optuna: same space, same objective, same metric lines."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hounsfield.errors import TrainingError
from hounsfield.progress import Reporter, parse
from hounsfield.training.experiment import Experiment, Parameter, load_experiment
from hounsfield.training.metric_lines import read_metrics
from hounsfield.training.whole_file import write_whole

TUNING_FILE = "tuning.json"
RunTrial = Callable[[list[str], int, Callable[[str], None]], None]


class _Stopped(Exception):
    """Raised out of a trial by the line that ends it early."""


def tune(
    experiment: Path,
    tensors: Path,
    out: Path,
    max_trials: int | None = None,
    processes: int = 2,
    fixed: Mapping[str, Any] | None = None,
    seed: int = 7,
    run_trial: RunTrial | None = None,
) -> dict[str, Any]:
    """The best parameters found, named and typed as in TrainingParams; `tuning.json` keeps every trial.

    `fixed` overrides the arguments of the trial template that the space does not vary. `max_trials` lowers
    the Experiment's own count. `run_trial(arguments, processes, on_line)` runs one trial; torchrun by
    default. Trials run one after the other. Raises ConfigError for an Experiment that the laptop cannot
    honour, and TrainingError when more trials fail than it allows or none reports the objective.
    """
    import optuna

    from hounsfield.training.launcher import run_torchrun

    plan = load_experiment(Path(experiment))
    run_trial = run_trial or run_torchrun
    count = min(plan.max_trials, max_trials or plan.max_trials)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="maximize" if plan.maximize else "minimize", sampler=plan.sampler(seed)
    )
    stopping = plan.stopping()
    reporter, rows, failures = Reporter("tune", count), [], []
    best = None
    for number in range(count):
        trial = study.ask()
        chosen = {parameter.name: _draw(trial, parameter) for parameter in plan.parameters}
        arguments = _arguments(plan, chosen, fixed or {}, Path(tensors), Path(out) / f"trial-{number:03d}")
        threshold = stopping.threshold() if stopping else None
        values: list[float] = []

        def hear(
            line: str,
            values: list[float] = values,
            threshold: float | None = threshold,
            number: int = number,
            best: Mapping[str, Any] | None = best,
        ) -> None:
            if (progress := parse(line)) is not None:  # of the trial; the bar is that of the trials
                note = progress_note(plan.metric, best)
                reporter.update(number, f"{note}; this one {progress.done}/{progress.total} {progress.note}")
                return
            print(line, flush=True)
            for value in read_metrics([line], [plan.metric], plan.filters)[plan.metric]:
                values.append(value)
                if stopping and stopping.stops(values, threshold):
                    raise _Stopped

        stopped, failure = False, None
        try:
            run_trial(arguments, processes, hear)
        except _Stopped:
            stopped = True
            print(
                f"trial {number} is stopped: {plan.metric} {values[-1]:.4f} after {len(values)} reports, and "
                f"the others had {threshold:.4f} on average",
                flush=True,
            )
        except TrainingError as error:
            failure = str(error)
        if failure is None and not values:
            failure = f"the trial printed no line with {plan.metric}=value"
        value = _objective(plan, values) if failure is None else None
        if failure is not None:
            failures.append(failure)
        elif stopping and not stopped:
            stopping.ended(values)
        study.tell(trial, value, state=None if value is not None else optuna.trial.TrialState.FAIL)
        row = {"number": number, "parameters": chosen, "objective": value}
        rows.append(row | {"failure": failure, "stopped": stopped})
        best = write_record(Path(out), plan.metric, plan.maximize, plan.parameters, rows)
        if len(failures) > plan.max_failed_trials:
            raise TrainingError(
                f"{len(failures)} trials failed, more than maxFailedTrialCount; last: {failure}"
            )
        reporter.update(number + 1, progress_note(plan.metric, best))
        if best and plan.goal is not None and _reached(plan, best["objective"]):
            print(f"the goal {plan.goal:g} is reached after {number + 1} trials", flush=True)
            break
    if best is None:
        raise TrainingError(f"no trial reported {plan.metric}; the last failure: {failures[-1]}")
    return as_training_parameters(best["parameters"])


def as_training_parameters(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of an Experiment as fields of TrainingParams: learning-rate is learning_rate."""
    return {name.replace("-", "_"): value for name, value in chosen.items()}


def progress_note(metric: str, best: Mapping[str, Any] | None) -> str:
    return f"trials, best {metric} {best['objective']:.4f}" if best else "trials"


def write_record(
    out: Path,
    metric: str,
    maximize: bool,
    parameters: Sequence[Parameter],
    rows: Sequence[Mapping[str, Any]],
) -> dict[str, Any] | None:
    """Replace `tuning.json` in `out` by the axes and all trials; return the best one, None without any.

    Each row has `number`, `parameters` by name, `objective` (None: not reported), `failure` and `stopped`.
    """
    judged = [row for row in rows if row["objective"] is not None]
    best = (max if maximize else min)(judged, key=lambda row: row["objective"], default=None)
    record = {
        "objective": metric,
        "maximize": maximize,
        "parameters": [dataclasses.asdict(parameter) for parameter in parameters],
        "best": best,
        "trials": list(rows),
    }
    write_whole(out / TUNING_FILE, (json.dumps(record, indent=2, sort_keys=True) + "\n").encode())
    return best


def _draw(trial: Any, parameter: Parameter) -> Any:
    if parameter.values:
        return trial.suggest_categorical(parameter.name, parameter.grid())
    if parameter.kind == "int":
        step = int(parameter.step or 1)
        low, high = int(parameter.low), int(parameter.high)
        return trial.suggest_int(parameter.name, low, high, step=step, log=parameter.log)
    return trial.suggest_float(
        parameter.name, parameter.low, parameter.high, step=parameter.step, log=parameter.log
    )


def _arguments(
    plan: Experiment, chosen: Mapping[str, Any], fixed: Mapping[str, Any], tensors: Path, out: Path
) -> list[str]:
    """The trial's own arguments, then what the laptop sets instead; argparse takes the last of each."""
    ours = fixed_arguments(fixed, chosen)
    return [*plan.trial_arguments(chosen), *ours, f"--tensors={tensors}", f"--out={out}"]


def fixed_arguments(fixed: Mapping[str, Any], varied: Mapping[str, Any]) -> list[str]:
    """Training parameters as arguments, without those that the Experiment varies."""
    return [
        f"--{name.replace('_', '-')}={_whole(value)}"
        for name, value in fixed.items()
        if name.replace("_", "-") not in varied
    ]


def _whole(value: Any) -> Any:
    """KFP passes a dict as a protobuf Struct, whose only number is a double: 5 arrives as 5.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _objective(plan: Experiment, values: list[float]) -> float:
    return {"max": max, "min": min, "latest": lambda all_values: all_values[-1]}[plan.strategy](values)


def _reached(plan: Experiment, value: float) -> bool:
    return value >= plan.goal if plan.maximize else value <= plan.goal
