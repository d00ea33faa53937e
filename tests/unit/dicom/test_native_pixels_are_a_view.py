import io
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRBigEndian, ExplicitVRLittleEndian

from hounsfield.dicom.native import view_of_pixels

BUNDLED = sorted((Path(pydicom.data.__file__).parent / "test_files").glob("*.dcm"))


def written(values, dtype, stored=None, syntax=ExplicitVRLittleEndian, **changes):
    """A file of these pixels, written and read again."""
    pixels = np.array(values).astype(dtype)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    for target, prefix in ((dataset.file_meta, "MediaStorage"), (dataset, "")):
        setattr(target, f"{prefix}SOPClassUID", DigitalXRayImageStorageForPresentation)
        setattr(target, f"{prefix}SOPInstanceUID", "2.25.1")
    dataset.Rows, dataset.Columns = pixels.shape
    bits = 8 * pixels.dtype.itemsize
    dataset.BitsAllocated, dataset.BitsStored = bits, stored or bits
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation, dataset.SamplesPerPixel = int(pixels.dtype.kind == "i"), 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    dataset["PixelData"].VR = "OW" if bits == 16 else "OB"
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return pydicom.dcmread(io.BytesIO(buffer.getvalue()))


@pytest.mark.parametrize(
    ("values", "dtype", "stored"),
    [
        ([[0, 255], [7, 8]], "u1", None),
        ([[0, 65535], [7, 8]], "<u2", None),
        ([[-32768, 32767], [7, 8]], "<i2", None),
        ([[-128, 127], [7, 8]], "i1", None),
        ([[0, 4095], [7, 8]], "<u2", 12),
        ([[-2048, 2047], [7, 8]], "<i2", 12),
        ([[1, 2, 3]], "u1", None),  # an odd number of bytes, padded
    ],
)
def test_plain_pixels_are_the_ones_of_pydicom_without_a_copy(values, dtype, stored):
    dataset = written(values, dtype, stored)
    view = view_of_pixels(dataset)
    assert view.tolist() == values
    assert view.dtype == dataset.pixel_array.dtype
    np.testing.assert_array_equal(view, dataset.pixel_array)
    assert not view.flags.owndata
    assert not view.flags.writeable


@pytest.mark.parametrize(
    ("values", "dtype", "stored"),
    [([[0, 4096], [7, 8]], "<u2", 12), ([[0, -2049], [7, 8]], "<i2", 12), ([[0, 2048], [7, 8]], "<i2", 12)],
)
def test_a_bit_above_those_stored_is_left_to_pydicom(values, dtype, stored):
    dataset = written(values, dtype, stored)
    assert view_of_pixels(dataset) is None
    assert dataset.pixel_array.tolist() != values


@pytest.mark.parametrize(
    "changes",
    [
        {"PhotometricInterpretation": "PALETTE COLOR"},
        {"NumberOfFrames": 2},
        {"SamplesPerPixel": 3},
        {"BitsAllocated": 32},
        {"BitsStored": 17},
        {"PixelRepresentation": 2},
        {"Rows": 3},
        {"Rows": 0},
        {"PixelData": b""},
    ],
)
def test_what_is_odd_is_left_to_pydicom(changes):
    assert view_of_pixels(written([[1, 2], [3, 4]], "<u2", **changes)) is None


def test_big_endian_is_left_to_pydicom():
    dataset = written([[1, 2], [3, 4]], ">u2", PixelRepresentation=0)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    assert view_of_pixels(dataset) is None


@pytest.mark.filterwarnings("ignore")
def test_every_bundled_file_that_is_viewed_has_the_pixels_of_pydicom():
    viewed = 0
    for path in BUNDLED:
        try:
            dataset = pydicom.dcmread(path)
            view = view_of_pixels(dataset)
        except Exception:  # noqa: S112  decode_pixels takes what fails for a refusal
            continue
        if view is not None:
            np.testing.assert_array_equal(view, dataset.pixel_array)
            viewed += 1
    assert viewed >= 5
