"""The files that Envoy watches (listener, clusters, routes), each replaced by rename: weights move live.

A rename is the only change that Envoy's file watch acts on, and it makes each change whole: a request sees
the old routes or the new ones. Every file carries a version, the SHA-256 of what it says, which Envoy's admin
port repeats once it is in force; that is how `wait_for_routes` knows.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import requests

from hounsfield.errors import PlatformError
from hounsfield.laptop.plan import Plan
from hounsfield.laptop.ports import HOST, Ports
from hounsfield.laptop.processes import Process
from hounsfield.laptop.programs import find_program

ROUTES = "hounsfield"
_API = "type.googleapis.com/envoy"
_BUFFER_BYTES = 1 << 20  # flow control, not a limit: a body of any size streams through


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


def write_files(folder: Path, plan: Plan) -> str:
    """Write all of Envoy's files for `plan`; the version of its routes.

    Files that say the same are left alone. Clusters go before the routes that name them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / "bootstrap.json", json.dumps(_bootstrap(folder, plan.ports), indent=2, sort_keys=True))
    _write(folder / "cds.json", "config.cluster.v3.Cluster", plan.clusters)
    version = write_routes(folder, plan)
    _write(folder / "lds.json", "config.listener.v3.Listener", [_listener(folder, plan.ports.gateway)])
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
        "admin": {"address": _address(ports.envoy_admin)},
        "dynamic_resources": {
            "lds_config": _file_source(folder / "lds.json"),
            "cds_config": _file_source(folder / "cds.json"),
        },
    }


def _listener(folder: Path, port: int) -> dict[str, Any]:
    """One port for HTTP/1.1 and for HTTP/2 without TLS, which is what a gRPC client speaks."""
    manager = {
        "@type": f"{_API}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "gateway",
        "codec_type": "AUTO",
        "rds": {"route_config_name": ROUTES, "config_source": _file_source(folder / "rds.json")},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_API}.extensions.filters.http.router.v3.Router"},
            }
        ],
        # No access log: the inference log is ours, and a URL may come to name a patient.
        "access_log": [],
        "normalize_path": True,
        "merge_slashes": True,
    }
    return {
        "name": "gateway",
        "address": _address(port),
        "per_connection_buffer_limit_bytes": _BUFFER_BYTES,
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }


def _file_source(path: Path) -> dict[str, Any]:
    return {"resource_api_version": "V3", "path_config_source": {"path": str(path)}}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": HOST, "port_value": port}}
