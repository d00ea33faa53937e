"""The bytes of each request, by the server's way of being asked; written once, before anything is timed."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np

from hounsfield.config import MODEL_NAME
from hounsfield.serving.wire import write_byte_elements

INFER = f"/v2/models/{MODEL_NAME}/infer"
BOUNDARY = "bench-boundary"


def http(path: str, body: bytes, content_type: str, **headers: str) -> bytes:
    """One whole HTTP/1.1 request."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def v2(image: np.ndarray, dicom: bytes | None = None) -> dict[str, bytes]:
    """Open Inference Protocol: the request of every door, with the image or one DICOM file."""
    from tritonclient.grpc import service_pb2

    if dicom is None:
        name, datatype, shape, raw = "image", "FP32", list(image.shape), image.tobytes()
        values = image.ravel().tolist()
    else:
        name, datatype, shape, raw = "dicom", "BYTES", [1], write_byte_elements([dicom])
        values = [base64.b64encode(dicom).decode()]
    tensor = {"name": name, "datatype": datatype, "shape": shape}
    head = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": len(raw)}}]}).encode()
    # Of four digits, so that the JSON is as short as the values allow.
    listed = [round(value, 4) for value in values] if dicom is None else values
    call = service_pb2.ModelInferRequest(model_name=MODEL_NAME, raw_input_contents=[raw])
    call.inputs.add(name=name, datatype=datatype, shape=shape)
    return {
        "grpc": call.SerializeToString(),
        "rest-binary": http(
            INFER, head + raw, "application/octet-stream", Inference_Header_Content_Length=str(len(head))
        ),
        "rest-json": http(
            INFER, json.dumps({"inputs": [tensor | {"data": listed}]}).encode(), "application/json"
        ),
    }


def bento(image: np.ndarray) -> dict[str, bytes]:
    """BentoML's own two ways."""
    rounded = np.round(image.astype(np.float64), 4)
    form = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="image.bin"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode() + image.tobytes()
    return {
        "rest-binary": http(
            "/predict_file",
            form + f"\r\n--{BOUNDARY}--\r\n".encode(),
            f"multipart/form-data; boundary={BOUNDARY}",
        ),
        "rest-json": http("/predict", json.dumps({"image": rounded.tolist()}).encode(), "application/json"),
    }


def write(folder: Path, prefix: str, requests: dict[str, bytes]) -> dict[str, Path]:
    """Each request into a file of its own."""
    paths = {}
    for door, content in requests.items():
        paths[door] = folder / f"{prefix}.{door}"
        paths[door].write_bytes(content)
    return paths
