"""The one-cycle schedule as a function of the step, so that a run that goes on has no state of it to load.

Smith and Topin 2019: the learning rate rises to its peak and falls to almost nothing, the momentum the other
way round. The shape is that of torch.optim.lr_scheduler.OneCycleLR, which cannot make one of a few steps.
"""

from __future__ import annotations

import math

import torch

RISING = 0.25
"""Share of the steps that rise."""
START, END = 1 / 25, 1 / 250_000
"""Of the peak: the learning rate of the first step, and of the last."""
MOMENTUM = (0.95, 0.85)
"""AdamW's first beta at the ends, and at the peak."""


def one_cycle(step: int, total: int) -> tuple[float, float]:
    """Share of the peak learning rate, and momentum, at `step` of `total`, counted from 0."""
    peak = max(RISING * total - 1, 1.0)
    if step <= peak:
        return _cosine(START, 1.0, step / peak), _cosine(*MOMENTUM, step / peak)
    done = (step - peak) / max(total - 1 - peak, 1.0)
    return _cosine(1.0, END, done), _cosine(*reversed(MOMENTUM), done)


def apply(optimizer: torch.optim.Optimizer, peak_learning_rate: float, step: int, total: int) -> None:
    """Set learning rate and momentum of every group of an Adam `optimizer` for `step`."""
    share, momentum = one_cycle(step, total)
    for group in optimizer.param_groups:
        group["lr"] = peak_learning_rate * share
        group["betas"] = (momentum, group["betas"][1])


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * done))
