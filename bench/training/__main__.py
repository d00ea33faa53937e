"""`python -m bench.training`: Hounsfield's training beside a bare PyTorch loop, in one run on this machine.

The bare loop has every image as one tensor in memory and does nothing but forward, loss, backward and AdamW:
no augmentation, no metrics, no checkpoints. It is timed in both memory layouts, and the faster one counts.
Ours is `hounsfield train` as a user runs it, augmentation, checkpoints and log lines included, timed over the
same steps; validation is timed apart. Rounds alternate, and the median of their ratios is the result.

With `--layouts` it times a step in each number format and memory layout instead. Writes
build/bench/training.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from hounsfield.imaging.contract import ImageContract
from hounsfield.training import fit as fit_module
from hounsfield.training.loop import Loop
from hounsfield.training.network import build_network
from hounsfield.training.params import TRAINED, TrainingParams
from hounsfield.training.precision import memory_format

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "build" / "bench"
TARGET = 0.9
WARM_UP = 3


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.training", description=__doc__)
    parser.add_argument("--architecture", choices=TRAINED, default="efficientnet-b0")
    parser.add_argument("--size-px", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=12, help="timed steps a round (default: 12)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--layouts", action="store_true", help="time number formats and memory layouts instead"
    )
    arguments = parser.parse_args(argv)
    found = _layouts(arguments) if arguments.layouts else _compare(arguments)
    found |= {"machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    OUT.mkdir(parents=True, exist_ok=True)
    name = "training-layouts.json" if arguments.layouts else "training.json"
    (OUT / name).write_text(json.dumps(found, indent=2) + "\n")
    return 0


def _compare(arguments: argparse.Namespace) -> dict:
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        tensors = _tensors(Path(scratch) / "tensors", arguments)
        for number in range(arguments.rounds):
            bare = max(
                _bare(arguments, torch.contiguous_format), _bare(arguments, memory_format(2))
            )  # images a second
            ours = _ours(arguments, tensors, Path(scratch) / f"model-{number}")
            rows.append({"bare": bare, "ours": ours, "ratio": ours / bare})
            print(
                f"round {number}: bare loop {bare:6.1f} images/s, hounsfield train {ours:6.1f}, "
                f"ratio {ours / bare:.3f}",
                flush=True,
            )
    ratio = statistics.median(row["ratio"] for row in rows)
    print(f"median ratio {ratio:.3f} (target {TARGET})")
    return {"rounds": rows, "median_ratio": ratio, "target": TARGET, "arguments": vars(arguments)}


def _bare(arguments: argparse.Namespace, layout: torch.memory_format) -> float:
    """Images a second of the bare loop."""
    count, size = arguments.batch_size, arguments.size_px
    steps = arguments.steps + WARM_UP
    images = torch.rand(count * steps, 1, size, size).contiguous(memory_format=layout)
    labels = (torch.rand(len(images)) < 0.5).float()
    network = build_network(arguments.architecture, 7).to(memory_format=layout).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    order = torch.randperm(len(images))

    def step(number: int) -> None:
        mine = order[number * count : (number + 1) * count]
        logit, _ = network(images[mine].contiguous(memory_format=layout))
        loss = functional.binary_cross_entropy_with_logits(logit, labels[mine])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return count * arguments.steps / _seconds(step, arguments.steps)


def _seconds(step: Callable[[int], None], steps: int) -> float:
    for number in range(WARM_UP):
        step(number)
    started_s = time.perf_counter()
    for number in range(steps):
        step(WARM_UP + number)
    return time.perf_counter() - started_s


def _ours(arguments: argparse.Namespace, tensors: Path, out: Path) -> float:
    """Images a second of `fit`, over the steps of one epoch without the first few, a checkpoint included."""
    ticks: list[float] = []
    step, end_epoch = Loop._train_step, Loop._end_epoch

    def timed(loop: Loop) -> None:
        if loop.step == WARM_UP:
            ticks.append(time.perf_counter())
        step(loop)

    def ended(loop: Loop, *rest: object) -> None:
        ticks.append(time.perf_counter())
        end_epoch(loop, *rest)

    Loop._train_step, Loop._end_epoch = timed, ended
    try:
        params = TrainingParams(
            architecture=arguments.architecture, epochs=1, batch_size=arguments.batch_size, precision="fp32"
        )
        # Once in a run this short: on real runs it is once a minute.
        fit_module.fit(tensors, out, params, resuming=fit_module.Resuming(every_s=3.0))
    finally:
        Loop._train_step, Loop._end_epoch = step, end_epoch
    return arguments.batch_size * arguments.steps / (ticks[1] - ticks[0])


def _tensors(folder: Path, arguments: argparse.Namespace) -> Path:
    """Noise, in the layout of preprocess: the arithmetic does not look at what an image shows."""
    import pandas as pd

    folder.mkdir()
    counts = {"train": arguments.batch_size * (arguments.steps + WARM_UP), "validation": 16}
    total = sum(counts.values())
    draw = np.random.default_rng(7)
    images = draw.random((total, 1, arguments.size_px, arguments.size_px), dtype=np.float32)
    np.save(folder / "shard-00000.npy", images)
    splits = [split for split, count in counts.items() for _ in range(count)]
    rows = {"split": splits, "label": np.arange(total) % 2, "shard": 0, "row": np.arange(total)}
    pd.DataFrame(rows).to_parquet(folder / "index.parquet")
    ImageContract(size_px=arguments.size_px).save(folder)
    return folder


def _layouts(arguments: argparse.Namespace) -> dict:
    rows = []
    shapes = {2: (arguments.size_px,) * 2, 3: (32, 48, 48)}
    for architecture in TRAINED:
        for dims, shape in shapes.items():
            count = arguments.batch_size if dims == 2 else 4
            image, label = torch.rand(count, 1, *shape), (torch.rand(count) < 0.5).float()
            for layout in (torch.contiguous_format, memory_format(dims)):
                for half in (False, True):
                    time_ms = _step_ms(architecture, image, label, layout, half, arguments.steps)
                    row = {
                        "architecture": architecture,
                        "shape": [count, 1, *shape],
                        "layout": str(layout).removeprefix("torch."),
                        "precision": "bf16" if half else "fp32",
                        "step_ms": round(time_ms, 1),
                    }
                    rows.append(row)
                    print(*row.values(), flush=True)
    return {"layouts": rows}


def _step_ms(
    architecture: str,
    image: torch.Tensor,
    label: torch.Tensor,
    layout: torch.memory_format,
    half: bool,
    steps: int,
) -> float:
    network = build_network(architecture, 7, spatial_dims=image.ndim - 2).to(memory_format=layout).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    image = image.contiguous(memory_format=layout)
    times = []
    for _ in range(WARM_UP + steps):
        started_s = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            logit, _ = network(image)
        optimizer.zero_grad()
        functional.binary_cross_entropy_with_logits(logit.float(), label).backward()
        optimizer.step()
        times.append(time.perf_counter() - started_s)
    return 1000 * statistics.median(times[WARM_UP:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
