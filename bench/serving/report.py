"""Samples to Markdown: medians over the rounds, with the lowest and the highest of a round in brackets."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable

from bench.serving.measure import Sample

DOORS = ("grpc", "rest-binary", "rest-json")
TITLES = {"grpc": "gRPC", "rest-binary": "REST binary", "rest-json": "REST JSON"}


def latency_table(samples: Iterable[Sample], stage: str) -> str:
    """p50 of one client as a multiple of raw inference in the same round."""
    chosen = [sample for sample in samples if sample.stage == stage]
    return _table(chosen, lambda sample: sample.p50_s and sample.p50_s / sample.raw_p50_s, "{:.2f}")


def rate_table(samples: Iterable[Sample], stage: str) -> str:
    """Answers a second as a share of raw inference, one stream a core, in the same round."""
    chosen = [sample for sample in samples if sample.stage == stage]
    return _table(
        chosen,
        lambda sample: sample.p50_s and 100 * sample.rate_per_s / sample.raw_rate_per_s,
        "{:.0f} %",
    )


def tail_table(samples: Iterable[Sample], stage: str) -> str:
    """P99 of what was answered, in seconds, and the share of calls that were shed."""
    chosen = [sample for sample in samples if sample.stage == stage]

    def shed(several: list[Sample]) -> str:
        calls = sum(sum(sample.statuses.values()) for sample in several)
        told = sum(
            count
            for sample in several
            for status, count in sample.statuses.items()
            if status in ("429", "503", "RESOURCE_EXHAUSTED", "UNAVAILABLE")
        )
        return f"; {100 * told / max(1, calls):.0f} % shed"

    return _table(chosen, lambda sample: sample.p99_s, "{:.2f} s", shed)


def client_table(samples: Iterable[Sample]) -> str:
    """What the client and an empty server cost, and how long one of the client's requests keeps a core."""
    lines = ["| door | p50 of the null server, ms | CPU of the client a request, ms |", "|---|---|---|"]
    for door in DOORS:
        own = [
            sample
            for sample in samples
            if sample.server == "null server" and sample.door == door and sample.p50_s
        ]
        if own:
            p50_ms = statistics.median(1000 * sample.p50_s for sample in own)
            cpu_ms = statistics.median(1000 * sample.client_cpu_s for sample in own)
            lines.append(f"| {TITLES[door]} | {p50_ms:.2f} | {cpu_ms:.2f} |")
    return "\n".join(lines)


def spread(values: list[float], form: str) -> str:
    """The median, and in brackets the lowest and the highest."""
    if not values:
        return ""
    middle = form.format(statistics.median(values))
    if len(values) == 1:
        return middle
    low, high = (form.format(value).rstrip(" %s") for value in (min(values), max(values)))
    return f"{middle} ({low} to {high})"


def _table(
    samples: list[Sample],
    value: Callable[[Sample], float | None],
    form: str,
    more: Callable[[list[Sample]], str] = lambda _: "",
) -> str:
    present = [door for door in DOORS if any(sample.door == door for sample in samples)]
    lines = [
        "| server | " + " | ".join(TITLES[door] for door in present) + " |",
        "|---" * (len(present) + 1) + "|",
    ]
    for server in dict.fromkeys(sample.server for sample in samples):
        cells = []
        for door in present:
            own = [sample for sample in samples if (sample.server, sample.door) == (server, door)]
            values = [value(sample) for sample in own]
            if not own:
                cells.append("")
            elif None in values:
                failed = max(
                    own[0].statuses or {"no answer": 1}, key=(own[0].statuses or {"no answer": 1}).get
                )
                cells.append(f"fails ({failed})")
            else:
                cells.append(spread(values, form) + more(own))
        lines.append(f"| {server} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
