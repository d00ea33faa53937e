"""Paired comparisons on images of patients, with one-sided bounds: closed form, nothing drawn at random.

Images of one patient are not independent, so variances are of sums by patient:

- Areas under two ROC curves on the same images: DeLong, DeLong and Clarke-Pearson (Biometrics 44, 1988) for
  clustered data, as Obuchowski gives it (Biometrics 53, 1997). With one image a patient it is DeLong's.
- Two shares on the same images: Agresti and Min's adjusted interval (Statistics in Medicine 24, 2005), half
  an observation added to each of the four cells, so that two models that never differ do not look certain.
- Two shares on different images: Agresti and Caffo's (The American Statistician 54, 2000), a hit and a miss
  added to each side. The two are exact for one image a patient, and are linearised by patient otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np


@dataclass(frozen=True)
class Difference:
    """`value` as observed; `centre` and `error` (standard error) of the interval around it."""

    value: float
    centre: float
    error: float

    def low(self, confidence: float) -> float:
        """The lower end of a one-sided interval; `confidence` is 0.5 to 1."""
        return self.centre - NormalDist().inv_cdf(confidence) * self.error

    def high(self, confidence: float) -> float:
        return self.centre + NormalDist().inv_cdf(confidence) * self.error


def auroc_difference(
    label: np.ndarray, score: np.ndarray, other: np.ndarray, patient: np.ndarray
) -> Difference | None:
    """AUROC of `score` less that of `other`, (N,), on images of `label` (N,), 0 or 1, and `patient` (N,).

    None where fewer than two patients have a positive, or a negative: then there is no variance.
    """
    positive = np.asarray(label) == 1
    (v10, v01), (w10, w01) = _placements(score, positive), _placements(other, positive)
    if v10.size == 0 or v01.size == 0:
        return None
    group = np.unique(patient, return_inverse=True)[1]
    with_positive, with_negative = np.unique(group[positive]).size, np.unique(group[~positive]).size
    if min(with_positive, with_negative) < 2:
        return None
    value = float(v10.mean() - w10.mean())
    # Each patient's sum of how far their images' placements are from the area, positives and negatives apart.
    size = group.max() + 1
    up = np.bincount(group[positive], weights=v10 - w10 - value, minlength=size)
    down = np.bincount(group[~positive], weights=v01 - w01 - value, minlength=size)
    m, n, patients = len(v10), len(v01), int(size)
    variance = (
        with_positive / (with_positive - 1) * (up @ up) / m**2
        + with_negative / (with_negative - 1) * (down @ down) / n**2
        + 2 * patients / (patients - 1) * (up @ down) / (m * n)
    )
    return Difference(value, value, math.sqrt(max(variance, 0.0)))


def paired_share_difference(hit: np.ndarray, other: np.ndarray, patient: np.ndarray) -> Difference | None:
    """Share of hits, bool (N,), less that of `other` on the same images; None without any."""
    if len(hit) == 0:
        return None
    step = np.asarray(hit, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    total = len(step) + 2.0
    centre = float(step.sum() / total)
    # The half observations added: two where the models agree, one each way.
    added = (2 * centre**2 + (1 - centre) ** 2 + (1 + centre) ** 2) / 2
    variance = (_squared_sums(step - centre, patient) + added) / total**2
    return Difference(float(step.mean()), centre, math.sqrt(variance))


def share_difference(hit: np.ndarray, is_member: np.ndarray, patient: np.ndarray) -> Difference | None:
    """Share of hits, bool (N,), of the others less that of the members: by how much the members fare worse.

    None where there are no members, or no others.
    """
    hit, is_member = np.asarray(hit, dtype=np.float64), np.asarray(is_member, dtype=bool)
    if not is_member.any() or is_member.all():
        return None
    influence, centre, added = np.zeros(len(hit)), 0.0, 0.0
    for side, sign in ((~is_member, 1.0), (is_member, -1.0)):
        total = side.sum() + 2.0
        share = (hit[side].sum() + 1.0) / total
        influence[side] = sign * (hit[side] - share) / total
        added += (share**2 + (1 - share) ** 2) / total**2
        centre += sign * share
    variance = _squared_sums(influence, patient) + added
    value = hit[~is_member].mean() - hit[is_member].mean()
    return Difference(float(value), float(centre), math.sqrt(variance))


def _placements(score: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each positive the share of negatives below it, of each negative the share of positives above it;
    ties count half. Their means are the AUROC."""
    score = np.asarray(score, dtype=np.float64)
    up, down = score[positive], score[~positive]
    if not len(up) or not len(down):
        return np.empty(0), np.empty(0)

    def share_below(values: np.ndarray, others: np.ndarray) -> np.ndarray:
        ordered = np.sort(others)
        below = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
        return below / (2 * len(others))

    return share_below(up, down), 1 - share_below(down, up)


def _squared_sums(values: np.ndarray, patient: np.ndarray) -> float:
    sums = np.bincount(np.unique(patient, return_inverse=True)[1], weights=values)
    return float(sums @ sums)
