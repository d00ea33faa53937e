"""What the inference log keeps of a request: a record an instance, and nothing that identifies a patient."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hounsfield.audit.segments import now_text
from hounsfield.dicom.groups import COUNTED
from hounsfield.serving.contract import Answer, Caller

_HALF_MAX = float(np.finfo(np.float16).max)


def prediction_records(
    caller: Caller,
    model: Mapping[str, str],
    *,
    input_kind: str,
    sha256s: Sequence[str],
    answer: Answer,
    groups: Sequence[tuple[str, ...]],
    latency_s: float,
) -> list[dict[str, Any]]:
    """One record an instance; `groups` are those of COUNTED.

    `model` holds model_name, model_version, package_digest and contract_digest. `latency_s` is from the
    request's arrival until now: the wait for the disk cannot be in a record that is yet to be written.
    """
    shared = {"kind": "prediction", **_who(caller), **model, "input_kind": input_kind}
    return [
        {
            **shared,
            "instance": row,
            "input_sha256": sha256s[row],
            "probability": None if refusal else float(answer.probability[row]),
            "label": answer.label[row],
            "review_required": bool(answer.review_required[row]),
            "refusal": refusal,
            "latency_s": round(latency_s, 6),
            "embedding": None if refusal else _half(answer.embedding[row]),
            "subgroups": dict(zip(COUNTED, groups[row], strict=False)),
        }
        for row, refusal in enumerate(answer.refusal)
    ]


def error_records(
    caller: Caller, model: Mapping[str, str], instances: int, error: str, latency_s: float
) -> list[dict[str, Any]]:
    """One record an instance of a request that the server failed; `error` is its kind, never its text."""
    shared = {"kind": "error", **_who(caller), **model, "error": error, "latency_s": round(latency_s, 6)}
    return [{**shared, "instance": row} for row in range(instances)]


def feedback_record(request_id: str, instance: int, truth: str, caller: str) -> dict[str, Any]:
    """A reader's label of one instance that was predicted before."""
    return {
        "kind": "feedback",
        "time": now_text(),
        "request_id": request_id,
        "instance": instance,
        "truth": truth,
        "caller": caller,
    }


def _who(caller: Caller) -> dict[str, Any]:
    return {
        "time": now_text(),
        "request_id": caller.request_id,
        "caller": caller.caller,
        "study": caller.study,
        "shadow": caller.shadow,
        "door": caller.door,
    }


def _half(embedding: np.ndarray) -> str:
    """Base64 of little-endian float16: half the space, and far finer than what drift detectors look at."""
    return base64.b64encode(np.clip(embedding, -_HALF_MAX, _HALF_MAX).astype("<f2").tobytes()).decode()
