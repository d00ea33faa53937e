"""`python -m bench.engines`: every engine beside PyTorch eager, one image at a time, one thread each.

Writes build/bench/engines.json and prints the tables. With `--train` both networks are trained first on the
simulated sample set at 96 pixels (about ten minutes on two cores; kept in build/bench/engines), and INT8 and
bf16 are judged on its validation split; without, weights are random and only speed is measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from hounsfield.package.choice import EngineChoice
from hounsfield.package.choose import CANDIDATES, Measured, measure
from hounsfield.package.cpu import describe
from hounsfield.package.engine import Engine
from hounsfield.package.export import export_onnx
from hounsfield.package.quantize import quantize

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "build" / "bench"
WORK = OUT / "engines"
TRAINED_PX = 96
CASES = (("efficientnet-b0", 96), ("efficientnet-b0", 224), ("densenet121", 96), ("densenet121", 224))
EPOCHS = {"efficientnet-b0": 12, "densenet121": 5}
LOADS, RATE_S, RATE_ROUNDS = 3, 1.0, 3

LOAD = """
import sys, time
from pathlib import Path
import numpy as np
from hounsfield.package.choice import EngineChoice
from hounsfield.package.engine import Engine
file, size_px, *words = sys.argv[1:]
started_s = time.perf_counter()
engine = Engine(Path(file), 2, EngineChoice(*words))
engine.run(np.zeros((1, 1, int(size_px), int(size_px)), dtype=np.float32))
print(time.perf_counter() - started_s)
"""


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.engines", description=__doc__)
    parser.add_argument("--train", action="store_true", help="train first, and judge the accuracy too")
    parser.add_argument(
        "--case", action="append", default=[], metavar="NETWORK:PX", help="for example densenet121:224"
    )
    arguments = parser.parse_args(argv)
    wanted = [tuple(case.split(":")) for case in arguments.case]
    cases = [(name, int(size)) for name, size in wanted] or list(CASES)
    WORK.mkdir(parents=True, exist_ok=True)
    tensors = _tensors() if arguments.train else None
    results = []
    for architecture, size_px in cases:
        network = _network(architecture, tensors)
        result = _measure_case(network, architecture, size_px, tensors)
        results.append(result)
        print(_table(result), flush=True)
    content = {
        "machine": describe(),
        "versions": {
            name: importlib.metadata.version(name) for name in ("torch", "onnxruntime", "openvino", "monai")
        },
        "cases": results,
    }
    (OUT / "engines.json").write_text(json.dumps(content, indent=1) + "\n")
    print(f"{content['machine']} {content['versions']}")
    return 0


def _tensors() -> Path:
    """The preprocessed sample set, made if it is not there."""
    from hounsfield.data.examine import Rules
    from hounsfield.data.ingest import ingest
    from hounsfield.data.sample import make_sample
    from hounsfield.dicom.deidentify import create_key
    from hounsfield.imaging.contract import ImageContract
    from hounsfield.imaging.preprocess import preprocess

    tensors = WORK / "tensors"
    if not (tensors / "contract.json").is_file():
        make_sample(WORK / "sample", images=1100, workers=2)
        key = create_key(WORK / "deid.key")
        sample = WORK / "sample"
        ingest(sample / "dicom", sample / "labels.csv", WORK / "dataset", Rules(key), seed=7)
        preprocess(WORK / "dataset", tensors, ImageContract(size_px=TRAINED_PX))
    return tensors


def _network(architecture: str, tensors: Path | None):
    from hounsfield.training.launcher import launch
    from hounsfield.training.network import RECORD_FILE, build_network, load_network

    if tensors is None:
        return build_network(architecture, seed=7).eval().requires_grad_(False)
    model = WORK / architecture
    if not (model / RECORD_FILE).is_file():
        launch(
            tensors,
            model,
            {"architecture": architecture, "epochs": EPOCHS[architecture], "seed": 7},
            processes=2,
            checkpoints=WORK / f"checkpoints-{architecture}",
            tracking_uri=f"sqlite:///{WORK / 'mlflow.db'}",
        )
    return load_network(model)


def _images(size_px: int, tensors: Path | None, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images float32 (N, 1, size, size) and labels (N,): judged only at the size that was trained at."""
    from hounsfield.imaging.preprocess import load_split

    if tensors is not None and size_px == TRAINED_PX:
        images, index = load_split(tensors, split)
        return images, index["label"].to_numpy()
    return np.random.default_rng(7).random((16, 1, size_px, size_px), dtype=np.float32), np.zeros(16, int)


def _measure_case(network, architecture: str, size_px: int, tensors: Path | None) -> dict[str, Any]:
    folder = WORK / f"{architecture}-{size_px}-{'random' if tensors is None else 'trained'}"
    folder.mkdir(exist_ok=True)
    fp32 = folder / "model.onnx"
    if not fp32.is_file():
        export_onnx(network, (1, size_px, size_px), fp32)
    calibration, _ = _images(size_px, tensors, "train")
    images, labels = _images(size_px, tensors, "validation")
    files = {}
    for choice in CANDIDATES:
        file = fp32
        if choice.precision == "int8":
            file = folder / f"{choice.runtime}.int8.onnx"
            if not file.is_file():
                quantize(fp32, calibration, file, choice.runtime)
        files[choice.runtime, choice.precision] = file
    eager_s, measured = measure(network, files, images, labels, temperature=1.0)
    rows = []
    for each in measured:
        file = files[each.choice.runtime, each.choice.precision]
        row = {**dataclasses.asdict(each), "engine": each.choice.title, "bytes": file.stat().st_size}
        if each.latency_s:
            row["load_s"] = _load_s(file, size_px, each.choice)
            row["images_per_s"] = _rates(file, each.choice, images[:1])
        rows.append(row)
    judged = len(images) if tensors is not None and size_px == TRAINED_PX else 0
    return {
        "architecture": architecture,
        "size_px": size_px,
        "trained": tensors is not None,
        "judged_images": judged,
        "pytorch_eager_s": eager_s,
        "engines": rows,
    }


def _load_s(file: Path, size_px: int, choice: EngineChoice) -> float:
    """Median seconds from nothing to the first answer in a new process, the library's import included."""
    words = [str(file), str(size_px), choice.runtime, choice.precision, choice.file]
    runs = [
        subprocess.run([sys.executable, "-c", LOAD, *words], capture_output=True, text=True, check=True)
        for _ in range(LOADS)
    ]
    return statistics.median(float(run.stdout) for run in runs)


def _rates(file: Path, choice: EngineChoice, image: np.ndarray) -> dict[str, float]:
    """Images a second that one and two callers get from one engine; medians of interleaved rounds."""
    engine = Engine(file, 2, choice)
    samples: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(RATE_ROUNDS):
        for callers, rates in samples.items():
            rates.append(_rate(engine, callers, image))
    return {str(callers): statistics.median(rates) for callers, rates in samples.items()}


def _rate(engine: Engine, callers: int, image: np.ndarray) -> float:
    counts = [0] * callers
    end_s = time.perf_counter() + RATE_S

    def call(number: int) -> None:
        while time.perf_counter() < end_s:
            engine.run(image)
            counts[number] += 1

    threads = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / RATE_S


def _table(result: dict[str, Any]) -> str:
    judged = result["judged_images"]
    accuracy = f"AUROC on {judged} validation images" if judged else "accuracy not judged"
    lines = [
        f"\n### {result['architecture']} at {result['size_px']} pixels ({accuracy})\n",
        "| engine | ms | times eager | AUROC change | largest probability change "
        "| images/s, 1 and 2 callers | load s |",
        "|---|---|---|---|---|---|---|",
        f"| PyTorch eager | {1e3 * result['pytorch_eager_s']:.2f} | 1.00 | | | | |",
    ]
    for row in result["engines"]:
        each = Measured(**{field.name: row[field.name] for field in dataclasses.fields(Measured)})
        if not each.latency_s:
            lines.append(f"| {row['engine']} | | | | | | {each.refused} |")
            continue
        change = f"{each.auroc_change:+.4f}" if judged and each.auroc_change is not None else ""
        probability = f"{each.probability_change:.4f}" if judged else ""
        rates = row["images_per_s"]
        lines.append(
            f"| {row['engine']} | {1e3 * each.latency_s:.2f} | {each.speedup:.2f} | {change} | {probability} "
            f"| {rates['1']:.0f}, {rates['2']:.0f} | {row['load_s']:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
