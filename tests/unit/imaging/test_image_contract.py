import hashlib
import json

import cv2
import numpy as np
import pytest

from hounsfield.dicom.quarantine import Reason, Refused
from hounsfield.dicom.reading import DecodedImage
from hounsfield.errors import ConfigError
from hounsfield.imaging.contract import ImageContract, _percentiles, prepare, prepare_volume

FULL_RANGE = ImageContract(size_px=8, lower_percentile=0, upper_percentile=100)


def decoded(pixels, photometric="MONOCHROME2"):
    return DecodedImage(
        pixels=np.asarray(pixels),
        photometric_interpretation=photometric,
        pixel_spacing_mm=None,
        attributes={},
    )


def test_pixels_are_scaled_linearly_between_the_percentiles():
    pixels = np.zeros((8, 8), dtype=np.uint16)
    pixels[0, :5] = [0, 100, 200, 300, 400]
    prepared = prepare(decoded(pixels), FULL_RANGE)
    assert prepared.shape == (1, 8, 8)
    assert prepared.dtype == np.float32
    np.testing.assert_allclose(prepared[0, 0], [0, 0.25, 0.5, 0.75, 1, 0, 0, 0], atol=1e-7)


def test_values_beyond_the_percentiles_are_clipped():
    # 0..99: percentiles 10 and 90 by linear interpolation lie at 9.9 and 89.1.
    pixels = np.arange(100, dtype=np.int16).reshape(10, 10)
    prepared = prepare(decoded(pixels), ImageContract(size_px=10, lower_percentile=10, upper_percentile=90))
    assert prepared[0, 0, 9] == 0.0  # 9 < 9.9
    assert prepared[0, 1, 0] == pytest.approx((10 - 9.9) / 79.2, abs=1e-6)
    assert prepared[0, 9, 0] == 1.0  # 90 > 89.1


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32])
def test_counting_pixels_finds_the_percentiles_that_sorting_finds(dtype):
    pixels = np.random.default_rng(7).normal(60, 20, (37, 41)).clip(0, 127).astype(dtype)
    if dtype == np.int16:
        pixels -= 1000
    for percentiles in [(0.5, 99.5), (0, 100), (33.3, 33.4)]:
        expected = np.percentile(pixels.astype(np.float64), percentiles)
        np.testing.assert_allclose(_percentiles(pixels, percentiles), expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["u1", "i1", "<u2", "<i2", ">u2", ">i2"])
def test_every_value_of_a_type_is_counted_in_either_byte_order(dtype):
    limits = np.iinfo(dtype)
    pixels = np.array([[limits.min, 1, limits.max], [2, 3, limits.max]]).astype(dtype)[:, ::-1]
    assert _percentiles(pixels, (0, 100)) == (limits.min, limits.max)
    assert _percentiles(pixels, (40, 60)) == (2, 3)


def test_counts_stay_exact_beyond_the_whole_numbers_of_float32():
    pixels = np.zeros((4100, 4100), dtype=np.uint16)  # 16,810,000 pixels, more than 2**24
    pixels[-1, -1] = 9
    # The position of the highest rank is the last but none: one pixel of 16,810,000.
    last = 100 * (pixels.size - 2) / (pixels.size - 1)
    assert _percentiles(pixels, (last, 100)) == (0, 9)


def test_monochrome1_is_the_negative_of_monochrome2():
    pixels = np.random.default_rng(7).integers(0, 4096, (16, 16)).astype(np.uint16)
    contract = ImageContract(size_px=16, lower_percentile=1, upper_percentile=90)
    inverted = prepare(decoded(pixels, "MONOCHROME1"), contract)
    mirrored = prepare(decoded(4095 - pixels.astype(np.int32)), contract)
    np.testing.assert_allclose(inverted, mirrored, atol=1e-6)  # the percentiles round apart
    brightest = np.unravel_index(inverted[0].argmax(), (16, 16))
    assert pixels[brightest] <= np.percentile(pixels, 10)


def test_a_wide_image_keeps_its_aspect_and_is_padded_above_and_below():
    pixels = np.zeros((8, 16), dtype=np.uint8)
    pixels[:, 8:] = 255
    prepared = prepare(decoded(pixels), FULL_RANGE)[0]
    expected = np.zeros((8, 8), dtype=np.float32)
    expected[2:6, 4:] = 1.0
    np.testing.assert_array_equal(prepared, expected)


def test_shrinking_averages_areas():
    # Every 2 x 2 block becomes its mean: (0 + 1 + 2 + 5) / 4 = 2, over the range 0..8.
    block = np.array([[0, 1], [2, 5]], dtype=np.float32)
    pixels = np.tile(block, (8, 8))
    pixels[-1, -1] = 8
    prepared = prepare(decoded(pixels), FULL_RANGE)[0]
    np.testing.assert_allclose(prepared[:7, :7], 2 / 8, atol=1e-6)
    assert prepared[7, 7] == pytest.approx((0 + 1 + 2 + 8) / 4 / 8)


def test_an_image_without_contrast_is_refused():
    pixels = np.full((32, 32), 700, dtype=np.uint16)
    pixels[0, 0] = 9  # one dead pixel is not contrast
    with pytest.raises(Refused) as refused:
        prepare(decoded(pixels), ImageContract(size_px=8))
    assert refused.value.reason == Reason.CONSTANT_IMAGE


def test_an_image_that_is_not_finite_is_refused():
    pixels = np.full((8, 8), np.nan, dtype=np.float32)
    with pytest.raises(Refused):
        prepare(decoded(pixels), FULL_RANGE)


def test_equals_monai_where_both_average_whole_pixels():
    """Same chain in MONAI's transforms: exact to float32 rounding when the size divides the image."""
    from monai.transforms import Compose, Resize, ScaleIntensityRangePercentiles

    pixels = np.random.default_rng(3).integers(0, 65536, (256, 256)).astype(np.uint16)
    chain = Compose(
        [
            ScaleIntensityRangePercentiles(lower=0.5, upper=99.5, b_min=0.0, b_max=1.0, clip=True),
            Resize(spatial_size=(64, 64), mode="area"),
        ]
    )
    expected = np.asarray(chain(pixels[np.newaxis].astype(np.float32)))
    prepared = prepare(decoded(pixels), ImageContract(size_px=64))
    np.testing.assert_allclose(prepared, expected, atol=2e-6)


@pytest.mark.parametrize("kind", ["<u2", ">u2", "<i2", "u1", "<i4", "<f4", "<f8"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_rows_scaled_by_blocks_are_to_the_bit_what_the_whole_is(kind, photometric):
    pixels = np.random.default_rng(5).normal(100, 30, (301, 700)).astype(kind)
    prepared = prepare(decoded(pixels, photometric), ImageContract(size_px=64, lower_percentile=2))
    dark, bright = _percentiles(pixels, (2, 99.5))
    if photometric == "MONOCHROME1":
        bright, dark = _percentiles(pixels, (0.5, 98))
    whole = pixels.astype(np.float32)
    whole -= np.float32(dark)
    whole *= np.float32(1 / (bright - dark))
    whole = cv2.resize(np.clip(whole, 0, 1), (64, 28), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(prepared[0, 18:46], np.clip(whole, 0, 1))


def test_stays_near_monai_where_pixels_are_shared_between_areas():
    """At a broken ratio cv2 weighs a shared pixel by its overlap, torch counts it whole."""
    from monai.transforms import Compose, Resize, ScaleIntensityRangePercentiles

    row, column = np.mgrid[0:300, 0:300]
    pixels = (2000 + 900 * np.sin(row / 40) + 700 * np.cos(column / 55)).astype(np.uint16)
    chain = Compose(
        [
            ScaleIntensityRangePercentiles(lower=0.5, upper=99.5, b_min=0.0, b_max=1.0, clip=True),
            Resize(spatial_size=(128, 128), mode="area"),
        ]
    )
    expected = np.asarray(chain(pixels[np.newaxis].astype(np.float32)))
    prepared = prepare(decoded(pixels), ImageContract(size_px=128))
    np.testing.assert_allclose(prepared, expected, atol=0.01)


def test_the_digest_changes_with_any_value_and_survives_the_file(tmp_path):
    contract = ImageContract()
    contract.save(tmp_path)
    assert ImageContract.load(tmp_path) == contract
    assert ImageContract.load(tmp_path / "contract.json").digest == contract.digest
    assert ImageContract(upper_percentile=99.0).digest != contract.digest
    assert (
        ImageContract(lower_percentile=0, upper_percentile=100).digest
        == FULL_RANGE.__class__(lower_percentile=0.0, upper_percentile=100.0).digest
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"size_px": 0}, "size_px 0"),
        ({"lower_percentile": 60, "upper_percentile": 40}, "percentiles 60 and 40"),
        ({"version": "2"}, "version '2'"),
        ({"gamma": 1}, "unknown key 'gamma'"),
    ],
)
def test_a_contract_that_cannot_be_computed_is_refused_by_name(tmp_path, values, words):
    (tmp_path / "contract.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=words):
        ImageContract.load(tmp_path)


def test_a_missing_contract_says_what_to_run(tmp_path):
    with pytest.raises(ConfigError, match="run preprocess"):
        ImageContract.load(tmp_path)


VOLUME = ImageContract(size_px=8, lower_percentile=0, upper_percentile=100, depth_px=8)


def ramp(count, rows=8, columns=8):
    """Slices of one value each: 0, 1, 2, ... along the axis."""
    return [decoded(np.full((rows, columns), value, dtype=np.int16)) for value in range(count)]


def test_a_volume_is_scaled_by_the_percentiles_of_all_its_slices():
    volume = prepare_volume(ramp(8), VOLUME)
    assert volume.shape == VOLUME.shape == (1, 8, 8, 8)
    assert volume.dtype == np.float32
    np.testing.assert_allclose(volume[0, :, 4, 4], np.arange(8) / 7, atol=1e-6)


def test_planes_average_the_slices_they_cover():
    # Two slices a plane: values 0 and 1 of 0..15 make 0.5/15, 2 and 3 make 2.5/15, ...
    volume = prepare_volume(ramp(16), VOLUME)
    np.testing.assert_allclose(volume[0, :, 0, 0], (np.arange(0, 16, 2) + 0.5) / 15, atol=1e-6)


def test_fewer_slices_than_planes_are_interpolated_in_order():
    planes = prepare_volume(ramp(4), VOLUME)[0, :, 0, 0]
    assert planes[0] == 0.0
    assert planes[-1] == 1.0
    assert (np.diff(planes) >= 0).all()


def test_a_volume_keeps_the_aspect_ratio_of_its_slices():
    volume = prepare_volume(ramp(8, rows=4, columns=8), VOLUME)[0]
    assert volume[:, :2].max() == volume[:, 6:].max() == 0.0
    assert volume[7, 2:6].min() == 1.0


def test_an_inverted_volume_is_turned_round():
    slices = [decoded(image.pixels, "MONOCHROME1") for image in ramp(8)]
    np.testing.assert_allclose(prepare_volume(slices, VOLUME)[0, :, 0, 0], 1 - np.arange(8) / 7, atol=1e-6)


def test_image_and_volume_are_not_taken_for_each_other():
    with pytest.raises(ConfigError, match="depth_px 8 asks for a volume"):
        prepare(ramp(1)[0], VOLUME)
    with pytest.raises(ConfigError, match="depth_px is missing"):
        prepare_volume(ramp(8), FULL_RANGE)
    with pytest.raises(ConfigError, match="slices of one shape and photometric interpretation, not 2"):
        prepare_volume([*ramp(4), *ramp(4, rows=4)], VOLUME)
    with pytest.raises(ConfigError, match="depth_px 4 is not a whole number from 8"):
        ImageContract(depth_px=4)


def test_a_contract_of_images_has_the_digest_it_had_before_there_were_volumes(tmp_path):
    # SHA-256 of {"lower_percentile": 0.5, "size_px": 128, "upper_percentile": 99.5, "version": "1"}
    text = '{"lower_percentile": 0.5, "size_px": 128, "upper_percentile": 99.5, "version": "1"}'
    assert ImageContract().digest == hashlib.sha256(text.encode()).hexdigest()
    assert ImageContract(depth_px=32).digest != ImageContract().digest
    assert ImageContract.load(ImageContract(depth_px=32).save(tmp_path)).shape == (1, 32, 128, 128)
