"""What is sent to the API server: valid by the CRDs, within Pod Security restricted, as the settings ask."""

import copy
import re

import pytest

from hounsfield.cluster.jobs import pytorchjob, trainjob
from hounsfield.cluster.settings import JobSettings, read_settings
from hounsfield.errors import ConfigError
from hounsfield.manifests.hardening import restricted
from hounsfield.manifests.pods import pods
from tests.unit.cluster.api_server import as_json

ARGUMENTS = ["--tensors=s3://bucket/t", "--out=s3://bucket/m"]
LEAST = JobSettings(storage="s3://b/f")
EVERYTHING = JobSettings(
    storage="pvc://shared/training",
    workers=4,
    min_workers=2,
    max_restarts=5,
    processes_per_worker=2,
    gpus=2,
    shared_memory="8Gi",
    node_selector={"cloud.google.com/gke-accelerator": "nvidia-l4"},
    tolerations=[{"key": "gpu", "operator": "Exists"}],
    spot=True,
    service_account="training",
    env={"NCCL_DEBUG": "WARN"},
    secret_env={"AWS_SECRET_ACCESS_KEY": "store/secretkey"},
    deadline_s=3600,
)


def restricted_violations(pod):
    item = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "t", "namespace": "n"}, "spec": pod}
    return [found for inner in pods([item]) for found in restricted(inner)]


def master(item):
    return item["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]


def as_pod(job):
    """The pod that Trainer makes of a TrainJob and the runtime torch-distributed (container `node`)."""
    (patch,) = job["spec"]["runtimePatches"]
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = copy.deepcopy(replicated["template"]["spec"]["template"]["spec"])
    assert replicated["name"] == pod["containers"][0]["name"] == "node"
    pod["containers"][0] |= {key: job["spec"]["trainer"][key] for key in ("image", "command", "args", "env")}
    return pod


@pytest.mark.parametrize("settings", [LEAST, EVERYTHING], ids=["least", "everything"])
@pytest.mark.parametrize("build", [pytorchjob, trainjob])
def test_object_is_valid_by_its_crd(build, settings, violations):
    if build is trainjob:
        settings = JobSettings(**(vars(settings) | {"min_workers": 0}))
    job = as_json(build("train-1", settings, "hounsfield/train:1", ARGUMENTS))
    assert violations(job) == []
    assert violations({**job, "spec": {**job["spec"], "tpyo": 1}}) != []


@pytest.mark.parametrize("settings", [LEAST, EVERYTHING], ids=["least", "everything"])
def test_pods_are_within_pod_security_restricted(settings):
    job = as_json(pytorchjob("t", settings, "i", ARGUMENTS))
    (replica,) = job["spec"]["pytorchReplicaSpecs"].values()
    fixed = JobSettings(**(vars(settings) | {"min_workers": 0}))
    for pod in (replica["template"]["spec"], as_pod(as_json(trainjob("t", fixed, "i", ARGUMENTS)))):
        assert restricted_violations(pod) == []
        assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True


def test_planted_violations_are_found():
    pod = master(as_json(pytorchjob("t", LEAST, "i", ARGUMENTS)))
    for change in (
        lambda pod: pod["containers"][0].pop("securityContext"),
        lambda pod: pod["containers"][0]["securityContext"].update(privileged=True),
        lambda pod: pod["containers"][0]["securityContext"]["capabilities"].update(add=["SYS_ADMIN"]),
        lambda pod: pod["securityContext"].pop("seccompProfile"),
        lambda pod: pod["volumes"].append({"name": "host", "hostPath": {"path": "/"}}),
        lambda pod: pod.update(hostNetwork=True),
        lambda pod: pod.update(initContainers=[{"name": "init-pytorch"}]),
    ):
        planted = copy.deepcopy(pod)
        change(planted)
        assert restricted_violations(planted) != []


def test_one_worker_is_a_master_alone():
    job = as_json(pytorchjob("t", LEAST, "hounsfield/train:1", ARGUMENTS))
    assert list(job["spec"]["pytorchReplicaSpecs"]) == ["Master"]
    assert "elasticPolicy" not in job["spec"]
    (container,) = master(job)["containers"]
    assert container["command"] == ["hounsfield", "train"]
    assert container["args"] == ARGUMENTS
    assert container["image"] == "hounsfield/train:1"


def test_more_workers_have_no_master_whose_init_container_restricted_refuses():
    job = as_json(pytorchjob("t", EVERYTHING, "i", ARGUMENTS))
    assert list(job["spec"]["pytorchReplicaSpecs"]) == ["Worker"]
    policy = job["spec"]["elasticPolicy"]
    assert (policy["minReplicas"], policy["maxReplicas"], policy["maxRestarts"]) == (2, 4, 5)
    fixed = JobSettings(storage="s3://b/f", workers=3)
    policy = as_json(pytorchjob("t", fixed, "i", ARGUMENTS))["spec"]["elasticPolicy"]
    assert (policy["minReplicas"], policy["maxReplicas"]) == (3, 3)


def test_settings_reach_the_pods_of_both_kinds():
    job = as_json(pytorchjob("t", EVERYTHING, "i", ARGUMENTS))
    trained = as_json(trainjob("t", JobSettings(**(vars(EVERYTHING) | {"min_workers": 0})), "i", ARGUMENTS))
    assert job["spec"]["nprocPerNode"] == "2"
    assert (trained["spec"]["trainer"]["numNodes"], trained["spec"]["trainer"]["numProcPerNode"]) == (4, 2)
    assert job["spec"]["runPolicy"]["activeDeadlineSeconds"] == 3600
    assert trained["spec"]["activeDeadlineSeconds"] == 3600
    limits = {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "2"}
    worker = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
    assert worker["containers"][0]["resources"] == {"requests": limits, "limits": limits}
    assert trained["spec"]["trainer"]["resourcesPerNode"] == {"requests": limits, "limits": limits}
    for pod in (worker, as_pod(trained)):
        assert pod["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-l4"}
        keys = [toleration["key"] for toleration in pod["tolerations"]]
        assert keys == ["gpu", "cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority"]
        assert pod["serviceAccountName"] == "training"
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        shared = volumes[mounts["/dev/shm"]]["emptyDir"]  # noqa: S108
        assert shared == {"medium": "Memory", "sizeLimit": "8Gi"}
        assert volumes[mounts["/storage"]]["persistentVolumeClaim"]["claimName"] == "shared"
        variables = {variable["name"]: variable for variable in pod["containers"][0]["env"]}
        assert variables["NCCL_DEBUG"]["value"] == "WARN"
        secret = variables["AWS_SECRET_ACCESS_KEY"]["valueFrom"]["secretKeyRef"]
        assert secret == {"name": "store", "key": "secretkey"}


def test_elastic_trainjob_is_refused():
    with pytest.raises(ConfigError, match="min_workers 2 cannot be honoured by a TrainJob"):
        trainjob("t", EVERYTHING, "i", ARGUMENTS)


def test_settings_come_as_kfp_passes_them():
    settings = read_settings({"storage": "s3://b/f", "workers": 2.0, "cpu": 8.0, "deadline_s": 600.0})
    assert (settings.workers, settings.cpu, settings.deadline_s) == (2, "8", 600)
    assert settings.root == "s3://b/f"
    assert read_settings({"storage": "pvc://claim/a/b/"}).root == "/storage/a/b"
    assert read_settings({"storage": "pvc://claim"}).root == "/storage"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "storage '' is not s3://bucket/folder or pvc://claim/folder"),
        ({"storage": "gs://b"}, "storage 'gs://b' is not"),
        ({"storage": "s3://b", "worker": 2}, "unknown key 'worker'"),
        ({"storage": "s3://b", "workers": 0}, "workers is 0; it must be 1 or more"),
        ({"storage": "s3://b", "workers": 2, "min_workers": 3}, "min_workers is 3, more than workers (2)"),
        ({"storage": "s3://b", "memory": "lots"}, "memory 'lots' is no quantity"),
        ({"storage": "s3://b", "gpus": -1}, "gpus is -1; it must be 0 or more"),
        ({"storage": "s3://b", "secret_env": {"A": "b"}}, "secret_env 'A' is 'b'; it must be secret/key"),
    ],
)
def test_wrong_settings_are_named(values, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        read_settings(values)
