"""The pods that objects would start: specs are found inside any kind, custom ones included.

Checkers of pods look at Deployments and the like: a privileged container inside an InferenceService passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hounsfield.laptop.strict import name_of

Object = Mapping[str, Any]

_OF_A_MODEL = {"modelFormat", "protocolVersion", "runtime", "runtimeVersion", "storage", "storageUri"}
"""What a model has beside a container's fields."""

_JOBS = {"CronJob", "Experiment", "Job", "PyTorchJob", "TrainJob"}
_CONTAINERS = ("initContainers", "containers", "ephemeralContainers")


@dataclass(frozen=True)
class Pod:
    """A pod as its controller would make it, without what the controller itself adds."""

    where: str
    """The object and the place in it, for a sentence."""
    namespace: str
    labels: Mapping[str, str]
    spec: Mapping[str, Any]
    annotations: Mapping[str, str] = field(default_factory=dict)

    def containers(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Every container with a name for a sentence."""
        for kind in _CONTAINERS:
            for container in self.spec.get(kind) or ():
                yield f"{self.where} container {container.get('name', '?')}", container

    def as_object(self, name: str) -> dict[str, Any]:
        """A Pod, or a Job where it runs to an end, for checkers that read nothing else."""
        metadata = {
            "namespace": self.namespace or "laptop",
            "labels": dict(self.labels),
            "annotations": {**self.annotations, "hounsfield.dev/found-in": self.where},
        }
        pod = {"metadata": metadata, "spec": dict(self.spec)}
        if self.where.partition(" ")[0] not in _JOBS:
            return {"apiVersion": "v1", "kind": "Pod", **pod, "metadata": {**metadata, "name": name}}
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name, "namespace": metadata["namespace"]},
            "spec": {"template": pod},
        }


def pods(objects: Sequence[Object]) -> list[Pod]:
    """Every pod that `objects` ask for."""
    runtimes = {item["metadata"]["name"]: item for item in objects if item["kind"] == "ServingRuntime"}
    found, used = [], set()
    for item in objects:
        if item["kind"] == "InferenceService":
            found += _kserve(item, runtimes)
            used |= {_runtime_of(component) for component in item["spec"].values()}
    for item in objects:
        # A runtime on its own makes no pod; one that nobody asks for yet is checked as if somebody did.
        if item["kind"] != "InferenceService" and not (
            item["kind"] == "ServingRuntime" and item["metadata"]["name"] in used
        ):
            found += _search(item, name_of(item), _namespace(item), {})
    return found


def _search(value: Any, where: str, namespace: str, metadata: Mapping[str, Any]) -> Iterator[Pod]:
    if isinstance(value, list):
        for index, part in enumerate(value):
            yield from _search(part, f"{where}[{index}]", namespace, {})
        return
    if not isinstance(value, Mapping):
        return
    if any(_is_containers(value.get(kind)) for kind in _CONTAINERS):
        yield Pod(where, namespace, metadata.get("labels", {}), value, metadata.get("annotations", {}))
        return
    for key, part in value.items():
        # A PodTemplateSpec has its metadata beside the spec, and so has a bare Pod.
        beside = value.get("metadata") or {} if key == "spec" else {}
        yield from _search(part, f"{where}.{key}", namespace, beside)


def _is_containers(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(part, Mapping) for part in value)


def _kserve(service: Object, runtimes: Mapping[str, Object]) -> Iterator[Pod]:
    """The pods of one InferenceService, its runtime merged in by KServe's rules.

    The controller labels them with the service's name and component, and hands the service's labels on.
    """
    metadata = service["metadata"]
    for component, spec in service["spec"].items():
        labels = {
            **metadata.get("labels", {}),
            "serving.kserve.io/inferenceservice": metadata["name"],
            "component": component,
            "app": f"isvc.{metadata['name']}-{component}",
        }
        where = f"{name_of(service)}.spec.{component}"
        runtime = runtimes.get(_runtime_of(spec), {}).get("spec", {})
        pod = {key: value for key, value in spec.items() if key not in ("model", "labels", "annotations")}
        if "model" in spec:
            pod = {**runtime, **pod, "volumes": [*runtime.get("volumes", []), *pod.get("volumes", [])]}
            first, *others = runtime.get("containers") or [{}]
            pod["containers"] = [_merged(first, spec["model"]), *others, *spec.get("containers", [])]
        annotations = {**metadata.get("annotations", {}), **runtime.get("annotations", {})}
        labels |= {**runtime.get("labels", {}), **spec.get("labels", {})}
        yield Pod(where, _namespace(service), labels, pod, {**annotations, **spec.get("annotations", {})})


def _runtime_of(component: Mapping[str, Any]) -> str:
    return component.get("model", {}).get("runtime", "")


def _merged(container: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """KServe's MergeRuntimeContainers: maps key by key, env and mounts by name, args one after the other."""
    merged = {"name": "kserve-container", **container}
    for key, value in model.items():
        before = merged.get(key)
        if key == "args":
            merged[key] = [*(before or ()), *value]
        elif isinstance(value, Mapping) and isinstance(before, Mapping):
            merged[key] = {**before, **value}
        elif isinstance(value, list) and isinstance(before, list):
            merged[key] = [*_without(before, value), *value]
        else:
            merged[key] = value
    return {key: value for key, value in merged.items() if key not in _OF_A_MODEL}


def _without(before: Iterable[Object], others: Iterable[Object]) -> list[Object]:
    def key(item: Mapping[str, Any]) -> Any:
        return item.get("mountPath") or item.get("containerPort") or item.get("name")

    taken = {key(other) for other in others}
    return [item for item in before if key(item) not in taken]


def _namespace(item: Object) -> str:
    return item["metadata"].get("namespace", "")
