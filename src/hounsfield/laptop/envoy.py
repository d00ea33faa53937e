"""The files that Envoy watches (listener, clusters, routes), each replaced by rename: weights move live.

A rename is the only change that Envoy's file watch acts on, and it makes each change whole: a request sees
the old routes or the new ones. Every file carries a version, the SHA-256 of what it says, which Envoy's admin
port repeats once it is in force; that is how `wait_for_routes` knows.
"""

from __future__ import annotations

import copy
import hashlib
import json
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import requests

from hounsfield.errors import PlatformError
from hounsfield.laptop.listener import ROUTES
from hounsfield.laptop.plan import Plan
from hounsfield.laptop.ports import HOST, Ports
from hounsfield.laptop.processes import Process
from hounsfield.laptop.programs import find_program
from hounsfield.laptop.tls import Certificate

MAX_CONNECTIONS = 12_000
"""Of all clients together; fewer where the limit of open files is lower."""

_FILES_FOR_THE_REST = 500  # connections to the servers, logs, Envoy's own
_API = "type.googleapis.com/envoy"


def process(folder: Path, ports: Ports) -> Process:
    """Envoy itself, reading its files from `folder`."""
    return Process(
        name="envoy",
        command=(
            find_program("envoy"),
            *("--config-path", str(folder / "bootstrap.json")),
            *("--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"),
        ),
        ready_url=f"http://{HOST}:{ports.envoy_admin}/ready",
    )


def write_files(folder: Path, plan: Plan, certificate: Certificate | None = None) -> str:
    """Write all of Envoy's files for `plan`; the version of its routes.

    Files that say the same are left alone. Clusters go before the routes that name them. A plan with TLS
    needs a `certificate`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / "bootstrap.json", json.dumps(_bootstrap(folder, plan.ports), indent=2, sort_keys=True))
    _write(folder / "cds.json", "config.cluster.v3.Cluster", plan.clusters)
    version = write_routes(folder, plan)
    if plan.door.secret:
        if certificate is None:
            raise PlatformError(f"the Gateway asks for TLS ({plan.door.secret}), and there is no certificate")
        _write(
            folder / "sds.json", "extensions.transport_sockets.tls.v3.Secret", [_secret(plan, certificate)]
        )
    _write(folder / "lds.json", "config.listener.v3.Listener", [_listener(folder, plan)])
    return version


def write_routes(folder: Path, plan: Plan) -> str:
    """Replace the routes alone; their version."""
    configuration = {"name": ROUTES, "virtual_hosts": list(plan.virtual_hosts)}
    return _write(folder / "rds.json", "config.route.v3.RouteConfiguration", [configuration])


def wait_for_routes(ports: Ports, version: str, timeout_s: float = 10.0) -> None:
    """Return once Envoy answers by the routes of `version`; PlatformError if it does not in `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    url = f"http://{HOST}:{ports.envoy_admin}/config_dump?resource=dynamic_route_configs"
    while time.monotonic() < deadline_s:
        try:
            dumped = requests.get(url, timeout=2).json().get("configs", [])
        except (requests.RequestException, ValueError):
            dumped = []
        if any(item.get("version_info") == version for item in dumped):
            return
        time.sleep(0.02)
    raise PlatformError(
        f"Envoy did not take the new routes within {timeout_s:g} s; its reason is in logs/envoy.log"
    )


def _write(path: Path, kind: str, resources: Sequence[dict[str, Any]]) -> str:
    typed = [{"@type": f"{_API}.{kind}", **resource} for resource in resources]
    version = hashlib.sha256(json.dumps(typed, sort_keys=True).encode()).hexdigest()[:16]
    _replace(path, json.dumps({"version_info": version, "resources": typed}, indent=2, sort_keys=True))
    return version


def _replace(path: Path, text: str) -> None:
    if path.exists() and path.read_text() == text:
        return
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.rename(path)


def _bootstrap(folder: Path, ports: Ports) -> dict[str, Any]:
    return {
        "node": {"id": "laptop", "cluster": "hounsfield"},
        "admin": {"address": _address(ports.envoy_admin), "ignore_global_conn_limit": True},
        "overload_manager": _overload(),
        "dynamic_resources": {
            "lds_config": _file_source(folder / "lds.json"),
            "cds_config": _file_source(folder / "cds.json"),
        },
    }


def _overload() -> dict[str, Any]:
    """A bound of open connections, so that the gateway answers on those it has and does not run out of files.

    Istio's bootstrap has the same monitor, set by ISTIO_META_GLOBAL_DOWNSTREAM_MAX_CONNECTIONS.
    """
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    connections = min(MAX_CONNECTIONS, allowed - _FILES_FOR_THE_REST)
    monitor = "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3"
    return {
        "resource_monitors": [
            {
                "name": "envoy.resource_monitors.global_downstream_max_connections",
                "typed_config": {
                    "@type": f"{monitor}.DownstreamConnectionsConfig",
                    "max_active_downstream_connections": max(connections, 100),
                },
            }
        ]
    }


def _listener(folder: Path, plan: Plan) -> dict[str, Any]:
    """The plan's Listener, with the files that its routes and its certificate come from."""
    listener = copy.deepcopy(dict(plan.listener))
    (chain,) = listener["filter_chains"]
    chain["filters"][0]["typed_config"]["rds"]["config_source"] = _file_source(folder / "rds.json")
    if plan.door.secret:
        context = chain["transport_socket"]["typed_config"]["common_tls_context"]
        context["tls_certificate_sds_secret_configs"][0]["sds_config"] = _file_source(folder / "sds.json")
    return listener


def _secret(plan: Plan, certificate: Certificate) -> dict[str, Any]:
    """Envoy reads both files again when they are replaced by rename."""
    return {
        "name": plan.door.secret,
        "tls_certificate": {
            "certificate_chain": {"filename": str(certificate.chain)},
            "private_key": {"filename": str(certificate.key)},
        },
    }


def _file_source(path: Path) -> dict[str, Any]:
    return {"resource_api_version": "V3", "path_config_source": {"path": str(path)}}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": HOST, "port_value": port}}
