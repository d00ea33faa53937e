import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from hounsfield.errors import ConfigError, TrainingError
from hounsfield.training.experiment import load_experiment
from hounsfield.training.metric_lines import read_metrics
from hounsfield.training.params import TrainingParams
from hounsfield.training.tuning import tune

EXPERIMENT = Path(__file__).parents[3] / "katib" / "experiment.yaml"


def test_collector_reads_the_value_of_the_exact_name_anywhere_in_a_line():
    lines = [
        "2026-01-01T00:00:00Z epoch=3 validation_auroc=0.87",
        "best_validation_auroc=0.99",
        "validation_auroc = 1e-1, validation_auroc=nan",
        "validation_auroc",
    ]
    assert read_metrics(lines, ["validation_auroc", "loss"]) == {"validation_auroc": [0.87, 0.1], "loss": []}


def test_the_experiment_that_ships_is_read_whole():
    experiment = load_experiment(EXPERIMENT)
    assert experiment.metric == "validation_auroc"
    assert experiment.maximize
    assert experiment.strategy == "max"
    names = {parameter.name.replace("-", "_") for parameter in experiment.parameters}
    assert names <= set(TrainingParams.__dataclass_fields__)
    chosen = {"learning-rate": 0.001, "weight-decay": 0.01, "augmentation": 0.5}
    assert "--learning-rate=0.001" in experiment.trial_arguments(chosen)


def test_best_trial_wins_and_failed_ones_are_kept(tmp_path):
    seen = []

    def run_trial(arguments, processes, on_line):
        options = dict(argument.removeprefix("--").split("=", 1) for argument in arguments)
        seen.append(options)
        if len(seen) == 2:
            raise TrainingError("it diverged")
        on_line("epoch=0 validation_auroc=0.5")
        on_line(f"epoch=1 validation_auroc={len(seen) / 10}")
        on_line("epoch=2 validation_auroc=0.1")

    best = tune(
        EXPERIMENT,
        Path("tensors"),
        tmp_path,
        max_trials=3,
        fixed={"epochs": 2, "learning_rate": 5.0},
        run_trial=run_trial,
    )
    record = json.loads((tmp_path / "tuning.json").read_text())
    # Katib's default for maximize is the best value a trial reports: 0.5 in both, and the first is kept.
    assert [trial["objective"] for trial in record["trials"]] == [0.5, None, 0.5]
    assert record["trials"][1]["failure"] == "it diverged"
    assert best["learning_rate"] == pytest.approx(float(seen[0]["learning-rate"]))
    assert best["augmentation"] in (0.0, 0.5, 1.0)
    assert seen[0]["epochs"] == "2"
    assert seen[0]["tensors"] == "tensors"
    assert 0.001 <= float(seen[0]["learning-rate"]) <= 0.01  # the space wins over what was fixed
    assert len({options["learning-rate"] for options in seen}) == 3


def test_more_failures_than_allowed_end_the_search(tmp_path):
    def run_trial(arguments, processes, on_line):
        raise TrainingError("no memory")

    with pytest.raises(
        TrainingError, match="3 trials failed, more than maxFailedTrialCount; last: no memory"
    ):
        tune(EXPERIMENT, Path("t"), tmp_path, run_trial=run_trial)


def test_the_goal_ends_the_search(tmp_path):
    calls = []

    def run_trial(arguments, processes, on_line):
        calls.append(arguments)
        on_line("validation_auroc=0.995")

    tune(EXPERIMENT, Path("t"), tmp_path, run_trial=run_trial)
    assert len(calls) == 1


def _edit(tmp_path, change):
    document = YAML(typ="safe").load(EXPERIMENT)
    change(document["spec"])
    path = tmp_path / "experiment.yaml"
    YAML(typ="safe").dump(document, path)
    return path


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda spec: spec["algorithm"].update(algorithmName="tpe"), "algorithmName 'tpe'"),
        (lambda spec: spec.update(earlyStopping={"algorithmName": "medianstop"}), "spec.earlyStopping"),
        (lambda spec: spec["metricsCollectorSpec"]["collector"].update(kind="File"), "collector kind 'File'"),
        (lambda spec: spec["trialTemplate"]["trialSpec"].update(kind="Job"), "trialSpec kind 'Job'"),
        (lambda spec: spec["parameters"][0].update(parameterType="matrix"), "parameterType 'matrix'"),
        (
            lambda spec: spec["parameters"][0]["feasibleSpace"].update(distribution="normal"),
            "distribution 'normal'",
        ),
        (lambda spec: spec["trialTemplate"]["trialParameters"].pop(), "trialParameters.augmentation"),
        (lambda spec: spec["objective"].pop("objectiveMetricName"), "objectiveMetricName"),
    ],
)
def test_what_the_laptop_cannot_honour_is_refused_by_name(tmp_path, change, named):
    with pytest.raises(ConfigError, match=named):
        load_experiment(_edit(tmp_path, change))


def test_the_experiment_fits_katibs_own_schema():
    crds = Path(__file__).parents[4] / "shared" / "crds" / "kubeflow.org_experiments.yaml"
    if not crds.exists():
        pytest.skip("needs the folder shared/crds")
    versions = YAML(typ="safe").load(crds)["spec"]["versions"]
    schema = next(v for v in versions if v["name"] == "v1beta1")["schema"]["openAPIV3Schema"]
    assert _unknown(YAML(typ="safe").load(EXPERIMENT), schema) == []
    planted = YAML(typ="safe").load(EXPERIMENT)
    planted["spec"]["paralelTrialCount"] = 2
    if "properties" in schema.get("properties", {}).get("spec", {}):
        assert _unknown(planted, schema) == ["spec.paralelTrialCount"]


def _unknown(value, schema, path=""):
    """Paths in `value` that a structural schema does not name."""
    if schema.get("x-kubernetes-preserve-unknown-fields") or path == "metadata":
        return []
    if isinstance(value, list):
        return [name for item in value for name in _unknown(item, schema.get("items", {}), path)]
    if not isinstance(value, dict) or "properties" not in schema:
        return []
    found = []
    for key, item in value.items():
        here = f"{path}.{key}".lstrip(".")
        inner = schema["properties"].get(key)
        found += [here] if inner is None else _unknown(item, inner, here)
    return found
