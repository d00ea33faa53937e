"""Radiographs for the benchmark, made once: a few large ones, or many small ones."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pydicom.uid as uids

from bench.serving.servers import ROOT
from hounsfield.data.exposure import MACHINES, dataset
from hounsfield.data.sample import _plan

OUT = ROOT / "build" / "bench"
SIDE_PX = 2048


def radiographs(folder: Path, images: int, compressed: bool, side_px: int = SIDE_PX) -> Path:
    """`dicom/` with DX images of noise over a gradient, 16 bits used, and `labels.csv`; made once."""
    if (folder / "labels.csv").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "dicom").mkdir(parents=True)
    dice = np.random.default_rng(1)
    ramp = np.linspace(2000, 50000, side_px)
    machine = next(one for one in MACHINES if one.bits_stored == 16)  # writes JPEG 2000
    if not compressed:
        machine = dataclasses.replace(machine, transfer_syntax=uids.ExplicitVRLittleEndian)
    labels = ["SOPInstanceUID,label"]
    for image in _plan(images, seed=3):
        pixels = np.clip(ramp[:, None] + dice.normal(0, 400, (side_px, side_px)), 0, 65535).astype(np.uint16)
        ds = dataset(pixels, machine, image.person, image.visit, image.view, image.sop_uid, image.instance)
        ds.save_as(folder / "dicom" / f"{image.number:05}.dcm", enforce_file_format=True)
        labels.append(f"{image.sop_uid},{int(image.positive)}")
    (folder / "labels.csv").write_text("\n".join(labels) + "\n")
    return folder


def many(folder: Path, count: int) -> Path:
    """`count` small files of distinct UIDs: each is one of 100 with its UIDs replaced by others as long."""
    shutil.rmtree(folder, ignore_errors=True)
    models = sorted((radiographs(OUT / "small-100", 100, compressed=False, side_px=64) / "dicom").iterdir())
    labels = ["SOPInstanceUID,label"]
    contents = []
    for model in models:
        uid = str(pydicom.dcmread(model, stop_before_pixels=True).SOPInstanceUID)
        contents.append((model.read_bytes(), uid))
    for number in range(count):
        content, uid = contents[number % len(contents)]
        fresh = f"{uid[: -len(str(count)) - 1]}{number:0{len(str(count)) + 1}}"
        path = folder / "dicom" / f"{number // 1000:03}" / f"{number}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.replace(uid.encode(), fresh.encode()))
        labels.append(f"{fresh},{number % len(contents) % 2}")
    (folder / "labels.csv").write_text("\n".join(labels) + "\n")
    return folder
