"""Replay the frozen validation set through a served model over the Open Inference Protocol (v2, JSON)."""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import requests

from hounsfield.config import CLASS_NAMES, MODEL_NAME
from hounsfield.errors import ServingError
from hounsfield.rollout.measurements import Answers

OUTPUTS = ("probability", "label", "refusal", "embedding")


@dataclass(frozen=True)
class Caller:
    """Who the gateway is asked as: the bearer token in `token_file`; `ca_file` is the CA of the gateway, if
    no public one."""

    token_file: Path | None = None
    ca_file: Path | None = None

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Read anew for each request: what put the file there replaces it before the token ends."""
        try:
            token = self.token_file.read_text(encoding="ascii").strip() if self.token_file else ""
        except (OSError, UnicodeDecodeError):
            raise ServingError(f"{self.token_file} cannot be read as a token for the gateway") from None
        if token:
            request.headers["Authorization"] = f"Bearer {token}"
        return request


@dataclass(frozen=True)
class _Row:
    probability: float
    is_positive: bool
    embedding: np.ndarray | None


def replay(
    url: str,
    files: Sequence[Path],
    model_name: str = MODEL_NAME,
    revision: str = "",
    caller: Caller = Caller(),
    timeout_s: float = 10.0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Answers:
    """Send every file, one a request, and keep the answers in that order.

    `url` is the server's address without a path, or the gateway's, which answers by `revision` (stable,
    canary), whatever the weights are, to a `caller` that may ask so. Raises ServingError when the model is
    not ready there, or the caller's file cannot be read; a single request that fails is counted as an error,
    an element that the server refuses as a refusal.
    """
    address = f"{url.rstrip('/')}/v2/models/{model_name}"
    rows: list[_Row | None] = []
    latencies_s, versions, digests = [], set(), set()
    errors = refusals = 0
    with requests.Session() as session:
        session.trust_env = False  # a proxy of the hospital's network has no part in this
        session.auth = caller
        session.verify = str(caller.ca_file) if caller.ca_file else True
        if revision:
            session.headers["x-hounsfield-revision"] = revision
        _check_ready(session, address, timeout_s)
        for done, file in enumerate(files, start=1):
            content = file.read_bytes()
            started_s = time.perf_counter()
            answer = _infer(session, address, content, timeout_s)
            latencies_s.append(time.perf_counter() - started_s)
            on_progress(done, len(files))
            rows.append(None)
            if answer is None:
                errors += 1
                continue
            versions.add(str(answer.get("model_version") or ""))
            digests.add(str((answer.get("parameters") or {}).get("package_digest") or ""))
            outputs = _outputs(answer)
            if outputs["refusal"][0]:
                refusals += 1
            else:
                embedding = np.array(outputs["embedding"], np.float32) if "embedding" in outputs else None
                is_positive = outputs["label"][0] == CLASS_NAMES[1]
                rows[-1] = _Row(float(outputs["probability"][0]), is_positive, embedding)
    return Answers(
        is_scored=np.array([row is not None for row in rows], dtype=bool),
        probability=np.array([row.probability if row else math.nan for row in rows]),
        called=np.array([row is not None and row.is_positive for row in rows], dtype=bool),
        errors=errors,
        refusals=refusals,
        latency_p95_s=float(np.quantile(latencies_s, 0.95)) if latencies_s else None,
        versions=tuple(sorted(versions)),
        digests=tuple(sorted(digests)),
        embedding=_embeddings(rows),
    )


def _embeddings(rows: Sequence[_Row | None]) -> np.ndarray | None:
    """(N, E) with NaN where there was no answer; None unless every answer has one, of the same size."""
    found = [row.embedding for row in rows if row is not None]
    if not found or any(each is None or each.size != found[0].size for each in found):
        return None
    empty = np.full(found[0].size, np.nan, np.float32)
    return np.stack([empty if row is None else row.embedding for row in rows])


def _check_ready(session: requests.Session, address: str, timeout_s: float) -> None:
    try:
        response = session.get(f"{address}/ready", timeout=timeout_s)
    except OSError:  # requests' own errors, and that there is no such ca_file
        raise ServingError(f"no model answers at {address}; is its server running?") from None
    if response.status_code in (401, 403):
        raise ServingError(
            f"the gateway does not let the gate ask {address} (HTTP {response.status_code}): it needs a "
            "token with the role operator (HOUNSFIELD_GATE_TOKEN_FILE)"
        )
    if response.status_code != 200:
        raise ServingError(f"the model at {address} is not ready (HTTP {response.status_code})")


def _infer(
    session: requests.Session, address: str, content: bytes, timeout_s: float
) -> dict[str, Any] | None:
    """The answer to one file, or None when it is an error or does not have the outputs of our predictor."""
    data = [base64.b64encode(content).decode("ascii")]
    body = {
        "inputs": [{"name": "dicom", "datatype": "BYTES", "shape": [1], "data": data}],
        "outputs": [{"name": name} for name in OUTPUTS],
    }
    try:
        response = session.post(f"{address}/infer", json=body, timeout=timeout_s)
        if response.status_code != 200:
            return None
        answer = response.json()
        outputs = _outputs(answer)
        if outputs["refusal"][0]:
            return answer
        probability = float(outputs["probability"][0])
        is_whole = 0 <= probability <= 1 and outputs["label"][0] in CLASS_NAMES
        return answer if is_whole else None
    except (requests.RequestException, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return None


def _outputs(answer: dict[str, Any]) -> dict[str, list[Any]]:
    return {output["name"]: output["data"] for output in answer["outputs"]}
