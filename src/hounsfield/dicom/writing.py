"""A dataset to a file, byte for byte as pydicom writes it, without its copies of the pixels."""

from __future__ import annotations

import struct
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

_PIXEL_DATA = 0x7FE00010
_TAG = b"\xe0\x7f\x10\x00"
_MAX_LENGTH = 2**32 - 2


def write(dataset: Dataset, path: Path) -> None:
    """As `dataset.save_as(path, enforce_file_format=True)`; raises what that raises.

    Uncompressed pixels at the end go from where they lie to the kernel: pydicom would copy them twice.
    """
    head = _head_of_pixels(dataset)
    if head is None:
        dataset.save_as(path, enforce_file_format=True)
        return
    before = dataset[:_PIXEL_DATA]
    before.file_meta = dataset.file_meta
    with path.open("wb") as stream:
        before.save_as(stream, enforce_file_format=True)
        stream.write(head)
        stream.write(dataset.get_item(_PIXEL_DATA).value)


def _head_of_pixels(dataset: Dataset) -> bytes | None:
    """Tag, VR and length of PixelData (PS3.5 7.1); None where it is not plainly the last element."""
    if _PIXEL_DATA not in dataset or max(dataset.keys()) != _PIXEL_DATA:
        return None
    element, syntax = dataset.get_item(_PIXEL_DATA), dataset.file_meta.get("TransferSyntaxUID")
    content = element.value
    if not isinstance(content, bytes | memoryview) or len(content) % 2 or not 0 < len(content) <= _MAX_LENGTH:
        return None
    length = struct.pack("<L", len(content))
    if syntax == ImplicitVRLittleEndian:
        return _TAG + length
    if syntax == ExplicitVRLittleEndian and element.VR in ("OB", "OW"):
        return _TAG + element.VR.encode() + b"\0\0" + length
    return None
