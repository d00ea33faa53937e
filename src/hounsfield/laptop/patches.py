"""EnvoyFilter -> changes of Envoy's own configuration, by Istio's rules (pure).

An EnvoyFilter's values are Envoy's configuration, so the gateway of a cluster and the laptop's Envoy are
changed by the same words. Of Istio's operations the laptop knows the few that our manifests use, the rest is
refused by name. Source: Istio's EnvoyFilter reference and its pilot/pkg/networking/core/envoyfilter.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hounsfield.errors import RolloutError
from hounsfield.laptop.strict import name_of, only, refuse

MANAGER = "envoy.filters.network.http_connection_manager"
_OPERATIONS = {
    "HTTP_ROUTE": ("MERGE",),
    "HTTP_FILTER": ("INSERT_FIRST", "INSERT_BEFORE"),
    "NETWORK_FILTER": ("MERGE",),
    "LISTENER": ("MERGE",),
}


@dataclass(frozen=True)
class Patch:
    """One entry of an EnvoyFilter's configPatches."""

    applies_to: str
    operation: str
    target: str
    """Name of the route (HTTP_ROUTE), or of the HTTP filter to insert before (INSERT_BEFORE); else empty."""
    value: Mapping[str, Any]
    origin: str
    """The EnvoyFilter, for messages."""


def read_patches(
    filters: Iterable[Mapping[str, Any]], folders: Mapping[str, str] | None = None
) -> tuple[Patch, ...]:
    """The patches of the EnvoyFilters, in order. PlatformError names what the laptop does not know.

    `folders` are the gateway pods' folders and this machine's in their place.
    """
    return tuple(
        _read(
            _localised(patch, folders or {}), f"{name_of(item)}.spec.configPatches[{number}]", name_of(item)
        )
        for item in filters
        for number, patch in enumerate(
            only(item["spec"], f"{name_of(item)}.spec", {"configPatches"}, {"workloadSelector"})[
                "configPatches"
            ]
        )
    )


def patch_routes(routes: Sequence[Mapping[str, Any]], patches: Iterable[Patch]) -> list[dict[str, Any]]:
    """The Routes with each HTTP_ROUTE patch merged into those of its name that forward (`action: ROUTE`).

    RolloutError when there is no route of that name: Istio would pass over it without a word.
    """
    patched = [copy.deepcopy(dict(route)) for route in routes]
    for patch in patches:
        if patch.applies_to != "HTTP_ROUTE":
            continue
        if patch.target not in {route["name"] for route in patched}:
            raise RolloutError(f"{patch.origin}: there is no route {patch.target!r} in the VirtualService")
        for route in patched:
            if route["name"] == patch.target and "route" in route:
                merge(route, patch.value)
    return patched


def patch_listener(listener: Mapping[str, Any], patches: Iterable[Patch]) -> dict[str, Any]:
    """The Listener with every other patch applied. RolloutError for an unknown filter to insert before."""
    patched = copy.deepcopy(dict(listener))
    (manager,) = [
        filter_
        for chain in patched["filter_chains"]
        for filter_ in chain["filters"]
        if filter_["name"] == MANAGER
    ]
    chain = manager["typed_config"]["http_filters"]
    for patch in patches:
        if patch.applies_to == "LISTENER":
            merge(patched, patch.value)
        elif patch.applies_to == "NETWORK_FILTER":
            merge(manager, patch.value)
        elif patch.operation == "INSERT_FIRST":
            chain.insert(0, copy.deepcopy(dict(patch.value)))
        elif patch.operation == "INSERT_BEFORE":
            names = [item["name"] for item in chain]
            if patch.target not in names:
                raise RolloutError(f"{patch.origin}: there is no filter {patch.target!r} to insert before")
            chain.insert(names.index(patch.target), copy.deepcopy(dict(patch.value)))
    return patched


def merge(into: dict[str, Any], value: Mapping[str, Any]) -> None:
    """Merge as protobuf does: messages key by key, lists one after the other, everything else replaced."""
    for key, item in value.items():
        if isinstance(item, Mapping) and isinstance(into.get(key), dict):
            merge(into[key], item)
        elif isinstance(item, list) and isinstance(into.get(key), list):
            into[key] = [*into[key], *copy.deepcopy(item)]
        else:
            into[key] = copy.deepcopy(item)


def _localised(value: Any, folders: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _localised(item, folders) for key, item in value.items()}
    if isinstance(value, list):
        return [_localised(item, folders) for item in value]
    for folder, here in folders.items():
        if isinstance(value, str) and value.startswith(folder + "/"):
            return here + value.removeprefix(folder)
    return value


def _read(patch: Mapping[str, Any], where: str, origin: str) -> Patch:
    only(patch, where, {"applyTo", "match", "patch"})
    applies_to = patch["applyTo"]
    if applies_to not in _OPERATIONS:
        raise refuse(f"{where}.applyTo", applies_to)
    change = only(patch["patch"], f"{where}.patch", {"operation", "value"})
    if change["operation"] not in _OPERATIONS[applies_to]:
        raise refuse(f"{where}.patch.operation", change["operation"])
    match = only(patch["match"], f"{where}.match", {"context", "routeConfiguration", "listener"})
    if match.get("context") != "GATEWAY":
        raise refuse(f"{where}.match.context", match.get("context"))
    target = ""
    if applies_to == "HTTP_ROUTE":
        target = _route(match, f"{where}.match")
    elif applies_to != "LISTENER":
        target = _filter(match, f"{where}.match", change["operation"])
    return Patch(applies_to, change["operation"], target, change["value"], origin)


def _route(match: Mapping[str, Any], where: str) -> str:
    configuration = only(match["routeConfiguration"], f"{where}.routeConfiguration", {"vhost"})
    host = only(configuration["vhost"], f"{where}.routeConfiguration.vhost", {"route"})
    route = only(host["route"], f"{where}.routeConfiguration.vhost.route", {"name", "action"})
    if route.get("action") != "ROUTE":  # without it a route that answers 503 itself would be made to forward
        raise refuse(f"{where} action", route.get("action"))
    return route["name"]


def _filter(match: Mapping[str, Any], where: str, operation: str) -> str:
    listener = only(match["listener"], f"{where}.listener", {"filterChain"})
    chain = only(listener["filterChain"], f"{where}.listener.filterChain", {"filter"})
    filter_ = only(chain["filter"], f"{where}.listener.filterChain.filter", {"name", "subFilter"})
    if filter_["name"] != MANAGER:
        raise refuse(f"{where}.listener.filterChain.filter.name", filter_["name"])
    if ("subFilter" in filter_) != (operation == "INSERT_BEFORE"):
        raise refuse(f"{where}.listener.filterChain.filter.subFilter", filter_.get("subFilter"))
    return filter_.get("subFilter", {}).get("name", "")
