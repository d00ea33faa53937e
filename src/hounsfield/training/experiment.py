"""A Katib Experiment, read for the laptop: what it cannot honour is refused by name."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError

from hounsfield.errors import ConfigError
from hounsfield.training.median_stop import MedianStop
from hounsfield.training.metric_lines import DEFAULT_FILTER
from hounsfield.training.samplers import grid_size, make_sampler, read_settings

_REFERENCE = re.compile(r"\$\{trialParameters\.([^}]+)\}")
_STRATEGIES = ("min", "max", "latest")
_TRAIN = ("hounsfield.training.main", "train")
"""After one of these words come the arguments of `hounsfield train`."""

_MEDIAN_STOP = {"min_trials_required", "start_step"}
_KNOWN_SPEC = {
    "objective",
    "algorithm",
    "earlyStopping",
    "parallelTrialCount",  # an upper bound: the laptop runs one trial at a time
    "maxTrialCount",
    "maxFailedTrialCount",
    "parameters",
    "metricsCollectorSpec",
    "trialTemplate",
    "resumePolicy",  # says what to keep in the cluster after the end
}


@dataclass(frozen=True)
class Parameter:
    """One axis of the space: `values` for categorical and discrete, the others for numbers."""

    name: str
    kind: str
    low: float | None = None
    high: float | None = None
    step: float | None = None
    log: bool = False
    values: tuple[str, ...] = ()

    def typed(self, text: Any) -> Any:
        """A value as the training parameter has it: a number where it is one."""
        if self.kind == "categorical":
            return str(text)
        value = float(text)
        return int(value) if self.kind == "int" or (self.kind == "discrete" and _is_whole(text)) else value

    def grid(self) -> list[Any]:
        """Every value of this axis, bounds included. Raises ConfigError for a double without a step."""
        if self.values:
            return [self.typed(value) for value in self.values]
        if self.kind == "double" and not self.step:
            raise ConfigError(f"parameter {self.name!r} is a double without a step: a grid needs one")
        step = self.step or 1
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        return [self.typed(self.low + number * step) for number in range(count)]


@dataclass(frozen=True)
class Experiment:
    """What the laptop runs: `arguments` of `hounsfield train` with `${trialParameters...}` in them.

    `early_stopping` are the settings of medianstop, None without it.
    """

    metric: str
    maximize: bool
    strategy: str
    goal: float | None
    max_trials: int
    max_failed_trials: int
    parallel_trials: int
    algorithm: str
    settings: Mapping[str, Any]
    early_stopping: Mapping[str, int] | None
    parameters: tuple[Parameter, ...]
    references: Mapping[str, str]
    arguments: tuple[str, ...]
    filters: tuple[str, ...]

    def trial_arguments(self, chosen: Mapping[str, Any]) -> list[str]:
        """The template's arguments with the values of `chosen` (parameter name -> value) put in."""

        def value(match: re.Match[str]) -> str:
            return str(chosen[self.references[match[1]]])

        return [_REFERENCE.sub(value, argument) for argument in self.arguments]

    def sampler(self, seed: int) -> Any:
        """The optuna sampler that draws what Katib would draw; see samplers.py."""
        return make_sampler(self.algorithm, self.settings, self.parameters, self.parallel_trials, seed)

    def stopping(self) -> MedianStop | None:
        """A new rule of early stopping, None without one."""
        if self.early_stopping is None:
            return None
        return MedianStop(self.maximize, **self.early_stopping)


def load_experiment(path: Path) -> Experiment:
    """Read a Katib v1beta1 Experiment whose trial is a PyTorchJob that runs `hounsfield train`.

    Raises ConfigError that names key and value when it is malformed or asks for what a laptop lacks.
    """
    spec = read_document(path)["spec"]
    where = path.name
    for key in sorted(set(spec) - _KNOWN_SPEC):
        raise ConfigError(f"{where}: spec.{key} cannot be honoured on the laptop; remove it or use a cluster")
    algorithm = spec.get("algorithm") or {}
    algorithm_name = str(algorithm.get("algorithmName"))
    objective = _required(spec, "objective", where)
    metric = _required(objective, "objectiveMetricName", where)
    direction = _required(objective, "type", where)
    if direction not in ("maximize", "minimize"):
        raise ConfigError(f"{where}: objective type {direction!r} is not one of maximize, minimize")
    strategy = {item["name"]: item["value"] for item in objective.get("metricStrategies") or []}.get(
        metric, "max" if direction == "maximize" else "min"
    )
    if strategy not in _STRATEGIES:
        raise ConfigError(f"{where}: metric strategy {strategy!r} is not one of {', '.join(_STRATEGIES)}")
    references, arguments = _trial(_required(spec, "trialTemplate", where), where)
    parameters = read_parameters(spec, where)
    _check_references(parameters, references, arguments, where)
    plan = Experiment(
        metric=metric,
        maximize=direction == "maximize",
        strategy=strategy,
        goal=objective.get("goal"),
        max_trials=int(spec.get("maxTrialCount", 10)),
        max_failed_trials=int(spec.get("maxFailedTrialCount", 0)),
        parallel_trials=int(spec.get("parallelTrialCount", 3)),
        algorithm=algorithm_name,
        settings=read_settings(algorithm_name, algorithm.get("algorithmSettings") or [], where),
        early_stopping=_early_stopping(spec.get("earlyStopping"), where),
        parameters=parameters,
        references=references,
        arguments=arguments,
        filters=_filters(spec.get("metricsCollectorSpec") or {}, where),
    )
    if plan.algorithm == "grid" and plan.max_trials > (size := grid_size(parameters)):
        raise ConfigError(f"{where}: maxTrialCount is {plan.max_trials}, and the grid has {size} points")
    return plan


def read_document(path: Path) -> dict[str, Any]:
    """The Experiment in the file, as it stands. Raises ConfigError when there is none."""
    try:
        document = YAML(typ="safe").load(path)
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; give the path of a Katib Experiment") from None
    except YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(document, dict) or document.get("kind") != "Experiment":
        raise ConfigError(f"{path}: kind is not 'Experiment'")
    if not isinstance(document.get("spec"), dict):
        raise ConfigError(f"{path}: key 'spec' is missing")
    return document


def read_parameters(spec: Mapping[str, Any], where: str) -> tuple[Parameter, ...]:
    """The axes of the space. Raises ConfigError that names the one that is malformed."""
    return tuple(_parameter(item, where) for item in _required(spec, "parameters", where))


def _required(mapping: Mapping[str, Any], key: str, where: str) -> Any:
    if mapping.get(key) in (None, "", []):
        raise ConfigError(f"{where}: key {key!r} is missing")
    return mapping[key]


def _filters(collector: Mapping[str, Any], where: str) -> tuple[str, ...]:
    kind = (collector.get("collector") or {}).get("kind", "StdOut")
    if kind != "StdOut":
        raise ConfigError(
            f"{where}: collector kind {kind!r} cannot be honoured on the laptop; it knows 'StdOut'"
        )
    filters = ((collector.get("source") or {}).get("filter") or {}).get("metricsFormat") or [DEFAULT_FILTER]
    for pattern in filters:
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ConfigError(
                f"{where}: metricsFormat {pattern!r} cannot be honoured on the laptop: {error}"
            ) from None
        if groups < 2:
            raise ConfigError(
                f"{where}: metricsFormat {pattern!r} has {groups} groups; it needs the name and the value"
            )
    return tuple(filters)


def _early_stopping(spec: Mapping[str, Any] | None, where: str) -> dict[str, int] | None:
    if not spec:
        return None
    if spec.get("algorithmName") != "medianstop":
        raise ConfigError(
            f"{where}: earlyStopping {spec.get('algorithmName')!r} cannot be honoured on the laptop; it "
            "knows 'medianstop'"
        )
    settings = {}
    for item in spec.get("algorithmSettings") or []:
        name, text = item["name"], str(item["value"])
        if name not in _MEDIAN_STOP:
            raise ConfigError(f"{where}: earlyStopping setting {name!r} cannot be honoured on the laptop")
        if not text.isdigit() or int(text) < 1:
            raise ConfigError(f"{where}: earlyStopping setting {name!r} is {text!r}; it must be 1 or more")
        settings[name] = int(text)
    return settings


def _parameter(item: Mapping[str, Any], where: str) -> Parameter:
    name, kind = _required(item, "name", where), _required(item, "parameterType", where)
    space = _required(item, "feasibleSpace", where)
    if kind in ("categorical", "discrete"):
        return Parameter(name, kind, values=tuple(str(value) for value in _required(space, "list", where)))
    if kind not in ("double", "int"):
        raise ConfigError(
            f"{where}: parameterType {kind!r} of {name!r} is not one of double, int, categorical, discrete"
        )
    distribution = space.get("distribution", "uniform")
    if distribution not in ("uniform", "logUniform"):
        raise ConfigError(
            f"{where}: distribution {distribution!r} of {name!r} cannot be honoured on the laptop; "
            "it knows uniform and logUniform"
        )
    low, high = float(_required(space, "min", where)), float(_required(space, "max", where))
    if not low <= high or (distribution == "logUniform" and low <= 0):
        raise ConfigError(f"{where}: parameter {name!r} has no values between {low:g} and {high:g}")
    step = float(space["step"]) if space.get("step") else None
    if step and distribution == "logUniform":
        raise ConfigError(
            f"{where}: parameter {name!r} has a step and is logUniform; the laptop takes one of both"
        )
    return Parameter(name, kind, low=low, high=high, step=step, log=distribution == "logUniform")


def _trial(template: Mapping[str, Any], where: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """Trial parameter name -> parameter name, and the arguments of `hounsfield train`."""
    references = {item["name"]: item["reference"] for item in _required(template, "trialParameters", where)}
    trial = _required(template, "trialSpec", where)
    if trial.get("kind") != "PyTorchJob":
        raise ConfigError(
            f"{where}: trialSpec kind {trial.get('kind')!r} cannot be honoured on the laptop; "
            "it knows 'PyTorchJob'"
        )
    replicas = trial["spec"]["pytorchReplicaSpecs"]
    primary = _required(template, "primaryContainerName", where)
    containers = replicas["Master"]["template"]["spec"]["containers"]
    for container in containers:
        if container["name"] == primary:
            command = [*container.get("command", []), *container.get("args", [])]
            break
    else:
        raise ConfigError(f"{where}: no container of the Master is named {primary!r} (primaryContainerName)")
    for word in _TRAIN:
        if word in command:
            return references, tuple(command[command.index(word) + 1 :])
    raise ConfigError(f"{where}: the trial does not run 'hounsfield train'")


def _check_references(
    parameters: tuple[Parameter, ...], references: Mapping[str, str], arguments: tuple[str, ...], where: str
) -> None:
    names = {parameter.name for parameter in parameters}
    for trial_name, reference in references.items():
        if reference not in names:
            raise ConfigError(
                f"{where}: trialParameters {trial_name!r} refers to {reference!r}, no parameter"
            )
    used = {name for argument in arguments for name in _REFERENCE.findall(argument)}
    for name in sorted(used - set(references)):
        raise ConfigError(f"{where}: the trial uses trialParameters.{name}, which is not declared")
    for name in sorted(names - {references[trial_name] for trial_name in used}):
        raise ConfigError(f"{where}: parameter {name!r} is not used by the trial")


def _is_whole(text: Any) -> bool:
    return str(text).lstrip("+-").isdigit()
