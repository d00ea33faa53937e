"""Rendered objects -> what the laptop must run (pure: reads and starts nothing)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hounsfield.errors import PlatformError, RolloutError
from hounsfield.laptop import routes
from hounsfield.laptop.patches import patch_routes, read_patches
from hounsfield.laptop.ports import Ports
from hounsfield.laptop.processes import Machine, Process, Service, explainer, gate, predictor
from hounsfield.laptop.strict import name_of, one, only, refuse

__all__ = ["Machine", "Plan", "Ports", "Process", "gateway_port", "make_plan"]

_HONOURED = frozenset(
    {
        "DestinationRule", "EnvoyFilter", "Gateway", "InferenceService", "SeldonDeployment", "ServingRuntime",
        "VirtualService",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """All that the objects ask of the laptop."""

    ports: Ports
    processes: tuple[Process, ...]
    clusters: tuple[dict[str, Any], ...]
    """Envoy Clusters, as JSON."""
    virtual_hosts: tuple[dict[str, Any], ...]
    """Envoy VirtualHosts, as JSON."""
    weights: Mapping[str, int]
    """Percent of requests: `stable`, `canary`."""
    revisions: Mapping[str, str]
    """Model version by role; a role that serves nothing is absent."""


def gateway_port(objects: Sequence[Mapping[str, Any]]) -> int:
    """Port of the Gateway's one HTTP server. PlatformError for TLS, several servers or several Gateways."""
    gateway = one([item for item in objects if item["kind"] == "Gateway"], "Gateway")
    server = one(gateway["spec"]["servers"], f"{name_of(gateway)}.spec.servers")
    only(server, f"{name_of(gateway)}.spec.servers[0]", {"port", "hosts"}, {"name"})
    if server["port"]["protocol"] not in ("HTTP", "HTTP2", "GRPC"):
        raise refuse(f"{name_of(gateway)} protocol", server["port"]["protocol"])
    return int(server["port"]["number"])


def make_plan(objects: Sequence[Mapping[str, Any]], machine: Machine) -> Plan:
    """What `objects` mean on `machine`.

    PlatformError names the first thing that the laptop cannot honour; RolloutError the first that contradicts
    itself, such as a weight on a revision without a model.
    """
    for item in objects:
        if item["kind"] not in _HONOURED:
            raise PlatformError(
                f"{name_of(item)}: the laptop platform does not run objects of kind {item['kind']}; "
                "leave it out of the laptop overlay"
            )
    kinds = {kind: [item for item in objects if item["kind"] == kind] for kind in _HONOURED}
    if gateway_port(objects) != machine.ports.gateway:
        raise PlatformError(
            f"the Gateway's port is {gateway_port(objects)} but the stack runs on {machine.ports.gateway}; "
            "run `make down`, then `make up`"
        )
    runtimes = {item["metadata"]["name"]: item for item in kinds["ServingRuntime"]}
    predictors = [predictor(item, runtimes, machine) for item in kinds["InferenceService"]]
    explainers = [
        explainer(item, machine) for item in kinds["InferenceService"] if "explainer" in item["spec"]
    ]
    services: dict[str, Service] = {service.host: service for _, service in [*predictors, *explainers]}
    roles = [service.role for _, service in predictors]
    if len(set(roles)) != len(roles):
        raise RolloutError(f"two InferenceServices have the same revision label: {', '.join(sorted(roles))}")
    gateway = kinds["Gateway"][0]["metadata"]["name"]
    virtual_service = one(kinds["VirtualService"], "VirtualService")
    patches = read_patches(kinds["EnvoyFilter"])
    hashes = routes.hash_headers(kinds["DestinationRule"])
    host = routes.virtual_host(virtual_service, services, gateway, hashes)
    return Plan(
        ports=machine.ports,
        processes=(
            *(process for process, _ in [*predictors, *explainers] if process),
            *(gate(item, machine) for item in kinds["SeldonDeployment"]),
        ),
        clusters=tuple(routes.clusters(services, kinds["DestinationRule"])),
        virtual_hosts=({**host, "routes": patch_routes(host["routes"], patches)},),
        weights=routes.weights(virtual_service, services),
        revisions={
            service.role: item["metadata"]["annotations"].get("hounsfield.dev/model-version", "")
            for item, (process, service) in zip(kinds["InferenceService"], predictors, strict=True)
            if process
        },
    )
