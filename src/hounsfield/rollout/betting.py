"""The wealth of the bets on every contrast of a policy, and what one look does to it.

For each contrast two questions run side by side, each an e-process of `hounsfield.rollout.evalue`:

- proof, against "the canary is worse by the margin or more", to promote. The bets are on an increase of 0,
  a quarter and half of the margin, with the prior weights 0.5, 0.3 and 0.2. The greatest value so far
  counts: Ville's inequality is about the greatest.
- harm, against "the canary is worse by the margin at most", to roll back. The bets are on increases beyond
  the margin by 0.02, 0.04, ... 0.64 (`HARM_PRIOR`), and on harm that begins now or at any later look (0.7
  on the first, the rest as 1 / (t (t + 1)) on look t): long good conduct does not buy credit. One part in
  twenty is kept for the last step, where the stable revision gets nothing to compare with and
  `log_universal` takes over, and one for labels, which come in after it.

Two revisions that have the same requests (a shadow, first callers, labels of cases that both have seen) are
not independent: what one does well may be just what the other does badly. Then the square root of a factor
counts. For products G_s and G_c over the outcomes of one revision each, however they depend on each other,
E sqrt(G_s G_c) <= sqrt(E G_s E G_c) (Cauchy and Schwarz), and E G_s E G_c is what is at most 1 for
independent ones. It takes twice the requests; without it a mirror whose revisions never go wrong on the same
request would be promoted wrongly in 7 of 100 rollouts at an alpha of 5 % (bench/rollout).

A mixture of e-processes is one. The stable rate that the bets suppose is estimated from the looks before,
so the bets are made before their outcomes; a look that brings many outcomes at once changes nothing about
that.

Arrays end in an axis of contrasts (J), and may have axes of rollouts before it: the simulations run the
same code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hounsfield.rollout import evalue
from hounsfield.rollout.evalue import Floats
from hounsfield.rollout.guardrails import Contrast

PROOF_AT = np.array([0.0, 0.25, 0.5])
"""Parts of the margin that the proof bets on."""
PROOF_PRIOR = np.array([0.5, 0.3, 0.2])
HARM_BEYOND = 0.02 * 2.0 ** np.arange(6)
"""Rates beyond the margin that the bets on harm are on."""
HARM_PRIOR = np.array([0.15, 0.25, 0.25, 0.15, 0.1, 0.1])
"""Most on losses of a few points: a larger one shows by itself, whatever was bet on it."""
FROM_THE_START = 0.7
UNIVERSAL_PART = LABELS_PART = 0.05
GUESS_WEIGHT = 10.0
"""How many outcomes the policy's expected rate counts for."""


@dataclass(frozen=True)
class Terms:
    """The contrasts as arrays (J,): margin, expected rate, and whether the canary is judged alone."""

    margin: Floats
    expected: Floats
    alone: np.ndarray
    stake: Floats

    @classmethod
    def of(cls, contrasts: Sequence[Contrast]) -> Terms:
        return cls(
            margin=np.array([contrast.guardrail.margin for contrast in contrasts]),
            expected=np.array([contrast.expected for contrast in contrasts]),
            alone=np.array([contrast.alone for contrast in contrasts]),
            stake=np.array([contrast.stake for contrast in contrasts]),
        )


@dataclass(frozen=True)
class Counts:
    """Bad outcomes and outcomes of both revisions, each (..., J)."""

    k_s: Floats
    n_s: Floats
    k_c: Floats
    n_c: Floats

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.k_s + other.k_s, self.n_s + other.n_s, self.k_c + other.k_c, self.n_c + other.n_c)


@dataclass(frozen=True)
class Wealth:
    """Everything that the looks so far have left. Logarithms are natural.

    `bets_on_proof` (..., J, 3) and `bets_on_harm` (..., J, 6) are the e-processes of each alternative, the
    latter of those begun so far; `last_k` and `last_n` (..., J) the canary's counts of the last step.
    `labelled` are the counts of looks that brought labels from outside, the canary's of the last step only.
    """

    looks: int
    totals: Counts
    bets_on_proof: Floats
    proof: Floats
    """The greatest log e-value so far."""
    bets_on_harm: Floats
    harm_in_last_look: Floats
    """log e-value (..., J) of the bets on harm from the last look alone."""
    last_k: Floats
    last_n: Floats
    labelled: Counts


def begin(terms: Terms, rollouts: tuple[int, ...] = ()) -> Wealth:
    shape = (*rollouts, len(terms.margin))
    nothing = np.zeros(shape)
    return Wealth(
        looks=0,
        totals=Counts(nothing, nothing, nothing, nothing),
        bets_on_proof=np.zeros((*shape, len(PROOF_AT))),
        proof=nothing,
        bets_on_harm=np.full((*shape, len(HARM_BEYOND)), math.log(FROM_THE_START)),
        harm_in_last_look=nothing,
        last_k=nothing,
        last_n=nothing,
        labelled=Counts(nothing, nothing, nothing, nothing),
    )


def look(
    terms: Terms,
    wealth: Wealth,
    counts: Counts,
    is_last_step: bool,
    *,
    is_paired: bool = False,
    has_labels: bool = False,
) -> Wealth:
    """The wealth after a look that found `counts` since the one before.

    `is_paired`: both revisions had the same requests. `has_labels`: labels from outside are among the counts,
    of cases that both may have had.
    """
    looks = wealth.looks + 1
    is_paired = is_paired or has_labels
    proof_gains = _gains(terms, wealth.totals, counts, PROOF_AT * terms.margin[:, None], is_paired)
    bets_on_proof = wealth.bets_on_proof + proof_gains
    room = 0.9 * (1 - terms.margin[:, None])
    worse = terms.margin[:, None] + np.minimum(HARM_BEYOND, room)
    harm_gains = _gains(terms, wealth.totals, counts, worse, is_paired)
    begun_now = math.log((1 - FROM_THE_START) / (looks * (looks + 1)))
    last = (counts.k_c, counts.n_c) if is_last_step else (0.0, 0.0)
    labelled = Counts(counts.k_s, counts.n_s, *last) if has_labels else None
    last = (0.0, 0.0) if has_labels else last
    return replace(
        wealth,
        looks=looks,
        totals=wealth.totals + counts,
        bets_on_proof=bets_on_proof,
        proof=np.maximum(wealth.proof, evalue.log_mean(bets_on_proof, PROOF_PRIOR)),
        bets_on_harm=np.logaddexp(wealth.bets_on_harm + harm_gains, begun_now),
        harm_in_last_look=evalue.log_mean(harm_gains, HARM_PRIOR),
        last_k=wealth.last_k + last[0],
        last_n=wealth.last_n + last[1],
        labelled=wealth.labelled if labelled is None else wealth.labelled + labelled,
    )


def harm(terms: Terms, wealth: Wealth) -> Floats:
    """log e-value (..., J) against each contrast's being within its margin."""
    begun = evalue.log_mean(wealth.bets_on_harm, HARM_PRIOR)
    side_by_side = np.logaddexp(begun, math.log((1 - FROM_THE_START) / (wealth.looks + 1)))
    universal, with_labels = _last_step(terms, wealth)
    parts = side_by_side + math.log(1 - UNIVERSAL_PART - LABELS_PART), universal + math.log(UNIVERSAL_PART)
    all_parts = np.logaddexp(np.logaddexp(*parts), with_labels + math.log(LABELS_PART))
    return np.where(terms.alone, side_by_side, all_parts)


def _last_step(terms: Terms, wealth: Wealth) -> tuple[Floats, Floats]:
    """log e-values (..., J) of the canary's last step beside all that the stable revision ever did: without
    the looks that brought labels, and with them, where the square root counts."""
    totals, labelled = wealth.totals, wealth.labelled
    nothing = np.zeros_like(wealth.proof)
    if not np.any(wealth.last_n) and not np.any(labelled.n_c):
        return nothing, nothing
    stable = totals.k_s - labelled.k_s, totals.n_s - labelled.n_s
    universal = evalue.log_universal(*stable, wealth.last_k, wealth.last_n, terms.margin)
    canary = wealth.last_k + labelled.k_c, wealth.last_n + labelled.n_c
    return universal, evalue.log_universal(totals.k_s, totals.n_s, *canary, terms.margin) / 2


def harm_anywhere(terms: Terms, wealth: Wealth) -> Floats:
    """log e-value (...) against "every contrast is within its margin": the mean by stakes.

    The mean of e-values is an e-value however they depend on each other (Vovk and Wang, "E-values:
    calibration, combination and applications", Ann. Stat. 49, 2021), and never less than Bonferroni's
    correction of them.
    """
    return evalue.log_mean(harm(terms, wealth), terms.stake)


def _gains(terms: Terms, before: Counts, counts: Counts, increase: Floats, is_paired: bool) -> Floats:
    """log factors (..., J, alternatives) of one look, for alternatives (J, alternatives) of the increase."""
    tiny = evalue.SMALLEST_RATE
    guess = (before.k_s + GUESS_WEIGHT * terms.expected) / (before.n_s + GUESS_WEIGHT)
    a_s = np.clip(guess[..., None], tiny, 1 - tiny - increase)
    k_s, n_s, k_c, n_c = (x[..., None] for x in (counts.k_s, counts.n_s, counts.k_c, counts.n_c))
    margin = terms.margin[:, None]
    gains = evalue.log_two_streams(k_s, n_s, k_c, n_c, a_s, a_s + increase, margin)
    gains = gains / 2 if is_paired else gains
    a_alone = np.maximum(increase, np.minimum(terms.expected, terms.margin / 4)[:, None])
    return np.where(terms.alone[:, None], evalue.log_likelihood_ratio(k_c, n_c, a_alone, margin), gains)
