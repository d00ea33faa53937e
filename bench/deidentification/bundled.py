"""pydicom's bundled files: what of a file's own identifiers is still in the answer, and is it still valid."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
from pydicom.data import get_testdata_files
from pydicom.dataset import Dataset

_NAMING = (
    "PatientID OtherPatientIDs AccessionNumber InstitutionName InstitutionAddress StudyID PatientAddress "
    "PatientTelephoneNumbers DeviceSerialNumber StationName IssuerOfPatientID InstitutionalDepartmentName "
    "ReferringPhysicianAddress ReferringPhysicianTelephoneNumbers PatientBirthDate StudyInstanceUID "
    "SeriesInstanceUID SOPInstanceUID FrameOfReferenceUID"
)
_KEYWORDS = frozenset(_NAMING.split())
_DESCRIPTIONS = frozenset({"StudyDescription", "SeriesDescription", "ImageComments", "PatientComments"})
_LEAST = 4
"""Shorter values are also found by chance."""
_PLAIN = frozenset(
    {"anonymous", "anonymized", "removed", "none", "unknown", "chest", "brain", "head", "abdomen", "test"}
)


def judge_bundled(work: Path, run: Callable[[Path, Path], dict]) -> dict:
    source, target = _collect(work / "bundled"), work / "out" / "bundled"
    said = run(source, target)
    leaking: dict[str, list[str]] = {}
    worse: dict[str, list[str]] = {}
    written = sorted(target.glob("*.dcm"))
    for path in written:
        original = source / path.name
        try:
            if kinds := leaks(pydicom.dcmread(original, force=True), pydicom.dcmread(path, force=True)):
                leaking[path.name] = kinds
        except Exception as error:
            leaking[path.name] = [f"cannot be read: {type(error).__name__}"]
        if shutil.which("dciodvfy"):
            added = _errors(path) - _errors(original)
            if sum(_errors(path).values()) > sum(_errors(original).values()):
                worse[path.name] = sorted(added)
    return {
        "files": said["files"],
        "written": len(written),
        "leaking": len(leaking),
        "worse": len(worse) if shutil.which("dciodvfy") else None,
        "leaks": leaking,
        "worse_files": worse,
    }


def leaks(original: Dataset, answer: Dataset) -> list[str]:
    """Keywords of `original` whose value is found anywhere in `answer` but its pixels; `private` for a group.

    A description counts where it stood: as `Scout` it may be said elsewhere without telling anything. So does
    what is also the manufacturer's name, as the institution of phantoms is.
    """
    texts = [text.casefold() for text in _texts(answer)]
    maker = str(original.get("Manufacturer", "")).strip().casefold()
    found = set()
    for keyword, value in _identifying(original):
        if value.casefold() == maker:
            continue
        if any(value.casefold() in text for text in texts):
            found.add(keyword)
    described = {
        (e.keyword, str(e.value)) for e in original.iterall() if e.keyword in _DESCRIPTIONS and e.value
    }
    found |= {e.keyword for e in answer.iterall() if (e.keyword, str(e.value)) in described}
    if any(element.tag.is_private for element in answer.iterall()):
        found.add("private")
    return sorted(found)


def _identifying(dataset: Dataset) -> Iterator[tuple[str, str]]:
    for element in dataset.iterall():
        if element.tag.is_private:
            continue
        wanted = element.keyword in _KEYWORDS or element.VR in ("PN", "DA", "DT")
        if not wanted or element.value is None:
            continue
        values = element.value if element.VM > 1 else [element.value]
        for value in values:
            text = str(value).strip(" \0^=")
            if len(text) >= _LEAST and text.casefold() not in _PLAIN:
                yield element.keyword, text


def _texts(dataset: Dataset) -> Iterator[str]:
    for part in (dataset, getattr(dataset, "file_meta", Dataset())):
        for element in part.iterall():
            if element.VR in ("SQ", "OB", "OW", "OF", "OD", "OB or OW") or element.value is None:
                continue
            values = element.value if element.VM > 1 else [element.value]
            yield from (str(value) for value in values)


def _collect(folder: Path) -> Path:
    """Every bundled file once, as NUMBER-NAME.dcm; files that are no DICOM are left out."""
    if folder.exists():
        return folder
    folder.mkdir(parents=True)
    for number, path in enumerate(sorted({Path(path) for path in get_testdata_files()})):
        if path.is_file() and b"DICM" in path.read_bytes()[:132]:
            shutil.copyfile(path, folder / f"{number:03d}-{path.stem}.dcm")
    return folder


def _errors(path: Path) -> Counter:
    done = subprocess.run(["dciodvfy", path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return Counter(line for line in done.stdout.decode("latin-1").splitlines() if line.startswith("Error"))
