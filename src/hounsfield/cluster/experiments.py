"""A Katib Experiment: submitted with Katib's own client, followed, its trials read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hounsfield.cluster import pods
from hounsfield.cluster.connection import REQUEST_TIMEOUT_S, Connection, explain
from hounsfield.cluster.run import limits_of, new_name
from hounsfield.cluster.settings import JobSettings
from hounsfield.cluster.watching import Clock, JobFailed, JobStuck, Limits, delete, looks, where
from hounsfield.errors import ConfigError, TrainingError
from hounsfield.progress import Reporter
from hounsfield.training.experiment import Parameter, read_document, read_parameters
from hounsfield.training.tuning import as_training_parameters, fixed_arguments, progress_note, write_record

_SUCCEEDED, _STOPPED, _FAILED = "Succeeded", "EarlyStopped", ("Failed", "Killed", "MetricsUnavailable")


@dataclass(frozen=True)
class _Kind:
    name: str = "Experiment"
    group: str = "kubeflow.org"
    version: str = "v1beta1"
    plural: str = "experiments"


EXPERIMENT = _Kind()


def experiment_object(
    document: Mapping[str, Any],
    name: str,
    namespace: str,
    settings: JobSettings,
    image: str,
    tensors: str,
    max_trials: int | None,
    fixed: Mapping[str, Any],
) -> dict[str, Any]:
    """The Experiment `document` as it is submitted.

    Its trials run `image`, read `tensors`, and take the training parameters `fixed` that it does not vary;
    machines, environment and storage of `settings` are added to each pod. Raises ConfigError for a trial that
    is no PyTorchJob of ours.
    """
    spec = dict(document["spec"])
    count = min(spec.get("maxTrialCount") or max_trials or 10, max_trials or spec.get("maxTrialCount") or 10)
    spec |= {"maxTrialCount": count, "parallelTrialCount": min(spec.get("parallelTrialCount", 3), count)}
    spec["maxFailedTrialCount"] = min(spec.get("maxFailedTrialCount", 0), count)
    varied = {item["name"]: None for item in spec["parameters"]}
    ours = [*fixed_arguments(fixed, varied), f"--tensors={tensors}"]
    template = dict(spec["trialTemplate"])
    try:
        trial = template["trialSpec"]
        replicas = {
            role: _replica(replica, template["primaryContainerName"], settings, image, ours)
            for role, replica in trial["spec"]["pytorchReplicaSpecs"].items()
        }
    except (KeyError, TypeError, AttributeError):
        raise ConfigError(
            "the Experiment's trialTemplate is not a PyTorchJob with a primaryContainerName"
        ) from None
    template["trialSpec"] = trial | {"spec": trial["spec"] | {"pytorchReplicaSpecs": replicas}}
    return {
        "apiVersion": document["apiVersion"],
        "kind": EXPERIMENT.name,
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/name": "hounsfield", "app.kubernetes.io/component": "tuning"},
        },
        "spec": spec | {"trialTemplate": template},
    }


def run_experiment(
    connection: Connection,
    experiment: Path,
    settings: JobSettings,
    image: str,
    tensors: str,
    out: Path,
    max_trials: int | None = None,
    fixed: Mapping[str, Any] | None = None,
    clock: Clock | None = None,
    limits: Limits | None = None,
) -> dict[str, Any]:
    """The best parameters found, typed as in TrainingParams; `tuning.json` in `out` keeps every trial.

    The Experiment is deleted when it has succeeded, and kept when it has failed. Raises ClusterError,
    JobFailed (a TrainingError) with the reason, and ConfigError.
    """
    document = read_document(Path(experiment))
    parameters = read_parameters(document["spec"], Path(experiment).name)
    name = new_name(settings, "hounsfield-tune")
    body = experiment_object(
        document, name, connection.namespace, settings, image, tensors, max_trials, fixed or {}
    )
    _create(connection, name, body)
    print(f"Experiment {name} in namespace {connection.namespace} is made", flush=True)
    try:
        best = _follow(connection, name, body["spec"], parameters, out, limits or limits_of(settings), clock)
    except JobStuck as error:
        delete(connection, EXPERIMENT, name)  # it cannot be paused, and its trials would hold machines
        raise JobStuck(f"{error}; it is deleted") from None
    except JobFailed as error:
        raise JobFailed(
            f"{error}; it is kept: kubectl describe experiments {name} -n {connection.namespace}"
        ) from None
    except KeyboardInterrupt:
        delete(connection, EXPERIMENT, name)
        raise
    delete(connection, EXPERIMENT, name)
    return best


def _create(connection: Connection, name: str, body: dict[str, Any]) -> None:
    from kubeflow.katib import KatibClient

    client = KatibClient(client_configuration=connection.configuration, namespace=connection.namespace)
    try:
        client.create_experiment(body, namespace=connection.namespace)
    except Exception as error:  # a plain Exception is what the client raises for a name that is taken
        raise explain(error, connection, "create", EXPERIMENT.name, name) from error


def _follow(
    connection: Connection,
    name: str,
    spec: Mapping[str, Any],
    parameters: Sequence[Parameter],
    out: Path,
    limits: Limits,
    clock: Clock | None,
) -> dict[str, Any]:
    clock, custom = clock or Clock(), connection.custom()
    this = where(connection, EXPERIMENT, name)
    metric = spec["objective"]["objectiveMetricName"]
    maximize = spec["objective"]["type"] == "maximize"
    reporter, active = Reporter("tune", spec["maxTrialCount"]), clock.now()

    def list_trials() -> list[dict[str, Any]]:
        found = custom.list_namespaced_custom_object(
            EXPERIMENT.group,
            EXPERIMENT.version,
            connection.namespace,
            "trials",
            label_selector=f"katib.kubeflow.org/experiment={name}",
            _request_timeout=REQUEST_TIMEOUT_S,
        )
        return sorted(found["items"], key=lambda item: item["metadata"].get("creationTimestamp") or "")

    for item, trials, now in looks(connection, EXPERIMENT, name, limits, clock, list_trials):
        status = item.get("status") or {}
        rows = [_row(number, trial, spec, parameters) for number, trial in enumerate(trials)]
        best = write_record(out, metric, maximize, parameters, [row for row in rows if row])
        done = sum(row is not None for row in rows)
        reporter.update(done, progress_note(metric, best))
        active = now if done or status.get("trialsRunning") else active
        conditions = {entry["type"]: entry for entry in status.get("conditions") or []}
        if conditions.get("Failed", {}).get("status") == "True":
            raise JobFailed(f"{this} failed: {_why(conditions['Failed'], rows)}")
        if conditions.get(_SUCCEEDED, {}).get("status") == "True":
            print(f"{done} {progress_note(metric, best)}", flush=True)
            return _optimum(status, best, parameters, this, metric)
        if now - active > limits.start_timeout_s:
            raise JobStuck(
                f"{this} has had no running trial for {limits.start_timeout_s:g} s (start_timeout_s): "
                f"{_waiting(conditions, trials)}"
            )
    raise AssertionError  # `looks` ends by raising


def _optimum(
    status: Mapping[str, Any],
    best: Mapping[str, Any] | None,
    parameters: Sequence[Parameter],
    this: str,
    metric: str,
) -> dict[str, Any]:
    """Katib's own choice; what the record says is best where it is silent."""
    assignments = (status.get("currentOptimalTrial") or {}).get("parameterAssignments")
    if assignments:
        return as_training_parameters(_typed(assignments, parameters))
    if best is None:
        raise TrainingError(f"{this} has ended, and no trial reported {metric}")
    return as_training_parameters(best["parameters"])


def _row(
    number: int, trial: Mapping[str, Any], spec: Mapping[str, Any], parameters: Sequence[Parameter]
) -> dict[str, Any] | None:
    """The trial as `write_record` keeps it; None while it runs."""
    status = trial.get("status") or {}
    ended = {item["type"]: item for item in status.get("conditions") or [] if item["status"] == "True"}
    failed = next((ended[kind] for kind in _FAILED if kind in ended), None)
    if failed is None and _SUCCEEDED not in ended and _STOPPED not in ended:
        return None
    return {
        "number": number,
        "parameters": _typed(trial["spec"]["parameterAssignments"], parameters),
        "objective": None if failed else _objective(status, spec["objective"]),
        "failure": (failed.get("message") or failed["type"]) if failed else None,
        "stopped": _STOPPED in ended,
    }


def _objective(status: Mapping[str, Any], objective: Mapping[str, Any]) -> float | None:
    """The value that Katib judges by: the best reported, or what metricStrategies says; it writes text."""
    name = objective["objectiveMetricName"]
    default = "max" if objective["type"] == "maximize" else "min"
    strategy = {item["name"]: item["value"] for item in objective.get("metricStrategies") or []}.get(
        name, default
    )
    for metric in (status.get("observation") or {}).get("metrics") or []:
        if metric["name"] == name:
            for key in (strategy, "latest"):
                try:
                    return float(metric[key])
                except (KeyError, ValueError):
                    continue
    return None


def _typed(assignments: Sequence[Mapping[str, str]], parameters: Sequence[Parameter]) -> dict[str, Any]:
    axes = {parameter.name: parameter for parameter in parameters}
    return {item["name"]: axes[item["name"]].typed(item["value"]) for item in assignments}


def _why(condition: Mapping[str, Any], rows: Sequence[Mapping[str, Any] | None]) -> str:
    failures = [row["failure"] for row in rows if row and row["failure"]]
    said = condition.get("message") or condition.get("reason") or "no reason was given"
    return f"{said}; last trial: {failures[-1]}" if failures else said


def _waiting(conditions: Mapping[str, Any], trials: Sequence[Any]) -> str:
    if trials:
        return f"{len(trials)} trials wait for machines"
    said = [entry.get("message") for entry in conditions.values() if entry.get("message")]
    return said[-1] if said else "no Katib controller has taken it up"


def _replica(
    replica: Mapping[str, Any], primary: str, settings: JobSettings, image: str, arguments: list[str]
) -> dict[str, Any]:
    template = replica["template"]
    pod = dict(template["spec"])
    pod["containers"] = [
        _container(container, settings, image, arguments) if container["name"] == primary else container
        for container in pod["containers"]
    ]
    claim = [volume for volume in pods.volumes(settings) if volume["name"] == "storage"]
    pod["volumes"] = [*pod.get("volumes", []), *claim]
    return dict(replica) | {"template": dict(template) | {"spec": pod | pods.placement(settings)}}


def _container(
    container: Mapping[str, Any], settings: JobSettings, image: str, arguments: list[str]
) -> dict[str, Any]:
    """The container with ours added; of two equal arguments `hounsfield train` takes the last."""
    ours = {variable["name"]: variable for variable in pods.environment(settings)}
    variables = {variable["name"]: variable for variable in container.get("env", [])} | ours
    mounts = [mount for mount in pods.mounts(settings) if mount["name"] == "storage"]
    return dict(container) | {
        "image": image,
        "args": [*container.get("args", []), *arguments],
        "env": list(variables.values()),
        "volumeMounts": [*container.get("volumeMounts", []), *mounts],
    }
