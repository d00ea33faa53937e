"""The tables and the picture of what the simulations found."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any


def wilson(count: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a rate (Wilson, JASA 22, 1927)."""
    rate = count / total
    centre = rate + z * z / (2 * total)
    reach = z * math.sqrt(rate * (1 - rate) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max((centre - reach) / scale, 0.0), min((centre + reach) / scale, 1.0)


def tables(found: dict[str, Any]) -> str:
    lines = [
        f"Wrong decisions, {found['rollouts']} rollouts a case, alpha {found['alpha']} each way, a look "
        "after every batch (95 % Wilson interval; bold where the decision would be wrong):",
        "",
        "| case | ever promoted | ever rolled back | median to promotion | median to rollback |",
        "|---|---|---|---|---|",
    ]
    for case in found["cases"]:
        lines.append(
            f"| {case['name']} | {_rate(case['promoted'], case['promotion_is_wrong'])} "
            f"| {_rate(case['rolled_back'], case['rollback_is_wrong'])} "
            f"| {_number(case['median_to_promotion'])} | {_number(case['median_to_rollback'])} |"
        )
    lines += [
        "",
        f"A fixed-size test of the same level, asked after every batch: {found['peeking']:.0%} wrong "
        "promotions at the error rate's margin.",
        "",
        "Requests to the canary until the decision, beside a fixed-size test of the same level (score test "
        "of Farrington and Manning). Stopped at its 90 % quantile, ours has power 0.9 too:",
        "",
        "| race | fixed, power 0.8 | fixed, power 0.9 | ours, median | ours, 90 % | median / fixed 0.8 "
        "| median / fixed 0.9 | ours decided at fixed 0.9 | at twice that |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for race in found["races"]:
        lines.append(
            f"| {race['name']} ({race['decision']}) | {race['fixed']['0.8']} | {race['fixed']['0.9']} "
            f"| {_number(race['median'])} | {_number(race['p90'])} | {_ratio(race['ratio']['0.8'])} "
            f"| {_ratio(race['ratio']['0.9'])} | {race['decided_at_fixed_size']['0.9']:.0%} "
            f"| {race['decided_at_twice_the_fixed_size']:.0%} |"
        )
    lines += [
        "",
        "Flagger's rule (99 % success, 5 failed checks roll back, 10 good ones promote), same canaries:",
        "",
        "| race | requests an interval | promoted | rolled back | median to the right decision |",
        "|---|---|---|---|---|",
    ]
    for race in found["races"]:
        for batch, row in (race["flagger"] or {}).items():
            rates = f"{row['promoted']['rate']:.1%} | {row['rolled_back']['rate']:.1%}"
            lines.append(f"| {race['name']} | {batch} | {rates} | {_number(row['median'])} |")
    return "\n".join(lines) + "\n"


def picture(found: dict[str, Any], path: Path) -> None:
    """Left: rates of wrong decisions with their intervals, against alpha. Right: requests until the
    decision."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    marks = [
        (f"{case['name']}: {kind.replace('_', ' ')}", case[kind])
        for case in found["cases"]
        for kind, wrong in (("promoted", "promotion_is_wrong"), ("rolled_back", "rollback_is_wrong"))
        if case[wrong]
    ]
    for place, (_, rate) in enumerate(marks):
        left.plot([rate["low"], rate["high"]], [place, place], color="#2563a8", linewidth=2)
        left.plot(rate["rate"], place, "o", color="#2563a8")
    left.axvline(found["alpha"], color="#c53030", linestyle="--", label="alpha")
    left.set_yticks(range(len(marks)), [name for name, _ in marks], fontsize=8)
    left.set(xlabel="share of rollouts decided wrongly, with 95 % interval", xlim=(0, None))
    left.legend()
    races = [race for race in found["races"] if race["median"] is not None]
    for place, race in enumerate(races):
        right.plot(
            race["fixed"]["0.9"], place, "D", color="#667487", label=None if place else "fixed, power 0.9"
        )
        right.plot(race["median"], place, "o", color="#2563a8", label=None if place else "ours, median")
        if race["p90"] is not None:
            right.plot([race["median"], race["p90"]], [place, place], color="#2563a8", linewidth=1)
    right.set_yticks(range(len(races)), [race["name"] for race in races], fontsize=8)
    right.set(
        xlabel="requests to the canary until the decision (line: to the 90th percentile)", xlim=(0, None)
    )
    if races:
        right.legend()
    figure.savefig(path, dpi=110)


def _rate(rate: dict[str, float], is_wrong: bool) -> str:
    text = f"{rate['rate']:.2%} ({rate['low']:.2%} to {rate['high']:.2%})"
    return f"**{text}**" if is_wrong else text


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.0f}"


def _ratio(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"
