"""The validation gate as a Seldon Core Python component (1.17.1, the guard environment).

`predict` takes jsonData {candidate_url, champion_url | null, validation_dir, policy, model_name?,
candidate_version?} and answers jsonData {passed, reasons, numbers}. It counts `seldon_validator_total` and
`seldon_validator_passed_total`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from seldon_core.flask_utils import SeldonMicroserviceException
from seldon_core.metrics import create_counter
from seldon_core.user_model import SeldonComponent, SeldonResponse

from hounsfield.config import MODEL_NAME
from hounsfield.errors import HounsfieldError, ServingError
from hounsfield.rollout.gate import GateVerdict, judge
from hounsfield.rollout.policy import GatePolicy
from hounsfield.rollout.replay import replay


class Gate(SeldonComponent):
    def predict(self, X: Any, names: Any, meta: Any = None) -> SeldonResponse:
        verdict = self._verdict(_question(X))
        counters = [
            create_counter("seldon_validator_total", 1),
            # Counted at 0 too: a rate needs the series before the first pass.
            create_counter("seldon_validator_passed_total", int(verdict.passed)),
        ]
        return SeldonResponse(data=verdict.as_dict(), metrics=counters)

    def _verdict(self, question: dict[str, Any]) -> GateVerdict:
        folder, model_name = Path(question["validation_dir"]), question.get("model_name") or MODEL_NAME
        try:
            policy = GatePolicy.from_mapping(question["policy"])
            champion_url = question["champion_url"]
            try:
                candidate = replay(question["candidate_url"], folder, model_name)
                champion = replay(champion_url, folder, model_name) if champion_url else None
            except ServingError as error:  # a model that does not answer has not passed
                return GateVerdict(False, (str(error),), {})
        except HounsfieldError as error:
            raise SeldonMicroserviceException(str(error), status_code=400, reason="BAD_QUESTION") from None
        return judge(candidate, champion, policy, question.get("candidate_version"))


def _question(data: Any) -> dict[str, Any]:
    required = ("candidate_url", "champion_url", "validation_dir", "policy")
    missing = [key for key in required if not isinstance(data, dict) or key not in data]
    if missing:
        raise SeldonMicroserviceException(
            f"jsonData lacks the key {missing[0]!r}", status_code=400, reason="BAD_QUESTION"
        )
    return data
