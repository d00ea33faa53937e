"""The steps `train` and `tune` on a cluster: found by a kubeconfig, data through a volume that both see."""

import json
import re

import pytest

from hounsfield.cluster import places
from hounsfield.cluster.connection import connect
from hounsfield.cluster.places import place_tensors
from hounsfield.cluster.settings import JobSettings
from hounsfield.cluster.steps import train_on_cluster, tune_on_cluster
from hounsfield.errors import ClusterError, ConfigError
from tests.unit.cluster.api_server import JOBS, NAMESPACE, TRAINJOBS


@pytest.fixture
def storage(tmp_path, monkeypatch):
    """The volume, where the step and the pods have it mounted."""
    folder = tmp_path / "storage"
    folder.mkdir()
    monkeypatch.setattr("hounsfield.cluster.settings.STORAGE_MOUNT", str(folder))
    monkeypatch.setattr(places, "STORAGE_MOUNT", str(folder))
    return folder


@pytest.fixture
def kubeconfig(cluster, tmp_path, monkeypatch):
    host = cluster.connection.configuration.host
    path = tmp_path / "kubeconfig"
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "test",
                "contexts": [
                    {"name": "test", "context": {"cluster": "c", "user": "u", "namespace": NAMESPACE}}
                ],
                "clusters": [{"name": "c", "cluster": {"server": host}}],
                "users": [{"name": "u", "user": {"token": "t"}}],
            }
        )
    )
    monkeypatch.setenv("KUBECONFIG", str(path))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    monkeypatch.setattr("hounsfield.cluster.follow.Clock", lambda: cluster.clock)


@pytest.fixture
def small_tensors(tmp_path):
    folder = tmp_path / "tensors"
    folder.mkdir()
    for name in ("index.parquet", "shard-00000.npy", "contract.json"):
        (folder / name).write_text(name)
    return folder


def train(tensors, out, launcher="pytorchjob", uri="/local/tensors", **cluster):
    train_on_cluster(
        launcher,
        {"name": "train-1", "storage": "pvc://shared/training", "workers": 1.0} | cluster,
        "hounsfield/train:3",
        tensors,
        uri,
        out,
        {"epochs": 2.0, "seed": 7},
        checkpoints="checkpoints",
        tracking_uri="http://mlflow:5000",
        tags={"source": "s3://dicom"},
    )


def finish(kind, storage, succeeded="Succeeded"):
    def write_and_end(cluster):
        model = storage / "training" / "runs" / "train-1" / "model"
        model.mkdir(parents=True)
        (model / "training.json").write_text("{}")
        (model / "weights.pt").write_text("w")
        cluster.condition(kind, "train-1", succeeded)

    return write_and_end


def test_training_goes_through_the_volume_and_leaves_nothing_but_the_shared_copy(
    cluster, kubeconfig, storage, small_tensors, tmp_path
):
    seen = []
    cluster.plan = [lambda c: seen.append(c.get(JOBS, "train-1")), finish(JOBS, storage)]
    train(small_tensors, tmp_path / "model")
    (job,) = seen
    container = job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]
    assert container["image"] == "hounsfield/train:3"
    options = dict(zip(container["args"][::2], container["args"][1::2], strict=False))
    assert options["--out"] == f"{storage}/training/runs/train-1/model"
    assert f"{storage}/training/checkpoints" in container["args"]
    assert "--epochs=2" in container["args"]
    assert "--tag=source=s3://dicom" in container["args"]
    (copy,) = (storage / "training" / "tensors").iterdir()
    assert options["--tensors"] == str(copy)
    assert sorted(file.name for file in copy.iterdir()) == [
        "contract.json",
        "index.parquet",
        "shard-00000.npy",
    ]
    assert sorted(file.name for file in (tmp_path / "model").iterdir()) == ["training.json", "weights.pt"]
    assert list((storage / "training" / "runs").iterdir()) == []
    cluster.plan = [finish(JOBS, storage)]
    train(small_tensors, tmp_path / "model")
    assert list((storage / "training" / "tensors").iterdir()) == [copy]  # named by content: not copied again


def test_trainjob_runs_the_same_arguments_on_its_runtime(
    cluster, kubeconfig, storage, small_tensors, tmp_path
):
    runtime = {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "ClusterTrainingRuntime",
        "metadata": {"name": "torch-distributed", "labels": {"trainer.kubeflow.org/framework": "torch"}},
        "spec": {
            "mlPolicy": {"numNodes": 1, "torch": {}},
            "template": {"spec": {"replicatedJobs": [RUNTIME_JOB]}},
        },
    }
    path = "/apis/trainer.kubeflow.org/v1alpha1"
    cluster.emulator[re.compile(f"{path}/clustertrainingruntimes/torch-distributed")] << runtime
    cluster.answer(
        re.compile(f"{path}/namespaces/{NAMESPACE}/trainingruntimes/.*"), status=404, message="not found"
    )
    seen = []
    cluster.plan = [
        lambda c: seen.append(c.get(TRAINJOBS, "train-1")),
        finish(TRAINJOBS, storage, "Complete"),
    ]
    train(small_tensors, tmp_path / "model", "trainjob", workers=2.0)
    (job,) = seen
    reference = job["spec"]["runtimeRef"]
    assert (reference["kind"], reference["name"]) == ("ClusterTrainingRuntime", "torch-distributed")
    assert job["spec"]["trainer"]["command"] == ["hounsfield", "train"]
    assert job["spec"]["trainer"]["numNodes"] == 2
    assert (tmp_path / "model" / "weights.pt").exists()
    assert cluster.get(TRAINJOBS, "train-1") is None


RUNTIME_JOB = {
    "name": "node",
    "template": {
        "metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}},
        "spec": {"template": {"spec": {"containers": [{"name": "node", "image": "pytorch/pytorch"}]}}},
    },
}


def test_missing_runtime_is_named(cluster, kubeconfig, storage, small_tensors, tmp_path):
    cluster.answer(re.compile("/apis/trainer.kubeflow.org/.*runtimes/.*"), status=404, message="not found")
    with pytest.raises(ClusterError, match=r"TrainingRuntime 'torch-distributed' .* is not there"):
        train(small_tensors, tmp_path / "model", "trainjob")


def test_tensors_that_pods_can_read_are_not_copied(tmp_path):
    settings = JobSettings(storage="s3://bucket/training")
    place = place_tensors(settings, tmp_path, "minio://mlpipeline/v2/artifacts/tensors")
    assert place == "s3://mlpipeline/v2/artifacts/tensors"


def test_what_cannot_work_is_refused_before_anything_is_made(small_tensors, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="launcher 'slurm' is not one of torchrun, pytorchjob, trainjob"):
        train(small_tensors, tmp_path / "model", "slurm")
    with pytest.raises(ConfigError, match=r"tracking_uri sqlite:///mlflow\.db is a file of one machine"):
        train_on_cluster(
            "pytorchjob", {}, "i", small_tensors, "", tmp_path, {}, tracking_uri="sqlite:///mlflow.db"
        )
    with pytest.raises(ConfigError, match="compile the pipeline with HOUNSFIELD_STORAGE_CLAIM=shared"):
        place_tensors(JobSettings(storage="pvc://shared/a"), small_tensors, "/local")


def test_without_a_cluster_the_sentence_says_what_to_do(small_tensors, tmp_path, monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr(
        "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "absent")
    )
    with pytest.raises(ClusterError, match="there is no Kubernetes to talk to"):
        connect()
    with pytest.raises(ClusterError, match="set KUBECONFIG, or use launcher 'torchrun'"):
        tune_on_cluster({"storage": "s3://b/f"}, "i", tmp_path, small_tensors, "", tmp_path, 1, {})


def test_job_that_leaves_no_model_is_an_error(cluster, kubeconfig, storage, small_tensors, tmp_path):
    def end(cluster):
        (storage / "training" / "runs" / "train-1" / "model").mkdir(parents=True)
        cluster.condition(JOBS, "train-1", "Succeeded")

    cluster.plan = [end]
    with pytest.raises(ClusterError, match="succeeded, and yet there is no model at"):
        train(small_tensors, tmp_path / "model")
