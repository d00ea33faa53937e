import numpy as np
import pytest

from hounsfield.training.imbalance import SAMPLER_FROM, Deal, choose, draw_seed, odds_factor

LABELS = np.array([1, 0, 0, 0, 0, 1, 0, 0, 0, 0], dtype=np.float32)


def epoch(deal: Deal, number: int) -> np.ndarray:
    first = number * deal.steps_per_epoch
    return np.concatenate([deal.batch(first + within) for within in range(deal.steps_per_epoch)])


def test_an_epoch_shows_every_image_once_and_each_epoch_in_another_order():
    deal = Deal(LABELS, batch_size=5, seed=7)
    assert deal.steps_per_epoch == 2
    assert sorted(epoch(deal, 0)) == sorted(epoch(deal, 1)) == list(range(10))
    assert not np.array_equal(epoch(deal, 0), epoch(deal, 1))


def test_images_that_do_not_fill_a_batch_are_left_for_another_epoch():
    assert len(epoch(Deal(LABELS, batch_size=4, seed=7), 0)) == 8


def test_a_step_is_the_same_whoever_asks_and_in_whatever_order():
    first, second = Deal(LABELS, 2, seed=3), Deal(LABELS, 2, seed=3)
    late = second.batch(13)
    assert [first.batch(step).tolist() for step in range(14)][13] == late.tolist()
    assert draw_seed(3, 13, 0) == draw_seed(3, 13, 0)
    assert len({draw_seed(3, 13, 0), draw_seed(3, 14, 0), draw_seed(3, 13, 1)}) == 3


def test_the_sampler_gives_both_classes_half_of_each_half_of_a_batch():
    deal = Deal(LABELS, batch_size=4, seed=7, balanced=True)
    for step in range(6):
        batch = LABELS[deal.batch(step)]
        assert batch[:2].sum() == batch[2:].sum() == 1


def test_the_sampler_shows_all_of_the_rare_class_before_any_of_it_again():
    # Five draws of the two positives an epoch: at least twice each.
    shown = epoch(Deal(LABELS, batch_size=10, seed=7, balanced=True), 0)
    assert np.bincount(shown, minlength=10)[[0, 5]].min() >= 2
    negatives = [position for position in shown if LABELS[position] == 0]
    assert len(negatives) == len(set(negatives)) == 5


@pytest.mark.parametrize(
    ("positives", "negatives", "chosen"),
    [
        (10, 500, "weights"),
        (SAMPLER_FROM - 1, 9000, "weights"),
        (SAMPLER_FROM, 9000, "sampler"),
        (9000, SAMPLER_FROM, "sampler"),
    ],
)
def test_a_large_set_is_sampled_and_a_small_one_weighted(positives, negatives, chosen):
    labels = np.array([1.0] * positives + [0.0] * negatives)
    assert choose("auto", labels) == chosen
    assert choose("none", labels) == "none"


def test_the_factor_on_the_odds_is_negatives_a_positive():
    assert odds_factor(LABELS) == 4.0
