"""What each image holds, as CycloneDX: `make sbom` writes build/sbom/TARGET.cdx.json.

The images are made of the same constraints as the environments here, so what an image holds is the part of
them that its list needs; torch's build alone may differ. Debian's packages are in the dpkg of each image.
"""

import importlib.metadata as metadata
import json
import re
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
TOOL = ROOT / "build" / "cyclonedx"
BESIDE = ("kubeflow-katib", "kubeflow_katib_api")
"""What the Dockerfile installs without its dependencies."""


def main(python: str, out: Path) -> None:
    if not (TOOL / "bin" / "cyclonedx-py").exists():  # an environment of its own: its pins are none of ours
        subprocess.run([python, "-m", "venv", TOOL], check=True)
        subprocess.run([TOOL / "bin" / "pip", "install", "-q", "cyclonedx-bom==7.5.0"], check=True)
    ours, guards = listed(ROOT / ".venv"), listed(ROOT / ".venv-guard")
    held = {
        "train": part(ours, closure(["hounsfield", *BESIDE, "rapidocr-onnxruntime"])),
        "launch": part(ours, closure(lines("launch")) | {"hounsfield", *map(normal, BESIDE)}),
        "serve": part(ours, closure(lines("serve")) | {"hounsfield"}),
        "guard": guards + [item for item in part(ours, closure(lines("step"))) if item not in guards],
    }
    out.mkdir(parents=True, exist_ok=True)
    for target, components in held.items():
        bom = {
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "metadata": {"component": {"type": "container", "name": f"hounsfield/{target}"}},
            "components": sorted(components, key=lambda item: (item["name"].lower(), item["version"])),
        }
        file = out / f"{target}.cdx.json"
        file.write_text(json.dumps(bom, indent=1) + "\n", encoding="utf-8")
        print(f"{file}: {len(components)} packages")


def listed(environment: Path) -> list[dict]:
    """Every package of `environment` as a component, with its licence."""
    tool = [TOOL / "bin" / "cyclonedx-py", "environment", "--output-reproducible", "--spec-version", "1.6"]
    done = subprocess.run([*tool, environment / "bin" / "python"], check=True, capture_output=True, text=True)
    return [item for item in json.loads(done.stdout)["components"] if item["name"] != "pip"]


def part(components: list[dict], names: set[str]) -> list[dict]:
    return [item for item in components if normal(item["name"]) in names]


def lines(image: str) -> list[str]:
    text = (ROOT / "images" / f"{image}.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def closure(wanted: list[str]) -> set[str]:
    """`wanted` and all that they need, by the metadata of this environment."""
    found, open_ = set(), list(wanted)
    while open_:
        requirement = Requirement(open_.pop())
        key = (normal(requirement.name), tuple(sorted(requirement.extras)))
        if key in found:
            continue
        found.add(key)
        try:
            needs = [Requirement(text) for text in metadata.requires(requirement.name) or ()]
        except metadata.PackageNotFoundError:
            continue
        open_ += [
            str(Requirement(f"{need.name}[{','.join(need.extras)}]" if need.extras else need.name))
            for need in needs
            if need.marker is None
            or any(need.marker.evaluate({"extra": extra}) for extra in (*requirement.extras, ""))
        ]
    return {name for name, _ in found}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
