"""The models that are served: random weights, for speed does not depend on them; made once, then kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from hounsfield.config import CLASS_NAMES, MODEL_NAME
from hounsfield.imaging.contract import ImageContract
from hounsfield.package.package import (
    CARD,
    MANIFEST,
    METRICS,
    MODEL,
    MODEL_RECORD,
    PROFILE,
    Package,
    describe_files,
    load_package,
)

SEED = 11


def package(root: Path, architecture: str, size_px: int) -> Package:
    """A package of `architecture` for `size_px` square images, served by ONNX Runtime in float32.

    Written by hand and not by `write_package`, which would choose another engine by measurement: all servers
    here run the same file. Cached in `root/<architecture>-<size>`.
    """
    folder = root / f"{architecture}-{size_px}"
    if not (folder / MANIFEST).is_file():
        _write(folder, architecture, size_px)
    return load_package(folder)


def image(size_px: int) -> np.ndarray:
    """One prepared image, float32 (1, 1, size, size) in [0, 1]; of four digits, as JSON would have it."""
    values = np.random.default_rng(SEED).random((1, 1, size_px, size_px))
    return np.round(values, 4).astype(np.float32)


def radiograph(side_px: int, compressed: bool = False) -> bytes:
    """A DX file of 16 bits with noise over a slope, plain or in JPEG 2000."""
    import io

    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, JPEG2000Lossless

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for target, prefix in ((dataset.file_meta, "MediaStorage"), (dataset, "")):
        setattr(target, f"{prefix}SOPClassUID", DigitalXRayImageStorageForPresentation)
        setattr(target, f"{prefix}SOPInstanceUID", f"2.25.{side_px}")
    dataset.Modality, dataset.PatientSex, dataset.PatientAge, dataset.ViewPosition = "DX", "F", "050Y", "PA"
    dataset.Rows = dataset.Columns = side_px
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation, dataset.SamplesPerPixel = 0, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    slope = np.linspace(0, 3000, side_px)[:, None]
    noise = np.random.default_rng(SEED).integers(0, 1000, (side_px, side_px))
    dataset.PixelData = (slope + noise).astype("<u2").tobytes()
    if compressed:
        dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _write(folder: Path, architecture: str, size_px: int) -> None:
    from hounsfield.package.export import export_onnx
    from hounsfield.training.network import build_network

    folder.mkdir(parents=True, exist_ok=True)
    export_onnx(build_network(architecture, SEED), (1, size_px, size_px), folder / MODEL)
    ImageContract(size_px=size_px).save(folder)
    record = {
        "name": MODEL_NAME,
        "architecture": architecture,
        "class_names": CLASS_NAMES,
        "threshold": 0.5,
        "temperature": 1.0,
        "review_band": (0.45, 0.55),
        "lineage": {"bench": "random weights"},
    }
    (folder / MODEL_RECORD).write_text(json.dumps(record))
    for name in (METRICS, PROFILE):
        (folder / name).write_text("{}")
    (folder / CARD).write_text("Random weights, for benchmarks only.\n")
    (folder / MANIFEST).write_text(json.dumps({"files": describe_files(folder)}, indent=2, sort_keys=True))
