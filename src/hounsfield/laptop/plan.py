"""Rendered objects -> what the laptop must run (pure: reads and starts nothing)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hounsfield.errors import PlatformError, RolloutError
from hounsfield.laptop import access, routes
from hounsfield.laptop.listener import Door, make_listener, read_door
from hounsfield.laptop.patches import patch_routes, read_patches
from hounsfield.laptop.ports import Ports
from hounsfield.laptop.processes import (
    ACCESS_FOLDER,
    Machine,
    Process,
    Service,
    drift,
    explainer,
    gate,
    predictor,
)
from hounsfield.laptop.strict import name_of, one

__all__ = ["Door", "Machine", "Plan", "Ports", "Process", "make_plan", "read_door"]

_HONOURED = frozenset(
    {
        "AuthorizationPolicy", "Deployment", "DestinationRule", "EnvoyFilter", "Gateway", "InferenceService",
        "RequestAuthentication", "SeldonDeployment", "ServingRuntime", "VirtualService",
    }
)  # fmt: skip

_PASSED_OVER = frozenset({"PersistentVolumeClaim"})
"""Here a folder is enough."""


@dataclass(frozen=True)
class Plan:
    """All that the objects ask of the laptop."""

    ports: Ports
    door: Door
    processes: tuple[Process, ...]
    asks_who: bool
    """Whether callers are asked for a token or a key, so that Envoy needs the files of `callers`."""
    listener: Mapping[str, Any]
    """Envoy Listener, as JSON, without the files that its routes and its certificate come from."""
    clusters: tuple[dict[str, Any], ...]
    """Envoy Clusters, as JSON."""
    virtual_hosts: tuple[dict[str, Any], ...]
    """Envoy VirtualHosts, as JSON."""
    weights: Mapping[str, int]
    """Percent of requests: `stable`, `canary`."""
    revisions: Mapping[str, str]
    """Model version by role; a role that serves nothing is absent."""


def make_plan(objects: Sequence[Mapping[str, Any]], machine: Machine) -> Plan:
    """What `objects` mean on `machine`.

    PlatformError names the first thing that the laptop cannot honour; RolloutError the first that contradicts
    itself, such as a weight on a revision without a model.
    """
    for item in objects:
        if item["kind"] not in _HONOURED | _PASSED_OVER:
            raise PlatformError(
                f"{name_of(item)}: the laptop platform does not run objects of kind {item['kind']}; "
                "leave it out of the laptop overlay"
            )
    kinds = {kind: [item for item in objects if item["kind"] == kind] for kind in _HONOURED}
    door = read_door(objects)
    if door.port != machine.ports.gateway:
        raise PlatformError(
            f"the Gateway's port is {door.port} but the stack runs on {machine.ports.gateway}; "
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
    patches = read_patches(kinds["EnvoyFilter"], {ACCESS_FOLDER: str(machine.access)})
    filters = _access_filters(kinds, machine)
    hashes = routes.hash_headers(kinds["DestinationRule"])
    host = routes.virtual_host(virtual_service, services, gateway, hashes)
    return Plan(
        ports=machine.ports,
        door=door,
        asks_who=bool(filters),
        listener=make_listener(door, filters, patches),
        processes=(
            *(process for process, _ in [*predictors, *explainers] if process),
            *(gate(item, machine) for item in kinds["SeldonDeployment"]),
            *(drift(item, machine) for item in kinds["Deployment"]),
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


def _access_filters(
    kinds: Mapping[str, Sequence[Mapping[str, Any]]], machine: Machine
) -> list[dict[str, Any]]:
    """Who may ask: the filters of RequestAuthentication and AuthorizationPolicy, in Istio's order."""
    filters = access.rbac_filters(kinds["AuthorizationPolicy"])
    if kinds["RequestAuthentication"]:
        rules = one(kinds["RequestAuthentication"], "RequestAuthentication")
        filters.insert(0, access.jwt_filter(rules, machine.access / "jwks.json"))
    return filters
