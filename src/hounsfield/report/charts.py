"""Charts as inline SVG, drawn by matplotlib.

Every function takes plain numbers and returns an `<svg>` element as text: no file, no link, no font to load.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

INK, MUTED, GRID = "#1d2733", "#667487", "#e3e8ee"
BLUE, ORANGE, GREEN, RED, GREY = "#2563a8", "#d9822b", "#2f855a", "#c53030", "#a0aec0"
Curve = Mapping[str, Sequence[float]]
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


def precision_recall(
    recall: Sequence[float], precision: Sequence[float], label: str, prevalence: float
) -> str:
    """Precision-recall curve, and the precision of calling every image positive."""
    figure, axes = _figure()
    axes.axhline(prevalence, color=GREY, linewidth=1, linestyle="--", label="all called positive")
    axes.plot(recall, precision, color=BLUE, linewidth=2, drawstyle="steps-post", label=label)
    axes.set(xlabel="sensitivity (recall)", ylabel="PPV (precision)", xlim=(-0.01, 1.01), ylim=(0, 1.02))
    axes.legend(loc="lower left")
    return _svg(figure, "Precision-recall curve")


def reliability(curve: Curve, before: Curve | None = None) -> str:
    """Reliability curve of the calibrated probabilities, and of those `before` temperature scaling.

    A curve has `mean_predicted`, `fraction_positive` and `count` a bin; the dots' areas are the counts.
    """
    figure, axes = _figure()
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="perfectly calibrated")
    drawn = [] if before is None else [(before, ORANGE, "before temperature scaling")]
    for values, colour, label in (*drawn, (curve, BLUE, "calibrated")):
        x, y = values["mean_predicted"], values["fraction_positive"]
        axes.plot(x, y, color=colour, linewidth=1.5, label=label)
        shares = [120 * count / sum(values["count"]) + 8 for count in values["count"]]
        axes.scatter(x, y, s=shares, color=colour, alpha=0.8, linewidths=0)
    axes.set(
        xlabel="mean predicted probability",
        ylabel="fraction positive",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
    )
    axes.legend(loc="upper left")
    return _svg(figure, "Reliability curve")


def decision(curve: Curve, threshold: float) -> str:
    """Net benefit of acting on the model, on everybody and on nobody; a line at the operating point."""
    figure, axes = _figure()
    t, model = curve["threshold"], curve["model"]
    axes.axvline(threshold, color=ORANGE, linewidth=1, linestyle=":", label="operating point")
    axes.axhline(0, color=GREY, linewidth=1, linestyle="--", label="call none")
    axes.plot(t, curve["all"], color=GREY, linewidth=1.5, label="call all")
    axes.plot(t, model, color=BLUE, linewidth=2, label="model")
    top = max(*model, curve["all"][0], 0.01)
    axes.set(xlabel="threshold probability", ylabel="net benefit", xlim=(0, 1), ylim=(-0.25 * top, 1.1 * top))
    axes.legend(loc="upper right")
    return _svg(figure, "Decision curve")


def forest(rows: Sequence[Mapping[str, object]], overall: Mapping[str, float], name: str) -> str:
    """Each subgroup's AUROC with its interval, the band that of all images; what is not judged stays empty.

    `rows` have `attribute`, `value`, `n` and `auroc`, an interval or None; `name` is the horizontal axis.
    """
    figure, axes = _figure(9.2, 0.9 + 0.24 * len(rows))
    axes.axvspan(overall["low"], overall["high"], color=BLUE, alpha=0.08, linewidth=0)
    axes.axvline(overall["value"], color=BLUE, linewidth=1, linestyle="--")
    edges = [overall["low"]]
    for place, row in enumerate(rows):
        found = row["auroc"]
        if found is None:
            continue
        axes.plot([found["low"], found["high"]], [place, place], color=INK, linewidth=1.2)
        axes.plot(found["value"], place, "s", color=INK, markersize=5)
        edges.append(found["low"])
    for place, row in enumerate(rows):
        if row["auroc"] is None:
            axes.annotate("not judged", (max(0, min(edges) - 0.03), place), color=MUTED, va="center")
    labels = [f"{str(row['attribute']).replace('_', ' ')}: {row['value']} (n = {row['n']})" for row in rows]
    axes.set_yticks(range(len(rows)), labels)
    axes.set(xlabel=name, ylim=(len(rows) - 0.4, -0.6), xlim=(max(0, min(edges) - 0.04), 1.005))
    return _svg(figure, "Subgroups")


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


def canary(points: Sequence[Mapping[str, object]]) -> str:
    """Timeline of a rollout, points as `hounsfield.rollout.timeline` gives them.

    Above, what the canary got: its weight, and when it was a shadow or answered its first callers. Below, how
    far the evidence was on its way to a decision.
    """
    figure, _ = _figure(9.2, 4.2)
    figure.clear()
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    end = max((float(point["at_s"]) for point in points), default=0.0)
    moves = [point for point in points if point["kind"] == "move"]
    looks = [point for point in points if point["kind"] != "move"]
    times = [float(move["at_s"]) for move in moves]
    weights = [float(move["weight"]) for move in moves]
    if moves:
        above.fill_between([*times, end], [*weights, weights[-1]], step="post", color=BLUE, alpha=0.15, lw=0)
        above.step([*times, end], [*weights, weights[-1]], where="post", color=BLUE, linewidth=2)
    told = set()
    for move, until in zip(moves, [*times[1:], end], strict=False):
        for name, colour, what in (("shadow", GREY, "mirrored"), ("first", BLUE, "first callers")):
            if move[name]:
                label = None if what in told else what
                told.add(what)
                above.axvspan(float(move["at_s"]), until, 0, 0.06, color=colour, alpha=0.6, lw=0, label=label)
    weight = 0.0
    for point in points:
        weight = float(point["weight"]) if "weight" in point else weight
        decision = str(point.get("decision", "HOLD"))
        if decision != "HOLD":
            label = None if decision in told else decision
            told.add(decision)
            colour = DECISION_COLOURS.get(decision, GREY)
            above.plot(float(point["at_s"]), weight, "o", color=colour, markersize=8, label=label)
    above.set(ylabel="canary weight, %", ylim=(-14, 130))
    above.set_yticks(sorted({0, 100, *(int(weight) for weight in weights if weight >= 10)}))
    if told:
        above.legend(loc="upper left", ncols=5)
    for name, colour, what in (("proof", GREEN, "proof, slowest guardrail"), ("harm", RED, "harm, over all")):
        line = [(float(point["at_s"]), point[name]) for point in looks if point[name] is not None]
        below.plot([at for at, _ in line], [part for _, part in line], color=colour, linewidth=2, label=what)
    below.axhline(1, color=MUTED, linewidth=1, linestyle="--")
    below.set(xlabel="seconds since the rollout began", ylabel="evidence (1 decides)", ylim=(-0.05, 1.45))
    below.legend(loc="upper left", ncols=2)
    return _svg(figure, "Rollout timeline")


def parallel_coordinates(
    axes: Sequence[tuple[str, Sequence[float], bool]],
    labels: Mapping[str, Sequence[str]],
    objective: Sequence[float],
    best: int,
) -> str:
    """One line a trial through one axis a parameter; the darker, the better its objective (the last axis).

    `axes` are (name, value of each trial, whether logarithmic); `labels` names the positions 0, 1, ... of an
    axis that has no numbers. Line number `best` is drawn on top.
    """
    import numpy as np

    figure, plot = _figure(9.2, 3.4)
    heights, names = [], [name for name, _, _ in axes]
    for name, values, logarithmic in axes:
        points = np.log10(values) if logarithmic else np.asarray(values, dtype=float)
        low, high = points.min(), points.max()
        heights.append((points - low) / (high - low) if high > low else np.full(len(points), 0.5))
        place = names.index(name)
        named = labels.get(name)
        for at in (low, high) if high > low else (low,):
            text = named[round(at)] if named else f"{10**at if logarithmic else at:.3g}"
            plot.annotate(text, (place, (at - low) / (high - low) if high > low else 0.5), (4, 4),
                          textcoords="offset points", fontsize=8, color=MUTED)  # fmt: skip
    shares = np.asarray(objective, dtype=float)
    spread = shares.max() - shares.min()
    shares = (shares - shares.min()) / spread if spread > 0 else np.ones(len(shares))
    if objective[best] < max(objective):  # the smaller, the better
        shares = 1 - shares
    for number, share in enumerate(shares):
        line = [height[number] for height in heights]
        look = {"color": BLUE, "linewidth": 1.2, "alpha": 0.15 + 0.7 * float(share), "zorder": 2}
        if number == best:
            look = {"color": ORANGE, "linewidth": 2.5, "zorder": 3}
        plot.plot(range(len(axes)), line, **look)
    plot.set_xticks(range(len(axes)), names)
    plot.set(ylim=(-0.06, 1.14), xlim=(-0.15, len(axes) - 0.55))
    plot.set_yticks([])
    plot.grid(axis="x", color=GREY, linewidth=1)
    return _svg(figure, "Trials as parallel coordinates")
