"""Strict validation against the CRDs: an unknown field is an error, as with `fieldValidation=Strict`."""

import copy
import os
from pathlib import Path

import jsonschema
import pytest
import yaml  # PyYAML: its C parser reads 5 MB of CRDs in seconds

ROOT = Path(__file__).parents[2]
CRDS = Path(os.environ.get("HOUNSFIELD_CRDS") or ROOT.parent / "shared" / "crds")


@pytest.fixture(scope="session")
def violations():
    """A function of one object: its violations as sentences `path: what`, [] when it is valid."""
    if not CRDS.is_dir():
        pytest.skip(f"there are no CRDs in {CRDS}; name their folder in HOUNSFIELD_CRDS")
    schemas, validators = {}, {}
    for file in sorted(CRDS.glob("*.yaml")):
        for crd in yaml.load_all(file.read_bytes(), yaml.CSafeLoader):
            for version in (crd or {}).get("spec", {}).get("versions", []):
                key = (f"{crd['spec']['group']}/{version['name']}", crd["spec"]["names"]["kind"])
                schemas[key] = version["schema"]["openAPIV3Schema"]

    def check(item) -> list[str]:
        key = (item["apiVersion"], item["kind"])
        if key not in schemas:
            return [f"{key}: no such kind"]
        if key not in validators:
            validators[key] = jsonschema.Draft4Validator(strict(schemas[key], is_root=True))
        return [f"{error.json_path}: {error.message[:200]}" for error in validators[key].iter_errors(item)]

    return check


def strict(schema, is_root=False):
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
            # The API server's own, which a CRD may leave out.
            schema["properties"] |= {"apiVersion": {}, "kind": {}, "metadata": {"type": "object"}}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
    if isinstance(schema.get("additionalProperties"), dict):
        schema["additionalProperties"] = strict(schema["additionalProperties"])
    if isinstance(schema.get("items"), dict):
        schema["items"] = strict(schema["items"])
    return schema
