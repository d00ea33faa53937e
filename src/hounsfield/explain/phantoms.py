"""Pictures whose finding is known: radiographs of the sample set's kind that are in no set.

As a radiology department images a test object, every model is shown the same ones, whatever it was trained
on: two models' attributions can be compared on them, and they show no patient. Only for a model of the sample
set are they images such as it learnt from, so only there does it mean something where attributions point.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from hounsfield.data.exposure import MACHINES, expose
from hounsfield.data.phantom import Anatomy, Opacity, render
from hounsfield.dicom.reading import DecodedImage
from hounsfield.imaging.contract import ImageContract, prepare

COUNT = 12
SIDE_PX = 320
_SEED = 20_251
"""Fixed: a champion and its candidate must be shown the same pictures."""


@dataclass(frozen=True)
class Phantom:
    """image: float32 (1, size, size) in [0, 1], as `prepare` makes it. findings: fractions of its side."""

    image: np.ndarray
    findings: tuple[Opacity, ...]

    def covers(self, grid: int) -> np.ndarray:
        """Whether the centre of each of `grid` x `grid` regions lies in a finding: bool, row and column."""
        centre = (np.arange(grid) + 0.5) / grid
        covered = np.zeros((grid, grid), dtype=bool)
        for finding in self.findings:
            squared = (centre[None, :] - finding.x) ** 2 + (centre[:, None] - finding.y) ** 2
            covered |= squared <= finding.radius**2
        return covered


@functools.lru_cache(maxsize=4)
def phantoms(contract: ImageContract, count: int = COUNT) -> tuple[Phantom, ...]:
    """The first `count` pictures as the model of `contract` sees them, each with one finding or more."""
    return tuple(_phantom(contract, number) for number in range(count))


def _phantom(contract: ImageContract, number: int) -> Phantom:
    rng = np.random.default_rng([_SEED, number])
    machine = MACHINES[number % len(MACHINES)]
    anatomy = Anatomy.draw(rng, female=bool(rng.integers(2)), age_years=int(rng.integers(25, 86)))
    attenuation, findings = render(rng, anatomy, SIDE_PX, supine=number % 3 == 0, positive=True)
    pixels = expose(rng, attenuation, machine, marker="R")
    # The machine cuts the columns and `prepare` pads them again: places in the square stay where they were.
    image = prepare(DecodedImage(pixels, machine.photometric_interpretation), contract)
    return Phantom(image, tuple(findings))
