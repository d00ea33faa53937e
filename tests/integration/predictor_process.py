"""A real predictor process on free ports, and a small package and a small DICOM file for it."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import requests
import torch
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    RLELossless,
    generate_uid,
)

from hounsfield.imaging.contract import ImageContract
from hounsfield.package.network import write_network
from hounsfield.package.write import write_package
from hounsfield.training.network import build_network, save_network
from tests.unit.package.steps import DATASET, METRICS

ROOT = Path(__file__).parents[2]
CONTRACT = ImageContract(size_px=32)
PATIENT = "DOE^JANE"
NOT_DICOM = PATIENT.encode() * 20


def radiograph(tmp_path, seed, side=48, compressed=False):
    """The bytes of a small DX file; noise of `seed` over a slope."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = DigitalXRayImageStorageForPresentation, generate_uid()
    dataset.PatientName = PATIENT
    dataset.Rows = dataset.Columns = side
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation, dataset.SamplesPerPixel = 0, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    pixels = np.random.default_rng(seed).integers(0, 30000, (side, side)) + np.arange(side)[:, None] * seed
    dataset.PixelData = pixels.astype("<u2").tobytes()
    if compressed:
        dataset.compress(RLELossless, generate_instance_uid=False)
    path = tmp_path / "radiograph.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path.read_bytes()


def make_package(root, prepare_tensors=lambda tensors: None):
    network = build_network("pixel-statistics", 7)
    torch.nn.init.normal_(network.head.weight, generator=torch.Generator().manual_seed(7))
    save_network(network, root / "model", {"architecture": "pixel-statistics"})
    for step, name, value in [
        (
            "evaluation",
            "metrics.json",
            METRICS
            | {
                "operating_point": {"threshold": 0.5, "rule": "halfway"},
                "temperature": 2.0,
                "review_band": [0.45, 0.55],
            },
        ),
        ("dataset", "profile.json", {}),
        ("dataset", "dataset.json", DATASET),
    ]:
        (root / step).mkdir(exist_ok=True)
        (root / step / name).write_text(json.dumps(value))
    (root / "tensors").mkdir()
    CONTRACT.save(root / "tensors")
    np.save(root / "tensors" / "shard-00000.npy", np.zeros((2, *CONTRACT.shape), dtype=np.float32))
    index = pd.DataFrame({"split": ["validation"] * 2, "shard": 0, "row": range(2)})
    index.to_parquet(root / "tensors" / "index.parquet")
    prepare_tensors(root / "tensors")
    write_network(root / "network", model_dir=root / "model", tensors_dir=root / "tensors", temperature=2.0)
    return write_package(
        root / "store",
        model_dir=root / "model",
        network_dir=root / "network",
        evaluation_dir=root / "evaluation",
        drift_dir=None,
        dataset_dir=root / "dataset",
        tensors_dir=root / "tensors",
        lineage={"git_commit": "abc123", "data_fingerprint": "def456"},
    )


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def command(package_dir, http_port, grpc_port, *flags):
    return [
        sys.executable,
        "-m",
        "serving.predictor",
        "--model_name=opacity",
        f"--model_dir={package_dir}",
        "--model_version=3",
        "--host=127.0.0.1",
        f"--http_port={http_port}",
        f"--grpc_port={grpc_port}",
        "--threads=2",
        *flags,
    ]


def start(package, log_path, *flags, file_limit=None):
    """Start it and wait until it is ready; what it prints goes to `log_path`.

    `file_limit` is the most files that it may have open.
    """
    limited = [] if file_limit is None else ["prlimit", f"--nofile={file_limit}:{file_limit}"]
    http_port, grpc_port = free_ports(2)
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [*limited, *command(package.path, http_port, grpc_port, *flags)],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{http_port}"
    wait_until_ready(process, f"{url}/v2/models/opacity/ready", log_path)
    return SimpleNamespace(
        process=process,
        url=url,
        http=f"127.0.0.1:{http_port}",
        grpc=f"127.0.0.1:{grpc_port}",
        infer=f"{url}/v2/models/opacity/infer",
        log=log_path,
    )


def wait_until_ready(process, ready_url, log_path):
    """Ask until it says 200; a process that ended, or is not ready within a minute, shows what it printed."""
    deadline = time.monotonic() + 60
    while True:
        try:
            if requests.get(ready_url, timeout=5).status_code == 200:
                return
        except requests.ConnectionError:
            pass
        assert process.poll() is None, log_path.read_text()
        assert time.monotonic() < deadline, log_path.read_text()
        time.sleep(0.05)


def stop(server):
    server.process.terminate()
    try:
        server.process.wait(30)
    finally:
        server.process.kill()


def json_request(*files):
    data = [base64.b64encode(file).decode() for file in files]
    return {"inputs": [{"name": "dicom", "datatype": "BYTES", "shape": [len(files)], "data": data}]}


def columns(response):
    assert response.status_code == 200, response.text
    return {output["name"]: output["data"] for output in response.json()["outputs"]}
