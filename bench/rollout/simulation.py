"""Simulated rollouts: counts are drawn, and the bets of `hounsfield.rollout.betting` run on them, all at
once.

A decision is a proof of every contrast (promotion) or enough evidence of harm (rollback), as in
`hounsfield.rollout.decide`. What a controller adds to that only delays a promotion: a least number of
requests, a plain rate that is within its margin. So the rates here are upper bounds of its rates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hounsfield.rollout import betting
from hounsfield.rollout.betting import Counts, Terms


@dataclass(frozen=True)
class Truth:
    """One contrast as it truly is: rates of bad outcomes (0 to 1) of both revisions.

    Each request has an outcome of this kind with the chance `share`; `drift` is the amplitude of a slow
    wave that both rates ride on. `together` (mirrored requests only, which both revisions see) is the part of
    the smaller rate at which both go wrong on one request; None draws the revisions apart.
    """

    name: str
    margin: float
    stable: float
    canary: float
    expected: float
    share: float = 1.0
    alone: bool = False
    drift: float = 0.0
    together: float | None = None

    @property
    def is_beyond(self) -> bool:
        return self.canary - (0 if self.alone else self.stable) > self.margin + 1e-12

    @property
    def is_within(self) -> bool:
        return self.canary - (0 if self.alone else self.stable) <= self.margin + 1e-12


@dataclass(frozen=True)
class Runs:
    """For each rollout (R,) the canary's requests at its promotion and at its rollback; inf for never."""

    promoted_at: np.ndarray
    rolled_back_at: np.ndarray


def run(
    truths: Sequence[Truth],
    *,
    rollouts: int,
    looks: int,
    batch: int,
    stable_per_canary: int = 1,
    alpha: float = 0.05,
    seed: int = 0,
) -> Runs:
    """Simulate `rollouts` rollouts of `looks` looks, each after `batch` more requests to the canary."""
    random = np.random.default_rng(seed)
    terms = _terms(truths)
    wealth = betting.begin(terms, (rollouts,))
    promoted_at, rolled_back_at = np.full(rollouts, np.inf), np.full(rollouts, np.inf)
    wanted = -math.log(alpha)
    is_paired = any(truth.together is not None for truth in truths)
    for number in range(1, looks + 1):
        counts = _draw(truths, random, rollouts, batch, batch * stable_per_canary, number / looks)
        wealth = betting.look(terms, wealth, counts, is_last_step=False, is_paired=is_paired)
        requests = number * batch
        promoted = np.all(wealth.proof >= wanted, axis=-1)
        promoted_at = np.where(promoted, np.minimum(promoted_at, requests), promoted_at)
        rolled_back = betting.harm_anywhere(terms, wealth) >= wanted
        rolled_back_at = np.where(rolled_back, np.minimum(rolled_back_at, requests), rolled_back_at)
    return Runs(promoted_at, rolled_back_at)


def flagger(
    truth: Truth,
    *,
    rollouts: int,
    batch: int,
    success: float = 0.99,
    threshold: int = 5,
    steps: int = 10,
    looks: int = 10_000,
    seed: int = 0,
) -> Runs:
    """Flagger's rule on the canary's success rate alone: an interval below `success` is a failed check,
    `threshold` of them roll back, an interval that is not goes one of `steps` steps up, the last one
    promotes.

    https://docs.flagger.app/usage/how-it-works (analysis: threshold, stepWeight, maxWeight;
    request-success-rate) """  # fmt: skip
    random = np.random.default_rng(seed)
    failed, passed = np.zeros(rollouts, int), np.zeros(rollouts, int)
    promoted_at, rolled_back_at = np.full(rollouts, np.inf), np.full(rollouts, np.inf)
    for number in range(1, looks + 1):
        going = np.isinf(promoted_at) & np.isinf(rolled_back_at)
        if not going.any():
            break
        is_failure = random.binomial(batch, truth.canary, rollouts) / batch > 1 - success + 1e-12
        failed += going & is_failure
        passed += going & ~is_failure
        rolled_back_at[going & (failed >= threshold)] = number * batch
        promoted_at[going & (passed >= steps)] = number * batch
    return Runs(promoted_at, rolled_back_at)


def _terms(truths: Sequence[Truth]) -> Terms:
    return Terms(
        margin=np.array([truth.margin for truth in truths]),
        expected=np.array([truth.expected for truth in truths]),
        alone=np.array([truth.alone for truth in truths]),
        stake=np.full(len(truths), 1 / len(truths)),
    )


def _draw(
    truths: Sequence[Truth], random: np.random.Generator, rollouts: int, canary: int, stable: int, at: float
) -> Counts:
    columns: dict[str, list[np.ndarray]] = {"k_s": [], "n_s": [], "k_c": [], "n_c": []}
    for truth in truths:
        wave = truth.drift * math.sin(2 * math.pi * 3 * at)
        if truth.together is not None:
            for name, values in _mirrored(truth, random, rollouts, canary).items():
                columns[name].append(values)
            continue
        for letter, requests, rate in (("s", stable, truth.stable), ("c", canary, truth.canary)):
            n = np.full(rollouts, requests)
            if truth.share < 1:
                n = random.binomial(requests, truth.share, rollouts)
            columns[f"n_{letter}"].append(n)
            columns[f"k_{letter}"].append(random.binomial(n, rate + wave))
    return Counts(**{name: np.stack(values, axis=-1).astype(float) for name, values in columns.items()})


def _mirrored(
    truth: Truth, random: np.random.Generator, rollouts: int, requests: int
) -> dict[str, np.ndarray]:
    """Counts of requests that both revisions saw: bad for both, for one of them, for none."""
    both = truth.together * min(truth.stable, truth.canary)
    n = np.full(rollouts, requests) if truth.share == 1 else random.binomial(requests, truth.share, rollouts)
    chances = [both, truth.stable - both, truth.canary - both, 1 - truth.stable - truth.canary + both]
    counts = random.multinomial(n, chances)
    return {"k_s": counts[:, 0] + counts[:, 1], "n_s": n, "k_c": counts[:, 0] + counts[:, 2], "n_c": n}
