import numpy as np
import pydicom.uid as uids
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from hounsfield.dicom import frames
from hounsfield.dicom.frames import Frames, split
from hounsfield.dicom.parsing import parse
from hounsfield.dicom.quarantine import Reason, Refused
from hounsfield.dicom.reading import decode_image

PICTURES = np.arange(3 * 64 * 64, dtype=np.uint16).reshape(3, 64, 64)


def group(**macros):
    item = Dataset()
    for keyword, elements in macros.items():
        inner = Dataset()
        for name, value in elements.items():
            setattr(inner, name, value)
        setattr(item, keyword, Sequence([inner]))
    return item


@pytest.fixture
def three_frames(radiograph):
    def make(pictures=PICTURES, **elements):
        ds = radiograph(pictures[0], NumberOfFrames=len(pictures), **elements)
        ds.PixelData = pictures.tobytes()
        return ds

    return make


@pytest.mark.parametrize("syntax", [None, uids.RLELossless, uids.JPEG2000Lossless])
def test_each_frame_is_an_image_with_its_own_pixels_and_uid(syntax, three_frames, as_bytes):
    ds = three_frames()
    if syntax:
        ds.compress(syntax, generate_instance_uid=False)
    ds = parse(as_bytes(ds))
    images = list(split(ds, Frames.SPLIT))
    for image, picture in zip(images, PICTURES, strict=True):
        assert (decode_image(image).pixels == picture).all()
        assert (decode_image(parse(as_bytes(image))).pixels == picture).all()
    assert len({image.SOPInstanceUID for image in images} | {ds.SOPInstanceUID}) == 4
    again = split(ds, Frames.SPLIT)
    assert [image.SOPInstanceUID for image in again] == [image.SOPInstanceUID for image in images]
    assert ds.NumberOfFrames == 3


def test_frames_are_refused_by_the_other_policy(three_frames, as_bytes):
    ds = parse(as_bytes(three_frames()))
    (same,) = split(ds, Frames.REFUSE)
    with pytest.raises(Refused, match="3 frames instead of one") as refused:
        decode_image(same)
    assert refused.value.reason == Reason.MULTI_FRAME


def test_a_frame_has_the_rescale_and_spacing_of_its_functional_groups(three_frames, as_bytes):
    rescales = [
        group(PixelValueTransformationSequence={"RescaleSlope": str(n + 1), "RescaleIntercept": "-10"})
        for n in range(3)
    ]
    shared = group(
        PixelMeasuresSequence={"PixelSpacing": ["0.5", "0.5"]},
        FrameVOILUTSequence={"WindowCenter": "100", "WindowWidth": "50"},
    )
    ds = three_frames(
        SharedFunctionalGroupsSequence=Sequence([shared]), PerFrameFunctionalGroupsSequence=Sequence(rescales)
    )
    for number, image in enumerate(split(parse(as_bytes(ds)), Frames.SPLIT)):
        decoded = decode_image(image)
        assert (decoded.pixels == PICTURES[number] * (number + 1.0) - 10).all()
        assert decoded.pixel_spacing_mm == 0.5
        assert (decoded.voi.center, decoded.voi.width) == (100, 50)


def test_a_single_frame_has_them_too(radiograph, as_bytes):
    shared = group(PixelValueTransformationSequence={"RescaleSlope": "3", "RescaleIntercept": "1"})
    ds = radiograph([[0, 1]], NumberOfFrames=1, SharedFunctionalGroupsSequence=Sequence([shared]))
    assert decode_image(parse(as_bytes(ds))).pixels.tolist() == [[1, 4]]


def test_missing_frames_and_a_count_that_is_no_number_have_a_reason(three_frames, as_bytes, monkeypatch):
    ds = parse(as_bytes(three_frames()))
    ds.NumberOfFrames = 4
    with pytest.raises(Refused) as refused:
        [decode_image(image) for image in split(ds, Frames.SPLIT)]
    assert refused.value.reason == Reason.TRUNCATED
    monkeypatch.setattr(frames, "MAX_FRAMES", 2)
    with pytest.raises(Refused) as refused:
        list(split(ds, Frames.SPLIT))
    assert refused.value.reason == Reason.MULTI_FRAME
