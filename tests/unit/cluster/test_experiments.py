"""The Experiment of katib/ on an API server over HTTP: what is submitted, and what comes back."""

import json
import re
from pathlib import Path

import pytest

from hounsfield.cluster.experiments import experiment_object, run_experiment
from hounsfield.cluster.settings import JobSettings
from hounsfield.cluster.watching import JobFailed
from hounsfield.errors import ClusterError, ConfigError
from hounsfield.manifests.hardening import restricted
from hounsfield.manifests.pods import pods
from hounsfield.training.experiment import read_document
from tests.unit.cluster.api_server import EXPERIMENTS, LIMITS, NAMESPACE, TRIALS, as_json

FILE = Path(__file__).parents[3] / "katib" / "experiment.yaml"
NAME = "tune-1"
SETTINGS = JobSettings(
    name=NAME,
    storage="pvc://shared/training",
    spot=True,
    env={"NCCL_DEBUG": "WARN"},
    secret_env={"AWS_SECRET_ACCESS_KEY": "store/secretkey"},
)


def submitted(document=None, **more):
    options = {"max_trials": 5, "fixed": {"preset": "quick", "epochs": 6.0, "learning_rate": 1.0}} | more
    return experiment_object(
        document or read_document(FILE),
        NAME,
        NAMESPACE,
        SETTINGS,
        "hounsfield/train:2",
        "s3://b/t",
        **options,
    )


def run(cluster, out, **more):
    return run_experiment(
        cluster.connection,
        FILE,
        SETTINGS,
        "hounsfield/train:2",
        "s3://b/t",
        out,
        clock=cluster.clock,
        limits=LIMITS,
        **more,
    )


def trial(cluster, number, condition, auroc=None, **more):
    values = {
        "learning-rate": "0.005",
        "weight-decay": "0.01",
        "augmentation": "0.5",
        "dropout": "0.2",
    } | more
    best = {"name": "validation_auroc", "latest": "0.5", "min": "0.5", "max": str(auroc)}
    cluster.put(
        TRIALS,
        f"{NAME}-{number}",
        {
            "metadata": {"creationTimestamp": f"2026-01-01T00:00:{number:02d}Z"},
            "spec": {
                "parameterAssignments": [{"name": name, "value": text} for name, text in values.items()]
            },
            "status": {
                "conditions": [{"type": condition, "status": "True", "message": f"Trial is {condition}"}],
                "observation": {"metrics": [best] if auroc else []},
            },
        },
    )


def test_experiment_that_ships_and_what_is_submitted_are_valid(violations):
    assert violations(read_document(FILE)) == []
    body = as_json(submitted())
    assert violations(body) == []
    assert violations({**body, "spec": {**body["spec"], "paralelTrialCount": 2}}) != []
    job = body["spec"]["trialTemplate"]["trialSpec"]
    assert violations({**job, "metadata": {}}) == []
    assert [found for pod in pods([{**job, "metadata": {"name": "t"}}]) for found in restricted(pod)] == []


def test_submitted_trials_run_our_image_data_and_parameters():
    body = submitted()
    assert body["metadata"]["name"] == NAME
    assert (body["spec"]["maxTrialCount"], body["spec"]["parallelTrialCount"]) == (5, 2)
    pod = body["spec"]["trialTemplate"]["trialSpec"]["spec"]["pytorchReplicaSpecs"]["Master"]["template"][
        "spec"
    ]
    (container,) = pod["containers"]
    assert container["image"] == "hounsfield/train:2"
    # Of two equal arguments `hounsfield train` takes the last; learning_rate is the space's to vary.
    assert container["args"][-3:] == ["--preset=quick", "--epochs=6", "--tensors=s3://b/t"]
    assert "--learning-rate=${trialParameters.learningRate}" in container["args"]
    variables = {variable["name"] for variable in container["env"]}
    assert variables == {"HOME", "PYTHONUNBUFFERED", "NCCL_DEBUG", "AWS_SECRET_ACCESS_KEY"}
    assert {"name": "storage", "persistentVolumeClaim": {"claimName": "shared"}} in pod["volumes"]
    assert pod["tolerations"][0]["key"] == "cloud.google.com/gke-spot"
    assert read_document(FILE)["spec"]["maxTrialCount"] == 12  # the file is not touched


def test_trial_that_is_no_pytorchjob_is_refused():
    document = read_document(FILE)
    document["spec"]["trialTemplate"]["trialSpec"] = {"kind": "Job", "spec": {}}
    with pytest.raises(ConfigError, match="not a PyTorchJob"):
        submitted(document)


def test_best_parameters_come_back_typed_and_the_experiment_goes(cluster, tmp_path, capsys):
    def succeed(cluster):
        best = [{"name": "learning-rate", "value": "0.002"}, {"name": "augmentation", "value": "1"}]
        cluster.change(
            EXPERIMENTS,
            NAME,
            {
                "status": {
                    "conditions": [{"type": "Succeeded", "status": "True"}],
                    "currentOptimalTrial": {"parameterAssignments": best},
                }
            },
        )

    cluster.plan = [
        lambda c: trial(c, 0, "Succeeded", 0.8),
        lambda c: trial(c, 1, "EarlyStopped", 0.6),
        lambda c: trial(c, 2, "Succeeded", 0.9, **{"learning-rate": "0.002"}),
        lambda c: trial(c, 3, "Failed"),
        succeed,
    ]
    assert run(cluster, tmp_path) == {"learning_rate": 0.002, "augmentation": 1}
    assert cluster.get(EXPERIMENTS, NAME) is None
    record = json.loads((tmp_path / "tuning.json").read_text())
    assert [row["objective"] for row in record["trials"]] == [0.8, 0.6, 0.9, None]
    assert [row["stopped"] for row in record["trials"]] == [False, True, False, False]
    assert record["trials"][3]["failure"] == "Trial is Failed"
    assert record["best"]["number"] == 2
    said = capsys.readouterr().out
    assert "[progress] tune" in said
    assert "4 trials, best validation_auroc 0.9000" in said


def test_failed_experiment_is_kept_with_its_last_failure(cluster, tmp_path):
    cluster.plan = [
        lambda c: trial(c, 0, "Failed"),
        lambda c: c.condition(
            EXPERIMENTS, NAME, "Failed", message="Experiment has failed because max failed"
        ),
    ]
    with pytest.raises(
        JobFailed, match="Experiment has failed because max failed; last trial: Trial is Failed"
    ):
        run(cluster, tmp_path)
    assert cluster.get(EXPERIMENTS, NAME) is not None


def test_no_permission_and_a_taken_name(cluster, tmp_path):
    cluster.put(EXPERIMENTS, NAME, {"spec": {}})
    with pytest.raises(ClusterError, match=r"cannot create Experiment 'tune-1' .*\(409\): the name is taken"):
        run(cluster, tmp_path)
    cluster.answer("create", EXPERIMENTS, status=403, reason="Forbidden", message="cannot create resource")
    cluster.drop(EXPERIMENTS, NAME)
    with pytest.raises(ClusterError, match=r"no permission to create Experiment .*cannot create resource"):
        run(cluster, tmp_path)


def test_katib_that_never_starts_a_trial(cluster, tmp_path):
    cluster.plan = [lambda c: c.condition(EXPERIMENTS, NAME, "Created", message="Experiment is created")]
    with pytest.raises(JobFailed, match=re.escape("no running trial for 100 s")) as end:
        run(cluster, tmp_path)
    assert "Experiment is created" in str(end.value)
    assert cluster.get(EXPERIMENTS, NAME) is None


def test_experiment_deleted_by_someone_else_and_a_lost_server(cluster, tmp_path):
    cluster.plan = [lambda c: c.drop(EXPERIMENTS, NAME)]
    with pytest.raises(ClusterError, match="was deleted while it ran"):
        run(cluster, tmp_path)
    cluster.plan = [lambda c: c.stop()]
    with pytest.raises(ClusterError, match="has not answered for 50 s"):
        run(cluster, tmp_path)
