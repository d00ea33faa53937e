"""Uncompressed pixels as a view of the file's bytes, where pydicom copies them for the same numbers."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from hounsfield.dicom.parsing import transfer_syntax

_SYNTAXES = frozenset({ImplicitVRLittleEndian, ExplicitVRLittleEndian})
_PHOTOMETRIC = frozenset({"MONOCHROME1", "MONOCHROME2"})


def view_of_pixels(dataset: Dataset) -> np.ndarray | None:
    """(rows, columns) of uint8, int8, uint16 or int16, read-only; None where that is not plainly the pixels.

    One little-endian frame of one sample, and no value that uses a bit above BitsStored (PS3.5 8.1.1 leaves
    those to the sender; pydicom masks them). Whatever is odd or malformed is pydicom's to judge.
    """
    if (
        transfer_syntax(dataset) not in _SYNTAXES
        or dataset.get("PhotometricInterpretation") not in _PHOTOMETRIC
    ):
        return None
    if dataset.get("SamplesPerPixel") != 1 or int(dataset.get("NumberOfFrames") or 1) != 1:
        return None
    rows, columns, content = dataset.get("Rows"), dataset.get("Columns"), dataset.get("PixelData")
    allocated, stored = dataset.get("BitsAllocated"), dataset.get("BitsStored")
    signed = dataset.get("PixelRepresentation")
    if allocated not in (8, 16) or signed not in (0, 1) or not isinstance(content, bytes | memoryview):
        return None
    if (
        not all(type(number) is int and number > 0 for number in (rows, columns, stored))
        or stored > allocated
    ):
        return None
    if len(content) < rows * columns * allocated // 8:
        return None
    pixels = np.frombuffer(content, f"<{'i' if signed else 'u'}{allocated // 8}", rows * columns)
    highest = 2 ** (stored - signed) - 1
    if stored < allocated and (pixels.max() > highest or (signed and pixels.min() < -highest - 1)):
        return None
    return pixels.reshape(rows, columns)
