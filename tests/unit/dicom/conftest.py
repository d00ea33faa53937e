"""DICOM objects made by hand, small enough to compute with."""

from io import BytesIO

import numpy as np
import pydicom.uid as uids
import pytest
from pydicom.dataset import Dataset, FileMetaDataset


@pytest.fixture
def radiograph():
    """A factory: `radiograph(pixels, **elements)` is a DX image with these pixels and elements."""

    def make(pixels, **elements):
        pixels = np.asarray(pixels, np.uint16)
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID = uids.DigitalXRayImageStorageForPresentation, "1.2.3"
        ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.4", "1.2.5"
        ds.PatientID, ds.PatientSex, ds.StudyDate = "P1", "F", "20200301"
        ds.Modality, ds.ViewPosition = "DX", "PA"
        ds.Rows, ds.Columns = pixels.shape
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
        ds.PixelData = pixels.tobytes()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = uids.ExplicitVRLittleEndian
        for keyword, value in elements.items():
            setattr(ds, keyword, value)
        return ds

    return make


@pytest.fixture
def as_bytes():
    """A function: the bytes of a dataset as a DICOM file."""

    def write(ds):
        buffer = BytesIO()
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.save_as(buffer, enforce_file_format=True)
        return buffer.getvalue()

    return write
