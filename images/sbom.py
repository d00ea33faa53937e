"""What each image holds, as CycloneDX: `make sbom` writes build/sbom/TARGET.cdx.json.

The images are made of the same constraints as the environments here, so what an image holds is the part of
them that its list needs; torch's build alone may differ. Debian's packages are in the dpkg of each image.
"""

import importlib.metadata as metadata
import json
import re
import subprocess
import sys
from collections.abc import Sequence
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
    ours, guards = Environment(ROOT / ".venv"), Environment(ROOT / ".venv-guard")
    held = {
        "train": ours.part(["hounsfield", *BESIDE, "rapidocr-onnxruntime"]),
        "launch": ours.part(lines("images/launch.txt"), BESIDE),
        "serve": ours.part(lines("images/serve.txt")),
        "guard": guards.part(lines("guard-requirements.txt")),
    }
    held["guard"] += [item for item in ours.part(lines("images/step.txt")) if item not in held["guard"]]
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


class Environment:
    """A virtual environment's packages as components, each with its licence."""

    def __init__(self, folder: Path) -> None:
        tool = [
            TOOL / "bin" / "cyclonedx-py",
            "environment",
            "--output-reproducible",
            "--spec-version",
            "1.6",
        ]
        done = subprocess.run([*tool, folder / "bin" / "python"], check=True, capture_output=True, text=True)
        self._components = json.loads(done.stdout)["components"]
        (site,) = folder.glob("lib/python*/site-packages")
        found = metadata.distributions(path=[str(site)])
        self._needs = {normal(package.name): package.requires or () for package in found}

    def part(self, wanted: Sequence[str], beside: Sequence[str] = ()) -> list[dict]:
        """The components of `wanted` with all that they need, of those `beside` them, and our own package."""
        names = self._closure(wanted) | {"hounsfield", *map(normal, beside)}
        return [item for item in self._components if normal(item["name"]) in names]

    def _closure(self, wanted: Sequence[str]) -> set[str]:
        found, open_ = set(), [Requirement(text) for text in wanted]
        while open_:
            one = open_.pop()
            key = (normal(one.name), frozenset(one.extras))
            if key not in found:
                found.add(key)
                needs = [Requirement(text) for text in self._needs.get(key[0], ())]
                open_ += [need for need in needs if _is_needed(need, one.extras)]
        return {name for name, _ in found}


def _is_needed(need: Requirement, extras: set[str]) -> bool:
    return need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in (*extras, ""))


def lines(file: str) -> list[str]:
    text = (ROOT / file).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
