"""A PyTorchJob or a TrainJob that runs `hounsfield train`, built and created with Kubeflow's own clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hounsfield.cluster import pods
from hounsfield.cluster.connection import Connection, explain
from hounsfield.cluster.settings import JobSettings
from hounsfield.errors import ConfigError

_RENDEZVOUS_PORT = 29400
_MANAGER = "hounsfield.dev/launcher"


@dataclass(frozen=True)
class JobKind:
    """A kind of job: where the API keeps it, and how its pods are found.

    `selector` takes the job's name; `first` are the labels of the pod whose log is shown.
    """

    name: str
    group: str
    version: str
    plural: str
    container: str
    selector: str
    first: Mapping[str, str]
    suspend: Mapping[str, Any]


PYTORCHJOB = JobKind(
    name="PyTorchJob",
    group="kubeflow.org",
    version="v1",
    plural="pytorchjobs",
    container="pytorch",
    selector="training.kubeflow.org/job-name={}",
    first={"training.kubeflow.org/replica-index": "0"},
    suspend={"spec": {"runPolicy": {"suspend": True}}},
)
TRAINJOB = JobKind(
    name="TrainJob",
    group="trainer.kubeflow.org",
    version="v1alpha1",
    plural="trainjobs",
    container="node",
    selector="jobset.sigs.k8s.io/jobset-name={},jobset.sigs.k8s.io/replicatedjob-name=node",
    first={"batch.kubernetes.io/job-completion-index": "0"},
    suspend={"spec": {"suspend": True}},
)
KINDS = {"pytorchjob": PYTORCHJOB, "trainjob": TRAINJOB}


def pytorchjob(name: str, settings: JobSettings, image: str, arguments: Sequence[str]) -> Any:
    """A KubeflowOrgV1PyTorchJob that runs `hounsfield train` with `arguments`.

    One worker is a Master alone. More are Workers with an elastic policy, and no Master: the operator gives
    the workers of a Master an init container without a security context, which `restricted` refuses.
    """
    from kubeflow.training import models
    from kubernetes import client

    template = {
        "metadata": {"annotations": dict(pods.ANNOTATIONS), "labels": dict(pods.LABELS)},
        "spec": {
            "automountServiceAccountToken": False,
            "securityContext": dict(pods.POD_SECURITY),
            "containers": [
                {
                    "name": PYTORCHJOB.container,
                    "image": image,
                    "command": list(pods.COMMAND),
                    "args": list(arguments),
                    "env": pods.environment(settings),
                    "ports": [{"name": "pytorchjob-port", "containerPort": _RENDEZVOUS_PORT}],
                    "resources": pods.resources(settings),
                    "securityContext": dict(pods.CONTAINER_SECURITY),
                    "volumeMounts": pods.mounts(settings),
                }
            ],
            "volumes": pods.volumes(settings),
            **pods.placement(settings),
        },
    }
    together = settings.workers > 1
    policy = None
    if together:
        policy = models.KubeflowOrgV1ElasticPolicy(
            min_replicas=settings.min_workers or settings.workers,
            max_replicas=settings.workers,
            max_restarts=settings.max_restarts,
            rdzv_backend="c10d",
            rdzv_id=name,
            rdzv_port=_RENDEZVOUS_PORT,
        )
    replicas = models.KubeflowOrgV1ReplicaSpec(
        replicas=settings.workers, restart_policy="OnFailure", template=template
    )
    return models.KubeflowOrgV1PyTorchJob(
        api_version=f"{PYTORCHJOB.group}/{PYTORCHJOB.version}",
        kind=PYTORCHJOB.name,
        metadata=client.V1ObjectMeta(**_metadata(name)),
        spec=models.KubeflowOrgV1PyTorchJobSpec(
            elastic_policy=policy,
            nproc_per_node=str(settings.processes_per_worker),
            pytorch_replica_specs={"Worker" if together else "Master": replicas},
            run_policy=models.KubeflowOrgV1RunPolicy(
                active_deadline_seconds=settings.deadline_s,
                backoff_limit=settings.max_restarts,
                clean_pod_policy="None",  # a pod that still writes the model is not killed
            ),
        ),
    )


def trainjob(name: str, settings: JobSettings, image: str, arguments: Sequence[str]) -> Any:
    """A TrainerV1alpha1TrainJob of `settings.runtime` that runs `hounsfield train` with `arguments`.

    Raises ConfigError for an elastic job: JobSets have a fixed size.
    """
    from kubeflow_trainer_api import models

    if settings.min_workers not in (0, settings.workers):
        raise ConfigError(
            f"cluster: min_workers {settings.min_workers} cannot be honoured by a TrainJob, whose size "
            "is fixed; use launcher 'pytorchjob' or remove it"
        )
    pod = {
        "metadata": {"annotations": dict(pods.ANNOTATIONS), "labels": dict(pods.LABELS)},
        "spec": {
            "securityContext": dict(pods.POD_SECURITY),
            "containers": [
                {
                    "name": TRAINJOB.container,
                    "securityContext": dict(pods.CONTAINER_SECURITY),
                    "volumeMounts": pods.mounts(settings),
                }
            ],
            "volumes": pods.volumes(settings),
            **pods.placement(settings),
        },
    }
    patch = {"name": TRAINJOB.container, "template": {"spec": {"template": pod}}}
    return models.TrainerV1alpha1TrainJob.from_dict(
        {
            "apiVersion": f"{TRAINJOB.group}/{TRAINJOB.version}",
            "kind": TRAINJOB.name,
            "metadata": _metadata(name),
            "spec": {
                "activeDeadlineSeconds": settings.deadline_s,
                "runtimeRef": {"name": settings.runtime},
                "trainer": {
                    "image": image,
                    "command": list(pods.COMMAND),
                    "args": list(arguments),
                    "env": pods.environment(settings),
                    "numNodes": settings.workers,
                    "numProcPerNode": settings.processes_per_worker,
                    "resourcesPerNode": pods.resources(settings),
                },
                "runtimePatches": [
                    {
                        "manager": _MANAGER,
                        "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [patch]}}},
                    }
                ],
            },
        }
    )


def create(
    connection: Connection,
    kind: JobKind,
    name: str,
    settings: JobSettings,
    image: str,
    arguments: Sequence[str],
) -> None:
    """Make the job. Raises ClusterError with the API's reason, ConfigError for what cannot be built."""
    if kind is PYTORCHJOB:
        from kubeflow.training import TrainingClient

        job = pytorchjob(name, settings, image, arguments)
        client = TrainingClient(client_configuration=connection.configuration, namespace=connection.namespace)
        try:
            client.create_job(job, namespace=connection.namespace)
        except (RuntimeError, TimeoutError) as error:
            raise explain(error, connection, "create", kind.name, name) from error
        return

    from kubeflow.trainer import KubernetesBackendConfig, TrainerClient

    job = trainjob(name, settings, image, arguments)
    client = TrainerClient(
        KubernetesBackendConfig(client_configuration=connection.configuration, namespace=connection.namespace)
    )
    try:
        runtime = client.get_runtime(settings.runtime)
    except (RuntimeError, TimeoutError) as error:
        raise explain(error, connection, "read", "TrainingRuntime", settings.runtime) from error
    job.spec.runtime_ref.kind = runtime.kind.value
    try:
        # TrainerClient.train takes neither variables from secrets nor processes a node: its models do.
        client.backend.custom_api.create_namespaced_custom_object(
            kind.group, kind.version, connection.namespace, kind.plural, job.to_dict()
        )
    except Exception as error:
        raise explain(error, connection, "create", kind.name, name) from error


def _metadata(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "labels": {"app.kubernetes.io/name": "hounsfield", "app.kubernetes.io/component": "training"},
    }
