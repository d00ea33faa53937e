"""Take the patient out of a dataset: keep what is on a list, replace what links, drop everything else.

A subset of PS3.15 Annex E that errs on the side of dropping. What it does not do: look at the pixels
(burned-in text) or at the inside of compressed streams.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import os
import secrets
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from hounsfield.dicom.reading import age_years
from hounsfield.errors import ConfigError

MIN_KEY_BYTES = 16
MAX_SHIFT_DAYS = 3650
METHOD = "Hounsfield allow-list, keyed pseudonyms, shifted dates"

_IMAGE = (
    "SOPClassUID ImageType Modality PresentationIntentType BurnedInAnnotation LossyImageCompression "
    "LossyImageCompressionRatio LossyImageCompressionMethod SamplesPerPixel PhotometricInterpretation "
    "Rows Columns BitsAllocated BitsStored HighBit PixelRepresentation SmallestImagePixelValue "
    "LargestImagePixelValue PixelPaddingValue PixelPaddingRangeLimit PixelAspectRatio PixelSpacing "
    "ImagerPixelSpacing RescaleIntercept RescaleSlope RescaleType WindowCenter WindowWidth VOILUTFunction "
    "PresentationLUTShape PixelIntensityRelationship PixelIntensityRelationshipSign "
    "PixelData FloatPixelData DoubleFloatPixelData"
)
_ACQUISITION = (
    "BodyPartExamined ViewPosition PatientOrientation ImageLaterality Laterality KVP Exposure ExposureTime "
    "XRayTubeCurrent DistanceSourceToDetector DistanceSourceToPatient DetectorType PositionerType Grid "
    "FilterType Manufacturer ManufacturerModelName SeriesNumber InstanceNumber"
)
_PERSON = "PatientSex SpecificCharacterSet"
KEPT = frozenset(f"{_IMAGE} {_ACQUISITION} {_PERSON}".split())
"""Keywords that pass unchanged: how the picture was made, and nothing written by hand about the patient."""

_CODE = frozenset({"CodeValue", "CodingSchemeDesignator", "CodeMeaning"})
KEPT_SEQUENCES = {
    "ModalityLUTSequence": frozenset({"LUTDescriptor", "LUTData", "ModalityLUTType"}),
    "AnatomicRegionSequence": _CODE,
    "ViewCodeSequence": _CODE,
}
"""Sequences kept, with these elements of their items: without the first the pixels would mean otherwise."""

_STANDARD_SCHEMES = ("SCT", "SRT", "SNM3", "DCM")
_EMPTIED = ("AccessionNumber", "PatientBirthDate", "ReferringPhysicianName", "StudyID", "StudyTime")
"""Type 2 in every radiograph: the standard wants them present, we want them empty."""


def deidentify(dataset: Dataset, key: bytes) -> Dataset:
    """A new dataset with file meta information, ready to save; `dataset` is not changed.

    Identifiers become HMAC-SHA-256 pseudonyms under `key`, the same for the same input, so studies of
    one patient stay together. StudyDate moves back by 1 to 3650 days, the same for all of a patient.
    The age is kept, capped at 90. Dropped: everything not in KEPT, KEPT_SEQUENCES, private tags, overlays.
    """
    clean = Dataset()
    for keyword in KEPT:
        _copy(dataset, clean, keyword)
    for keyword, inner in KEPT_SEQUENCES.items():
        _copy_sequence(dataset, clean, keyword, inner)
    for keyword in _EMPTIED:
        setattr(clean, keyword, "")
    if clean.get("Modality") == "DX":
        clean.AcquisitionContextSequence = Sequence()
        for item in clean.get("ViewCodeSequence", []):
            item.ViewModifierCodeSequence = Sequence()
    patient = str(dataset.get("PatientID", "")).strip()
    clean.PatientID = pseudonym(patient, key)
    clean.PatientName = f"{clean.PatientID}^"
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        setattr(clean, keyword, new_uid(str(dataset.get(keyword, "")), key))
    clean.StudyDate = _shifted(str(dataset.get("StudyDate", "")), patient, key)
    age = age_years(dataset)
    clean.PatientAge = "" if age is None else f"{int(age):03d}Y"
    clean.PatientIdentityRemoved = "YES"
    clean.DeidentificationMethod = METHOD
    clean.LongitudinalTemporalInformationModified = "MODIFIED"
    clean.file_meta = _file_meta(dataset, clean)
    return clean


def pseudonym(patient_id: str, key: bytes) -> str:
    """The new PatientID: 16 letters and digits that only the holder of `key` can compute."""
    return _digest(key, "patient", patient_id).hex()[:16]


def new_uid(uid: str, key: bytes) -> str:
    """A UID under 2.25 (PS3.5 B.2: a UUID as a decimal number) in place of `uid`."""
    return f"2.25.{int.from_bytes(_digest(key, 'uid', uid)[:16])}"


def load_key(path: Path | None) -> bytes:
    """The secret key of the pseudonyms. Raises ConfigError when it is missing or shorter than 16 bytes."""
    if path is None:
        raise ConfigError(
            "no de-identification key was given: name a file that holds at least 16 random bytes"
        )
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"de-identification key {path} cannot be read: {error.strerror}") from None
    if len(key) < MIN_KEY_BYTES:
        raise ConfigError(
            f"de-identification key {path} has {len(key)} bytes; it needs at least {MIN_KEY_BYTES}"
        )
    return key


def create_key(path: Path) -> bytes:
    """Write a random key that only the owner can read. An existing one is kept, or patients would part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return load_key(path)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(secrets.token_hex(32) + "\n")
    return load_key(path)


def _digest(key: bytes, kind: str, value: str) -> bytes:
    return hmac.digest(key, f"{kind}\0{value}".encode(), hashlib.sha256)


def _copy(source: Dataset, target: Dataset, keyword: str) -> None:
    try:
        element = source[keyword]
    except KeyError:
        return
    except Exception:  # a value that does not parse is dropped like one that is not on the list
        return
    if element.VR != "SQ":
        target[element.tag] = element


def _copy_sequence(source: Dataset, target: Dataset, keyword: str, inner: frozenset[str]) -> None:
    items = []
    for item in source.get(keyword) or []:
        if inner is _CODE and item.get("CodingSchemeDesignator") not in _STANDARD_SCHEMES:
            continue  # the meaning of a private code is free text
        kept = Dataset()
        for name in inner:
            _copy(item, kept, name)
        items.append(kept)
    if items:
        setattr(target, keyword, Sequence(items))


def _shifted(date: str, patient: str, key: bytes) -> str:
    days = 1 + int.from_bytes(_digest(key, "dates", patient)[:8]) % MAX_SHIFT_DAYS
    try:
        moved = datetime.datetime.strptime(date, "%Y%m%d") - datetime.timedelta(days=days)
    except (ValueError, OverflowError):
        return ""
    return moved.strftime("%Y%m%d") if moved.year >= 1000 else ""


def _file_meta(source: Dataset, clean: Dataset) -> FileMetaDataset:
    """New, so that no application entity title or private information comes along."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = clean.SOPClassUID
    meta.MediaStorageSOPInstanceUID = clean.SOPInstanceUID
    old = getattr(source, "file_meta", None)
    syntax = old.get("TransferSyntaxUID") if old is not None else None
    if syntax is None:
        implicit = source.original_encoding[0]
        syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    meta.TransferSyntaxUID = syntax
    return meta
