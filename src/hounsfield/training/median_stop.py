"""Katib's medianstop: end a trial that is worse than the others were at the same step.

Rule and numbers are Katib's own (pkg/earlystopping/v1beta1/medianstop/service.py and the collector's
updateStopRules), so that a laptop stops the trial that the cluster would: of each trial that ran to its end
the mean of the first `start_step` values counts; what its code calls the median is the mean of those; it is
set when a trial starts; and a trial is judged once, at its `start_step`-th value, by its best one so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class MedianStop:
    """`min_trials_required` trials have to end before one is stopped."""

    maximize: bool
    min_trials_required: int = 3
    start_step: int = 4
    _means: list[float] = field(default_factory=list)

    def ended(self, values: Sequence[float]) -> None:
        """A trial ran to its end with these values of the objective."""
        first = values[: self.start_step]
        self._means.append(sum(first) / len(first))

    def threshold(self) -> float | None:
        """What a trial that starts now has to reach; None while too few have ended."""
        if len(self._means) < self.min_trials_required:
            return None
        return sum(self._means) / len(self._means)

    def stops(self, values: Sequence[float], threshold: float | None) -> bool:
        """Whether a trial that has reported `values`, the last of them now, ends here."""
        if threshold is None or len(values) != self.start_step:
            return False
        return max(values) < threshold if self.maximize else min(values) > threshold
