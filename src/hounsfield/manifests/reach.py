"""Who may reach whom: NetworkPolicies evaluated as the API reference has it, without a cluster.

A pod that no policy isolates in a direction is open in it; an isolated one is open to what the union of its
policies allows. A connection needs both ends' leave.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

Object = Mapping[str, Any]
NAME_LABEL = "kubernetes.io/metadata.name"
"""The label that the API server puts on every namespace."""


class HasLabels(Protocol):
    namespace: str
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Peer:
    """One end of a connection: a pod, or an `address` that is no pod's (then no labels)."""

    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    address: str = ""


def may_connect(
    policies: Sequence[Object], source: Peer, target: Peer, port: int, protocol: str = "TCP"
) -> bool:
    """Whether `policies` let `source` open a connection to `port` of `target`."""
    return _open(policies, source, target, "Egress", port, protocol) and _open(
        policies, target, source, "Ingress", port, protocol
    )


def isolates(policy: Object, pod: HasLabels, direction: str) -> bool:
    """Whether `policy` closes `pod` in `direction`, one of Ingress and Egress."""
    spec = policy["spec"]
    types = spec.get("policyTypes") or ["Ingress", *(["Egress"] if "egress" in spec else [])]
    return (
        direction in types
        and policy["metadata"].get("namespace", "") == pod.namespace
        and selects(spec.get("podSelector") or {}, pod.labels)
    )


def _open(
    policies: Sequence[Object], pod: Peer, other: Peer, direction: str, port: int, protocol: str
) -> bool:
    if pod.address:  # not a pod of this cluster: no policy is its
        return True
    isolating = [policy for policy in policies if isolates(policy, pod, direction)]
    if not isolating:
        return True
    key, peers = ("ingress", "from") if direction == "Ingress" else ("egress", "to")
    return any(
        _has_port(rule.get("ports"), port, protocol)
        and (not rule.get(peers) or any(_is_peer(peer, other, pod.namespace) for peer in rule[peers]))
        for policy in isolating
        for rule in policy["spec"].get(key) or ()
    )


def _has_port(ports: Sequence[Mapping[str, Any]] | None, port: int, protocol: str) -> bool:
    if not ports:
        return True
    for allowed in ports:
        if isinstance(allowed.get("port"), str):
            raise ValueError(f"port {allowed['port']!r}: write the number, a name needs the pod to be known")
        first = allowed.get("port", 0)
        last = allowed.get("endPort", first or 65535)
        if allowed.get("protocol", "TCP") == protocol and first <= port <= last:
            return True
    return False


def _is_peer(peer: Mapping[str, Any], other: Peer, own_namespace: str) -> bool:
    if "ipBlock" in peer:
        if not other.address:
            return False  # what a plugin does with pods' addresses differs: not relied on
        address, block = ipaddress.ip_address(other.address), peer["ipBlock"]
        return address in ipaddress.ip_network(block["cidr"]) and not any(
            address in ipaddress.ip_network(but) for but in block.get("except", ())
        )
    if other.address:
        return False
    if "namespaceSelector" in peer:
        if not selects(peer["namespaceSelector"], {NAME_LABEL: other.namespace}):
            return False
    elif other.namespace != own_namespace:
        return False
    return selects(peer.get("podSelector") or {}, other.labels)


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """A LabelSelector; an empty one selects everything."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    tests = {
        "In": lambda key, values: labels.get(key) in values,
        "NotIn": lambda key, values: labels.get(key) not in values,
        "Exists": lambda key, _: key in labels,
        "DoesNotExist": lambda key, _: key not in labels,
    }
    return all(
        tests[test["operator"]](test["key"], test.get("values", ()))
        for test in selector.get("matchExpressions", ())
    )
