"""Ask a served model about one DICOM file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hounsfield.config import MODEL_NAME
from hounsfield.errors import ServingError
from hounsfield.serving.wire import write_byte_elements


def predict_file(
    url: str,
    path: Path,
    model_name: str = MODEL_NAME,
    *,
    headers: dict[str, str] | None = None,
    timeout_s: float = 30.0,
) -> dict[str, Any]:
    """The answer about the DICOM file at `path` from the server at `url`, for example `http://127.0.0.1:8080`."""
    try:
        source = Path(path).read_bytes()
    except OSError as error:
        raise ServingError(f"the file to predict cannot be read: {error.strerror}") from None
    return predict_bytes(url, source, model_name, headers=headers, timeout_s=timeout_s)


def predict_bytes(
    url: str,
    source: bytes,
    model_name: str = MODEL_NAME,
    *,
    headers: dict[str, str] | None = None,
    timeout_s: float = 30.0,
) -> dict[str, Any]:
    """Send the bytes of one DICOM file by the binary extension and read the one answer.

    Returns probability (float, or None when refused), label, review_required, refusal, model_name,
    model_version and the response's parameters. Raises ServingError when there is no answer.
    """
    import requests

    raw = write_byte_elements([source])
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "dicom",
                    "datatype": "BYTES",
                    "shape": [1],
                    "parameters": {"binary_data_size": len(raw)},
                }
            ]
        }
    ).encode()
    address = f"{url.rstrip('/')}/v2/models/{model_name}/infer"
    try:
        response = requests.post(
            address,
            data=head + raw,
            headers={
                "Content-Type": "application/octet-stream",
                "Inference-Header-Content-Length": str(len(head)),
                **(headers or {}),
            },
            timeout=timeout_s,
        )
    except requests.Timeout:
        raise ServingError(f"{address} did not answer within {timeout_s:g} s") from None
    except requests.RequestException:
        raise ServingError(f"{address} cannot be reached: is the stack up? See `hounsfield status`") from None
    try:
        answer = response.json()
        if response.status_code != 200:
            raise ServingError(f"{address} answered {response.status_code}: {answer['error']}")
        columns = {output["name"]: output["data"][0] for output in answer["outputs"]}
        return {
            **{name: columns[name] for name in ("probability", "label", "review_required", "refusal")},
            "model_name": answer["model_name"],
            "model_version": answer.get("model_version", ""),
            "parameters": answer.get("parameters", {}),
        }
    except (ValueError, KeyError, TypeError, IndexError):
        raise ServingError(
            f"{address} answered {response.status_code} in a form that is not ours: is it Hounsfield's?"
        ) from None
