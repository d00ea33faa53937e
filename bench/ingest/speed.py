"""How fast: every path over the same radiographs, beside the decoder's own limit."""

from __future__ import annotations

import hashlib
import io
import json
import mmap
import multiprocessing
import queue
import shutil
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from unittest import mock

import cv2
import pydicom

from bench.ingest.files import OUT, SIDE_PX, radiographs
from hounsfield.data.examine import Rules
from hounsfield.data.ingest import ingest
from hounsfield.data.journal import Journal
from hounsfield.dicom.parsing import load, parse
from hounsfield.dicom.reading import decode_pixels
from hounsfield.imaging.contract import ImageContract
from hounsfield.imaging.preprocess import preprocess
from hounsfield.progress import Reporter

TENSOR_PX = 128
UNCOUNTED = 10
PROCESSES = 2
IMAGE_BYTES = 2 * SIDE_PX**2
_COPIES = OUT / "ingest-copies"


def speed(images: int, rounds: int, compressed: bool) -> int:
    source = radiographs(OUT / f"radiographs-{'j2k' if compressed else 'plain'}-{images}", images, compressed)
    files = sorted((source / "dicom").rglob("*.dcm"))
    few = files[: images // 4]
    ingest_all(source)
    _COPIES.mkdir(exist_ok=True)
    paths: dict[str, Callable[[], Iterable[object]]] = {
        "limit": lambda: _with_processes(_limit, files),
        "view": lambda: _with_processes(_view, files),
        "copy": lambda: _on_warm_memory(_with_processes(_copy, files), images),
        "preprocess": lambda: _ticks(_preprocess, Reporter, "update"),
        "ingest": lambda: _on_warm_memory(_ingest(source), images),
        "MONAI, 0 workers": lambda: _monai(few, 0),
        "MONAI, 2 workers": lambda: _monai(few, 2),
    }
    seen: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(rounds):
        for name, path in paths.items():
            seen[name].append(_rate(path()))
    shutil.rmtree(_COPIES)
    rates = {name: statistics.median(values) for name, values in seen.items()}
    rates["ingest, then preprocess"] = 1 / (1 / rates["ingest"] + 1 / rates["preprocess"])
    best_monai = max(rates["MONAI, 0 workers"], rates["MONAI, 2 workers"])
    print("| path | images/s | of the limit | times MONAI's |\n|---|---|---|---|")
    for name, rate in rates.items():
        print(f"| {name} | {rate:.0f} | {rate / rates['limit']:.2f} | {rate / best_monai:.1f} |")
    kind = "compressed" if compressed else "plain"
    (OUT / f"ingest-speed-{kind}.json").write_text(json.dumps({"rates": rates, "rounds": seen}))
    return 0


def _rate(images: Iterable[object]) -> float:
    """Images a second from the tenth to the end: without the start of processes."""
    began_s, after = time.perf_counter(), 0
    count = 0
    for count, _ in enumerate(images, start=1):
        if count == UNCOUNTED:
            began_s, after = time.perf_counter(), count
    return (count - after) / (time.perf_counter() - began_s)


def _ticks(step: Callable[[], object], owner: type, method: str) -> Iterator[None]:
    """One element for each image that `step` tells of by a call; another when it is over, tables and all."""
    done: queue.SimpleQueue[bool] = queue.SimpleQueue()
    called = getattr(owner, method)

    def said(*arguments: object, **options: object) -> object:
        done.put(True)
        return called(*arguments, **options)

    with mock.patch.object(owner, method, said):
        worker = threading.Thread(target=lambda: (step(), done.put(False)))
        worker.start()
        while done.get():
            yield
        worker.join()


def _ingest(source: Path) -> Iterator[None]:
    return _ticks(lambda: ingest_all(source), Journal, "add")


def _on_warm_memory(images: Iterator[object], count: int) -> Iterator[object]:
    """Hold as much memory as `images` write, and let go of one image's with each of them.

    The host of a virtual machine may take free memory back, and gives it again at 8 us a page, 16 ms an
    image. A machine whose memory is full of an archive's other files, as in a long run, has no such pages.
    """
    held = [mmap.mmap(-1, IMAGE_BYTES) for _ in range(count)]
    for block in held:
        block.madvise(mmap.MADV_HUGEPAGE)
        block.write(b"\1" * IMAGE_BYTES)
    for image in images:
        if held:
            held.pop().close()
        yield image


def _with_processes(work: Callable[[Path], float], files: list[Path]) -> Iterator[float]:
    with multiprocessing.get_context("spawn").Pool(PROCESSES, initializer=_warm) as pool:
        yield from pool.imap_unordered(work, files)


def _warm() -> None:
    cv2.setNumThreads(1)


def _limit(path: Path) -> float:
    return float(pydicom.dcmread(io.BytesIO(path.read_bytes())).pixel_array[0, 0])


def _view(path: Path) -> float:
    return float(decode_pixels(parse(load(path)))[0, 0])


def _copy(path: Path) -> str:
    data = load(path)
    (_COPIES / path.name).write_bytes(data)
    decode_pixels(parse(data))
    return hashlib.sha256(data).hexdigest()


def ingest_all(source: Path) -> Path:
    out = OUT / "ingest-set"
    shutil.rmtree(out, ignore_errors=True)
    ingest(source / "dicom", source / "labels.csv", out, Rules(b"a key for the benchmark"), workers=PROCESSES)
    return out


def _preprocess() -> None:
    preprocess(
        OUT / "ingest-set", OUT / "ingest-tensors", ImageContract(size_px=TENSOR_PX), workers=PROCESSES
    )


def _monai(files: list[Path], workers: int) -> Iterator[None]:
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
    for batch in loader:
        yield from [None] * len(batch["image"])
