import io
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
import pytest
from pydicom.dataelem import DataElement
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from hounsfield.dicom.deidentify import Look, Profile, deidentify
from hounsfield.dicom.parsing import parse
from hounsfield.dicom.quarantine import Refused
from hounsfield.dicom.writing import write

BUNDLED = sorted((Path(pydicom.data.__file__).parent / "test_files").glob("*.dcm"))
PIXELS = np.arange(12, dtype="<u2").reshape(3, 4)


def file_of(syntax=ExplicitVRLittleEndian, after=()):
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID, dataset.SOPInstanceUID = DigitalXRayImageStorageForPresentation, "2.25.1"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 3, 4, 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation, dataset.PhotometricInterpretation = 0, "MONOCHROME2"
    dataset.PixelData = PIXELS.tobytes()
    dataset["PixelData"].VR = "OW"
    for tag, value in after:
        dataset[tag] = DataElement(tag, "OB", value)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def elements(dataset):
    found = []
    for tag in dataset.keys():  # noqa: SIM118  as they are, not as values
        element = dataset.get_item(tag)
        raw = bytes(element.value) if isinstance(element.value, memoryview) else element.value
        found.append((int(tag), str(element.VR), raw if element.is_raw else str(raw)))
    return found


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("after", [(), ((0xFFFCFFFC, b"\0" * 10),)])
def test_pixels_at_the_end_are_a_view_of_the_file(syntax, after):
    data = file_of(syntax, after)
    dataset = parse(data)
    content = dataset.get_item("PixelData").value
    assert isinstance(content, memoryview)
    assert content.obj is data
    assert elements(dataset) == elements(pydicom.dcmread(io.BytesIO(data)))
    np.testing.assert_array_equal(dataset.pixel_array, PIXELS)


@pytest.mark.parametrize(
    "data",
    [
        file_of(after=((0xFFFAFFFA, b"signed"),)),
        file_of() + b"odd",
        file_of()[:-2],
        file_of() + b"\xfc\xff\xfc\xffOB\0\0\xff\xff\xff\xff",  # padding without an end
    ],
)
def test_what_is_odd_is_left_to_pydicom(data):
    ours, theirs = parse(data), pydicom.dcmread(io.BytesIO(data))
    assert elements(ours) == elements(theirs) or ours.get("PixelData") is None
    assert not isinstance(ours.get_item("PixelData").value, memoryview)


def test_every_bundled_file_is_parsed_and_written_as_pydicom_does(tmp_path):
    viewed = written = 0
    ours, theirs = tmp_path / "ours.dcm", tmp_path / "theirs.dcm"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in BUNDLED:
            data = path.read_bytes()
            try:
                dataset = parse(data)
                reference = elements(pydicom.dcmread(io.BytesIO(data), force=True))
            except (Refused, EOFError, NotImplementedError, AttributeError):
                continue
            if "PixelData" in dataset and isinstance(dataset.get_item("PixelData").value, memoryview):
                assert elements(dataset) == reference, path.name
                viewed += 1
            try:
                clean = deidentify(dataset, b"a key for the tests only", Profile(look=Look.NEVER))
            except Refused:
                continue
            try:
                clean.save_as(theirs, enforce_file_format=True)
            except Exception as error:
                with pytest.raises(type(error)):
                    write(clean, ours)
                continue
            write(clean, ours)
            assert ours.read_bytes() == theirs.read_bytes(), path.name
            written += 1
    assert viewed > 10
    assert written > 40


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_dataset_is_not_changed_by_writing(syntax, tmp_path):
    dataset = parse(file_of(syntax))
    before = elements(dataset)
    write(dataset, tmp_path / "a.dcm")
    assert elements(dataset) == before
    assert (tmp_path / "a.dcm").read_bytes() == file_of(syntax)


@pytest.mark.parametrize("value", [b"", b"odd", None])
def test_odd_values_are_written_by_pydicom(value, tmp_path):
    dataset = parse(file_of())
    dataset["PixelData"].value = value
    expected = io.BytesIO()
    dataset.save_as(expected, enforce_file_format=True)
    write(dataset, tmp_path / "a.dcm")
    assert (tmp_path / "a.dcm").read_bytes() == expected.getvalue()
