"""`python -m bench.training`: Hounsfield's training beside a bare PyTorch loop, in one run on this machine.

The bare loop has every image as one tensor in memory and does nothing but forward, loss, backward and AdamW:
no augmentation, no metrics, no checkpoints. It is timed in both memory layouts, and the faster one counts.
Ours is `hounsfield train` as a user runs it, augmentation and log lines included, over the same steps: in two
processes of one thread each, in one process with the batch in one part, and in one process with the batch in
the two parts that make it equal to two processes. Rounds alternate, and the medians of their ratios are the
result. A checkpoint is timed apart and charged once a minute; validation, once an epoch, is left out of both.

With `--layouts` it times a step in each number format and memory layout instead. Writes
build/bench/training.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from hounsfield.imaging.contract import ImageContract
from hounsfield.training.network import build_network
from hounsfield.training.params import TRAINED
from hounsfield.training.precision import memory_format

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "build" / "bench"
TARGET = 0.9
WARM_UP = 3
WAYS = {"two processes": (2, 2), "one process": (1, 1), "one process, two parts": (1, 2)}


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
            layouts = (torch.contiguous_format, memory_format(2))
            bare = max(_bare(arguments, layout) for layout in layouts)  # images a second
            ours = {
                way: _ours(arguments, tensors, Path(scratch) / f"{way}-{number}", processes, parts)
                for way, (processes, parts) in WAYS.items()
            }
            ratios = {way: rate / bare for way, rate in ours.items()}
            rows.append({"bare": bare, "ours": ours, "ratios": ratios})
            said = ", ".join(f"{way} {rate:.1f} ({ratios[way]:.2f})" for way, rate in ours.items())
            print(f"round {number}: bare loop {bare:.1f} images/s; {said}", flush=True)
    medians = {way: statistics.median(row["ratios"][way] for row in rows) for way in WAYS}
    for way, ratio in medians.items():
        print(f"{way}: median ratio {ratio:.3f} (target {TARGET})")
    return {"rounds": rows, "median_ratios": medians, "target": TARGET, "arguments": vars(arguments)}


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


def _ours(arguments: argparse.Namespace, tensors: Path, out: Path, processes: int, parts: int) -> float:
    """Images a second of `fit`, over the steps of one epoch without the first few."""
    given = [tensors, out, arguments.architecture, arguments.batch_size, parts, WARM_UP]
    command = [sys.executable]
    environment = dict(os.environ)
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        environment |= {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // processes))}
        environment |= {"GLOO_SOCKET_IFNAME": "lo", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    command += ["-m", "bench.training.timed", *map(str, given)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=True)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("timed ")]
    _, loop_s, checkpoint_s = line.split()
    return arguments.batch_size * arguments.steps / (float(loop_s) * (1 + float(checkpoint_s) / 60))


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
