"""The damaged and foreign files of the sample set: what a real folder holds beside good images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pydicom.uid as uids
from pydicom.dataset import Dataset


def write_foreign(folder: Path, good: list[Path], seed: int) -> tuple[list[str], int]:
    """Write one damaged or foreign file for every hundred of `good`, at least one of each kind.

    Returns the SOP Instance UIDs that a labels file would name (images that are damaged, not the
    objects that nobody labels) and the number of files written.
    """
    labelled: list[str] = []
    count = max(len(_KINDS), round(len(good) / 100))
    for number in range(count):
        kind = list(_KINDS)[number % len(_KINDS)]
        name = hashlib.sha256(f"{seed}/foreign/{number}".encode()).hexdigest()[:16]
        uid = f"2.25.{int(name, 16)}"
        model = pydicom.dcmread(good[(number * 37 + 5) % len(good)])
        data = _KINDS[kind](model, uid)
        path = folder / name[:2] / f"{name}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        if kind in _LABELLED:
            labelled.append(uid)
    return labelled, count


def _renamed(ds: Dataset, uid: str) -> Dataset:
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid
    return ds


def _to_bytes(ds: Dataset) -> bytes:
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _cut_short(ds: Dataset, uid: str) -> bytes:
    """The transfer broke off within the pixels."""
    data = _to_bytes(_renamed(ds, uid))
    return data[: int(len(data) * 0.6)]


def _text(ds: Dataset, uid: str) -> bytes:
    return b"This is a note that someone saved with the ending .dcm\n"


def _ct(ds: Dataset, uid: str) -> bytes:
    """A CT slice that strayed into the folder."""
    _renamed(ds, uid)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = uids.CTImageStorage
    ds.Modality = "CT"
    return _to_bytes(ds)


def _report(ds: Dataset, uid: str) -> bytes:
    """A structured report: no pixels at all."""
    _renamed(ds, uid)
    for keyword in (
        "PixelData",
        "Rows",
        "Columns",
        "BitsAllocated",
        "BitsStored",
        "HighBit",
        "SamplesPerPixel",
    ):
        if keyword in ds:
            del ds[keyword]
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = uids.BasicTextSRStorage
    ds.file_meta.TransferSyntaxUID = uids.ExplicitVRLittleEndian
    ds.Modality = "SR"
    return _to_bytes(ds)


def _no_pixels(ds: Dataset, uid: str) -> bytes:
    """The header of an image whose pixels were left behind."""
    _renamed(ds, uid)
    del ds.PixelData
    return _to_bytes(ds)


def _two_frames(ds: Dataset, uid: str) -> bytes:
    """A two-frame object where one radiograph is expected."""
    _renamed(ds, uid)
    pixels = ds.pixel_array.astype("<u2")
    ds.file_meta.TransferSyntaxUID = uids.ExplicitVRLittleEndian
    ds.NumberOfFrames = 2
    ds.PixelData = np.stack([pixels, pixels]).tobytes()
    ds["PixelData"].is_undefined_length = False
    return _to_bytes(ds)


def _blank(ds: Dataset, uid: str) -> bytes:
    """An exposure that never happened: every pixel the same."""
    _renamed(ds, uid)
    ds.file_meta.TransferSyntaxUID = uids.ExplicitVRLittleEndian
    ds.PixelData = np.full((ds.Rows, ds.Columns), 17, "<u2").tobytes()
    ds["PixelData"].is_undefined_length = False
    return _to_bytes(ds)


def _unlabelled(ds: Dataset, uid: str) -> bytes:
    """A good image that the labels file forgot."""
    return _to_bytes(_renamed(ds, uid))


_KINDS: dict[str, Callable[[Dataset, str], bytes]] = {
    "cut_short": _cut_short,
    "text": _text,
    "ct": _ct,
    "no_pixels": _no_pixels,
    "two_frames": _two_frames,
    "blank": _blank,
    "report": _report,
    "unlabelled": _unlabelled,
}
_LABELLED = ("cut_short", "no_pixels", "two_frames", "blank")
