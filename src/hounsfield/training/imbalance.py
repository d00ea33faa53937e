"""Which images make up each batch, and how a rare class gets its share.

`weights`: every image once an epoch, positives weigh more in the loss. `sampler`: each batch is half of
either class. `none`: neither. `auto` chooses by the size of the set: where the rarer class has few images,
balanced batches would show the same few again and again, which a network learns by heart; where it has many,
balanced batches keep the loss of a step from hanging on one or two heavily weighted images.
"""

from __future__ import annotations

import numpy as np

SAMPLER_FROM = 1000
"""Images of the rarer class from which `auto` samples: an epoch then shows no image more than a few times."""


def choose(imbalance: str, labels: np.ndarray) -> str:
    """`weights`, `sampler` or `none`, for `labels` (N,) of 0 and 1."""
    if imbalance != "auto":
        return imbalance
    rarer = min(int(labels.sum()), int((1 - labels).sum()))
    return "sampler" if rarer >= SAMPLER_FROM else "weights"


def odds_factor(labels: np.ndarray) -> float:
    """Negatives a positive: what weights and sampler both multiply the odds by that a network learns."""
    positives = float(labels.sum())
    return (len(labels) - positives) / positives


class Deal:
    """The images of every step, from seed and step alone: a run that goes on deals what it would have dealt.

    labels: (N,) of 0 and 1. `balanced` gives both classes half of each batch. The images left over at the end
    of an epoch are not dealt: a last batch of one or two would upset the batch statistics.
    """

    def __init__(self, labels: np.ndarray, batch_size: int, seed: int, balanced: bool = False) -> None:
        self.labels, self.batch_size, self.seed, self.balanced = labels, batch_size, seed, balanced
        self.steps_per_epoch = len(labels) // batch_size
        self._dealt: tuple[int, np.ndarray] = (-1, np.empty(0))

    def batch(self, step: int) -> np.ndarray:
        """Positions (batch_size,) of the images of `step`, which counts from 0 over all epochs."""
        epoch, within = divmod(step, self.steps_per_epoch)
        if self._dealt[0] != epoch:
            self._dealt = (epoch, self._order(epoch))
        return self._dealt[1][within * self.batch_size : (within + 1) * self.batch_size]

    def _order(self, epoch: int) -> np.ndarray:
        draw = np.random.default_rng((self.seed, epoch))
        if not self.balanced:
            return draw.permutation(len(self.labels))
        # Negative, positive, negative, ...: every even stretch is balanced, and so is each part of a batch.
        half = (len(self.labels) + 1) // 2
        order = np.empty(2 * half, dtype=np.int64)
        for label in (0, 1):
            members = np.flatnonzero(self.labels == label)
            rounds = -(-half // len(members))
            order[label::2] = np.concatenate([draw.permutation(members) for _ in range(rounds)])[:half]
        return order


def draw_seed(seed: int, step: int, part: int) -> int:
    """The seed of every draw for a part of the batch of `step`: augmentation and dropout follow from it."""
    return int(np.random.SeedSequence((seed, step, part)).generate_state(1, np.uint64)[0] >> np.uint64(1))
