import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from hounsfield.errors import ConfigError, TrainingError
from hounsfield.report.tuning import tuning_page
from hounsfield.training.experiment import Parameter, load_experiment
from hounsfield.training.median_stop import MedianStop
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
    assert (experiment.algorithm, experiment.settings) == ("tpe", {"random_state": 7})
    assert experiment.early_stopping == {"min_trials_required": 3, "start_step": 4}
    chosen = {"learning-rate": 0.001, "weight-decay": 0.01, "augmentation": 0.5, "dropout": 0.1}
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
        (lambda spec: spec["algorithm"].update(algorithmName="hyperband"), "algorithmName 'hyperband'"),
        (lambda spec: spec["algorithm"].update(algorithmName="cmaes"), "algorithmName 'cmaes'"),
        (
            lambda spec: spec["algorithm"]["algorithmSettings"].append({"name": "n_iter", "value": "4"}),
            "algorithmSettings 'n_iter'",
        ),
        (
            lambda spec: spec["algorithm"]["algorithmSettings"][0].update(value="seven"),
            "'random_state' is 'seven', which is no number",
        ),
        (lambda spec: spec["earlyStopping"].update(algorithmName="asha"), "earlyStopping 'asha'"),
        (
            lambda spec: spec["earlyStopping"]["algorithmSettings"][0].update(name="quantile"),
            "earlyStopping setting 'quantile'",
        ),
        (
            lambda spec: spec["earlyStopping"]["algorithmSettings"][1].update(value="0"),
            "earlyStopping setting 'start_step' is '0'",
        ),
        (lambda spec: spec.update(nasConfig={}), "spec.nasConfig"),
        (
            lambda spec: spec["metricsCollectorSpec"].update(source={"filter": {"metricsFormat": ["(x"]}}),
            "metricsFormat '.x'",
        ),
        (
            lambda spec: spec["metricsCollectorSpec"].update(source={"filter": {"metricsFormat": ["(x)"]}}),
            "has 1 groups; it needs the name and the value",
        ),
        (
            lambda spec: spec["algorithm"].update(algorithmName="grid", algorithmSettings=[]),
            "'learning-rate' is a double without a step: a grid needs one",
        ),
        (lambda spec: spec["metricsCollectorSpec"]["collector"].update(kind="File"), "collector kind 'File'"),
        (lambda spec: spec["trialTemplate"]["trialSpec"].update(kind="Job"), "trialSpec kind 'Job'"),
        (lambda spec: spec["parameters"][0].update(parameterType="matrix"), "parameterType 'matrix'"),
        (
            lambda spec: spec["parameters"][0]["feasibleSpace"].update(distribution="normal"),
            "distribution 'normal'",
        ),
        (lambda spec: spec["trialTemplate"]["trialParameters"].pop(), "trialParameters.dropout"),
        (lambda spec: spec["objective"].pop("objectiveMetricName"), "objectiveMetricName"),
    ],
)
def test_what_the_laptop_cannot_honour_is_refused_by_name(tmp_path, change, named):
    with pytest.raises(ConfigError, match=named):
        load_experiment(_edit(tmp_path, change))


def _grid(spec):
    spec["algorithm"] = {"algorithmName": "grid"}
    spec["maxTrialCount"] = 6
    spec["parameters"][0]["feasibleSpace"] = {"min": "0.001", "max": "0.003", "step": "0.001"}
    spec["parameters"][1]["feasibleSpace"] = {"list": ["0.01", "0.1"]}
    spec["parameters"][1]["parameterType"] = "discrete"
    for parameter, key in zip(spec["parameters"][2:], ("augmentation", "dropout"), strict=True):
        parameter.update(name=key, parameterType="discrete", feasibleSpace={"list": ["0.5"]})


def test_grid_visits_every_point_once(tmp_path):
    seen = []

    def run_trial(arguments, processes, on_line):
        options = dict(argument.removeprefix("--").split("=", 1) for argument in arguments)
        seen.append((round(float(options["learning-rate"]), 6), options["weight-decay"]))
        on_line("validation_auroc=0.5")

    tune(_edit(tmp_path, _grid), Path("t"), tmp_path, run_trial=run_trial)
    assert sorted(seen) == [(rate, decay) for rate in (0.001, 0.002, 0.003) for decay in ("0.01", "0.1")]


def test_grid_with_fewer_points_than_trials_is_refused_as_katib_does(tmp_path):
    path = _edit(tmp_path, lambda spec: (_grid(spec), spec.update(maxTrialCount=7)))
    with pytest.raises(ConfigError, match="maxTrialCount is 7, and the grid has 6 points"):
        load_experiment(path)


def test_grid_of_numbers_includes_both_bounds():
    assert Parameter("a", "int", low=2, high=8, step=3).grid() == [2, 5, 8]
    assert Parameter("a", "int", low=1, high=3).grid() == [1, 2, 3]
    assert Parameter("a", "double", low=0.1, high=0.35, step=0.1).grid() == pytest.approx([0.1, 0.2, 0.3])
    assert Parameter("a", "discrete", values=("1", "2.5")).grid() == [1, 2.5]
    assert Parameter("a", "categorical", values=("1", "relu")).grid() == ["1", "relu"]


@pytest.mark.parametrize("algorithm", ["random", "tpe", "multivariate-tpe"])
def test_every_draw_is_in_the_space_and_the_seed_repeats_it(tmp_path, algorithm):
    def change(spec):
        spec["algorithm"]["algorithmName"] = algorithm
        spec.pop("earlyStopping")
        spec["objective"].pop("goal")
        spec["parameters"].append(
            {
                "name": "epochs",
                "parameterType": "int",
                "feasibleSpace": {"min": "2", "max": "10", "step": "4"},
            }
        )
        spec["trialTemplate"]["trialParameters"].append({"name": "epochs", "reference": "epochs"})
        container = _container(spec)
        container["args"].append("--epochs=${trialParameters.epochs}")

    path = _edit(tmp_path, change)

    def search(out):
        seen = []

        def run_trial(arguments, processes, on_line):
            options = dict(argument.removeprefix("--").split("=", 1) for argument in arguments)
            options.pop("out")
            seen.append(options)
            on_line(f"validation_auroc={1 - abs(float(options['learning-rate']) - 0.004)}")

        tune(path, Path("t"), out, run_trial=run_trial)
        return seen

    first = search(tmp_path / "a")
    assert len(first) == 12
    for options in first:
        assert 0.001 <= float(options["learning-rate"]) <= 0.01
        assert 0.001 <= float(options["weight-decay"]) <= 0.1
        assert float(options["augmentation"]) in (0, 0.5, 1)
        assert any(abs(float(options["dropout"]) - step / 10) < 1e-9 for step in range(5))
        assert options["epochs"] in ("2", "6", "10")
    assert search(tmp_path / "b") == first


def _container(spec):
    replica = spec["trialTemplate"]["trialSpec"]["spec"]["pytorchReplicaSpecs"]["Master"]
    return replica["template"]["spec"]["containers"][0]


def test_own_filter_and_latest_value_decide_the_objective(tmp_path):
    def change(spec):
        spec["metricsCollectorSpec"]["source"] = {"filter": {"metricsFormat": [r"(\w+): ([\d.]+)"]}}
        spec["objective"]["metricStrategies"] = [{"name": "validation_auroc", "value": "latest"}]

    def run_trial(arguments, processes, on_line):
        for line in ("validation_auroc: 0.8", "validation_auroc=0.99", "validation_auroc: 0.6"):
            on_line(line)

    tune(_edit(tmp_path, change), Path("t"), tmp_path, max_trials=1, run_trial=run_trial)
    assert json.loads((tmp_path / "tuning.json").read_text())["best"]["objective"] == 0.6


def test_median_stop_ends_the_trial_that_katib_would(tmp_path):
    curves = [
        [0.5, 0.6, 0.7, 0.8, 0.9],  # mean of the first 4: 0.65
        [0.6, 0.7, 0.8, 0.9, 0.9],  # 0.75
        [0.4, 0.5, 0.6, 0.7, 0.7],  # 0.55; the mean of the three is 0.65, Katib's "median"
        [0.6, 0.1, 0.1, 0.1, 0.9],  # its best of four, 0.6, is below: stopped at the 4th
        [0.1, 0.1, 0.1, 0.66, 0.1],  # its best of four is above: runs to its end
        [0.64, 0.64, 0.64],  # never reports a 4th
    ]
    heard = []

    def run_trial(arguments, processes, on_line):
        values, lines = curves[len(heard)], []
        heard.append(lines)
        for value in values:
            lines.append(value)
            on_line(f"validation_auroc={value}")

    tune(EXPERIMENT, Path("t"), tmp_path, max_trials=6, run_trial=run_trial)
    assert [len(lines) for lines in heard] == [5, 5, 5, 4, 5, 3]
    trials = json.loads((tmp_path / "tuning.json").read_text())["trials"]
    assert [trial["stopped"] for trial in trials] == [False, False, False, True, False, False]
    assert trials[3]["objective"] == 0.6  # what it reached still counts, as in Katib
    assert trials[3]["failure"] is None


def test_one_bar_tells_of_the_trials_the_best_and_the_one_that_runs(tmp_path, capsys):
    def run_trial(arguments, processes, on_line):
        on_line("[progress] train 40/54 batches, epoch 3")
        on_line("epoch=3 validation_auroc=0.75")

    tune(EXPERIMENT, Path("t"), tmp_path, max_trials=2, run_trial=run_trial)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[progress]")]
    assert said[0] == "[progress] tune 0/2 trials; this one 40/54 batches, epoch 3"
    assert said[-1] == "[progress] tune 2/2 trials, best validation_auroc 0.7500"


def test_median_stop_of_a_loss_is_turned_round():
    rule = MedianStop(maximize=False, min_trials_required=1, start_step=2)
    rule.ended([0.5, 0.3, 0.1])  # 0.4
    assert rule.threshold() == pytest.approx(0.4)
    assert rule.stops([0.6, 0.5], rule.threshold())
    assert not rule.stops([0.6, 0.39], rule.threshold())
    assert not rule.stops([0.6], rule.threshold())
    assert not rule.stops([0.9, 0.8], None)


def test_picture_of_the_trials_is_on_the_page(tmp_path):
    def run_trial(arguments, processes, on_line):
        on_line(f"validation_auroc={0.5 + 0.01 * len(str(arguments))}")

    tune(EXPERIMENT, Path("t"), tmp_path, max_trials=3, run_trial=run_trial)
    page = tuning_page(tmp_path / "tuning.json")
    assert page.count('class="best"') == 1
    assert "<svg" in page
    for name in ("learning-rate", "weight-decay", "augmentation", "dropout", "validation_auroc"):
        assert name in page
