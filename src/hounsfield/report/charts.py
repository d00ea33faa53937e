"""Charts as inline SVG, drawn by matplotlib.

Every function takes plain numbers and returns an `<svg>` element as text: no file, no link, no font to load.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

INK, MUTED, GRID = "#1d2733", "#667487", "#e3e8ee"
BLUE, ORANGE, GREEN, RED, GREY = "#2563a8", "#d9822b", "#2f855a", "#c53030", "#a0aec0"
DECISION_COLOURS = {"PROMOTE": GREEN, "HOLD": ORANGE, "ROLLBACK": RED}


def _figure(width: float = 4.4, height: float = 3.5):
    import matplotlib

    matplotlib.use("Agg", force=False)
    from matplotlib.figure import Figure

    # hashsalt: element ids are derived from it, so that the same numbers give the same bytes.
    matplotlib.rcParams.update(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "hounsfield",
            "font.family": "sans-serif",
            "font.size": 9,
            "axes.edgecolor": GRID,
            "axes.labelcolor": MUTED,
            "xtick.color": MUTED,
            "ytick.color": MUTED,
            "axes.grid": True,
            "grid.color": GRID,
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
        }
    )
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _svg(figure, title: str) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Title": title}, transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def roc(fpr: Sequence[float], tpr: Sequence[float], label: str, point: tuple[float, float] | None) -> str:
    """ROC curve; `point` is (1 - specificity, sensitivity) at the operating point."""
    figure, axes = _figure()
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--")
    axes.plot(fpr, tpr, color=BLUE, linewidth=2, label=label)
    if point is not None:
        axes.plot(*point, "o", color=ORANGE, markersize=7, label="operating point")
    axes.set(xlabel="1 - specificity", ylabel="sensitivity", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.legend(loc="lower right")
    return _svg(figure, "ROC curve")


def reliability(mean_predicted: Sequence[float], fraction_positive: Sequence[float]) -> str:
    """Reliability curve of the calibrated probabilities."""
    figure, axes = _figure()
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="perfectly calibrated")
    axes.plot(mean_predicted, fraction_positive, "o-", color=BLUE, linewidth=2, label="model")
    axes.set(xlabel="mean predicted probability", ylabel="fraction positive", xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="upper left")
    return _svg(figure, "Reliability curve")


def learning(history: Sequence[Mapping[str, float]]) -> str:
    """Validation AUROC by epoch."""
    figure, axes = _figure()
    epochs = [row["epoch"] for row in history]
    axes.plot(
        epochs, [row["validation_auroc"] for row in history], "o-", color=BLUE, label="validation AUROC"
    )
    axes.plot(epochs, [row["train_loss"] for row in history], color=GREY, label="training loss")
    axes.set(xlabel="epoch", ylim=(0, None))
    axes.legend(loc="lower right")
    return _svg(figure, "Learning curve")


def canary(steps: Sequence[Mapping[str, object]]) -> str:
    """Timeline of a rollout: the canary's weight over time, a mark for each decision.

    Each step has `at_s` (seconds since the rollout began), `weight` (percent that was judged) and `decision`.
    """
    figure, axes = _figure(9.2, 2.8)
    if steps:
        times = [0.0]
        weights = [float(steps[0]["weight"])]
        for step in steps:
            times.append(float(step["at_s"]))
            weights.append(float(step["weight"]))
        axes.fill_between(times, weights, step="pre", color=BLUE, alpha=0.15, linewidth=0)
        axes.step(times, weights, where="pre", color=BLUE, linewidth=2)
        for step in steps:
            colour = DECISION_COLOURS.get(str(step["decision"]), GREY)
            axes.plot(float(step["at_s"]), float(step["weight"]), "o", color=colour, markersize=8)
        for decision, colour in DECISION_COLOURS.items():
            if any(step["decision"] == decision for step in steps):
                axes.plot([], [], "o", color=colour, label=decision)
        axes.legend(loc="upper left", ncols=3)
    axes.set(xlabel="seconds since the rollout began", ylabel="canary weight, %", ylim=(0, 125))
    axes.set_yticks([0, 5, 25, 50, 100])
    return _svg(figure, "Canary timeline")
