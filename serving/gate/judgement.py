"""One judgement from the question to the verdict: replay, package, plan, drift, truths."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hounsfield.drift import packaged
from hounsfield.drift.detectors import MIN_BATCH, NAMES
from hounsfield.drift.rows import Rows
from hounsfield.errors import ConfigError, DataError, GuardError, PackageError, ServingError
from hounsfield.explain.checks import stability
from hounsfield.rollout import admission, validation_set
from hounsfield.rollout.candidate import ATTRIBUTIONS, read_candidate
from hounsfield.rollout.change_plan import ChangePlan
from hounsfield.rollout.gate import Drift, GateVerdict, Paperwork, judge, not_answered
from hounsfield.rollout.gate_policy import GatePolicy
from hounsfield.rollout.measurements import Answers, Cases
from hounsfield.rollout.replay import Caller, replay


@dataclass(frozen=True)
class Question:
    """What is to be judged. Folders are the gate's own; `champion_url` None means that there is none yet."""

    candidate_url: str
    candidate_version: str
    package_digest: str
    package_dir: Path
    champion_url: str | None
    validation_dir: Path
    model_name: str
    policy: GatePolicy
    plan: ChangePlan

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Question:
        """From what `gate_client` sends; ConfigError names the key that is missing or wrong."""
        names = [field.name for field in dataclasses.fields(cls)]
        for name in names:
            if name not in values:
                raise ConfigError(f"the question lacks the key {name!r}")
            is_text = isinstance(values[name], str)
            if (
                not is_text
                and name not in ("policy", "plan")
                and (name, values[name]) != ("champion_url", None)
            ):
                raise ConfigError(f"the question's {name} must be text")
        told = {name: values[name] for name in names}
        told["policy"] = GatePolicy.from_mapping(values["policy"])
        told["plan"] = ChangePlan.from_dict(values["plan"])
        for name in ("package_dir", "validation_dir"):
            told[name] = Path(values[name])
        return cls(**told)


class Judgement:
    """Raises DataError for a validation set, or truths, that do not fit; `judge` never raises."""

    def __init__(self, question: Question, verify_key: Path, caller: Caller) -> None:
        self._question, self._verify_key, self._caller = question, verify_key, caller
        self.frozen = validation_set.read(question.validation_dir)
        self._label: np.ndarray | None = None
        self._candidate: Answers | None = None
        self._champion: Answers | None = None
        self._trouble = ""

    def replay(self) -> None:
        """Ask candidate and champion about every case. A model that does not answer has not passed."""
        question = self._question
        try:
            files, name = self.frozen.files, question.model_name
            self._candidate = replay(question.candidate_url, files, name, "canary", self._caller)
            if question.champion_url is not None:
                self._champion = replay(question.champion_url, files, name, "stable", self._caller)
        except ServingError as error:
            self._trouble = str(error)

    def take_truth(self, truth: Mapping[str, str]) -> None:
        self._label = self.frozen.labels(truth)

    def judge(self) -> tuple[GateVerdict, dict[str, Any]]:
        """The verdict, and what the gate signs about it."""
        question, champion = self._question, self._champion
        verdict = self._verdict()
        digests = () if champion is None else champion.digests
        statement = admission.statement(
            passed=verdict.passed,
            package_digest=question.package_digest,
            champion_digest=digests[0] if len(digests) == 1 else None,
            policy_digest=question.policy.digest,
            plan_digest=question.plan.digest,
            validation_digest=None if self._label is None else self.frozen.digest(self._label),
            at=time.time(),
        )
        return verdict, statement

    def _verdict(self) -> GateVerdict:
        policy = self._question.policy
        if self._trouble or self._candidate is None:
            return not_answered(self._trouble or "the candidate was not asked", policy)
        if self._label is None:
            return not_answered("the gate was not told the truths of the validation set", policy)
        if self._champion is not None and len(self._champion.digests) != 1:
            return not_answered("the champion answered as none, or as more than one package", policy)
        cases = Cases(self._label, self.frozen.patient, self.frozen.groups)
        return judge(cases, self._candidate, self._champion, policy, self._paperwork())

    def _paperwork(self) -> Paperwork:
        question = self._question
        found = Paperwork(question.candidate_version, question.package_digest, None, None)
        try:
            package = read_candidate(question.package_dir, question.package_digest, self._verify_key)
        except (PackageError, ConfigError) as error:
            # What an altered package says about its changes or its detectors is worth nothing.
            return dataclasses.replace(
                found, signature=str(error), no_drift="the package is not to be trusted"
            )
        found = dataclasses.replace(found, plan=question.plan.breaches(package), **self._stability())
        try:
            return dataclasses.replace(found, drift=self._drift())
        except (GuardError, DataError) as error:
            return dataclasses.replace(found, no_drift=str(error))

    def _stability(self) -> dict[str, Any]:
        """Of the attributions against those of the champion, whose package lies beside the candidate's."""
        if self._champion is None:
            return {}
        (digest,) = self._champion.digests
        folder = self._question.package_dir
        try:
            read_candidate(folder.parent / digest, digest, self._verify_key)
            ours, theirs = (
                np.load(each / ATTRIBUTIONS, allow_pickle=False) for each in (folder, folder.parent / digest)
            )
        except (PackageError, ConfigError) as error:
            return {"no_stability": f"the champion's package: {error}"}
        except (OSError, ValueError):
            return {"no_stability": f"one of the two packages has no {ATTRIBUTIONS}"}
        agreed = stability(ours, theirs)
        if agreed is None:
            return {"no_stability": "the two attribute to different regions, or one to none"}
        return {"stability": agreed["value"]}

    def _drift(self) -> tuple[Drift, ...]:
        """By the package's own detectors, on one image a patient: they suppose independent images."""
        answers = self._candidate
        if answers.embedding is None:
            raise DataError("the candidate's answers have no embedding")
        detectors = packaged.load(self._question.package_dir, self._question.package_digest)
        rows = np.flatnonzero(answers.is_scored)
        rows = rows[np.sort(np.unique(self.frozen.patient[rows], return_index=True)[1])]
        if len(rows) < MIN_BATCH:
            raise DataError(f"only {len(rows)} patients were scored, and {MIN_BATCH} are needed")
        window = Rows(
            answers.embedding[rows],
            answers.probability[rows].astype(np.float32),
            {name: tuple(values[rows].tolist()) for name, values in self.frozen.groups.items()},
        )
        found = detectors.test(window, level=self._question.policy.drift_alpha / len(NAMES))
        return tuple(Drift(name, result.p_value) for name, result in found.items())
