"""Choosing a package's engine by measurement, on the machine that exports it.

Each candidate runs the validation images one by one. It may be chosen if all it says is finite, its AUROC is
within MAX_AUROC_CHANGE of fp32's, and its logits and embeddings are within MAX_CHANGE of fp32's: a rank that
is kept says nothing of the calibration and the operating point, which were fitted on those. Of these the
fastest is chosen, at batch 1 and one thread. ONNX Runtime fp32 wins ties: it runs everywhere.
"""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hounsfield.errors import PackageError
from hounsfield.package.choice import INT8_MODEL, MODEL, EngineChoice
from hounsfield.package.cpu import describe, unsupported
from hounsfield.package.engine import Engine, EngineError, calibrate
from hounsfield.package.quantize import quantize

if TYPE_CHECKING:
    from torch import nn

MAX_AUROC_CHANGE = 0.005
MAX_CHANGE = 0.25
"""Root mean square over the spread of fp32's. Networks that learnt something move by 0.19 at most (bf16 and
INT8); one whose answers differ by less than its arithmetic resolves, by 4 and more.
"""
TIE = 1.05
"""As much slower than the fastest as ONNX Runtime fp32 may be and still be chosen."""
JUDGED_IMAGES = 2048
ROUNDS, RUNS_A_ROUND = 9, 4

CANDIDATES = (
    EngineChoice(),
    EngineChoice("onnxruntime", "int8", INT8_MODEL),
    EngineChoice("openvino", "fp32"),
    EngineChoice("openvino", "bf16"),
    EngineChoice("openvino", "int8", INT8_MODEL),
)


@dataclasses.dataclass(frozen=True)
class Measured:
    """One candidate. `refused` says why it may not be chosen; empty if it may. AUROCs are 0 to 1.

    latency_s: median of one image on one thread. speedup: PyTorch eager's median over it, 0 if it never ran.
    probability_change: the largest over the images. logit_change, embedding_change: root mean square, over
    fp32's spread.
    """

    choice: EngineChoice
    latency_s: float = 0.0
    speedup: float = 0.0
    auroc: float | None = None
    auroc_change: float | None = None
    probability_change: float | None = None
    logit_change: float | None = None
    embedding_change: float | None = None
    refused: str = ""


def choose_engine(
    folder: Path,
    network: nn.Module,
    calibration: np.ndarray,
    images: np.ndarray,
    labels: np.ndarray,
    temperature: float,
) -> tuple[EngineChoice, dict[str, Any]]:
    """Choose the engine of `folder/model.onnx`, the export of `network`; leave its INT8 file there if chosen.

    `calibration` and `images` are float32 (N, 1, size, size), of the training and the validation split;
    `labels` (N,) are 0 or 1. Returns the choice and the record for `engine.json`.
    """
    images, labels = images[:JUDGED_IMAGES], labels[:JUDGED_IMAGES]
    files = {("onnxruntime", "fp32"): folder / MODEL, ("openvino", "fp32"): folder / MODEL}
    files["openvino", "bf16"] = folder / MODEL
    try:
        for runtime in ("onnxruntime", "openvino"):
            draft = folder / f".{runtime}.int8.onnx"
            files[runtime, "int8"] = draft
            quantize(folder / MODEL, calibration, draft, runtime)
        eager_s, measured = measure(network, files, images, labels, temperature)
        chosen = choose(measured)
        if chosen.choice.file == INT8_MODEL:
            files[chosen.choice.runtime, "int8"].replace(folder / INT8_MODEL)
    finally:
        for draft in folder.glob(".*.int8.onnx"):
            draft.unlink()
    return chosen.choice, _record(chosen, measured, eager_s, len(images))


def has_convolutions(network: nn.Module) -> bool:
    """Whether there is anything that an engine or INT8 could make faster."""
    from torch import nn

    return any(isinstance(module, nn.Conv2d | nn.Conv3d) for module in network.modules())


def measure(
    network: nn.Module,
    files: dict[tuple[str, str], Path],
    images: np.ndarray,
    labels: np.ndarray,
    temperature: float,
) -> tuple[float, list[Measured]]:
    """PyTorch eager's latency in seconds, and every candidate of `files`, ONNX Runtime fp32 first."""
    engines: dict[EngineChoice, Engine] = {}
    measured: dict[EngineChoice, Measured] = {}
    expected: tuple[np.ndarray, np.ndarray] | None = None
    for choice in CANDIDATES:
        if (choice.runtime, choice.precision) not in files:
            continue
        try:
            if reason := unsupported(choice.precision):
                raise EngineError(reason)
            engine = Engine(files[choice.runtime, choice.precision], 1, choice)
            answer = engine.run(images)
        except EngineError as error:
            measured[choice] = Measured(choice, refused=str(error))
            continue
        expected = answer if expected is None else expected  # ONNX Runtime fp32 comes first
        engines[choice] = engine
        measured[choice] = judge(choice, answer, expected, labels, temperature)
    if EngineChoice() not in engines:
        raise PackageError(f"the exported network does not run: {measured[EngineChoice()].refused}")
    with _one_thread(network) as eager:
        runs = {None: eager, **{choice: engine.run for choice, engine in engines.items()}}
        latency_s = _latencies(runs, images[:1])
    for choice in engines:
        measured[choice] = dataclasses.replace(
            measured[choice],
            latency_s=latency_s[choice],
            speedup=latency_s[None] / latency_s[choice],
        )
    return latency_s[None], list(measured.values())


def judge(
    choice: EngineChoice,
    answer: tuple[np.ndarray, np.ndarray],
    expected: tuple[np.ndarray, np.ndarray],
    labels: np.ndarray,
    temperature: float,
) -> Measured:
    """Compare `answer`, logits (N,) and embeddings (N, E), with `expected`, fp32's, on images of `labels`."""
    (logit, embedding), (fp32_logit, fp32_embedding) = answer, expected
    changes = {
        "probability_change": float(
            np.abs(calibrate(logit, temperature) - calibrate(fp32_logit, temperature)).max()
        ),
        "logit_change": _change(logit, fp32_logit),
        "embedding_change": _change(embedding, fp32_embedding),
    }
    if len(np.unique(labels)) < 2:
        refused = "" if choice.precision == "fp32" else "no AUROC: the validation images are of one class"
        return Measured(choice, **changes, refused=refused)
    from sklearn.metrics import roc_auc_score

    auroc = float(roc_auc_score(labels, logit))
    change = auroc - float(roc_auc_score(labels, fp32_logit))
    # Both ways: an AUROC that rises as much shows a network that is another one just as well.
    refused = f"AUROC moves by {change:+.4f}" if abs(change) > MAX_AUROC_CHANGE else ""
    for name in ("logit", "embedding"):
        moved = changes[f"{name}_change"]
        if not refused and moved > MAX_CHANGE:
            refused = f"{name}s move by {moved:.2f} of their spread"
    return Measured(choice, auroc=auroc, auroc_change=change, **changes, refused=refused)


def _change(values: np.ndarray, fp32: np.ndarray) -> float:
    """Root mean square of the change of (N,) or (N, E) over the spread along N."""
    moved = float(np.sqrt(np.mean((values - fp32) ** 2)))
    return moved / (float(np.sqrt(np.mean(fp32.var(axis=0)))) or 1.0)


def choose(measured: Sequence[Measured]) -> Measured:
    """The fastest that is not refused; ONNX Runtime fp32 if it is within TIE of that."""
    allowed = [each for each in measured if not each.refused]
    fastest = min(allowed, key=lambda each: each.latency_s)
    plain = next(each for each in allowed if each.choice == EngineChoice())
    return plain if plain.latency_s <= TIE * fastest.latency_s else fastest


def _latencies(runs: dict[Any, Callable], image: np.ndarray) -> dict[Any, float]:
    """Median seconds a run. The rounds are interleaved, so that a busy neighbour slows them all."""
    samples: dict[Any, list[float]] = {key: [] for key in runs}
    for _ in range(ROUNDS):
        for key, run in runs.items():
            run(image)
            started_s = time.perf_counter()
            for _ in range(RUNS_A_ROUND):
                run(image)
            samples[key].append((time.perf_counter() - started_s) / RUNS_A_ROUND)
    return {key: statistics.median(values) for key, values in samples.items()}


@contextlib.contextmanager
def _one_thread(network: nn.Module) -> Iterator[Callable]:
    """`network` as PyTorch runs it eagerly, on one thread like everything else."""
    import torch

    def eager(images: np.ndarray) -> Any:
        with torch.inference_mode():
            return network(torch.from_numpy(images))

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield eager
    finally:
        torch.set_num_threads(threads)


def _record(chosen: Measured, measured: Sequence[Measured], eager_s: float, images: int) -> dict[str, Any]:
    """`engine.json`: the choice, every candidate, and what they were measured on."""
    from importlib.metadata import version

    return {
        "chosen": chosen.choice.title,
        "speedup": round(chosen.speedup, 2),
        "auroc_change": chosen.auroc_change,
        "images": images,
        "max_auroc_change": MAX_AUROC_CHANGE,
        "max_change": MAX_CHANGE,
        "pytorch_eager_ms": round(1e3 * eager_s, 3),
        "candidates": [
            {
                "engine": each.choice.title,
                "ms": round(1e3 * each.latency_s, 3),
                "speedup": round(each.speedup, 2),
                "auroc": each.auroc,
                "auroc_change": each.auroc_change,
                "probability_change": each.probability_change,
                "logit_change": each.logit_change,
                "embedding_change": each.embedding_change,
                "refused": each.refused,
            }
            for each in measured
        ],
        "machine": describe(),
        "versions": {name: version(name) for name in ("torch", "onnxruntime", "openvino")},
    }
