"""Ask the Seldon validation gate for its verdict, by Seldon's own prediction and feedback calls."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from hounsfield.config import MODEL_NAME
from hounsfield.errors import GuardError
from hounsfield.rollout import validation_set
from hounsfield.rollout.change_plan import ChangePlan
from hounsfield.rollout.gate_policy import GatePolicy


@dataclass(frozen=True)
class Judged:
    """The gate's answer: `verdict` as `GateVerdict.as_dict` has it, `entry` as the gate has signed it."""

    verdict: dict[str, Any]
    entry: dict[str, Any]

    @property
    def passed(self) -> bool:
        """Only the literal true is a pass, and the signed word has to say the same."""
        return self.verdict["passed"] is True and self.entry["statement"]["passed"] is True

    @property
    def reasons(self) -> tuple[str, ...]:
        return tuple(map(str, self.verdict["reasons"]))


def request_verdict(
    gate_url: str,
    *,
    candidate_url: str,
    candidate_version: str,
    package_digest: str,
    package_dir: Path,
    champion_url: str | None,
    validation_dir: Path,
    policy: GatePolicy,
    plan: ChangePlan,
    model_name: str = MODEL_NAME,
    timeout_s: float = 600.0,
) -> Judged:
    """Have the candidate judged; the folders are paths that the gate can read.

    Raises GuardError when the gate does not answer, or refuses the question, DataError for a set without
    truths.
    """
    truth = validation_set.read_truth(validation_dir)
    question = {
        "candidate_url": candidate_url,
        "candidate_version": candidate_version,
        "package_digest": package_digest,
        "package_dir": str(package_dir.resolve()),
        "champion_url": champion_url,
        "validation_dir": str(validation_dir.resolve()),
        "model_name": model_name,
        "policy": policy.as_dict(),
        "plan": plan.as_dict(),
    }
    with requests.Session() as session:
        session.trust_env = False  # a proxy of the hospital's network has no part in this

        def ask(call: str, body: dict[str, Any]) -> dict[str, Any]:
            return _ask(session, gate_url, call, body, timeout_s)

        try:
            replay = ask("predictions", {"jsonData": {"replay": question}})["jsonData"]["replay"]
            pairs = [[name, label] for name, label in truth.items()]
            request, told = {"data": {"ndarray": [replay]}}, {"data": {"ndarray": pairs}}
            ask("feedback", {"request": request, "truth": told})
            answer = ask("predictions", {"jsonData": {"judge": replay}})["jsonData"]
            judged = Judged(answer["verdict"], answer["entry"])
            _ = judged.passed, judged.reasons
        except (KeyError, TypeError):
            raise GuardError(
                f"the validation gate at {gate_url} answered something that is no verdict"
            ) from None
    return judged


def _ask(
    session: requests.Session, gate_url: str, call: str, body: dict[str, Any], timeout_s: float
) -> dict[str, Any]:
    try:
        response = session.post(f"{gate_url.rstrip('/')}/api/v1.0/{call}", json=body, timeout=timeout_s)
    except requests.RequestException:
        raise GuardError(f"the validation gate does not answer at {gate_url}; is it running?") from None
    try:
        answer = response.json()
        if response.status_code != 200:
            raise GuardError(f"the validation gate refused: {answer['status']['info']}")
    except (ValueError, KeyError, TypeError):
        raise GuardError(
            f"the validation gate at {gate_url} answered something that is no verdict "
            f"(HTTP {response.status_code})"
        ) from None
    return answer
