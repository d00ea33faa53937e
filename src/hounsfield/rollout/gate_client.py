"""Ask the Seldon validation gate for its verdict, by Seldon's own prediction protocol."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import requests

from hounsfield.config import MODEL_NAME
from hounsfield.errors import GuardError
from hounsfield.rollout.gate import GateVerdict
from hounsfield.rollout.policy import GatePolicy


def request_verdict(
    gate_url: str,
    candidate_url: str,
    champion_url: str | None,
    validation_dir: Path,
    policy: GatePolicy,
    *,
    model_name: str = MODEL_NAME,
    candidate_version: str | None = None,
    timeout_s: float = 600.0,
) -> GateVerdict:
    """Have the candidate judged; `validation_dir` is a path that the gate can read.

    Raises GuardError when the gate does not answer, or refuses the question.
    """
    question = {
        "candidate_url": candidate_url,
        "champion_url": champion_url,
        "validation_dir": str(validation_dir.resolve()),
        "policy": dataclasses.asdict(policy),
        "model_name": model_name,
        "candidate_version": candidate_version,
    }
    address = f"{gate_url.rstrip('/')}/api/v1.0/predictions"
    try:
        with requests.Session() as session:
            session.trust_env = False  # a proxy of the hospital's network has no part in this
            response = session.post(address, json={"jsonData": question}, timeout=timeout_s)
    except requests.RequestException:
        raise GuardError(f"the validation gate does not answer at {gate_url}; is it running?") from None
    try:
        answer = response.json()
        if response.status_code != 200:
            raise GuardError(f"the validation gate refused: {answer['status']['info']}")
        return GateVerdict.from_dict(answer["jsonData"])
    except (ValueError, KeyError, TypeError):
        raise GuardError(
            f"the validation gate at {gate_url} answered something that is no verdict "
            f"(HTTP {response.status_code})"
        ) from None
