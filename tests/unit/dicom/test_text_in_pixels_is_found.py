"""The real reader, on pictures with letters drawn by cv2."""

import cv2
import numpy as np
import pydicom.uid as uids
import pytest

from hounsfield.dicom.deidentify import BurnedIn, Look, Profile, deidentify
from hounsfield.dicom.deidentify.burned_in import find_text, is_suspect
from hounsfield.dicom.quarantine import Reason, Refused

KEY = b"0123456789abcdef"
NAME = "DOE^JOHN 1960-01-02"
BLANK = Profile(burned_in=BurnedIn.BLANK, look=Look.ALWAYS)
SEARCH = Profile(look=Look.ALWAYS)
SIZE_PX = 400


def tissue(text="", at=(20, 60), value=4000, dtype=np.uint16):
    """Smooth noise up to a third of `value`, and `text` in letters of about 20 pixels."""
    noise = np.random.default_rng(3).normal(0.18, 0.08, (SIZE_PX, SIZE_PX))
    picture = (cv2.GaussianBlur(noise, (0, 0), 6).clip(0, 0.33) * value).astype(np.float32)
    if text:
        letters = np.zeros((SIZE_PX, SIZE_PX), np.uint8)
        cv2.putText(letters, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.9, 255, 2)
        picture[letters > 0] = value
    return picture.astype(dtype)


def image(radiograph, pixels, **elements):
    ds = radiograph(np.zeros((1, 1)), Rows=SIZE_PX, Columns=SIZE_PX, PixelData=pixels.tobytes())
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds


def test_a_name_is_quarantined_and_lead_letters_are_not(radiograph):
    with pytest.raises(Refused, match="1 lines of text were found in the pixels") as refusal:
        deidentify(image(radiograph, tissue(NAME)), KEY, SEARCH)
    assert refusal.value.reason == Reason.BURNED_IN_TEXT
    for marker in ("L", "PA ERECT"):
        clean = deidentify(image(radiograph, tissue(marker)), KEY, SEARCH)
        assert clean.BurnedInAnnotation == "NO"
        assert clean.DeidentificationMethodCodeSequence[1].CodeValue == "113101"


def eight_bit(pixels):
    return {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelData": pixels.tobytes()}


def cases():
    sixteen, eight = tissue(NAME), tissue(NAME, value=255, dtype=np.uint8)
    yield "16 bit", sixteen, {}
    yield "8 bit", eight, eight_bit(eight)
    yield "MONOCHROME1", 4000 - sixteen, {"PhotometricInterpretation": "MONOCHROME1"}
    colour = np.repeat(eight[..., None], 3, axis=2)
    secondary = {
        "SOPClassUID": uids.SecondaryCaptureImageStorage,
        "SamplesPerPixel": 3,
        "PlanarConfiguration": 0,
    }
    yield "RGB", colour, eight_bit(colour) | secondary | {"PhotometricInterpretation": "RGB"}
    frames = np.stack([tissue(), tissue(NAME)])
    many = {"SOPClassUID": uids.MultiFrameGrayscaleWordSecondaryCaptureImageStorage, "NumberOfFrames": 2}
    yield "frames", frames, many


@pytest.mark.parametrize(("pixels", "elements"), [c[1:] for c in cases()], ids=[c[0] for c in cases()])
def test_a_name_is_blanked_and_the_rest_is_not(radiograph, pixels, elements):
    ds = image(radiograph, pixels, **elements)
    clean = deidentify(ds, KEY, BLANK)
    before, after = ds.pixel_array.astype(int), clean.pixel_array.astype(int)
    photometric = clean.PhotometricInterpretation
    assert find_text(ds.pixel_array, photometric)
    assert not find_text(clean.pixel_array, photometric)
    rows_below_the_text = (
        ...,
        slice(90, None),
        slice(None),
        *([slice(None)] if photometric == "RGB" else []),
    )
    assert (before[rows_below_the_text] == after[rows_below_the_text]).all()
    assert 0.005 < (before != after).mean() < 0.2
    assert (clean.BitsAllocated, clean.PixelRepresentation) == (ds.BitsAllocated, ds.PixelRepresentation)
    assert clean.SOPInstanceUID == deidentify(ds, KEY, Profile(look=Look.NEVER)).SOPInstanceUID


def test_who_says_yes_is_refused_unless_blanking_is_wanted(radiograph):
    tagged = image(radiograph, tissue(NAME), BurnedInAnnotation="YES")
    for profile in (Profile(), Profile(look=Look.NEVER), Profile(burned_in=BurnedIn.BLANK, look=Look.NEVER)):
        with pytest.raises(Refused, match="BurnedInAnnotation is YES"):
            deidentify(tagged, KEY, profile)
    assert deidentify(tagged, KEY, Profile(burned_in=BurnedIn.BLANK)).BurnedInAnnotation == "NO"


def test_by_default_only_suspects_are_searched(radiograph):
    assert not is_suspect(radiograph([[0, 1]]))
    assert is_suspect(radiograph([[0, 1]], Modality="US"))
    assert not is_suspect(radiograph([[0, 1]], Modality="US", BurnedInAnnotation="NO"))
    assert is_suspect(radiograph([[0, 1]], SOPClassUID=uids.SecondaryCaptureImageStorage))
    assert "BurnedInAnnotation" not in deidentify(image(radiograph, tissue(NAME)), KEY)
