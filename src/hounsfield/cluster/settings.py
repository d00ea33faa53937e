"""What a training job asks of the cluster: machines, places, limits."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hounsfield.config import from_mapping
from hounsfield.errors import ConfigError

STORAGE_MOUNT = "/storage"
"""Where a volume named by `storage` is mounted, in the job's pods and in the step."""

# The taints that a cloud sets on spot nodes; where none is set (Karpenter), none has to be tolerated.
SPOT_TOLERATIONS = (
    {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"},
    {
        "key": "kubernetes.azure.com/scalesetpriority",
        "operator": "Equal",
        "value": "spot",
        "effect": "NoSchedule",
    },
)
_QUANTITY = re.compile(r"^\d+(\.\d+)?(m|[kKMGTPE]i?)?$")
_STORAGE = re.compile(r"^(s3://[^/]+(/.*)?|pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/.*)?)$")


@dataclass(frozen=True)
class JobSettings:
    """Parameters of a PyTorchJob or TrainJob.

    `storage` is where data, model and checkpoints live between the step and the job's pods:
    `s3://bucket/folder`, or `pvc://claim/folder` of a volume that many pods can mount (the step has it at
    /storage). `workers` pods run `processes_per_worker` processes each; with `min_workers` below `workers`
    a PyTorchJob is elastic: it goes on with fewer when spot nodes leave. `secret_env` takes `VARIABLE:
    secret/key`. `shared_memory` is the size of /dev/shm. `deadline_s` bounds the whole job,
    `start_timeout_s` each time in which no pod of it runs, `lost_after_s` how long the API server may be
    away. An empty `name` makes a new one, an empty `image` takes the step's, an empty `namespace` the pod's
    own.
    """

    name: str = ""
    namespace: str = ""
    image: str = ""
    storage: str = ""
    workers: int = 1
    min_workers: int = 0
    max_restarts: int = 3
    processes_per_worker: int = 1
    cpu: str = "4"
    memory: str = "16Gi"
    gpus: int = 0
    gpu_resource: str = "nvidia.com/gpu"
    shared_memory: str = "2Gi"
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Mapping[str, Any]] = ()
    spot: bool = False
    service_account: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    secret_env: Mapping[str, str] = field(default_factory=dict)
    runtime: str = "torch-distributed"
    deadline_s: int = 24 * 3600
    start_timeout_s: int = 1800
    lost_after_s: int = 300

    def __post_init__(self) -> None:
        for name in ("workers", "processes_per_worker", "deadline_s", "start_timeout_s", "lost_after_s"):
            if getattr(self, name) < 1:
                raise ConfigError(f"cluster: {name} is {getattr(self, name)}; it must be 1 or more")
        for name in ("min_workers", "max_restarts", "gpus"):
            if getattr(self, name) < 0:
                raise ConfigError(f"cluster: {name} is {getattr(self, name)}; it must be 0 or more")
        if self.min_workers > self.workers:
            raise ConfigError(
                f"cluster: min_workers is {self.min_workers}, more than workers ({self.workers})"
            )
        for name in ("cpu", "memory", "shared_memory"):
            if not _QUANTITY.match(str(getattr(self, name))):
                raise ConfigError(f"cluster: {name} {getattr(self, name)!r} is no quantity such as 4 or 16Gi")
        if not _STORAGE.match(self.storage):
            raise ConfigError(
                f"cluster: storage {self.storage!r} is not s3://bucket/folder or pvc://claim/folder: "
                "say where the job's pods find the data"
            )
        for variable, reference in self.secret_env.items():
            if len(reference.split("/")) != 2:
                raise ConfigError(f"cluster: secret_env {variable!r} is {reference!r}; it must be secret/key")

    @property
    def claim(self) -> str | None:
        """The PersistentVolumeClaim of `storage`, None for an object store."""
        return self.storage.split("/")[2] if self.storage.startswith("pvc://") else None

    @property
    def root(self) -> str:
        """`storage` as the job's pods see it: a URI, or a folder below STORAGE_MOUNT."""
        if self.claim is None:
            return self.storage.rstrip("/")
        return "/".join([STORAGE_MOUNT, *filter(None, self.storage.split("/")[3:])])


def read_settings(values: Mapping[str, Any]) -> JobSettings:
    """JobSettings from a pipeline's parameter. Raises ConfigError that names the key and the value."""
    # KFP passes a dict as a protobuf Struct, whose only number is a double: 5 arrives as 5.0.
    whole = {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in values.items()
    }
    texts = {name: str(whole[name]) for name in ("cpu", "memory", "shared_memory") if name in whole}
    return from_mapping(JobSettings, whole | texts, "cluster")
