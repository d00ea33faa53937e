"""A pod's container -> a command of this machine: its words, folders, ports, variables and readiness probe.

What the laptop does not honour is refused by name: `hounsfield.laptop.strict`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hounsfield.errors import PlatformError, RolloutError
from hounsfield.laptop.ports import HOST
from hounsfield.laptop.strict import SCHEDULING, one, only, refuse


def runtime_container(
    model: Mapping[str, Any], runtimes: Mapping[str, Mapping[str, Any]], where: str
) -> Mapping[str, Any]:
    name = model.get("runtime")
    if name not in runtimes:
        raise RolloutError(
            f"{where}: runtime {name!r} is not among the ServingRuntimes ({', '.join(runtimes) or 'none'})"
        )
    spec = only(
        runtimes[name]["spec"],
        f"ServingRuntime {name}.spec",
        {"supportedModelFormats", "protocolVersions", "containers"},
        SCHEDULING | {"multiModel", "disabled"},
    )
    formats = [supported["name"] for supported in spec["supportedModelFormats"]]
    if model["modelFormat"]["name"] not in formats:
        raise RolloutError(
            f"{where}: runtime {name} takes the formats {formats}, not {model['modelFormat']['name']!r}"
        )
    if model.get("protocolVersion", "v1") not in spec["protocolVersions"]:
        raise RolloutError(
            f"{where}: runtime {name} does not speak protocol {model.get('protocolVersion', 'v1')!r}"
        )
    container = one(spec["containers"], f"ServingRuntime {name} containers")
    honoured = {"name", "command", "args", "env", "ports", "readinessProbe"}
    return only(container, f"ServingRuntime {name} container", honoured, SCHEDULING)


def merge(runtime: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """KServe's MergeRuntimeContainers: args follow the runtime's, env merges by name, the rest replaces."""
    env = {item["name"]: item for item in [*runtime.get("env", []), *model.get("env", [])]}
    replaced = {key: model[key] for key in ("command", "readinessProbe") if key in model}
    args = [*runtime.get("args", []), *model.get("args", [])]
    return {**runtime, **replaced, "args": args, "env": list(env.values())}


def command_of(
    container: Mapping[str, Any],
    folders: Mapping[str, Path],
    by_container_port: Mapping[int, int],
    python: str,
    where: str,
) -> tuple[str, ...]:
    program, *words = [*container["command"], *container["args"]]
    if program not in ("python", "python3"):
        raise refuse(f"{where} container.command", program)
    # A pod listens on every interface, a workstation on none but its own.
    return (
        python,
        *(localised(word, folders, by_container_port, where) for word in words),
        f"--host={HOST}",
    )


def localised(
    word: str, folders: Mapping[str, Path], by_container_port: Mapping[int, int], where: str
) -> str:
    """An argument with the container's folders and port numbers turned into this machine's."""
    option, equals, value = word.partition("=")
    for folder, here in folders.items():
        if value == folder or value.startswith(folder + "/"):
            value = str(here) + value.removeprefix(folder)
    if option.endswith("port") and value.isdigit() and int(value) in by_container_port:
        value = str(by_container_port[int(value)])
    if "{{" in value or "$(" in value:
        raise refuse(f"{where} argument", word)
    return option + equals + value


def environment(container: Mapping[str, Any], where: str, pod: str) -> dict[str, str]:
    """The container's variables; of the pod's own fields its name is known here, `pod`."""
    found = {}
    for item in container.get("env", []):
        if item.get("valueFrom") == {"fieldRef": {"fieldPath": "metadata.name"}}:
            found[item["name"]] = pod
        else:
            only(item, f"{where} env {item['name']}", {"name", "value"})
            found[item["name"]] = item.get("value", "")
    return found


def ready_url(container: Mapping[str, Any], by_container_port: Mapping[int, int], where: str) -> str:
    try:
        request = container["readinessProbe"]["httpGet"]
        return f"http://{HOST}:{by_container_port[request['port']]}{request['path']}"
    except KeyError:
        raise PlatformError(
            f"{where}: the laptop waits for an httpGet readinessProbe on a port's number"
        ) from None
