"""One DICOM file to one image, or a refusal with its reason. Never an exception of a library.

A decoder may abort the process on damaged files (gdcm, pylibjpeg-rle): read compressed files in a
worker of `hounsfield.dicom.sandbox`.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
)

from hounsfield.dicom.frames import Frames, split
from hounsfield.dicom.native import view_of_pixels
from hounsfield.dicom.parsing import load, parse, transfer_syntax
from hounsfield.dicom.quarantine import Reason, Refused
from hounsfield.dicom.voi import Table, Window, read_voi

RADIOGRAPHS = frozenset({DigitalXRayImageStorageForPresentation, ComputedRadiographyImageStorage})
"""SOP classes taken unless a caller says otherwise. DX For Processing is raw detector data: left out."""

MAX_PIXELS = 64 * 10**6
"""A chest radiograph has 4 to 18 million pixels; the limit bounds what a hostile header can allocate."""

OLDEST_AGE_YEARS = 90
"""HIPAA 45 CFR 164.514(b)(2)(i)(C): ages over 89 are one category."""

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


@dataclass(frozen=True)
class DecodedImage:
    """One radiograph.

    pixels: (rows, columns), integer as stored, or float32 where a Modality LUT or rescale (PS3.3 C.11.1)
        was applied.
    voi: how the sender wants these values shown (PS3.3 C.11.2), not applied here: the image contract chooses
        between it and percentiles of the values, in which an operator's taste of brightness has no part.
    photometric_interpretation: MONOCHROME1 (low is white) or MONOCHROME2; pixels are not inverted here.
    pixel_spacing_mm: distance of two rows, or None where the file does not say.
    attributes: the columns of the index that come from the header (see `describe`).
    """

    pixels: np.ndarray
    photometric_interpretation: str
    pixel_spacing_mm: float | None = None
    attributes: Mapping[str, object] = field(default_factory=dict)
    voi: Window | Table | None = None


def read_image(source: bytes | Path, allowed_sop_classes: frozenset[str] | None = None) -> DecodedImage:
    """Read, check and decode one file; `allowed_sop_classes` None means `RADIOGRAPHS`.

    Raises Refused, and nothing else, whatever the bytes are.
    """
    return decode_image(parse(load(source)), allowed_sop_classes)


def decode_image(dataset: Dataset, allowed_sop_classes: frozenset[str] | None = None) -> DecodedImage:
    """Check that `dataset` is one monochrome frame of an allowed SOP class, and decode it; raises Refused."""
    try:
        return _decode_image(dataset, allowed_sop_classes)
    except Refused:
        raise
    except MemoryError:
        raise Refused(Reason.IMAGE_TOO_LARGE, "the image does not fit into memory") from None
    except Exception as error:
        # pydicom turns bytes into values when they are asked for, and fails then.
        raise Refused(
            Reason.MISSING_ATTRIBUTE, f"{type(error).__name__}: an attribute of the image is malformed"
        ) from None


def _decode_image(dataset: Dataset, allowed_sop_classes: frozenset[str] | None) -> DecodedImage:
    (dataset,) = split(dataset, Frames.REFUSE)
    _check_kind(dataset, RADIOGRAPHS if allowed_sop_classes is None else allowed_sop_classes)
    pixels = decode_pixels(dataset)
    if pixels.ndim != 2:
        raise Refused(Reason.DECODE_FAILED, f"the decoder gave {pixels.ndim} dimensions instead of 2")
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise Refused(Reason.DECODE_FAILED, "the decoded pixels hold NaN or infinity")
    if _is_constant(pixels):
        raise Refused(Reason.CONSTANT_IMAGE, f"all {pixels.size} pixels have the same value")
    attributes = describe(dataset)
    return DecodedImage(
        pixels=pixels,
        photometric_interpretation=str(attributes["photometric_interpretation"]),
        pixel_spacing_mm=attributes["pixel_spacing_mm"],
        attributes=attributes,
        voi=read_voi(dataset),
    )


def _is_constant(pixels: np.ndarray) -> bool:
    first = pixels[0]  # nearly always enough, and a thousandth of the image
    return first.min() == first.max() and pixels.min() == pixels.max()


def decode_pixels(dataset: Dataset) -> np.ndarray:
    """Pixels of any object, after the Modality LUT, in pydicom's shape; raises Refused.

    Integers stay as stored where the rescale is the identity; else the result is float32. Of a palette
    (PS3.3 C.7.6.3.1.5) the colours come back, (rows, columns, 3), never the indices into it.
    """
    syntax = transfer_syntax(dataset)
    try:
        if _text(dataset, "PhotometricInterpretation") == "PALETTE COLOR":
            return apply_color_lut(dataset.pixel_array, dataset)
        if not _rescale_is_identity(dataset):
            return apply_modality_lut(dataset.pixel_array, dataset).astype(np.float32)
        view = view_of_pixels(dataset)
        return dataset.pixel_array if view is None else view
    except MemoryError:
        raise Refused(Reason.IMAGE_TOO_LARGE, "the pixels do not fit into memory") from None
    except Exception as error:
        # Only the kind of error: its text may quote the header.
        raise Refused(Reason.DECODE_FAILED, f"{type(error).__name__} while decoding {syntax.name}") from None


def describe(dataset: Dataset) -> dict[str, object]:
    """The header's columns of the index: plain values, '' or None where the header is silent.

    age_years is capped at 90; pixel_spacing_mm is the distance of two rows.
    """
    return {
        "modality": _text(dataset, "Modality"),
        "manufacturer": _text(dataset, "Manufacturer"),
        "view_position": _text(dataset, "ViewPosition"),
        "patient_sex": _text(dataset, "PatientSex"),
        "age_years": age_years(dataset),
        "rows": _integer(dataset, "Rows"),
        "columns": _integer(dataset, "Columns"),
        "bits_stored": _integer(dataset, "BitsStored"),
        "photometric_interpretation": _text(dataset, "PhotometricInterpretation"),
        "transfer_syntax_uid": str(transfer_syntax(dataset)),
        "pixel_spacing_mm": _spacing_mm(dataset),
    }


def age_years(dataset: Dataset) -> float | None:
    """Age at the study: PatientAge (PS3.5 AS), else birth date and study date; capped at OLDEST_AGE_YEARS."""
    match = re.fullmatch(r"(\d{3})([DWMY])", _text(dataset, "PatientAge"))
    if match:
        age = int(match[1]) / {"D": 365.25, "W": 365.25 / 7, "M": 12, "Y": 1}[match[2]]
    else:
        born, seen = _date(dataset, "PatientBirthDate"), _date(dataset, "StudyDate")
        if born is None or seen is None or seen < born:
            return None
        age = seen.year - born.year - ((seen.month, seen.day) < (born.month, born.day))
    return float(min(age, OLDEST_AGE_YEARS))


def _check_kind(dataset: Dataset, allowed: frozenset[str]) -> None:
    sop_class = _text(dataset, "SOPClassUID")
    if sop_class not in allowed:
        # A registered name only: a private class UID could tell the hospital.
        name = UID(sop_class).name if UID(sop_class).name != sop_class else "an unregistered class"
        raise Refused(Reason.SOP_CLASS_NOT_ALLOWED, f"SOP class {name} is not taken")
    for keyword in ("Rows", "Columns", "BitsAllocated", "PhotometricInterpretation"):
        if not dataset.get(keyword):
            if not any(name in dataset for name in (*_PIXELS, "Rows")):
                raise Refused(Reason.NO_PIXEL_DATA, "the object has neither pixels nor an image's attributes")
            raise Refused(Reason.MISSING_ATTRIBUTE, f"{keyword} is missing, empty or zero")
    rows, columns = _integer(dataset, "Rows"), _integer(dataset, "Columns")
    if rows is None or columns is None:
        raise Refused(Reason.MISSING_ATTRIBUTE, "Rows or Columns is not a number")
    if rows * columns > MAX_PIXELS:
        raise Refused(Reason.IMAGE_TOO_LARGE, f"{rows} x {columns} pixels are over the limit of {MAX_PIXELS}")
    if (_integer(dataset, "NumberOfFrames") or 1) > 1:
        raise Refused(Reason.MULTI_FRAME, f"{_integer(dataset, 'NumberOfFrames')} frames instead of one")
    photometric = _text(dataset, "PhotometricInterpretation")
    if photometric not in ("MONOCHROME1", "MONOCHROME2") or (_integer(dataset, "SamplesPerPixel") or 1) != 1:
        raise Refused(Reason.NOT_MONOCHROME, "only MONOCHROME1 and MONOCHROME2 with one sample are taken")
    _check_pixels_present(dataset, rows, columns)


def _check_pixels_present(dataset: Dataset, rows: int, columns: int) -> None:
    present = [name for name in _PIXELS if name in dataset]
    if not present:
        raise Refused(Reason.NO_PIXEL_DATA, "the header describes an image, but the pixels are absent")
    if not dataset.get(present[0]):
        raise Refused(Reason.TRUNCATED, "the file ends, or cannot be parsed, within its pixels")
    bits = _integer(dataset, "BitsAllocated")
    if "PixelData" in dataset and bits and not transfer_syntax(dataset).is_encapsulated:
        high, stored = _integer(dataset, "HighBit"), _integer(dataset, "BitsStored")
        if high is not None and stored is not None and high != stored - 1:
            # Once allowed, now forbidden by PS3.5 8.1.1: pydicom would read the values from the low end.
            raise Refused(Reason.DECODE_FAILED, f"HighBit is {high}, not one below the {stored} bits stored")
        expected, actual = rows * columns * bits // 8, len(dataset.PixelData or b"")
        if actual < expected:
            raise Refused(Reason.TRUNCATED, f"{actual} bytes of pixels where the header says {expected}")


def _rescale_is_identity(dataset: Dataset) -> bool:
    if "ModalityLUTSequence" in dataset:
        return False
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    return (slope is None or float(slope) == 1) and (intercept is None or float(intercept) == 0)


def _text(dataset: Dataset, keyword: str) -> str:
    """The element as text, '' when missing, empty, of several values or malformed."""
    try:
        value = dataset.get(keyword)
    except Exception:
        return ""
    return str(value).strip() if isinstance(value, str | int | float) else ""


def _integer(dataset: Dataset, keyword: str) -> int | None:
    try:
        return int(dataset.get(keyword))
    except Exception:
        return None


def _date(dataset: Dataset, keyword: str) -> datetime.date | None:
    try:
        return datetime.datetime.strptime(_text(dataset, keyword), "%Y%m%d").date()
    except ValueError:
        return None


def _spacing_mm(dataset: Dataset) -> float | None:
    """PixelSpacing, else ImagerPixelSpacing (PS3.3 10.7.1.1): the first value is the distance of rows."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        try:
            spacing_mm = float(dataset.get(keyword)[0])
        except Exception:  # noqa: S112  a malformed spacing is a missing one
            continue
        if 0 < spacing_mm < 100:
            return spacing_mm
    return None
