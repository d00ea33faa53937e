"""SHAP on a function from images to logits: whom it blames, that the sum is the change, and its bounds."""

import numpy as np
import pandas as pd
import pytest

from hounsfield.errors import PackageError
from hounsfield.explain.background import BACKGROUND, LEAST_IMAGES, load_background, typical_negative
from hounsfield.explain.packaged import (
    BATCH,
    GRID,
    LEAST_EVALUATIONS,
    MOST_EVALUATIONS,
    ExplanationTimeoutError,
    PackagedExplainer,
)
from hounsfield.imaging.contract import ImageContract

COMPLETENESS_BOUND = 1e-4  # logits; a logit is float32, and one of 10 is known to 1e-6
SIZE = 32


def black(size=SIZE):
    return np.zeros((1, size, size), dtype=np.float32)


def bright_square(logit_scale=1.0):
    """A model that looks at one square of 8 x 8 pixels and takes away what is bright in another."""

    def run(images):
        assert images.dtype == np.float32
        assert len(images) <= BATCH
        assert images.flags["C_CONTIGUOUS"]
        seen, held_against = images[:, 0, 8:16, 16:24], images[:, 0, 24:32, 0:8]
        return (logit_scale * (seen.mean((1, 2)) - 0.5 * held_against.mean((1, 2)))).astype(np.float32)

    return run


def crooked(images):
    """Not additive at all: a product of places far apart, and a tangent."""
    first, second = images[:, 0, :16].mean((1, 2)), images[:, 0, 16:].mean((1, 2))
    return (10 * np.tanh(3 * first * second) + images[:, 0, 5, 5] * first).astype(np.float32)


def test_the_regions_that_move_the_logit_get_the_whole_of_it():
    found = PackagedExplainer(bright_square(4.0), black()).attribute(np.ones_like(black()))
    assert found.regions.shape == (GRID, GRID)
    # 2 pixels a region: the square of rows 8 to 16 and columns 16 to 24 is regions 4 to 8 and 8 to 12.
    expected = np.zeros((GRID, GRID))
    expected[4:8, 8:12] = 4.0 / 16
    expected[12:16, 0:4] = -2.0 / 16
    assert found.regions == pytest.approx(expected, abs=1e-6)
    assert (found.logit, found.background_logit) == (2.0, 0.0)
    pixels = found.pixels(SIZE)
    assert pixels[8, 16] == pytest.approx(4.0 / 64)
    assert pixels.sum() == pytest.approx(2.0)


@pytest.mark.parametrize("most_evaluations", [LEAST_EVALUATIONS, 200, MOST_EVALUATIONS])
def test_the_attributions_sum_to_the_change_whatever_the_budget(most_evaluations):
    image = np.random.default_rng(3).random((1, SIZE, SIZE), dtype=np.float32)
    explainer = PackagedExplainer(crooked, black(), most_evaluations=most_evaluations)
    found = explainer.attribute(image)
    assert found.logit == crooked(image[None])[0]
    assert abs(found.regions.sum() - (found.logit - found.background_logit)) < COMPLETENESS_BOUND
    assert found.completeness_error < COMPLETENESS_BOUND
    assert most_evaluations <= found.evaluations <= most_evaluations + 2 * BATCH + 2


def test_an_attribution_that_loses_some_of_the_change_would_show():
    # What is checked is what is returned, not the method's promise: a model that answers otherwise the second
    # time breaks completeness, and the error says by how much.
    calls = []

    def moody(images):
        calls.append(len(images))
        return np.full(len(images), 1.0 if len(calls) == 1 else 0.0, np.float32) * images[:, 0].mean((1, 2))

    found = PackagedExplainer(moody, black()).attribute(np.ones_like(black()))
    assert found.completeness_error == pytest.approx(1.0)


def test_a_slow_model_gets_fewer_evaluations_and_a_stuck_one_is_given_up():
    explainer = PackagedExplainer(bright_square(), black(), target_s=1e-9)
    assert explainer.attribute(np.ones_like(black())).evaluations <= LEAST_EVALUATIONS + 2 * BATCH + 2
    with pytest.raises(ExplanationTimeoutError, match="no explanation within 1e-09 s"):
        PackagedExplainer(bright_square(), black(), limit_s=1e-9).attribute(np.ones_like(black()))


def test_an_image_smaller_than_the_grid_has_a_region_a_pixel():
    found = PackagedExplainer(
        lambda images: images.sum((1, 2, 3)), black(8), most_evaluations=8192
    ).attribute(np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 8, 8))
    assert found.regions == pytest.approx(np.linspace(0, 1, 64).reshape(8, 8), abs=1e-5)


def write_tensors(folder, labels):
    folder.mkdir()
    images = np.stack([np.full((1, 8, 8), number / 100, np.float32) for number in range(len(labels))])
    np.save(folder / "shard-00000.npy", images)
    table = {"split": "train", "label": labels, "shard": 0, "row": range(len(labels))}
    pd.DataFrame(table).to_parquet(folder / "index.parquet")
    ImageContract(size_px=8).save(folder)
    return folder


def test_the_background_is_the_median_of_the_negatives(tmp_path):
    # Images 0 to 16 are negative, of values 0.00 to 0.16: the median is 0.08; the others are brighter.
    tensors = write_tensors(tmp_path / "tensors", [0] * 17 + [1] * 40)
    background = typical_negative(tensors)
    assert background.dtype == np.float32
    assert background == pytest.approx(np.full((1, 8, 8), 0.08))


def test_too_few_negatives_give_no_background(tmp_path):
    assert typical_negative(write_tensors(tmp_path / "tensors", [0] * (LEAST_IMAGES - 1) + [1] * 40)) is None


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "has no background.npy, without which it cannot be explained"),
        (np.zeros((1, 8, 9), np.float32), r"is not float32 \(1, 8, 8\)"),
        (np.zeros((1, 8, 8)), r"is not float32 \(1, 8, 8\)"),
        (np.full((1, 8, 8), np.nan, np.float32), "of finite numbers"),
        (np.array([{}]), "is not an array"),
    ],
)
def test_a_package_without_a_fitting_background_is_refused(tmp_path, content, sentence):
    if content is not None:
        np.save(tmp_path / BACKGROUND, content, allow_pickle=True)
    with pytest.raises(PackageError, match=sentence):
        load_background(tmp_path, (1, 8, 8))
