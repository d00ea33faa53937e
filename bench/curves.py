"""One small chart into a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def plot(
    path: Path, series: Sequence[tuple[str, Sequence[tuple[float, float]]]], *, x: str, y: str, title: str
) -> None:
    """Lines over one x axis, from zero."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 3.5), layout="constrained")
    for name, points in series:
        axes.plot([point[0] for point in points], [point[1] for point in points], label=name)
    axes.set(xlabel=x, ylabel=y, title=title, xlim=(0, None), ylim=(0, None))
    if len(series) > 1:
        axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
