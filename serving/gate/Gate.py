"""The validation gate as a Seldon Core Python component (1.17.1, the guard environment).

Three calls of Seldon's own protocol, in this order:

1. predictions, jsonData {replay: {...}}: replays the frozen set through candidate and champion and answers
   {replay: id, cases: N}. The truths are not known yet.
2. feedback, request.data.ndarray [id], truth.data.ndarray [[file, label], ...]: the truths.
3. predictions, jsonData {judge: id}: answers {verdict: {...}, entry: {...}}, the verdict signed by the gate.

The verdict is the answer to a prediction, because Seldon's executor gives nobody the answer to a feedback. It
counts `seldon_validator_total` and `seldon_validator_passed_total`, with 0 from the first call on: a rate
needs the series before its first pass. HOUNSFIELD_GATE_KEY_FILE is the key that verdicts are signed with,
HOUNSFIELD_VERIFY_KEY_FILE the public one of packages. Where the gateway asks who calls, the gate shows the
token in HOUNSFIELD_GATE_TOKEN_FILE; HOUNSFIELD_GATE_CA_FILE is the CA of that gateway, if no public one.
"""

from __future__ import annotations

import os
import uuid
from collections import OrderedDict
from pathlib import Path
from typing import Any

from seldon_core.flask_utils import SeldonMicroserviceException
from seldon_core.metrics import create_counter
from seldon_core.user_model import SeldonComponent, SeldonResponse

from hounsfield.errors import ConfigError, DataError, HounsfieldError
from hounsfield.rollout import signed
from hounsfield.rollout.replay import Caller
from serving.gate.judgement import Judgement, Question

KEPT = 4
"""Replays whose verdict has not been asked for; an older one has been given up by whoever asked."""


class Gate(SeldonComponent):
    def __init__(self) -> None:
        super().__init__()
        self._key = signed.load_key(_path("HOUNSFIELD_GATE_KEY_FILE"))
        self._verify_key = _path("HOUNSFIELD_VERIFY_KEY_FILE")
        token, ca = (os.environ.get(f"HOUNSFIELD_GATE_{name}_FILE") for name in ("TOKEN", "CA"))
        self._caller = Caller(Path(token) if token else None, Path(ca) if ca else None)
        self._replays: OrderedDict[str, Judgement] = OrderedDict()

    def predict(self, X: Any, names: Any, meta: Any = None) -> SeldonResponse:
        if isinstance(X, dict) and isinstance(X.get("replay"), dict):
            return _counted(_answer(self._replay, X["replay"]), 0, 0)
        if isinstance(X, dict) and isinstance(X.get("judge"), str):
            found = _answer(self._judge, X["judge"])
            return _counted(found, 1, int(found["verdict"]["passed"] is True))
        raise _refused("jsonData must have the key 'replay', a mapping, or the key 'judge', a replay's id")

    def send_feedback(self, features: Any, names: Any, reward: Any, truth: Any, routing: Any = None) -> list:
        def take() -> None:
            try:
                pairs = {str(name): str(label) for name, label in truth}
                (replay,) = (str(each) for each in features)
            except (TypeError, ValueError):
                raise DataError(
                    "the feedback needs a replay's id as request, and pairs of file and label as truth"
                ) from None
            self._known(replay).take_truth(pairs)

        _answer(take)
        return []

    def _replay(self, values: dict[str, Any]) -> dict[str, Any]:
        judgement = Judgement(Question.from_dict(values), self._verify_key, self._caller)
        judgement.replay()
        name = str(uuid.uuid4())
        self._replays[name] = judgement
        while len(self._replays) > KEPT:
            self._replays.popitem(last=False)
        return {"replay": name, "cases": len(judgement.frozen.names)}

    def _judge(self, replay: str) -> dict[str, Any]:
        verdict, statement = self._known(replay).judge()
        del self._replays[replay]
        return {"verdict": verdict.as_dict(), "entry": signed.sign("gate", statement, self._key)}

    def _known(self, replay: str) -> Judgement:
        if replay not in self._replays:
            raise DataError(
                "the gate knows no replay of that id: it was started anew, or has judged it already"
            )
        return self._replays[replay]


def _counted(data: dict[str, Any], total: int, passed: int) -> SeldonResponse:
    counters = [
        create_counter("seldon_validator_total", total),
        create_counter("seldon_validator_passed_total", passed),
    ]
    return SeldonResponse(data=data, metrics=counters)


def _answer(work: Any, *arguments: Any) -> Any:
    try:
        return work(*arguments)
    except HounsfieldError as error:
        raise _refused(str(error)) from None


def _refused(sentence: str) -> SeldonMicroserviceException:
    return SeldonMicroserviceException(sentence, status_code=400, reason="BAD_QUESTION")


def _path(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        raise ConfigError(f"{variable} is not set; the gate needs the file of that key")
    return Path(value)
