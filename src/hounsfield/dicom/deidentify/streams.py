"""What hides in PixelData beside the picture: overlays in unused bits, bytes after it, comments."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from hounsfield.dicom.quarantine import Reason, Refused

_NATIVE = frozenset(
    {ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian}
)
_JPEG = frozenset(
    {JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless}
)
_JPEG_2000 = frozenset({JPEG2000Lossless, JPEG2000, HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL})

_ITEM, _DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_COMMENT, _START_OF_SCAN, _ADOBE, _SPIFF = 0xFE, 0xDA, 0xEE, 0xE8
_J2K_COMMENT, _J2K_START_OF_TILE = 0x64, 0x90


def clean_stream(dataset: Dataset, syntax: UID) -> None:
    """Change PixelData of `dataset` in place, never the picture; Refused for a stream we cannot look into."""
    if "PixelData" not in dataset:
        return
    content = dataset.get_item("PixelData").value
    if syntax in _NATIVE:
        cleaned = _clean_native(dataset, content, syntax)
    elif syntax in _JPEG:
        cleaned = _each_fragment(content, _blank_jpeg_comments)
    elif syntax in _JPEG_2000:
        cleaned = _each_fragment(content, _blank_jpeg_2000_comments)
    elif syntax == RLELossless:
        return
    else:
        raise Refused(Reason.DECODE_FAILED, f"pixels in {syntax.name} cannot be searched for comments")
    if cleaned is not content:
        element = dataset["PixelData"]
        element.value = cleaned


def _clean_native(dataset: Dataset, content: bytes, syntax: UID) -> bytes:
    numbers = [dataset.get(name) for name in ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit")]
    rows, columns, allocated, stored, high = (n if isinstance(n, int) else 0 for n in numbers)
    frames, samples = int(dataset.get("NumberOfFrames") or 1), int(dataset.get("SamplesPerPixel") or 1)
    length = (rows * columns * frames * samples * allocated + 7) // 8
    if dataset.get("PhotometricInterpretation") == "YBR_FULL_422":
        length = length * 2 // 3
    if length and len(content) > length + length % 2:
        content = bytes(content[:length]) + b"\0" * (length % 2)
    lowest, signed = high - stored + 1, dataset.get("PixelRepresentation") == 1
    if allocated not in (8, 16, 32) or not 0 < stored < allocated or not 0 <= lowest <= high < allocated:
        return content
    if len(content) % (allocated // 8):
        return content
    # PS3.5 8.1.1: bits beside the sample are nobody's; in the retired form they hold an overlay's graphics.
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    if lowest == 0 and _is_in_range(content, f"{order}{{}}{allocated // 8}", stored, signed):
        return content
    values = np.frombuffer(content, f"{order}u{allocated // 8}")
    wanted = values & (((1 << stored) - 1) << lowest)
    if signed:
        above = (2**allocated - 1) & ~((1 << (high + 1)) - 1)
        wanted = np.where(values & (1 << high), wanted | above, wanted).astype(values.dtype)
    return content if np.array_equal(wanted, values) else wanted.astype(values.dtype).tobytes()


def _is_in_range(content: bytes | memoryview, kind: str, stored: int, signed: bool) -> bool:
    """Whether every sample is a number of `stored` bits: then no bit beside it says anything of its own."""
    values = np.frombuffer(content, kind.format("i" if signed else "u"))
    highest = 2 ** (stored - signed) - 1
    return len(values) == 0 or (values.max() <= highest and (not signed or values.min() >= -highest - 1))


def _each_fragment(content: bytes, blank: object) -> bytes:
    """Blank inside each item of an encapsulated value (PS3.5 A.4); lengths stay, and so do the offsets."""
    cleaned, position = bytearray(content), 0
    while position + 8 <= len(content) and content[position : position + 4] == _ITEM:
        size = int.from_bytes(content[position + 4 : position + 8], "little")
        blank(cleaned, position + 8, min(position + 8 + size, len(content)))
        position += 8 + size
    if content[position : position + 4] == _DELIMITER:
        del cleaned[position + 4 :]
        cleaned += b"\0\0\0\0"
    return bytes(cleaned) if cleaned != content else content


def _blank_jpeg_comments(data: bytearray, start: int, end: int) -> None:
    """Zeros in COM and APPn segments before the first scan (ITU-T T.81 B.1.1) that do not tell colours."""
    if data[start : start + 2] != b"\xff\xd8":
        return
    position = start + 2
    while position + 4 <= end and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        size = int.from_bytes(data[position + 2 : position + 4])
        if marker == _START_OF_SCAN or size < 2:
            return
        if marker == _COMMENT or (0xE0 <= marker <= 0xEF and not _tells_colours(data, position)):
            last = min(position + 2 + size, end)
            data[position + 4 : last] = bytes(max(0, last - position - 4))
        position += 2 + size


def _tells_colours(data: bytearray, position: int) -> bool:
    marker, size = data[position + 1], int.from_bytes(data[position + 2 : position + 4])
    name = bytes(data[position + 4 : position + 9])
    return (
        (marker == _ADOBE and name == b"Adobe" and size == 14)
        or (marker == _SPIFF and name[:4] == b"mrfx" and size <= 16)
        or (marker == 0xE0 and name == b"JFIF\0" and size == 16)
    )


def _blank_jpeg_2000_comments(data: bytearray, start: int, end: int) -> None:
    """Zeros in COM segments of the main header (ITU-T T.800 A.9.2)."""
    if data[start : start + 2] != b"\xff\x4f":
        return
    position = start + 2
    while position + 4 <= end and data[position] == 0xFF:
        marker, size = data[position + 1], int.from_bytes(data[position + 2 : position + 4])
        if marker == _J2K_START_OF_TILE or size < 2:
            return
        if marker == _J2K_COMMENT:
            last = min(position + 2 + size, end)
            data[position + 6 : last] = bytes(max(0, last - position - 6))
        position += 2 + size
