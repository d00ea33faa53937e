"""How fast: every path over the same radiographs, beside the decoder's own limit."""

from __future__ import annotations

import io
import json
import multiprocessing
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import pydicom

from bench.ingest.files import OUT, radiographs
from hounsfield.data.examine import Rules
from hounsfield.data.ingest import ingest
from hounsfield.dicom.parsing import load, parse
from hounsfield.dicom.reading import decode_pixels
from hounsfield.imaging.contract import ImageContract
from hounsfield.imaging.preprocess import preprocess

TENSOR_PX = 128
PROCESSES = 2


def speed(images: int, rounds: int, compressed: bool) -> int:
    source = radiographs(OUT / f"radiographs-{'j2k' if compressed else 'plain'}-{images}", images, compressed)
    files = sorted((source / "dicom").rglob("*.dcm"))
    paths: dict[str, Callable[[], None]] = {
        "limit": lambda: _with_processes(_limit, files),
        "view": lambda: _with_processes(_view, files),
        "preprocess": lambda: _preprocess(source),
        "ingest": lambda: ingest_all(source),
        "MONAI, 0 workers": lambda: _monai(files[: images // 4], 0),
        "MONAI, 2 workers": lambda: _monai(files[: images // 4], 2),
    }
    shares = {name: 0.25 if name.startswith("MONAI") else 1.0 for name in paths}
    seen: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(rounds):
        for name, path in paths.items():
            began_s = time.perf_counter()
            path()
            seen[name].append(images * shares[name] / (time.perf_counter() - began_s))
    rates = {name: statistics.median(values) for name, values in seen.items()}
    best_monai = max(rates["MONAI, 0 workers"], rates["MONAI, 2 workers"])
    print("| path | images/s | of the limit | times MONAI's |\n|---|---|---|---|")
    for name, rate in rates.items():
        print(f"| {name} | {rate:.0f} | {rate / rates['limit']:.2f} | {rate / best_monai:.1f} |")
    kind = "compressed" if compressed else "plain"
    (OUT / f"ingest-speed-{kind}.json").write_text(json.dumps({"rates": rates, "rounds": seen}))
    return 0


def _with_processes(work: Callable[[Path], float], files: list[Path]) -> None:
    with multiprocessing.get_context("spawn").Pool(PROCESSES, initializer=_warm) as pool:
        for _ in pool.imap_unordered(work, files, chunksize=5):
            pass


def _warm() -> None:
    cv2.setNumThreads(1)


def _limit(path: Path) -> float:
    return float(pydicom.dcmread(io.BytesIO(path.read_bytes())).pixel_array[0, 0])


def _view(path: Path) -> float:
    return float(decode_pixels(parse(load(path)))[0, 0])


def ingest_all(source: Path) -> Path:
    out = OUT / "ingest-set"
    shutil.rmtree(out, ignore_errors=True)
    ingest(source / "dicom", source / "labels.csv", out, Rules(b"a key for the benchmark"), workers=PROCESSES)
    return out


def _preprocess(source: Path) -> None:
    out = OUT / "ingest-set"
    if not (out / "dataset.json").exists():
        ingest_all(source)
    preprocess(out, OUT / "ingest-tensors", ImageContract(size_px=TENSOR_PX), workers=PROCESSES)


def _monai(files: list[Path], workers: int) -> None:
    from monai.data import DataLoader, Dataset
    from monai.transforms import (
        Compose,
        EnsureChannelFirstd,
        LoadImaged,
        Resized,
        ScaleIntensityRangePercentilesd,
    )

    steps = Compose(
        [
            LoadImaged("image", reader="PydicomReader"),
            EnsureChannelFirstd("image"),
            ScaleIntensityRangePercentilesd("image", 0.5, 99.5, 0, 1, clip=True),
            Resized("image", (TENSOR_PX, TENSOR_PX), mode="area"),
        ]
    )
    loader = DataLoader(
        Dataset([{"image": str(path)} for path in files], steps), batch_size=8, num_workers=workers
    )
    for _ in loader:
        pass
