"""Raw inference, without any server: `python -m bench.serving.raw ARGUMENTS` prints one line of JSON.

Streams are threads of one process that share a session of one thread a run. With `dicom`, a run is decode +
preprocess + inference of that file's bytes.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

import numpy as np


def measure(onnx: str, image: str, seconds: float, streams: int, dicom: str | None = None) -> dict:
    """Latencies of `streams` streams over `seconds`, after a warm-up of one second."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    once = _from_dicom(session, Path(dicom)) if dicom else _from_image(session, np.load(image))
    began_s = time.monotonic() + 1.0
    end_s = began_s + seconds
    latency_s: list[float] = []

    def stream() -> None:
        while (start_s := time.monotonic()) < end_s:
            once()
            now_s = time.monotonic()
            if began_s <= now_s <= end_s:
                latency_s.append(now_s - start_s)

    threads = [threading.Thread(target=stream) for _ in range(streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"latency_s": latency_s, "rate_per_s": len(latency_s) / seconds, "value": float(once()[0])}


def _from_image(session, image: np.ndarray):
    return lambda: session.run(["logit"], {"image": image})[0]


def _from_dicom(session, path: Path):
    from hounsfield.dicom.reading import read_image
    from hounsfield.imaging.contract import ImageContract, prepare

    data = path.read_bytes()
    contract = ImageContract(size_px=session.get_inputs()[0].shape[-1])
    return lambda: session.run(["logit"], {"image": prepare(read_image(data), contract)[np.newaxis]})[0]


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))))
