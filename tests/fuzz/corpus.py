"""Seeds for the fuzzers, made by our own code: good requests and files, and those that our tests refuse."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom.uid as uids
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence

from bench.serving.protocol import LENGTH_HEADER, MARKER, Target
from bench.serving.protocol_cases import CASES
from hounsfield.serving.wire import write_byte_elements

SIZE_PX = 8
JSON, BINARY, FEEDBACK, HEADERS = range(4)
"""The first byte of a request's seed says what it is; two more say how long the JSON of a binary body is."""

MAX_SEED_BYTES = 16384


def request_seeds() -> Iterator[bytes]:
    """What the protocol's table of cases sends, each with its kind in front."""
    values = tuple(np.linspace(0, 1, SIZE_PX**2).round(2).tolist())
    shape = (1, 1, SIZE_PX, SIZE_PX)
    target = Target("", "opacity", "1", "image", shape, values, ("probability", "label"), "dicom")
    for case in CASES:
        sent = case.send(target)
        if sent.method != "POST" or len(sent.body) > MAX_SEED_BYTES:
            continue
        length = dict(sent.headers).get(LENGTH_HEADER)
        if length is None:
            yield bytes([JSON]) + sent.body
        elif length.isdigit() and int(length) < 2**16:
            yield bytes([BINARY]) + struct.pack("<H", int(length)) + sent.body
    for given in ({"request_id": "a", "instance": 0, "label": "positive"}, {"request_id": MARKER}, [], None):
        yield bytes([FEEDBACK]) + json.dumps(given).encode()
    raw = write_byte_elements([b"one", b"", MARKER.encode()])
    tensor = {
        "name": "dicom",
        "datatype": "BYTES",
        "shape": [3],
        "parameters": {"binary_data_size": len(raw)},
    }
    head = json.dumps({"inputs": [tensor]}).encode()
    yield bytes([BINARY]) + struct.pack("<H", len(head)) + head + raw
    yield bytes([HEADERS]) + b"call\0x-request-id\0study-1\0hospital A\0host-shadow:80"


def dicom_seeds() -> Iterator[bytes]:
    """Small radiographs in each kind of transfer syntax, and some that are refused."""
    for syntax in (
        uids.ExplicitVRLittleEndian,
        uids.ImplicitVRLittleEndian,
        uids.ExplicitVRBigEndian,
        uids.DeflatedExplicitVRLittleEndian,
    ):
        yield _file(_radiograph(), syntax)
    for syntax in (uids.RLELossless, uids.JPEG2000Lossless):
        dataset = _radiograph()
        dataset.compress(syntax, generate_instance_uid=False)
        yield _file(dataset, syntax)
    yield _file(_radiograph(), uids.ExplicitVRLittleEndian)[132:]
    yield _file(_radiograph(RescaleSlope="2", RescaleIntercept="-1"), uids.ExplicitVRLittleEndian)
    yield _file(_radiograph(PhotometricInterpretation="MONOCHROME1"), uids.ExplicitVRLittleEndian)
    yield _file(_radiograph(BitsAllocated=8, BitsStored=8, HighBit=7), uids.ExplicitVRLittleEndian)
    yield _file(_radiograph(NumberOfFrames=2), uids.ExplicitVRLittleEndian)
    inner = Dataset()
    inner.PatientID = MARKER
    nested = _radiograph()
    nested.RequestAttributesSequence = Sequence([inner])
    nested.ModalityLUTSequence = Sequence([inner])
    yield _file(nested, uids.ImplicitVRLittleEndian)
    yield _file(_radiograph(), uids.ExplicitVRLittleEndian)[:-20]


def write(seeds: Iterator[bytes], folder: Path) -> Path:
    """One file a seed."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        (folder / f"seed-{number:03}").write_bytes(seed)
    return folder


def _radiograph(**elements: object) -> Dataset:
    pixels = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)  # the least that JPEG 2000 encodes as it is
    dataset = Dataset()
    dataset.SOPClassUID = uids.DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = "1.2.3"
    dataset.PatientName, dataset.PatientID, dataset.PatientAge = MARKER, MARKER, "040Y"
    dataset.Modality, dataset.ViewPosition, dataset.PixelSpacing = "DX", "PA", ["0.1", "0.1"]
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.PixelData = pixels.tobytes()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uids.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def _file(dataset: Dataset, syntax: str) -> bytes:
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset["PixelData"].VR = "OB" if uids.UID(syntax).is_encapsulated else "OW"
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
