"""Stored bytes to numbers, computed by hand from PS3.3 C.7.6.3, C.11.1, C.11.2 and PS3.5 8.1.1."""

from io import BytesIO

import numpy as np
import pydicom
import pydicom.uid as uids
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels import apply_voi_lut
from pydicom.sequence import Sequence

from hounsfield.dicom.parsing import parse
from hounsfield.dicom.quarantine import Reason, Refused
from hounsfield.dicom.reading import DecodedImage, decode_image, decode_pixels, read_image
from hounsfield.dicom.voi import Table, Window, read_voi
from hounsfield.imaging.contract import ImageContract, prepare


def lut(entries, first, bits):
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries), first, bits])
    item.add_new("LUTData", "US", entries)
    item.ModalityLUTType = "US"
    return Sequence([item])


def big_endian(ds, vr="OW"):
    """The bytes of `ds` as Explicit VR Big Endian; its PixelData is big-endian already."""
    ds.file_meta.TransferSyntaxUID = uids.ExplicitVRBigEndian
    ds["PixelData"].VR = vr
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True, implicit_vr=False, little_endian=False)
    return buffer.getvalue()


def test_signed_values_of_12_bits_keep_their_sign(radiograph, as_bytes):
    # 0x0FFF in 12 bits is -1, 0x0800 is -2048 (PS3.5 8.1.1: two's complement of BitsStored).
    ds = radiograph([[0x0FFF, 0x0800], [0x07FF, 1]], BitsStored=12, HighBit=11, PixelRepresentation=1)
    assert read_image(as_bytes(ds)).pixels.tolist() == [[-1, -2048], [2047, 1]]


def test_signed_values_of_16_bits_keep_their_sign(radiograph, as_bytes):
    ds = radiograph([[0xFFFF, 0x8000], [0x7FFF, 1]], PixelRepresentation=1)
    assert read_image(as_bytes(ds)).pixels.tolist() == [[-1, -32768], [32767, 1]]


def test_bits_above_the_stored_ones_are_no_part_of_a_value(radiograph, as_bytes):
    ds = radiograph([[0xF001, 0x0002], [0x1003, 0xFFFF]], BitsStored=12, HighBit=11)
    assert read_image(as_bytes(ds)).pixels.tolist() == [[1, 2], [3, 4095]]


def test_values_at_the_high_end_of_a_word_are_refused(radiograph, as_bytes):
    ds = radiograph([[0x0010, 0x0020], [0x0030, 0x0040]], BitsStored=12, HighBit=15)
    with pytest.raises(Refused, match="HighBit is 15, not one below the 12 bits stored"):
        read_image(as_bytes(ds))


def test_big_endian_words_are_turned_round(radiograph):
    ds = radiograph([[0, 0], [0, 0]])
    ds.PixelData = bytes([0x01, 0x02, 0x00, 0x03, 0xFF, 0xFE, 0x00, 0x00])
    assert read_image(big_endian(ds)).pixels.tolist() == [[0x0102, 3], [0xFFFE, 0]]


def test_big_endian_signed_words_are_turned_round(radiograph):
    ds = radiograph([[0, 0], [0, 0]], PixelRepresentation=1)
    ds.PixelData = bytes([0xFF, 0xFF, 0x00, 0x03, 0x80, 0x00, 0x00, 0x00])
    assert read_image(big_endian(ds)).pixels.tolist() == [[-1, 3], [-32768, 0]]


@pytest.mark.parametrize(
    ("vr", "stored"),
    [
        ("OB", [1, 2, 3, 4]),
        # PS3.5 8.1.2: in words of 16 bits the first of two pixels is the low byte, which comes second.
        ("OW", [2, 1, 4, 3]),
    ],
)
def test_big_endian_bytes_are_turned_round_in_words_only(vr, stored, radiograph):
    ds = radiograph([[0, 0], [0, 0]], BitsAllocated=8, BitsStored=8, HighBit=7)
    ds.PixelData = bytes([1, 2, 3, 4])
    assert read_image(big_endian(ds, vr)).pixels.ravel().tolist() == stored


def test_an_odd_number_of_pixels_ends_before_the_padding(radiograph, as_bytes):
    ds = radiograph([[1, 2, 3]], BitsAllocated=8, BitsStored=8, HighBit=7)
    ds.PixelData = bytes([1, 2, 3, 0])
    assert read_image(as_bytes(ds)).pixels.tolist() == [[1, 2, 3]]


def test_rescale_of_signed_values(radiograph, as_bytes):
    ds = radiograph(
        [[0xFFFF, 0], [1, 2]], PixelRepresentation=1, RescaleSlope="0.5", RescaleIntercept="-1024"
    )
    assert read_image(as_bytes(ds)).pixels.tolist() == [[-1024.5, -1024], [-1023.5, -1023]]


def test_a_modality_lut_maps_what_is_below_and_above_to_its_ends(radiograph, as_bytes):
    # C.11.1.1.1: 2 is the first value mapped; what is below takes the first entry, what is above the last.
    ds = radiograph([[0, 2], [3, 9]], ModalityLUTSequence=lut([100, 50, 7], 2, 16))
    assert read_image(as_bytes(ds)).pixels.tolist() == [[100, 100], [50, 7]]


def test_palette_colours_come_out_and_never_the_indices(radiograph, as_bytes):
    ds = radiograph([[0, 1], [2, 3]], PhotometricInterpretation="PALETTE COLOR")
    for number, colour in enumerate(("Red", "Green", "Blue")):
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [3, 1, 16])
        entries = np.array([1000, 2000, 3000], "<u2") + number
        setattr(ds, f"{colour}PaletteColorLookupTableData", entries.tobytes())
    # The first value mapped is 1: 0 and 1 take the first entry, 2 the second, 3 the last.
    red = [[1000, 1000], [2000, 3000]]
    assert decode_pixels(parse(as_bytes(ds)))[..., 0].tolist() == red
    assert decode_pixels(parse(as_bytes(ds)))[..., 2].tolist() == [[v + 2 for v in row] for row in red]
    with pytest.raises(Refused) as refused:
        read_image(as_bytes(ds))
    assert refused.value.reason == Reason.NOT_MONOCHROME


VALUES = np.array([-1000, 0, 1, 2, 3, 4, 5, 1000])


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        # C.11.2.1.2.1 with c = 3, w = 5: 0 up to 0.5, 1 above 4.5, (x - 2.5) / 4 + 0.5 between.
        (Window(3, 5, "LINEAR"), [0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1]),
        # w = 1 is a threshold: 0 up to 2.5, 1 above.
        (Window(3, 1, "LINEAR"), [0, 0, 0, 0, 1, 1, 1, 1]),
        # C.11.2.1.3.2 with c = 3, w = 4: 0 up to 1, 1 above 5, (x - 3) / 4 + 0.5 between.
        (Window(3, 4, "LINEAR_EXACT"), [0, 0, 0, 0.25, 0.5, 0.75, 1, 1]),
        # C.11.2.1.3.1 with c = 3, w = 4: 1 / (1 + exp(3 - x)).
        (
            Window(3, 4, "SIGMOID"),
            [0, 0.0474259, 0.1192029, 0.2689414, 0.5, 0.7310586, 0.8807971, 1],
        ),
    ],
)
def test_each_function_of_a_window(window, expected):
    assert window.apply(VALUES).tolist() == pytest.approx(expected, abs=1e-6)
    assert window.apply(VALUES).dtype == np.float32


def test_a_voi_lut_maps_what_is_below_and_above_to_its_ends(radiograph, as_bytes):
    ds = radiograph(
        [[0, 2], [3, 9]], VOILUTSequence=lut([0, 51, 255], 2, 8), WindowCenter="1", WindowWidth="1"
    )
    voi = read_voi(parse(as_bytes(ds)))
    assert isinstance(voi, Table)
    assert voi.apply(np.array([0, 2, 3, 4, 9])).tolist() == pytest.approx([0, 0, 0.2, 1, 1])


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID", "LUT"])
def test_the_same_as_pydicom_shows(function, radiograph, as_bytes):
    elements = {"WindowCenter": ["2000", "1"], "WindowWidth": ["1500", "2"], "VOILUTFunction": function}
    if function == "LUT":
        elements = {"VOILUTSequence": lut(list(range(0, 4096, 2)), 1000, 12)}
    pixels = np.random.default_rng(0).integers(0, 4096, (64, 64))
    ds = parse(as_bytes(radiograph(pixels, BitsStored=12, HighBit=11, **elements)))
    shown = decode_image(ds).voi.apply(ds.pixel_array)
    assert shown == pytest.approx(apply_voi_lut(ds.pixel_array, ds) / 4095, abs=1e-6)


@pytest.mark.parametrize(
    "elements",
    [
        {},
        {"WindowCenter": "1"},
        {"WindowCenter": "1", "WindowWidth": "0"},
        {"WindowCenter": "1", "WindowWidth": "-3", "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": "1", "WindowWidth": "2", "VOILUTFunction": "VENDOR"},
        {"VOILUTSequence": lut([1, 2, 3], 0, 40)},
    ],
)
def test_what_is_no_valid_voi_is_none_and_never_a_guess(elements, radiograph, as_bytes):
    assert read_voi(parse(as_bytes(radiograph([[0, 1]], **elements)))) is None


@pytest.mark.parametrize(
    ("photometric", "expected"), [("MONOCHROME2", [0, 0.25, 0.75, 1]), ("MONOCHROME1", [1, 0.75, 0.25, 0])]
)
def test_monochrome1_is_inverted_after_the_window(photometric, expected):
    pixels = np.repeat(np.repeat(np.array([[0, 2], [4, 9]], np.uint16), 4, 0), 4, 1)
    image = DecodedImage(pixels, photometric, voi=Window(3, 4, "LINEAR_EXACT"))
    contract = ImageContract(size_px=8, scaling="voi")
    assert prepare(image, contract)[0, ::4, ::4].ravel().tolist() == expected


def test_a_contract_that_wants_the_voi_refuses_a_file_without():
    image = DecodedImage(np.arange(64, dtype=np.uint16).reshape(8, 8), "MONOCHROME2")
    with pytest.raises(Refused) as refused:
        prepare(image, ImageContract(size_px=8, scaling="voi"))
    assert refused.value.reason == Reason.MISSING_ATTRIBUTE
    image = DecodedImage(image.pixels, "MONOCHROME2", voi=Window(1000, 2, "LINEAR"))
    with pytest.raises(Refused) as refused:
        prepare(image, ImageContract(size_px=8, scaling="voi"))
    assert refused.value.reason == Reason.CONSTANT_IMAGE
