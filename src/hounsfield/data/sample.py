"""The sample set: simulated chest radiographs with invented patients, to learn the tool on.

It is not evidence about any model. The same parameters give the same bytes.
"""

from __future__ import annotations

import csv
import datetime
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hounsfield.config import CLASS_NAMES
from hounsfield.data.exposure import MACHINE_SHARES, MACHINES, Machine, Person, Visit, dataset, expose
from hounsfield.data.folder import whole_folder
from hounsfield.data.foreign import write_foreign
from hounsfield.data.phantom import Anatomy, Opacity, render
from hounsfield.dicom.quarantine import Refused
from hounsfield.dicom.sandbox import Sandbox
from hounsfield.errors import ConfigError, PlatformError
from hounsfield.progress import Reporter

STAMP_NAME = "simulated.json"
"""Says with which parameters a set was made; ingest knows simulated data by it."""

PREVALENCE = 0.42
VERSION = 2

_SITES, _SITE_SHARES = ("north", "south"), (0.6, 0.4)
"""In labels.csv only: the pictures of both are alike, so that a gap between them is chance."""

_SURNAMES = (
    "Ahorn",
    "Birke",
    "Carya",
    "Erle",
    "Fichte",
    "Ginkgo",
    "Hasel",
    "Ilex",
    "Juniper",
    "Kiefer",
    "Linde",
)
_GIVEN = (
    "Azure",
    "Beige",
    "Coral",
    "Denim",
    "Ecru",
    "Indigo",
    "Jade",
    "Khaki",
    "Lilac",
    "Mauve",
    "Ochre",
    "Pearl",
)
_DOCTORS = ("Simulant^Ada^^Dr", "Imaginary^Bo^^Dr", "Invented^Cy^^Dr")
_README = """Simulated chest radiographs, made by `hounsfield data sample`.

The images are drawn by a program, the patients are invented, and the finding is a bright spot.
It is data to learn the tool on; a figure measured on it says nothing about any clinical model.

dicom/        DICOM files, DX and CR, of four invented manufacturers; about 1 % are damaged or foreign
labels.csv    SOPInstanceUID, site (north, south; no picture shows it) and label (negative, positive)
findings.csv  each opacity: centre as a fraction of rows and of columns, radius as a fraction of the rows
"""


@dataclass(frozen=True)
class SampleSummary:
    """What a sample set holds: `images` are readable and labelled, `foreign` is every other file."""

    images: int
    foreign: int
    patients: int
    positives: int
    size_bytes: int
    made_now: bool


@dataclass(frozen=True)
class _Image:
    """Everything that makes one image, drawn up front so that workers need no order."""

    number: int
    patient: int
    person: Person
    visit: Visit
    machine: Machine
    view: str
    positive: bool
    sop_uid: str
    instance: int
    file: str


def make_sample(
    out: Path, images: int = 1100, seed: int = 7, size_px: int = 320, workers: int = 2
) -> SampleSummary:
    """Write a simulated set of `images` images below `out`, and about 1 % of damaged and foreign files.

    `size_px` is the number of rows. A complete set of the same parameters is left alone; one of
    other parameters is made anew. Raises DataError when `out` holds something else,
    ConfigError when there are too few images to split (below 60) or a size outside 64 to 2048.
    """
    if images < 60:
        raise ConfigError(f"images is {images}: a sample set needs at least 60 to fill three splits")
    if not 64 <= size_px <= 2048:
        raise ConfigError(f"size_px is {size_px}: choose from 64 to 2048")
    parameters = {"images": images, "seed": seed, "size_px": size_px, "version": VERSION}
    existing = _read_stamp(out)
    if existing and existing["parameters"] == parameters:
        return SampleSummary(**existing["summary"], made_now=False)
    with whole_folder(out, STAMP_NAME) as folder:
        plan = list(_plan(images, seed))
        findings = _write_images(folder, plan, seed, size_px, workers)
        extra_labels, foreign = write_foreign(folder / "dicom", [folder / image.file for image in plan], seed)
        (folder / "README.txt").write_text(_README, encoding="utf-8")
        labels = [[image.sop_uid, _site(image.patient, seed), CLASS_NAMES[image.positive]] for image in plan]
        labels += [[uid, "", CLASS_NAMES[0]] for uid in extra_labels]
        _write_csv(folder / "labels.csv", ["SOPInstanceUID", "site", "label"], labels)
        header = ["SOPInstanceUID", "row_fraction", "column_fraction", "radius_fraction", "contrast"]
        _write_csv(folder / "findings.csv", header, findings)
        summary = {
            "images": images,
            "foreign": foreign,
            "patients": len({image.patient for image in plan}),
            "positives": sum(image.positive for image in plan),
            "size_bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        }
        stamp = {"simulated": True, "parameters": parameters, "summary": summary}
        (folder / STAMP_NAME).write_text(json.dumps(stamp, indent=2, sort_keys=True), encoding="utf-8")
    return SampleSummary(**summary, made_now=True)


def is_simulated(folder: Path) -> bool:
    """Whether `folder`, or the folder above it, is a sample set of ours."""
    return _read_stamp(folder) is not None or _read_stamp(folder.parent) is not None


def _read_stamp(folder: Path) -> dict | None:
    try:
        return json.loads((folder / STAMP_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _uid(seed: int, *parts: object) -> str:
    """A UID below 2.25 (PS3.5 B.2) that depends on the seed and the parts only."""
    text = "/".join(str(part) for part in ("hounsfield-sample", seed, *parts))
    return f"2.25.{int.from_bytes(hashlib.sha256(text.encode()).digest()[:16])}"


def _plan(images: int, seed: int) -> Iterator[_Image]:
    """Patients one after the other, one to four studies each, until there are `images` images."""
    number, patient = 0, 0
    while number < images:
        rng = np.random.default_rng([seed, 1, patient])
        person = _person(rng, patient)
        sick = rng.random() < PREVALENCE
        home = int(rng.choice(len(MACHINES), p=MACHINE_SHARES))
        day = datetime.datetime(2021, 1, 4, 8) + datetime.timedelta(days=int(rng.integers(0, 900)))
        for study in range(int(rng.choice([1, 2, 3, 4], p=[0.45, 0.3, 0.15, 0.1]))):
            machine = MACHINES[
                home if rng.random() < 0.8 else int(rng.choice(len(MACHINES), p=MACHINE_SHARES))
            ]
            day += datetime.timedelta(days=int(rng.integers(1, 60)), minutes=int(rng.integers(0, 600)))
            visit = Visit(
                study_uid=_uid(seed, "study", patient, study),
                series_uid=_uid(seed, "series", patient, study),
                accession_number=f"ACC{rng.integers(10**8, 10**9)}",
                at=day,
                referring_physician=str(rng.choice(_DOCTORS)),
                institution="Simulated General Hospital",
                station=f"ROOM{rng.integers(1, 9)}",
            )
            # A finding mostly stays from study to study; another appears or heals.
            positive = bool(sick ^ (rng.random() < 0.12))
            for image in range(2 if rng.random() < 0.12 else 1):
                if number == images:
                    return
                name = hashlib.sha256(f"{seed}/file/{number}".encode()).hexdigest()[:16]
                view = "AP" if rng.random() < 0.3 else "PA"
                sop_uid = _uid(seed, "image", patient, study, image)
                file = f"dicom/{name[:2]}/{name}.dcm"
                yield _Image(
                    number, patient, person, visit, machine, view, positive, sop_uid, image + 1, file
                )
                number += 1
        patient += 1


def _person(rng: np.random.Generator, patient: int) -> Person:
    age_days = int(np.clip(rng.normal(58, 17), 19, 95) * 365.25)
    return Person(
        patient_id=f"SIM{rng.integers(10**6, 10**7)}-{patient:05d}",
        name=f"{rng.choice(_SURNAMES)}^{rng.choice(_GIVEN)}",
        sex="F" if rng.random() < 0.48 else "M",
        birth_date=datetime.date(2021, 1, 4) - datetime.timedelta(days=age_days),
    )


def _site(patient: int, seed: int) -> str:
    return str(np.random.default_rng([seed, 4, patient]).choice(_SITES, p=_SITE_SHARES))


def _write_images(out: Path, plan: list[_Image], seed: int, size_px: int, workers: int) -> list[list[str]]:
    """Render and write every image of `plan`; returns the rows of findings.csv."""
    jobs = [(out, plan[start : start + 20], seed, size_px) for start in range(0, len(plan), 20)]
    progress, done, findings = Reporter("sample", len(plan)), 0, []
    with Sandbox(workers, timeout_s=600) as sandbox:
        for job, rows in sandbox.map(_write_batch, jobs):
            if isinstance(rows, Refused):
                raise PlatformError(f"a worker that draws the sample set was stopped: {rows.detail}")
            findings += rows
            done += len(job[1])
            progress.update(done, "images")
    return findings


def _write_batch(job: tuple[Path, list[_Image], int, int]) -> list[list[str]]:
    import cv2

    cv2.setNumThreads(1)
    out, batch, seed, size_px = job
    rows = []
    for image in batch:
        female = image.person.sex == "F"
        age = image.person.age_years(image.visit.at.date())
        anatomy = Anatomy.draw(np.random.default_rng([seed, 2, image.patient]), female, age)
        rng = np.random.default_rng([seed, 3, image.number])
        attenuation, opacities = render(
            rng, anatomy, size_px, supine=image.view == "AP", positive=image.positive
        )
        pixels = expose(rng, attenuation, image.machine, marker="R")
        ds = dataset(
            pixels, image.machine, image.person, image.visit, image.view, image.sop_uid, image.instance
        )
        path = out / image.file
        path.parent.mkdir(parents=True, exist_ok=True)
        ds.save_as(path, enforce_file_format=True)
        rows += [_finding_row(image, opacity, pixels.shape) for opacity in opacities]
    return rows


def _finding_row(image: _Image, opacity: Opacity, shape: tuple[int, int]) -> list[str]:
    rows, columns = shape
    # The machine cuts the square picture to its aspect, so the column fraction changes.
    column = (opacity.x * rows - (rows - columns) / 2) / columns
    return [
        image.sop_uid,
        f"{opacity.y:.4f}",
        f"{column:.4f}",
        f"{opacity.radius:.4f}",
        f"{opacity.contrast:.4f}",
    ]


def _write_csv(path: Path, header: list[str], rows: list[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
