import numpy as np
import pydicom.uid as uids
import pytest

from hounsfield.dicom import parsing, reading
from hounsfield.dicom.parsing import is_compressed
from hounsfield.dicom.quarantine import Reason, Refused
from hounsfield.dicom.reading import decode_image, read_image


def reason_of(data, **changes):
    with pytest.raises(Refused) as refused:
        read_image(data, **changes)
    return refused.value.reason


def test_pixels_come_back_as_stored_when_there_is_no_rescale(radiograph, as_bytes):
    image = read_image(as_bytes(radiograph([[0, 1, 2], [3, 4, 5]])))
    assert image.pixels.dtype == np.uint16
    assert image.pixels.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert image.photometric_interpretation == "MONOCHROME2"


def test_rescale_is_applied_and_the_window_is_not(radiograph, as_bytes):
    ds = radiograph(
        [[0, 1], [2, 3]], RescaleSlope="2", RescaleIntercept="-10", WindowCenter="1", WindowWidth="1"
    )
    image = read_image(as_bytes(ds))
    assert image.pixels.dtype == np.float32
    assert image.pixels.tolist() == [[-10, -8], [-6, -4]]


def test_monochrome1_is_reported_and_left_to_the_image_contract(radiograph, as_bytes):
    image = read_image(as_bytes(radiograph([[0, 1], [2, 3]], PhotometricInterpretation="MONOCHROME1")))
    assert image.photometric_interpretation == "MONOCHROME1"
    assert image.pixels.tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize("syntax", [uids.RLELossless, uids.JPEG2000Lossless])
def test_lossless_compression_gives_the_same_pixels(syntax, radiograph, as_bytes):
    pixels = np.arange(64 * 64).reshape(64, 64)
    ds = radiograph(pixels)
    ds.compress(syntax, generate_instance_uid=False)
    data = as_bytes(ds)
    assert is_compressed(data)
    assert (read_image(data).pixels == pixels).all()


def test_an_uncompressed_file_and_a_text_need_no_decoder(radiograph, as_bytes):
    assert not is_compressed(as_bytes(radiograph([[0, 1]])))
    assert not is_compressed(b"hello")


def test_a_deflated_file_counts_as_compressed(radiograph, as_bytes):
    ds = radiograph([[0, 1]])
    ds.file_meta.TransferSyntaxUID = uids.DeflatedExplicitVRLittleEndian
    assert is_compressed(as_bytes(ds))


def test_a_file_without_preamble_is_read(radiograph, as_bytes):
    data = as_bytes(radiograph([[0, 1], [2, 3]]))
    assert read_image(data[132:]).pixels.tolist() == [[0, 1], [2, 3]]


def test_attributes_are_the_header_columns_of_the_index(radiograph, as_bytes):
    ds = radiograph([[0, 1]], PatientAge="093Y", PixelSpacing=["0.5", "0.25"], Manufacturer="Alder")
    assert read_image(as_bytes(ds)).attributes == {
        "modality": "DX",
        "manufacturer": "Alder",
        "view_position": "PA",
        "patient_sex": "F",
        "age_years": 90.0,
        "rows": 1,
        "columns": 2,
        "bits_stored": 16,
        "photometric_interpretation": "MONOCHROME2",
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "pixel_spacing_mm": 0.5,
    }


@pytest.mark.parametrize(
    ("elements", "age_years"),
    [
        ({"PatientAge": "018M"}, 1.5),
        ({"PatientAge": "", "PatientBirthDate": "19700615", "StudyDate": "20200614"}, 49.0),
        ({"PatientAge": "", "PatientBirthDate": "19700615", "StudyDate": "20200615"}, 50.0),
        ({"PatientAge": "", "PatientBirthDate": ""}, None),
    ],
)
def test_age_is_from_the_age_or_from_the_dates(elements, age_years, radiograph):
    assert reading.age_years(radiograph([[0, 1]], **elements)) == age_years


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"SOPClassUID": uids.CTImageStorage}, Reason.SOP_CLASS_NOT_ALLOWED),
        ({"NumberOfFrames": 2}, Reason.MULTI_FRAME),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, Reason.NOT_MONOCHROME),
        ({"Rows": 0}, Reason.MISSING_ATTRIBUTE),
        ({"Rows": 60000, "Columns": 60000}, Reason.IMAGE_TOO_LARGE),
        ({"Rows": 50}, Reason.TRUNCATED),
        ({"PixelData": b""}, Reason.TRUNCATED),
        ({"BitsAllocated": 17}, Reason.DECODE_FAILED),
    ],
)
def test_each_cause_has_its_reason(elements, reason, radiograph, as_bytes):
    assert reason_of(as_bytes(radiograph([[0, 1], [2, 3]], **elements))) == reason


def test_no_pixels_is_told_from_no_image(radiograph, as_bytes):
    ds = radiograph([[0, 1]])
    del ds.PixelData
    assert reason_of(as_bytes(ds)) == Reason.NO_PIXEL_DATA
    for keyword in ("Rows", "Columns", "BitsAllocated"):
        del ds[keyword]
    assert reason_of(as_bytes(ds)) == Reason.NO_PIXEL_DATA


@pytest.mark.parametrize("data", [b"", b"hello", b"\x00" * 400, b"\x08\x00" + b"\xff" * 300])
def test_what_is_not_dicom_is_refused(data):
    assert reason_of(data) == Reason.NOT_DICOM


def test_a_constant_image_is_refused(radiograph, as_bytes):
    assert reason_of(as_bytes(radiograph([[7, 7], [7, 7]]))) == Reason.CONSTANT_IMAGE


def test_a_compressed_file_cut_anywhere_is_refused_or_read_and_never_raises(radiograph, as_bytes):
    ds = radiograph(np.arange(64 * 64).reshape(64, 64))
    ds.compress(uids.RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    data = as_bytes(ds)
    for length in range(0, len(data) - 20, len(data) // 40):
        assert reason_of(data[:length]) in {
            Reason.NOT_DICOM, Reason.TRUNCATED, Reason.MISSING_ATTRIBUTE, Reason.NO_PIXEL_DATA,
            Reason.DECODE_FAILED,
        }  # fmt: skip


def test_a_file_over_the_limit_is_refused_before_it_is_read(tmp_path, monkeypatch, radiograph, as_bytes):
    path = tmp_path / "large.dcm"
    path.write_bytes(as_bytes(radiograph([[0, 1]])))
    monkeypatch.setattr(parsing, "MAX_FILE_BYTES", 100)
    assert reason_of(path) == Reason.IMAGE_TOO_LARGE


def test_a_file_that_is_not_there_is_refused(tmp_path):
    assert reason_of(tmp_path / "nothing.dcm") == Reason.UNREADABLE


def test_a_refusal_says_nothing_of_the_patient(radiograph):
    ds = radiograph([[0, 1]], PatientName="Secret^Person", PatientID="4711-SECRET", BitsAllocated=17)
    ds.SOPClassUID = "1.2.3.4711"
    for change in ({}, {"allowed_sop_classes": frozenset({"1.2.3.4711"})}):
        with pytest.raises(Refused) as refused:
            decode_image(ds, **change)
        assert "SECRET" not in str(refused.value).upper()
        assert "4711" not in str(refused.value)


def test_every_reason_has_a_meaning():
    assert all(reason.meaning.endswith(".") for reason in Reason)
