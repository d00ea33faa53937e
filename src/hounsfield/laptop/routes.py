"""VirtualService and DestinationRule -> Envoy's RouteConfiguration and Clusters (pure).

The translation is Istio's, for the part of Istio that the overlay uses: matches by URI, header and method,
weights, response headers, a mirror, a timeout, retries; load balancing, also by the hash of a header, and
connection limits. The rest is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hounsfield.errors import RolloutError
from hounsfield.laptop.ports import HOST
from hounsfield.laptop.processes import Service
from hounsfield.laptop.strict import name_of, one, only, refuse

_HTTP2 = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
}
_BALANCERS = ("ROUND_ROBIN", "LEAST_REQUEST", "RANDOM")
_NO_MODEL = "this revision serves no model; put its package into rollout.yaml and run `hounsfield apply`"


def clusters(services: Mapping[str, Service], rules: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One Envoy cluster for each port of each Service that has something to serve."""
    policies = {}
    for rule in rules:
        only(rule["spec"], f"{name_of(rule)}.spec", {"host", "trafficPolicy"})
        policies[short(rule["spec"]["host"])] = _policy(rule["spec"].get("trafficPolicy", {}), name_of(rule))
    return [
        {
            "name": f"{service.host}|{number}",
            "type": "STATIC",
            "load_assignment": {
                "cluster_name": f"{service.host}|{number}",
                "endpoints": [{"lb_endpoints": [_address(endpoint.port)]}],
            },
            **({"typed_extension_protocol_options": _HTTP2} if endpoint.http2 else {}),
            **policies.get(service.host, {}),
        }
        for service in services.values()
        for number, endpoint in service.endpoints.items()
    ]


def hash_headers(rules: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """By Service, the header whose hash chooses where a request goes (`consistentHash`)."""
    found = {}
    for rule in rules:
        balancer = rule["spec"].get("trafficPolicy", {}).get("loadBalancer", {})
        if "consistentHash" in balancer:
            by = only(balancer["consistentHash"], f"{name_of(rule)} consistentHash", {"httpHeaderName"})
            found[short(rule["spec"]["host"])] = by["httpHeaderName"]
    return found


def virtual_host(
    virtual_service: Mapping[str, Any],
    services: Mapping[str, Service],
    gateway: str,
    hashes: Mapping[str, str],
) -> dict[str, Any]:
    """Envoy's VirtualHost of one VirtualService that is bound to `gateway`; `hashes` are `hash_headers`."""
    where = name_of(virtual_service)
    spec = only(virtual_service["spec"], f"{where}.spec", {"hosts", "gateways", "http"})
    if list(spec.get("gateways", [])) != [gateway]:
        raise refuse(f"{where}.spec.gateways", spec.get("gateways"))
    return {
        "name": virtual_service["metadata"]["name"],
        "domains": list(spec["hosts"]),
        "routes": [
            {
                "name": http.get("name", ""),
                "match": match,
                **_action(http, services, hashes, f"{where} route {http.get('name')}"),
            }
            for http in spec["http"]
            for match in _matches(http, where)
        ],
    }


def weights(virtual_service: Mapping[str, Any], services: Mapping[str, Service]) -> dict[str, int]:
    """Percent of requests by role, as the weighted routes say; those for first callers (`-first`) aside.

    RolloutError when they do not say the same.
    """
    where, found = name_of(virtual_service), []
    for http in virtual_service["spec"]["http"]:
        if len(http.get("route", [])) > 1 and not str(http.get("name")).endswith("-first"):
            found.append(
                {_service(r, services, where).role: int(r.get("weight", 0)) for r in http["route"]}  # by role
            )
    if not found or any(other != found[0] for other in found):
        raise RolloutError(f"{where}: its weighted routes must exist and agree, they say {found}")
    return found[0]


def _matches(http: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    return [_match(match, f"{where} route {http.get('name')} match") for match in http.get("match", [{}])]


def _match(match: Mapping[str, Any], where: str) -> dict[str, Any]:
    only(match, where, {"uri", "headers", "method", "authority", "ignoreUriCase"}, {"name"})
    uri = only(match.get("uri", {"prefix": "/"}), f"{where}.uri", {"exact", "prefix", "regex"})
    kind, text = one(list(uri.items()), f"{where}.uri")
    path = {"exact": {"path": text}, "prefix": {"prefix": text}, "regex": {"safe_regex": {"regex": text}}}[
        kind
    ]
    headers = [*match.get("headers", {}).items()]
    headers += [(f":{name}", match[name]) for name in ("method", "authority") if name in match]
    result: dict[str, Any] = {**path, "case_sensitive": not match.get("ignoreUriCase", False)}
    if headers:
        result["headers"] = [
            {"name": name, "string_match": _string_match(value, f"{where}.{name}")} for name, value in headers
        ]
    return result


def _string_match(value: Mapping[str, str], where: str) -> dict[str, Any]:
    kind, text = one(list(only(value, where, {"exact", "prefix", "regex"}).items()), where)
    return {"safe_regex": {"regex": text}} if kind == "regex" else {kind: text}


def _action(
    http: Mapping[str, Any], services: Mapping[str, Service], hashes: Mapping[str, str], where: str
) -> dict[str, Any]:
    if "directResponse" in http:
        only(http, where, {"name", "match", "directResponse"})
        return {"direct_response": dict(only(http["directResponse"], f"{where}.directResponse", {"status"}))}
    only(http, where, {"name", "match", "route", "mirror", "mirrorPercentage", "timeout", "retries"})
    shares = _shares(http["route"], services, where)
    if not shares:
        return {"direct_response": {"status": 503, "body": {"inline_string": _NO_MODEL}}}
    action: dict[str, Any] = {
        "weighted_clusters": {"clusters": shares},
        # Without a timeout Istio sets none, Envoy 15 s.
        "timeout": http.get("timeout", "0s"),
    }
    # Istio: one hash policy for each destination that has one (equal ones hash to one value all the same).
    hosts = [share["name"].partition("|")[0] for share in shares]
    policies = [{"header": {"header_name": hashes[host]}} for host in hosts if host in hashes]
    if policies:
        action["hash_policy"] = policies
    percent = float(http.get("mirrorPercentage", {}).get("value", 100)) if "mirror" in http else 0.0
    if percent:
        action["request_mirror_policies"] = [
            {
                "cluster": _cluster(http["mirror"], services, f"{where}.mirror"),
                # Beside the Host's ending, which KServe's gRPC server cannot see.
                "request_headers_mutations": [
                    {"append": {"header": {"key": "x-hounsfield-shadow", "value": "1"}}}
                ],
                "runtime_fraction": {
                    "default_value": {"numerator": round(percent * 10_000), "denominator": "MILLION"}
                },
            }
        ]
    retries = only(http.get("retries", {}), f"{where}.retries", {"attempts", "perTryTimeout", "retryOn"})
    if retries.get("attempts"):
        action["retry_policy"] = {
            "num_retries": int(retries["attempts"]),
            "retry_on": retries.get("retryOn", "connect-failure,refused-stream,unavailable,cancelled"),
            **({"per_try_timeout": retries["perTryTimeout"]} if "perTryTimeout" in retries else {}),
        }
    return {"route": action}


def _shares(
    routes: Sequence[Mapping[str, Any]], services: Mapping[str, Service], where: str
) -> list[dict[str, Any]]:
    """Weighted clusters of one route; empty when none of its destinations serves a model."""
    asked = [int(route.get("weight", 100 if len(routes) == 1 else 0)) for route in routes]
    if sum(asked) != 100 or min(asked) < 0:
        raise RolloutError(f"{where}: the weights {asked} do not add up to 100; edit rollout.yaml")
    serving = [bool(_service(route, services, where).endpoints) for route in routes]
    if not any(serving):
        return []
    shares = []
    for route, weight, is_serving in zip(routes, asked, serving, strict=True):
        service = _service(route, services, where)
        if weight and not is_serving:
            raise RolloutError(
                f"{where}: {service.role} has weight {weight} but no model; give it one in rollout.yaml"
            )
        if weight:
            shares.append(
                {
                    "name": _cluster(route["destination"], services, where),
                    "weight": weight,
                    **_headers(route, where),
                }
            )
    return shares


def _headers(route: Mapping[str, Any], where: str) -> dict[str, Any]:
    only(route, f"{where} destination", {"destination", "weight", "headers"})
    headers = only(route.get("headers", {}), f"{where} headers", {"request", "response"})
    found = {}
    for side in headers:
        found[f"{side}_headers_to_add"] = [
            {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
            for key, value in only(headers[side], f"{where} headers.{side}", {"set"}).get("set", {}).items()
        ]
    return found


def _service(route: Mapping[str, Any], services: Mapping[str, Service], where: str) -> Service:
    host = short(route["destination"]["host"])
    if host not in services:
        raise RolloutError(
            f"{where}: there is no Service {host!r}; InferenceService NAME has the Service NAME-predictor"
        )
    return services[host]


def _cluster(destination: Mapping[str, Any], services: Mapping[str, Service], where: str) -> str:
    only(destination, f"{where} destination", {"host", "port"})
    service = _service({"destination": destination}, services, where)
    number = destination.get("port", {}).get("number")
    if number not in service.endpoints:
        known = ", ".join(str(port) for port in service.endpoints) or "no ports: its storageUri is `none`"
        raise RolloutError(f"{where}: port {number} of {service.host} does not exist; it has {known}")
    return f"{service.host}|{number}"


def _policy(policy: Mapping[str, Any], where: str) -> dict[str, Any]:
    only(policy, f"{where} trafficPolicy", {"loadBalancer", "connectionPool"}, {"tls"})
    balancing = _balancing(policy.get("loadBalancer", {}), f"{where} loadBalancer")
    pool = only(policy.get("connectionPool", {}), f"{where} connectionPool", {"tcp", "http"})
    tcp = only(pool.get("tcp", {}), f"{where} connectionPool.tcp", {"connectTimeout", "maxConnections"})
    http = only(
        pool.get("http", {}), f"{where} connectionPool.http", {"http1MaxPendingRequests", "http2MaxRequests"}
    )
    limits = {
        "max_connections": tcp.get("maxConnections"),
        "max_pending_requests": http.get("http1MaxPendingRequests"),
        "max_requests": http.get("http2MaxRequests"),
    }
    return {
        **balancing,
        "connect_timeout": tcp.get("connectTimeout", "10s"),  # Istio's default
        "circuit_breakers": {
            "thresholds": [{key: value for key, value in limits.items() if value is not None}]
        },
    }


def _balancing(balancer: Mapping[str, Any], where: str) -> dict[str, Any]:
    only(balancer, where, {"simple", "consistentHash"})
    if "consistentHash" in balancer:
        # Istio's ring, when the rule names none.
        return {"lb_policy": "RING_HASH", "ring_hash_lb_config": {"minimum_ring_size": 1024}}
    if balancer.get("simple", "LEAST_REQUEST") not in _BALANCERS:
        raise refuse(f"{where}.simple", balancer["simple"])
    return {"lb_policy": balancer.get("simple", "LEAST_REQUEST")}


def _address(port: int) -> dict[str, Any]:
    return {"endpoint": {"address": {"socket_address": {"address": HOST, "port_value": port}}}}


def short(host: str) -> str:
    """A Service's own name: the host without its namespace and the cluster's domain."""
    return host.split(".")[0]
