"""The pod that trains, within Pod Security `restricted`."""

from __future__ import annotations

from typing import Any

from hounsfield.cluster.settings import SPOT_TOLERATIONS, STORAGE_MOUNT, JobSettings

USER_ID = 10001
"""The user of our images (images/Dockerfile)."""

COMMAND = ("hounsfield", "train")
SCRATCH = "/scratch"

# Without Istio's sidecar: the processes of a job speak to each other directly, and the pod has to end.
LABELS = {"hounsfield.dev/part": "training"}
"""What the NetworkPolicies of manifests/cluster/network know a training pod by."""

ANNOTATIONS = {"sidecar.istio.io/inject": "false"}

POD_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": USER_ID,
    "runAsGroup": USER_ID,
    "fsGroup": USER_ID,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
}


def environment(settings: JobSettings) -> list[dict[str, Any]]:
    """Environment variables of the container; secrets only by reference."""
    plain = {"HOME": SCRATCH, "PYTHONUNBUFFERED": "1"} | dict(settings.env)
    variables: list[dict[str, Any]] = [
        {"name": name, "value": str(value)} for name, value in sorted(plain.items())
    ]
    for name, reference in sorted(settings.secret_env.items()):
        secret, key = reference.split("/")
        variables.append({"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}})
    return variables


def resources(settings: JobSettings) -> dict[str, Any]:
    """Requests equal to limits: training neither bursts nor is evicted for it."""
    amounts = {"cpu": settings.cpu, "memory": settings.memory}
    if settings.gpus:
        amounts[settings.gpu_resource] = str(settings.gpus)
    return {"requests": amounts, "limits": dict(amounts)}


def volumes(settings: JobSettings) -> list[dict[str, Any]]:
    """Scratch space, /dev/shm in memory (counted to the container's), and the claim of `storage`."""
    found: list[dict[str, Any]] = [
        {"name": "scratch", "emptyDir": {}},
        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": settings.shared_memory}},
    ]
    if settings.claim:
        found.append({"name": "storage", "persistentVolumeClaim": {"claimName": settings.claim}})
    return found


def mounts(settings: JobSettings) -> list[dict[str, Any]]:
    """Where `volumes` appear in the container."""
    found = [
        {"name": "scratch", "mountPath": SCRATCH},
        {"name": "scratch", "mountPath": "/tmp"},  # noqa: S108  the container's own
        {"name": "shared-memory", "mountPath": "/dev/shm"},  # noqa: S108
    ]
    if settings.claim:
        found.append({"name": "storage", "mountPath": STORAGE_MOUNT})
    return found


def placement(settings: JobSettings) -> dict[str, Any]:
    """Where the pod may run: node selector, tolerations, service account; absent where not asked for."""
    found: dict[str, Any] = {}
    if settings.node_selector:
        found["nodeSelector"] = dict(settings.node_selector)
    tolerations = [dict(item) for item in settings.tolerations]
    if settings.spot:
        tolerations += [dict(item) for item in SPOT_TOLERATIONS]
    if tolerations:
        found["tolerations"] = tolerations
    if settings.service_account:
        found["serviceAccountName"] = settings.service_account
    return found
