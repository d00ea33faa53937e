"""Text in the pixels: found and read by rapidocr (its models are in the wheel), blanked, and looked for
again.

Lead letters and protocol words (L, PA, ERECT) are no text here: only what could name somebody is.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import cv2
import numpy as np
from pydicom.dataset import Dataset

from hounsfield.dicom.deidentify.profile import BurnedIn, Look, Profile
from hounsfield.dicom.deidentify.words import normal_words, vocabulary
from hounsfield.dicom.quarantine import Reason, Refused
from hounsfield.dicom.reading import MAX_PIXELS

SUSPECT_MODALITIES = frozenset(
    {"US", "IVUS", "ES", "XC", "GM", "OT", "DOC", "OP", "ECG", "BDUS", "DMS", "OCT"}
)
"""Screens, scans of paper and photographs: their pixels come with letters."""
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
LOOK_PX = 960
"""Longer side that is searched: letters of a 2048 pixel radiograph are still 10 pixels high at half its
size."""
_LEAST_PX = 480
_MARGIN = 0.25
"""Of a letter's height, blanked around the box that was found."""
_MIN_SCORE = 0.4
_MIN_LETTERS = 3
_MAX_DIGITS = 2
"""A box with less is a marker or a scale; a date, an id or a name has more."""

_COLOURS = {"MONOCHROME1": None, "MONOCHROME2": None, "RGB": (0, 0, 0), "YBR_FULL": (0, 128, 128)}


def is_suspect(dataset: Dataset) -> bool:
    """Whether the header gives cause to look: the sender says so, or the kind of image usually holds text."""
    said = str(dataset.get("BurnedInAnnotation", "") or "")
    if said in ("YES", "NO"):
        return said == "YES"
    return (
        str(dataset.get("Modality", "")) in SUSPECT_MODALITIES
        or str(dataset.get("SOPClassUID", "")).startswith(_SECONDARY_CAPTURE)
        or bool(dataset.get("ConversionType"))
    )


def clean_pixels(dataset: Dataset, profile: Profile) -> bool:
    """Apply the profile's policy to `dataset`, whose pixels may be changed in place; whether they were
    searched.

    Raises Refused(BURNED_IN_TEXT) when text is there and is to be quarantined, or is still there after
    blanking.
    """
    tagged = str(dataset.get("BurnedInAnnotation", "") or "") == "YES"
    if tagged and profile.burned_in is BurnedIn.QUARANTINE:
        raise Refused(Reason.BURNED_IN_TEXT, "BurnedInAnnotation is YES")
    if profile.look is Look.NEVER or (profile.look is Look.SUSPECT and not is_suspect(dataset)):
        if tagged:
            raise Refused(Reason.BURNED_IN_TEXT, "BurnedInAnnotation is YES and the pixels are not searched")
        return False
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        return False
    photometric = str(dataset.get("PhotometricInterpretation", ""))
    if photometric not in _COLOURS and not photometric.startswith("YBR"):
        raise Refused(Reason.BURNED_IN_TEXT, f"pixels in {photometric[:16]} cannot be searched for text")
    pixels = _decode(dataset)
    boxes = find_text(pixels, photometric)
    if not boxes:
        return True
    if profile.burned_in is BurnedIn.QUARANTINE:
        raise Refused(Reason.BURNED_IN_TEXT, f"{len(boxes)} lines of text were found in the pixels")
    blanked = blank(pixels, boxes, photometric)
    if find_text(blanked, photometric):
        raise Refused(Reason.BURNED_IN_TEXT, "text was still found in the pixels after it was blanked")
    _store(dataset, blanked, photometric)
    return True


def find_text(pixels: np.ndarray, photometric: str = "MONOCHROME2") -> list[tuple[int, int, int, int]]:
    """Boxes (top, left, bottom, right) in pixels of text that may name somebody, over all frames.

    pixels: (rows, columns[, 3]) or (frames, rows, columns[, 3]), any integer or float type.
    """
    found = set()
    for frame in _frames(pixels):
        for picture in _pictures(frame, photometric):
            found.update(_read(picture))
    return sorted(found)


def blank(
    pixels: np.ndarray, boxes: list[tuple[int, int, int, int]], photometric: str = "MONOCHROME2"
) -> np.ndarray:
    """A copy with the boxes filled, in every frame: with the darkest value, or black."""
    result = pixels.copy()
    colour = _COLOURS.get(photometric) or (0, 128, 128) if photometric.startswith("YBR") else (0, 0, 0)
    for frame in _frames(result):
        fill = colour if frame.ndim == 3 else frame.max() if photometric == "MONOCHROME1" else frame.min()
        for top, left, bottom, right in boxes:
            frame[top:bottom, left:right] = fill
    return result


def _frames(pixels: np.ndarray) -> Iterator[np.ndarray]:
    """Views of (rows, columns) or (rows, columns, 3)."""
    is_colour = pixels.ndim > 2 and pixels.shape[-1] == 3
    yield from pixels if pixels.ndim == 3 + is_colour else [pixels]


def _pictures(frame: np.ndarray, photometric: str) -> Iterator[np.ndarray]:
    """8-bit pictures in which letters stand out: the whole range, and the range of the tissue."""
    if frame.ndim == 3:
        yield (
            frame[..., 0].astype(np.uint8)
            if photometric.startswith("YBR")
            else frame.max(axis=2).astype(np.uint8)
        )
        return
    values = frame.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    tissue_low, tissue_high = (float(v) for v in np.percentile(values[::4, ::4], (1, 99)))
    ranges = [(low, high)]
    # Letters are drawn with the highest value: where tissue uses but a part of the range, see it by
    # itself too.
    if tissue_high > tissue_low and (tissue_high - tissue_low) < 0.5 * (high - low):
        ranges.append((tissue_low, tissue_high))
    for lowest, highest in ranges:
        if highest > lowest:
            scaled = np.clip((values - lowest) / (highest - lowest), 0, 1) * 255
            yield (255 - scaled if photometric == "MONOCHROME1" else scaled).astype(np.uint8)


def _read(picture: np.ndarray) -> Iterator[tuple[int, int, int, int]]:
    rows, columns = picture.shape
    longest = max(rows, columns)
    scale = min(1.0, LOOK_PX / longest) if longest > _LEAST_PX else _LEAST_PX / longest
    small = cv2.resize(
        picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    )
    lines, _ = _reader()(cv2.cvtColor(small, cv2.COLOR_GRAY2BGR), use_cls=False)
    for corners, text, score in lines or []:
        if not _may_name(text, float(score)):
            continue
        across, down = np.asarray(corners, dtype=float).T / scale
        margin = _MARGIN * (down.max() - down.min()) + 2
        yield (
            max(0, int(down.min() - margin)), max(0, int(across.min() - margin)),
            min(rows, int(down.max() + margin) + 1), min(columns, int(across.max() + margin) + 1),
        )  # fmt: skip


def _may_name(text: str, score: float) -> bool:
    """Nearly every name, id and date; not the lead letters and words of a radiograph, nor noise read as a
    letter."""
    words = [word for word in normal_words(text) if word not in vocabulary()]
    letters = sum(c.isalpha() for word in words for c in word)
    digits = sum(c.isdigit() for word in words for c in word)
    return score >= _MIN_SCORE and (letters >= _MIN_LETTERS or digits > _MAX_DIGITS)


@functools.cache
def _reader() -> object:
    from rapidocr_onnxruntime import RapidOCR

    # One thread: ingest runs a process for each core.
    return RapidOCR(
        intra_op_num_threads=1, inter_op_num_threads=1, det_limit_type="max", det_limit_side_len=LOOK_PX
    )


def _decode(dataset: Dataset) -> np.ndarray:
    size = (
        int(dataset.get("Rows") or 0)
        * int(dataset.get("Columns") or 0)
        * int(dataset.get("NumberOfFrames") or 1)
    )
    if size > MAX_PIXELS:
        raise Refused(Reason.IMAGE_TOO_LARGE, f"{size} pixels are too many to be searched for text")
    try:
        return dataset.pixel_array
    except Exception as error:
        raise Refused(Reason.DECODE_FAILED, f"{type(error).__name__} while decoding the pixels") from None


def _store(dataset: Dataset, pixels: np.ndarray, photometric: str) -> None:
    """Uncompressed, little endian; the UID stays: references to the image must still find it."""
    if photometric.startswith("YBR") and photometric != "YBR_FULL":
        photometric = "RGB"  # pydicom's decoder has converted
    signed, stored = dataset.get("PixelRepresentation"), int(dataset.BitsStored)
    try:
        dataset.set_pixel_data(pixels, photometric, stored, generate_instance_uid=False)
    except Exception as error:
        raise Refused(Reason.BURNED_IN_TEXT, f"{type(error).__name__} while storing blanked pixels") from None
    dataset.PixelRepresentation = signed
