"""The checks of an explanation: each passes on what is right, and fails on a planted wrong."""

import numpy as np
import pytest

from hounsfield.data.phantom import Opacity
from hounsfield.explain.checks import LEAST_CASES, completeness, pointing_game, stability
from hounsfield.explain.packaged import GRID, Attribution, without_haste
from hounsfield.explain.phantoms import Phantom, phantoms
from hounsfield.imaging.contract import ImageContract

CONTRACT = ImageContract(size_px=64)


@pytest.fixture(scope="module")
def shown():
    return phantoms(CONTRACT, 12)


def attribution(error):
    return Attribution(np.zeros((GRID, GRID), np.float32), 1.0, 0.0, error, 64)


def test_completeness_is_the_worst_of_all_and_fails_above_its_bound():
    assert completeness([attribution(1e-6), attribution(2e-4)]) == {
        "images": 2,
        "worst": 2e-4,
        "bound": 1e-3,
        "passed": True,
    }
    assert completeness([attribution(1e-6), attribution(0.02)])["passed"] is False


def test_a_finding_covers_the_regions_whose_centre_it_holds():
    # Centres of 4 x 4 regions lie at 1/8, 3/8, 5/8 and 7/8; a radius of 0.2 about (3/8, 1/8) holds one more
    # on neither side (they are 1/4 away), one of 0.26 holds three neighbours.
    phantom = Phantom(np.zeros((1, 8, 8), np.float32), (Opacity(3 / 8, 1 / 8, 0.2, 1.0),))
    assert np.argwhere(phantom.covers(4)).tolist() == [[0, 1]]
    wider = Phantom(phantom.image, (Opacity(3 / 8, 1 / 8, 0.26, 1.0),))
    assert np.argwhere(wider.covers(4)).tolist() == [[0, 0], [0, 1], [0, 2], [1, 1]]


def test_the_phantoms_are_the_same_every_time_and_brighter_where_their_finding_is(shown):
    again = phantoms(CONTRACT, 3)
    for first, second in zip(shown, again, strict=False):
        np.testing.assert_array_equal(first.image, second.image)
        assert first.findings == second.findings
    assert {each.image.shape for each in shown} == {(1, 64, 64)}
    assert min(each.image.min() for each in shown) >= 0
    assert max(each.image.max() for each in shown) <= 1
    # Places are right although machines cut the columns: in lungs, what is covered is brighter than the
    # same places in the other phantoms' mean.
    covered = np.stack([each.covers(64) for each in shown])
    images = np.stack([each.image[0] for each in shown])
    brighter = [
        image[mask].mean() - np.delete(images, number, 0)[:, mask].mean()
        for number, (image, mask) in enumerate(zip(images, covered, strict=True))
    ]
    assert np.mean(brighter) > 0.03
    mirrored = [
        image[mask[:, ::-1]].mean() - np.delete(images, number, 0)[:, mask[:, ::-1]].mean()
        for number, (image, mask) in enumerate(zip(images, covered, strict=True))
    ]
    assert np.mean(brighter) > np.mean(mirrored) + 0.03


def test_a_model_that_looks_at_the_finding_passes_and_one_that_looks_at_a_corner_does_not(shown):
    covered = [each.covers(GRID) for each in shown]
    background = np.median([each.image for each in shown], axis=0).astype(np.float32)

    def pointed(run_of):
        regions = []
        for each in shown:
            explainer = without_haste(run_of(each), background, 128)
            regions.append(explainer.attribute(each.image).regions)
        return pointing_game(regions, covered)

    def honest(phantom):
        (_, rows, columns) = np.nonzero(phantom.covers(64)[None])
        return lambda images: images[:, 0, rows, columns].mean(axis=1) * 30

    def shortcut(phantom):
        del phantom
        return lambda images: images[:, 0, :12, :12].mean(axis=(1, 2)) * 30  # where the side marker is

    found = pointed(honest)
    assert found["passed"] is True
    assert found["hits"] >= 8
    wrong = pointed(shortcut)
    assert (wrong["passed"], wrong["hits"]) == (False, 0)


def test_a_random_map_hits_as_often_as_it_should_and_does_not_pass(shown):
    rng = np.random.default_rng(4)
    covered = [each.covers(GRID) for each in shown] * 50
    found = pointing_game([rng.random((GRID, GRID)) for _ in covered], covered)
    expected = np.mean([mask.mean() for mask in covered])
    assert found["random_rate"] == pytest.approx(expected)
    assert found["rate"] == pytest.approx(expected, abs=0.035)  # 600 draws: three standard deviations
    assert found["passed"] is False


def test_too_few_pictures_are_not_judged():
    mask = np.eye(4, dtype=bool)
    game = pointing_game([np.eye(4)] * (LEAST_CASES - 1), [mask] * (LEAST_CASES - 1))
    assert (game["hits"], game["passed"]) == (LEAST_CASES - 1, None)
    # 8 of 8 where a quarter is covered: 0.25 to the power of 8.
    game = pointing_game([np.eye(4)] * LEAST_CASES, [mask] * LEAST_CASES)
    assert (game["passed"], game["p_value"]) == (True, pytest.approx(0.25**8))
    assert pointing_game([], [])["passed"] is None


def test_stability_is_the_agreement_on_the_order_of_regions():
    rng = np.random.default_rng(2)
    champion = rng.normal(size=(6, 4, 4)).astype(np.float32)
    assert stability(champion, champion)["value"] == pytest.approx(1.0)
    assert stability(3 * champion + 1, champion)["value"] == pytest.approx(1.0)
    assert stability(-champion, champion)["value"] == pytest.approx(-1.0)
    mixed = champion.copy()
    mixed[0] *= -1
    found = stability(mixed, champion)
    assert found == {"value": pytest.approx(4 / 6), "lowest": pytest.approx(-1.0), "images": 6}
    assert abs(stability(rng.normal(size=(6, 4, 4)), champion)["value"]) < 0.35
    assert stability(champion[:, :3], champion) is None
    assert stability(np.zeros_like(champion), champion) is None
