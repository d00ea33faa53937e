"""InferenceService + ServingRuntime, and SeldonDeployment -> commands, by KServe's and Seldon's rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from hounsfield.errors import PlatformError, RolloutError
from hounsfield.laptop import containers
from hounsfield.laptop.ports import HOST, ROLES, Ports
from hounsfield.laptop.strict import SCHEDULING, name_of, one, only, refuse
from hounsfield.rollout.manifest import NOTHING

MODE = "serving.kserve.io/deploymentMode"
ROLE = "hounsfield.dev/revision"
MODEL_FOLDER = "/mnt/models"
"""Where KServe's storage initializer puts a model."""

ACCESS_FOLDER = "/etc/hounsfield/access"
"""Where the ingress gateway's pods find API keys."""

KEYS_FOLDER = "/etc/hounsfield/keys"
"""Where pods find the public key that packages are verified with."""

LOG_FOLDER = "/var/log/hounsfield/$(POD_NAME)"
"""Where a pod writes its inference log."""

LOGS_FOLDER = "/var/log/hounsfield"
DRIFT_FOLDER = "/var/lib/hounsfield/drift"
"""Where the drift worker finds the logs of all pods, and keeps its state."""

GATE_KEY_FOLDER, GATE_KEY = "/etc/hounsfield/gate", "gate.key"
"""Where the gate finds the key that it signs its verdicts with."""

GATE_COMPONENT = "serving.gate.Gate.Gate"
DRIFT_WORKER = "hounsfield.drift.watch"


@dataclass(frozen=True)
class Process:
    """One program to keep running."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    ready_url: str = ""
    """Answers 200 when the process can be used."""
    folder: Path | None = None
    """The model package that it serves."""
    in_background: bool = False
    """No prediction needs it: the stack is up, and a rollout goes on, before it answers."""


@dataclass(frozen=True)
class Endpoint:
    port: int
    http2: bool


@dataclass(frozen=True)
class Service:
    """A predictor's Service: endpoints here by the Service's port numbers, none when nothing is served."""

    host: str
    role: str
    endpoints: Mapping[int, Endpoint]


@dataclass(frozen=True)
class Machine:
    """What the commands need to know of this machine."""

    ports: Ports
    repo: Path
    python: str
    guard_python: str
    home: Path = Path(".hounsfield")
    """Where keys, certificates and logs are."""

    @property
    def access(self) -> Path:
        """What the ingress gateway's pods have mounted at `ACCESS_FOLDER`."""
        return self.home / "access"

    def folders(self, package: Path, role: str) -> dict[str, Path]:
        """A pod's folders, and this machine's in their place."""
        return {
            MODEL_FOLDER: package,
            KEYS_FOLDER: self.home / "keys",
            LOG_FOLDER: self.home / "log" / role,
        }


def predictor(
    service: Mapping[str, Any], runtimes: Mapping[str, Mapping[str, Any]], machine: Machine
) -> tuple[Process | None, Service]:
    """The predictor of one InferenceService and the Service that KServe would make for it.

    The process is None when storageUri is `none`. PlatformError names what cannot be honoured, RolloutError
    what KServe itself would refuse.
    """
    where, metadata, spec = name_of(service), service["metadata"], service["spec"]
    mode = metadata.get("annotations", {}).get(MODE)
    if mode != "Standard":
        # In Knative mode the traffic would be KServe's to split, not the VirtualService's.
        raise refuse(f"{where} annotation {MODE}", mode)
    role = metadata.get("labels", {}).get(ROLE)
    if role not in ROLES:
        raise RolloutError(f"{where}: label {ROLE} is {role!r}, not one of {', '.join(ROLES)}")
    only(spec, f"{where}.spec", {"predictor", "explainer"})
    predictor_spec = only(spec["predictor"], f"{where}.spec.predictor", {"model"}, SCHEDULING)
    model = only(
        predictor_spec["model"],
        f"{where}.spec.predictor.model",
        {
            "modelFormat",
            "runtime",
            "protocolVersion",
            "storageUri",
            "args",
            "command",
            "env",
            "readinessProbe",
        },
        SCHEDULING,
    )
    container = containers.merge(containers.runtime_container(model, runtimes, where), model)
    named = {port.get("name", ""): port["containerPort"] for port in container.get("ports", [])}
    local = machine.ports.of_revision(role)
    if set(named) != set(local):
        raise refuse(f"{where} ports", sorted(named))
    by_container_port = {number: local[name] for name, number in named.items()}
    host = f"{metadata['name']}-predictor"
    folder = package_folder(model.get("storageUri", NOTHING), where)
    if folder is None:
        return None, Service(host, role, {})
    process = Process(
        name=metadata["name"],
        command=containers.command_of(
            container, machine.folders(folder, role), by_container_port, machine.python, where
        ),
        environment={
            "INFERENCE_SERVICE_NAME": metadata["name"],
            **containers.environment(container, where, metadata["name"]),
        },
        ready_url=containers.ready_url(container, by_container_port, where),
        folder=folder,
    )
    # KServe's createDefaultSvc: the container's first port is 80 on the Service, the others keep theirs.
    endpoints = {
        80 if index == 0 else port["containerPort"]: Endpoint(
            local[port["name"]], "grpc" in port["name"] or "h2c" in port["name"]
        )
        for index, port in enumerate(container["ports"])
    }
    return process, Service(host, role, endpoints)


def explainer(service: Mapping[str, Any], machine: Machine) -> tuple[Process | None, Service]:
    """The explainer of one InferenceService that `predictor` accepted, and the Service NAME-explainer.

    The process is None when nothing is served. RolloutError when it would explain another package.
    """
    where, metadata = f"{name_of(service)}.spec.explainer", service["metadata"]
    spec = only(service["spec"]["explainer"], where, {"containers"}, SCHEDULING)
    container = one(spec["containers"], f"{where}.containers")
    honoured = {"name", "command", "args", "env", "ports", "readinessProbe"}
    only(container, f"{where} container", honoured, SCHEDULING)
    role, name = metadata["labels"][ROLE], f"{metadata['name']}-explainer"
    environment = containers.environment(container, where, name)
    storage_uri = environment.pop("STORAGE_URI", NOTHING)
    if storage_uri != service["spec"]["predictor"]["model"].get("storageUri", NOTHING):
        raise RolloutError(f"{where}: STORAGE_URI {storage_uri!r} is not the predictor's package")
    folder = package_folder(storage_uri, where)
    if folder is None:
        return None, Service(name, role, {})
    port = one(container["ports"], f"{where} ports")
    by_container_port = {port["containerPort"]: machine.ports.explainer(role)}
    process = Process(
        name=name,
        command=containers.command_of(
            container, machine.folders(folder, role), by_container_port, machine.python, where
        ),
        environment={"INFERENCE_SERVICE_NAME": metadata["name"], **environment},
        ready_url=containers.ready_url(container, by_container_port, where),
        folder=folder,
        in_background=True,
    )
    return process, Service(name, role, {80: Endpoint(machine.ports.explainer(role), http2=False)})


def gate(deployment: Mapping[str, Any], machine: Machine) -> Process:
    """The validation gate: one Seldon Python component, started as Seldon's images start it."""
    where = name_of(deployment)
    spec = only(
        deployment["spec"], f"{where}.spec", {"name", "predictors", "protocol"}, {"replicas", "annotations"}
    )
    if spec.get("protocol", "seldon") != "seldon":
        raise refuse(f"{where}.spec.protocol", spec["protocol"])
    predictor_spec = one(spec["predictors"], f"{where}.spec.predictors")
    only(predictor_spec, f"{where}.spec.predictors[0]", {"name", "graph", "componentSpecs"}, SCHEDULING)
    graph = only(predictor_spec["graph"], f"{where} graph", {"name", "type", "endpoint"})
    if graph.get("endpoint", {}).get("type") != "REST":
        raise refuse(f"{where} graph.endpoint", graph.get("endpoint"))
    if graph.get("type") != "MODEL":
        raise refuse(f"{where} graph.type", graph.get("type"))
    pod = one(predictor_spec["componentSpecs"], f"{where} componentSpecs")["spec"]
    container = one(pod["containers"], f"{where} containers")
    only(container, f"{where} container", {"name", "command", "args", "env"}, SCHEDULING | {"readinessProbe"})
    if container["name"] != graph["name"]:
        raise RolloutError(
            f"{where}: the container is {container['name']!r} but the graph asks for {graph['name']!r}"
        )
    command = [*container.get("command", []), *container.get("args", [])]
    if command[:2] != ["seldon-core-microservice", GATE_COMPONENT]:
        raise refuse(f"{where} container command", " ".join(command))
    ports, keys = machine.ports, dict.fromkeys((KEYS_FOLDER, GATE_KEY_FOLDER), machine.home / "keys")
    return Process(
        name=f"{deployment['metadata']['name']}",
        # Seldon's own command listens on every interface; serving.gate is the same on one of them.
        command=(machine.guard_python, "-m", "serving.gate", "--host", HOST, *command[2:]),
        environment={
            "PYTHONPATH": f"{machine.repo / 'src'}:{machine.repo}",
            # The variables by which Seldon's operator hands a component its ports.
            "PREDICTIVE_UNIT_HTTP_SERVICE_PORT": str(ports.gate),
            "PREDICTIVE_UNIT_GRPC_SERVICE_PORT": str(ports.gate_grpc),
            "PREDICTIVE_UNIT_METRICS_SERVICE_PORT": str(ports.gate_metrics),
            "GRPC_WORKERS": "0",  # the graph asks for REST, and Seldon's gRPC server has no `--host`
            **{
                name: containers.localised(f"={value}", keys, {}, where)[1:]
                for name, value in containers.environment(
                    container, where, deployment["metadata"]["name"]
                ).items()
            },
        },
        ready_url=f"http://{HOST}:{ports.gate}/health/ping",
    )


def drift(deployment: Mapping[str, Any], machine: Machine) -> Process:
    """The drift worker: the one Deployment that the laptop runs, in the guard environment."""
    where = name_of(deployment)
    spec = only(deployment["spec"], f"{where}.spec", {"template"}, SCHEDULING | {"selector", "strategy"})
    pod = only(spec["template"]["spec"], f"{where} pod", {"containers"}, SCHEDULING)
    container = one(pod["containers"], f"{where} containers")
    honoured = {"name", "command", "args", "env", "ports", "readinessProbe"}
    only(container, f"{where} container", honoured, SCHEDULING)
    if container["command"][1:] != ["-m", DRIFT_WORKER]:
        raise refuse(f"{where} container command", " ".join(container["command"]))
    port = one(container["ports"], f"{where} ports")
    by_container_port = {port["containerPort"]: machine.ports.drift_metrics}
    folders = {LOGS_FOLDER: machine.home / "log", DRIFT_FOLDER: machine.home / "drift"}
    return Process(
        name=deployment["metadata"]["name"],
        command=containers.command_of(container, folders, by_container_port, machine.guard_python, where),
        environment={
            "PYTHONPATH": str(machine.repo / "src"),
            **containers.environment(container, where, deployment["metadata"]["name"]),
        },
        ready_url=containers.ready_url(container, by_container_port, where),
        in_background=True,
    )


def package_folder(storage_uri: str, where: str) -> Path | None:
    """The folder that a storageUri names, None for `none`; PlatformError for anywhere but this machine."""
    if storage_uri == NOTHING:
        return None
    uri = urlsplit(storage_uri)
    if uri.scheme != "file" or uri.netloc or not uri.path.startswith("/"):
        raise PlatformError(
            f"{where}: storageUri {storage_uri!r} is not a folder of this machine; write file:///…"
        )
    return Path(unquote(uri.path))
