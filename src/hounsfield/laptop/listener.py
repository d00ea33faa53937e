"""Gateway -> Envoy's Listener, with what the access and the EnvoyFilter objects add to it (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hounsfield.laptop.patches import MANAGER, Patch, patch_listener
from hounsfield.laptop.ports import HOST
from hounsfield.laptop.strict import name_of, one, only, refuse

ROUTES = "hounsfield"
"""Name of the routes that the listener takes from Envoy's file of them."""

_EXTENSIONS = "type.googleapis.com/envoy.extensions"
_TLS_VERSIONS = {"TLSV1_2": "TLSv1_2", "TLSV1_3": "TLSv1_3"}


@dataclass(frozen=True)
class Door:
    """The Gateway's one server."""

    port: int
    secret: str = ""
    """`credentialName` of its certificate; empty without TLS."""
    minimum_tls: str = ""

    @property
    def scheme(self) -> str:
        return "https" if self.secret else "http"


def read_door(objects: Sequence[Mapping[str, Any]]) -> Door:
    """PlatformError for several Gateways or servers, and for a protocol or TLS mode that is not ours."""
    gateway = one([item for item in objects if item["kind"] == "Gateway"], "Gateway")
    server = one(gateway["spec"]["servers"], f"{name_of(gateway)}.spec.servers")
    where = f"{name_of(gateway)}.spec.servers[0]"
    only(server, where, {"port", "hosts", "tls"}, {"name"})
    number, protocol = int(server["port"]["number"]), server["port"]["protocol"]
    if protocol in ("HTTP", "HTTP2", "GRPC") and "tls" not in server:
        return Door(number)
    if protocol != "HTTPS" or "tls" not in server:
        raise refuse(f"{name_of(gateway)} protocol", protocol)
    tls = only(server["tls"], f"{where}.tls", {"mode", "credentialName", "minProtocolVersion"})
    if tls.get("mode") != "SIMPLE" or not tls.get("credentialName"):
        raise refuse(f"{where}.tls", dict(tls))
    if tls.get("minProtocolVersion", "TLSV1_2") not in _TLS_VERSIONS:
        raise refuse(f"{where}.tls.minProtocolVersion", tls["minProtocolVersion"])
    return Door(number, tls["credentialName"], _TLS_VERSIONS[tls.get("minProtocolVersion", "TLSV1_2")])


def make_listener(
    door: Door, filters: Sequence[Mapping[str, Any]], patches: Iterable[Patch]
) -> dict[str, Any]:
    """One port for HTTP/1.1 and HTTP/2; without TLS that is what a gRPC client speaks to an insecure channel.

    `filters` stand before the router. Where the routes and the certificate come from is added by the writer.
    """
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": f"{_EXTENSIONS}.filters.http.router.v3.Router"},
    }
    manager = {
        "@type": f"{_EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "gateway",
        "codec_type": "AUTO",
        "rds": {"route_config_name": ROUTES},
        "http_filters": [*filters, router],
        "use_remote_address": True,  # as Istio's gateways: the caller is outside, whatever it says of itself
        "access_log": [_answers()],
    }
    chain: dict[str, Any] = {"filters": [{"name": MANAGER, "typed_config": manager}]}
    if door.secret:
        chain["transport_socket"] = _tls(door)
    address = {"socket_address": {"address": HOST, "port_value": door.port}}
    return patch_listener({"name": "gateway", "address": address, "filter_chains": [chain]}, patches)


def _tls(door: Door) -> dict[str, Any]:
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{_EXTENSIONS}.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "tls_params": {"tls_minimum_protocol_version": door.minimum_tls},
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_certificate_sds_secret_configs": [{"name": door.secret}],
            },
        },
    }


def _answers() -> dict[str, Any]:
    """Count each answer by its status and by Envoy's response flags, on Envoy's /stats/prometheus.

    A flag says that Envoy answered and why, such as UF (no connection), UO (too many waiting), UT (timeout),
    RL (rate limit), NR (no route). Istio's istio_requests_total has both labels. There is no access log: a
    URL may come to name a patient, and the inference log is ours.
    """
    tags = [
        {"name": "code", "value_format": "%RESPONSE_CODE%"},
        {"name": "flags", "value_format": "%RESPONSE_FLAGS%"},
    ]
    return {
        "name": "envoy.access_loggers.stats",
        "typed_config": {
            "@type": f"{_EXTENSIONS}.access_loggers.stats.v3.Config",
            "stats_scope": {"prefix": "hounsfield_gateway"},
            "counters": [{"stat": {"name": "answers", "tags": tags}, "value_fixed": 1}],
        },
    }
