"""A dataset to a file, byte for byte as pydicom writes it, without its copies of the pixels."""

from __future__ import annotations

from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from hounsfield.dicom.parsing import EXPLICIT_HEAD, IMPLICIT_HEAD, PIXEL_DATA

_MAX_LENGTH = 2**32 - 2


def write(dataset: Dataset, path: Path) -> None:
    """As `dataset.save_as(path, enforce_file_format=True)`; raises what that raises.

    Uncompressed pixels at the end go from where they lie to the kernel: pydicom would copy them twice.
    """
    head = _head_of_pixels(dataset)
    if head is None:
        dataset.save_as(path, enforce_file_format=True)
        return
    before = dataset[:PIXEL_DATA]
    before.file_meta = dataset.file_meta
    with path.open("wb") as stream:
        before.save_as(stream, enforce_file_format=True)
        stream.write(head)
        stream.write(dataset.get_item(PIXEL_DATA).value)


def _head_of_pixels(dataset: Dataset) -> bytes | None:
    """Tag, VR and length of PixelData (PS3.5 7.1); None where it is not plainly the last element."""
    if PIXEL_DATA not in dataset or max(dataset.keys()) != PIXEL_DATA:
        return None
    element, syntax = dataset.get_item(PIXEL_DATA), dataset.file_meta.get("TransferSyntaxUID")
    content = element.value
    if not isinstance(content, bytes | memoryview) or len(content) % 2 or not 0 < len(content) <= _MAX_LENGTH:
        return None
    tag = PIXEL_DATA.group, PIXEL_DATA.element
    if syntax == ImplicitVRLittleEndian:
        return IMPLICIT_HEAD.pack(*tag, len(content))
    if syntax == ExplicitVRLittleEndian and element.VR in ("OB", "OW"):
        return EXPLICIT_HEAD.pack(*tag, element.VR.encode(), 0, len(content))
    return None
