"""One object, in a worker process: decoded, checked, and written without the patient; or refused."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from hounsfield.data.labels import KEY_COLUMNS
from hounsfield.dicom.deidentify import Profile, deidentify, names_patient
from hounsfield.dicom.frames import Frames, split
from hounsfield.dicom.parsing import load, parse
from hounsfield.dicom.quarantine import Reason, Refused
from hounsfield.dicom.reading import RADIOGRAPHS, DecodedImage, decode_image, describe
from hounsfield.dicom.writing import write

INTENSITY_PERCENTILES = {"intensity_p01": 1, "intensity_p50": 50, "intensity_p99": 99}
_SAMPLED_PIXELS = 2**14


@dataclass(frozen=True)
class Rules:
    """What is accepted, what is taken out of it, and the secret key of the pseudonyms."""

    key: bytes = field(repr=False)
    allowed_sop_classes: frozenset[str] = RADIOGRAPHS
    frames: Frames = Frames.REFUSE
    profile: Profile = field(default_factory=Profile)

    def digest_of(self, kind: str, value: str) -> str:
        """32 hexadecimal digits in place of an identifier, which only the holder of the key can compute."""
        message = f"ingest {kind}\0{value}".encode(errors="surrogateescape")
        return hmac.digest(self.key, message, "sha256").hex()[:32]


@dataclass(frozen=True)
class Examined:
    """What was found in one object; nothing in it names the patient.

    `matches` holds, by keyword, the keyed digest of each identifier that a label may hang on. `images` are
    rows of the index, each with its `file` below the folder and its `file_bytes`; none when `refusal`, a
    reason code and a sentence, says why.
    """

    sha256: str
    size_bytes: int
    matches: Mapping[str, str] = field(default_factory=dict)
    images: tuple[Mapping[str, object], ...] = ()
    refusal: tuple[str, str] | None = None


def examine(job: tuple[str, bytes | Path], rules: Rules, folder: Path) -> Examined:
    """Take the object `job` (a name for its files, and its bytes) apart; its images go to `folder`."""
    name, source = job
    matches: dict[str, str] = {}
    data = b""
    try:
        data = load(source)
        dataset = parse(data)
        matches = _matches(dataset, rules)
        images = tuple(_images(dataset, matches, rules, folder / name))
    except Refused as refusal:
        for written in folder.glob(f"{name}-*.dcm"):  # frames before the one that failed
            written.unlink()
        return Examined(*_sha256(data or source), matches, (), (str(refusal.reason), refusal.detail))
    return Examined(*_sha256(data), matches, images)


def _images(dataset: Dataset, matches: Mapping[str, str], rules: Rules, stem: Path) -> Iterator[dict]:
    for number, frame in enumerate(split(dataset, rules.frames)):
        image = decode_image(frame, rules.allowed_sop_classes)
        for keyword in KEY_COLUMNS:
            if keyword not in matches:
                raise Refused(Reason.MISSING_ATTRIBUTE, f"{keyword} is missing or empty")
        written = stem.with_name(f"{stem.name}-{number}.dcm")
        clean = _write_clean(frame, rules, written)
        yield {
            "sop_instance_uid": str(clean.SOPInstanceUID),
            "study_instance_uid": str(clean.StudyInstanceUID),
            "patient_id": str(clean.PatientID),
            **_describe(image, frame, clean),
            **_intensities(image),
            "file": written.name,
            "file_bytes": written.stat().st_size,
        }


def _describe(image: DecodedImage, frame: Dataset, clean: Dataset) -> dict[str, object]:
    """As much of the header as the de-identification lets through, and the manufacturer.

    Results are told apart by it, so it stays where it repeats the name of somebody who is not the patient: of
    a machine made by Simulated Imaging the file says REMOVED when its operator is called Simulated.
    """
    described, found = describe(clean), str(image.attributes["manufacturer"])
    if described["manufacturer"] != found and not names_patient(frame, found):
        described["manufacturer"] = found
    return described


def _write_clean(frame: Dataset, rules: Rules, path: Path) -> Dataset:
    try:
        clean = deidentify(frame, rules.key, rules.profile)
        write(clean, path)
    except (Refused, OSError):
        raise
    except MemoryError:
        raise Refused(
            Reason.IMAGE_TOO_LARGE, "the file without its patient does not fit into memory"
        ) from None
    except Exception as error:
        # pydicom turns values into bytes as it writes, and fails then. Its text may quote the value.
        raise Refused(
            Reason.MISSING_ATTRIBUTE, f"{type(error).__name__}: an attribute of the object cannot be written"
        ) from None
    return clean


def examine_header(job: tuple[str, bytes | Path], rules: Rules, refusal: Refused) -> Examined:
    """As `examine`, for an object whose decoder took the worker along: its label still counts as met."""
    source = job[1]
    try:
        matches = _matches(parse(load(source)), rules)
    except Refused:
        matches = {}
    return Examined(*_sha256(source), matches, (), (str(refusal.reason), refusal.detail))


def unread(refusal: Refused, source: bytes | Path = b"") -> Examined:
    """For an object of which nothing could be read, or whose header alone ends the worker."""
    return Examined(*_sha256(source), {}, (), (str(refusal.reason), refusal.detail))


def _matches(dataset: Dataset, rules: Rules) -> dict[str, str]:
    found = {}
    for keyword in KEY_COLUMNS:
        try:
            value = str(dataset.get(keyword, "") or "").strip()
        except Exception:  # noqa: S112  a malformed identifier is a missing one
            continue
        if value:
            found[keyword] = rules.digest_of(keyword, value)
    return found


def _sha256(source: bytes | Path) -> tuple[str, int]:
    if isinstance(source, bytes):
        return (hashlib.sha256(source).hexdigest(), len(source)) if source else ("", 0)
    try:
        with source.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest(), source.stat().st_size
    except OSError:
        return "", 0


def _intensities(image: DecodedImage) -> dict[str, float]:
    """Percentiles of every n-th row and column, about 16,000 pixels, after the Modality LUT."""
    step = max(1, round((image.pixels.size / _SAMPLED_PIXELS) ** 0.5))
    values = np.percentile(image.pixels[::step, ::step], list(INTENSITY_PERCENTILES.values()))
    return dict(zip(INTENSITY_PERCENTILES, map(float, values), strict=True))
