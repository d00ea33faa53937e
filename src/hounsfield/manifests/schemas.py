"""Strict validation against the API's own schemas: an unknown field fails, as with `fieldValidation=Strict`.

Core kinds by `kubernetes-validate`, custom ones by CustomResourceDefinitions from a folder. A CRD that leaves
its `spec` open (Katib's does) says nothing, so Katib's kinds are read from its SDK.
"""

from __future__ import annotations

import copy
import importlib
import importlib.resources
import json
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import jsonschema
import jsonschema.protocols
import yaml  # PyYAML: its C parser reads 5 MB of CRDs in seconds
from referencing import Registry, Resource

from hounsfield.errors import ConfigError, PlatformError

KUBERNETES = "1.36"
"""The version of the core schemas."""

_SDK_MODELS = {("kubeflow.org/v1beta1", "Experiment"): ("kubeflow_katib_api.models", "V1beta1Experiment")}
_API_SERVER = {"apiVersion": {}, "kind": {}, "metadata": {"type": "object"}}
"""The API server's own fields, which a CRD may leave out."""


class Schemas:
    """The schemas of one Kubernetes version and of the CRDs in one folder."""

    def __init__(self, crds: Path, kubernetes: str = KUBERNETES) -> None:
        """ConfigError when `crds` is no folder; PlatformError without kubernetes-validate."""
        if not crds.is_dir():
            raise ConfigError(f"there is no folder {crds}; name that of your cluster's CRDs with --crds")
        try:
            schemas = importlib.resources.files("kubernetes_validate") / "kubernetes-json-schema"
        except ImportError:
            raise PlatformError("kubernetes-validate is not installed; run pip install -e '.[dev]'") from None
        self._core = schemas / f"v{kubernetes}.0-local-strict"
        if not self._core.is_dir():
            raise ConfigError(
                f"kubernetes-validate has no schemas of Kubernetes {kubernetes}; try {KUBERNETES}"
            )
        self._folder, self._kubernetes = crds, kubernetes
        self._validators: dict[tuple[str, str], jsonschema.protocols.Validator] = {}

    def violations(self, item: Mapping[str, Any]) -> list[str]:
        """Sentences `path: what`, [] when `item` is valid. Whole objects inside it are checked too."""
        key = (item["apiVersion"], item["kind"])
        if key not in self._crds:
            found = self._of_core(item)
        else:
            found = _sentences(self._validator(key), item)
            # A CRD says nothing of metadata, the API server does: hence a core kind with this one's.
            stand_in = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": item.get("metadata", {})}
            found += self._of_core(stand_in)
        for path, inner in _objects_inside(item, "$"):
            found += [f"{path} {sentence}" for sentence in self.violations({"metadata": {}, **inner})]
        return found

    def _of_core(self, item: Mapping[str, Any]) -> list[str]:
        # rbac.authorization.k8s.io/v1 is rbac-v1 in the file names.
        group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", item["apiVersion"])
        file = self._core / f"{item['kind'].lower()}-{group}.json"
        if not file.is_file():
            return [
                f"$: neither Kubernetes {self._kubernetes} nor a CRD in {self._folder} "
                f"knows {item['apiVersion']} {item['kind']}"
            ]
        key = (item["apiVersion"], item["kind"])
        if key not in self._validators:
            self._validators[key] = jsonschema.Draft202012Validator(
                json.loads(file.read_text()), registry=self._definitions
            )
        return _sentences(self._validators[key], item)

    @cached_property
    def _definitions(self) -> Registry:
        return Resource.from_contents(json.loads((self._core / "_definitions.json").read_text())) @ Registry()

    def _validator(self, key: tuple[str, str]) -> jsonschema.protocols.Validator:
        if key not in self._validators:
            if key in _SDK_MODELS:
                module, name = _SDK_MODELS[key]
                schema = getattr(importlib.import_module(module), name).model_json_schema()
                self._validators[key] = jsonschema.Draft202012Validator(_closed(schema))
            else:
                self._validators[key] = jsonschema.Draft4Validator(strict(self._crds[key], is_root=True))
        return self._validators[key]

    @cached_property
    def _crds(self) -> dict[tuple[str, str], Mapping[str, Any]]:
        """openAPIV3Schema by (apiVersion, kind)."""
        found = {}
        for file in sorted(self._folder.glob("*.yaml")):
            for crd in yaml.load_all(file.read_bytes(), yaml.CSafeLoader):
                if (crd or {}).get("kind") != "CustomResourceDefinition":
                    continue
                for version in crd["spec"]["versions"]:
                    key = (f"{crd['spec']['group']}/{version['name']}", crd["spec"]["names"]["kind"])
                    found[key] = version["schema"]["openAPIV3Schema"]
        if not found:
            raise ConfigError(f"no file of {self._folder} holds a CustomResourceDefinition")
        return found


def _sentences(validator: jsonschema.protocols.Validator, item: Mapping[str, Any]) -> list[str]:
    return [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(item)]


def strict(schema: Any, is_root: bool = False) -> Any:
    """A structural schema of Kubernetes as JSON Schema that knows no other fields."""
    schema = copy.copy(schema)
    if schema.pop("x-kubernetes-int-or-string", False):
        schema.pop("type", None)
        schema["type"] = ["integer", "string"]
    if schema.pop("nullable", False) and isinstance(schema.get("type"), str):
        schema["type"] = [schema["type"], "null"]
    schema.pop("format", None)  # int32 and the like, which JSON Schema does not know
    if "properties" in schema:
        schema["properties"] = {key: strict(value) for key, value in schema["properties"].items()}
        if is_root:
            schema["properties"] |= _API_SERVER
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
    if isinstance(schema.get("additionalProperties"), dict):
        schema["additionalProperties"] = strict(schema["additionalProperties"])
    if isinstance(schema.get("items"), dict):
        schema["items"] = strict(schema["items"])
    return schema


def _closed(schema: Any) -> Any:
    """A pydantic model's schema that lets nobody add fields, or say null for what may be left out."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    given = [part for part in schema.get("anyOf", []) if part != {"type": "null"}]
    if len(given) == 1:
        return _closed(given[0])
    closed = {key: _closed(part) for key, part in schema.items()}
    return {**closed, "additionalProperties": False} if "properties" in schema else closed


def _objects_inside(value: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Whole objects of the API that stand inside `value`, each with its path."""
    named = value.items() if isinstance(value, Mapping) else ()
    for key, part in enumerate(value) if isinstance(value, list) else named:
        where = f"{path}[{key}]" if isinstance(key, int) else f"{path}.{key}"
        # With a spec: an ownerReference or a scaleTargetRef names a kind too.
        if isinstance(part, Mapping) and {"apiVersion", "kind", "spec"} <= set(part):
            yield where, part
        else:
            yield from _objects_inside(part, where)
