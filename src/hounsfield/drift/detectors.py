"""The detectors of one model, alibi-detect's: what changed, the pictures, the patients or the answers?

  embedding   MMDDrift: maximum mean discrepancy (Gretton et al., JMLR 13, 2012) with a permutation p-value
              and a Gaussian kernel whose width is the median distance of the reference. The p-value counts
              the window itself as one of the permutations, so that it is never 0 (Phipson and Smyth, Stat.
              Appl. Genet. Mol. Biol. 9, 2010).
  projection  KSDrift (Kolmogorov-Smirnov) on the embedding along PROJECTIONS random directions, less what the
              score foretells of it: more positives alone leave that as it was, another look of the pictures
              does not. The directions are drawn from the seed: fitted ones would find drift in any new image.
  fields      TabularDrift on the groups of the DICOM header: chi-square, a test a field.
  label       ChiSquareDrift on the calls, positive or negative at the operating point.
  score       KSDrift on the probabilities.

Several tests of one detector share its level (Bonferroni). `p_value` is the chance that a window without
drift raises an alarm, by any detector. It is shared by the QUESTIONS, not by the detectors: the two of the
pictures mostly cry together, and so do the two of the answers; `bench/drift` counts that the rate is kept.
Windows follow each other, so 0.05 means one false alarm in 20 windows.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hounsfield.drift.rows import Rows
from hounsfield.errors import GuardError

EMBEDDING, PROJECTION, FIELDS = "embedding", "projection", "fields"
LABEL, SCORE = "label", "score"
NAMES = (EMBEDDING, PROJECTION, FIELDS, LABEL, SCORE)
FIRST_NAMES = (EMBEDDING, FIELDS, SCORE)
"""Those of packages that do not say which they have."""
QUESTIONS = 3
"""The pictures (embedding, projection), the header (fields) and the answers (label, score)."""
PROJECTIONS = 8
SUMMARY_FILE = "drift.json"
PERMUTATIONS = 500
MOST_PERMUTATIONS = 9999
"""Where a p-value has to be told from a level below 1 in 500: the smallest is then 1 in 10,000."""
MIN_BATCH = 5
LEAST_OF_A_GROUP = 10
"""Groups with fewer images in the reference are one, `OTHER`: chi-square is poor at small counts."""


@dataclass(frozen=True)
class Result:
    """One detector's answer for one window. `score` is its statistic, `by_field` p-values a field.

    `p_value` is the smallest of the fields' times their number where there are several, so that it compares
    with `threshold` as any other does.
    """

    is_drift: bool
    score: float
    p_value: float
    threshold: float
    by_field: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Detectors:
    """`groups` are, for each field, the groups that count by themselves. `summary` is drift.json."""

    def __init__(
        self, detectors: Mapping[str, Any], groups: Mapping[str, list[str]], summary: Mapping[str, Any]
    ) -> None:
        self._detectors, self._groups, self.summary = detectors, groups, summary

    @classmethod
    def fit(cls, reference: Rows, p_value: float, seed: int, operating_point: float = 0.5) -> Detectors:
        """Detectors that compare with `reference`, each image of which must have its fields.

        A score from `operating_point` on is a positive call.
        """
        from alibi_detect.cd import ChiSquareDrift, KSDrift, MMDDrift, TabularDrift

        if not reference.fields:
            raise GuardError("the reference has no DICOM fields; its table needs a column for each")
        share = p_value / QUESTIONS
        groups = {
            name: sorted(v for v in set(values) if values.count(v) >= LEAST_OF_A_GROUP)
            for name, values in reference.fields.items()
        }
        seed_permutations(seed)
        foretold = _foretell(reference, seed)
        detectors = {
            EMBEDDING: MMDDrift(
                reference.embedding,
                backend="pytorch",
                p_val=share,
                n_permutations=PERMUTATIONS,
                device="cpu",
            ),
            PROJECTION: KSDrift(_surprise(reference, seed, foretold), p_val=share),
            FIELDS: TabularDrift(
                _codes(reference.fields, groups),
                p_val=share,
                categories_per_feature=dict.fromkeys(range(len(groups))),
            ),
            LABEL: ChiSquareDrift(_called(reference.score, operating_point), p_val=share),
            SCORE: KSDrift(reference.score[:, np.newaxis], p_val=share),
        }
        summary = {
            "detector": "MMDDrift and KSDrift on embeddings, TabularDrift on DICOM fields, ChiSquareDrift on "
            "calls, KSDrift on scores",
            "detectors": list(NAMES),
            "operating_point": operating_point,
            "foretold": foretold.tolist(),
            "p_value": p_value,
            "p_value_each": share,
            "permutations": PERMUTATIONS,
            "seed": seed,
            "n_reference": len(reference),
            "embedding_size": int(reference.embedding.shape[1]),
            "groups": groups,
        }
        return cls(detectors, groups, summary)

    @classmethod
    def load(cls, folder: Path) -> Detectors:
        """What `save` wrote; GuardError when it is not all there."""
        try:
            summary = json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))
            groups, _ = summary["groups"], (summary["seed"], summary["embedding_size"])
        except (OSError, ValueError, KeyError, TypeError):
            raise GuardError(f"{folder} holds no {SUMMARY_FILE} of hounsfield.drift.fit") from None
        from alibi_detect.saving import load_detector

        try:
            names = summary.get("detectors", FIRST_NAMES)
            return cls({name: load_detector(folder / name) for name in names}, groups, summary)
        except (OSError, ValueError, KeyError) as error:
            raise GuardError(f"{folder}: a detector cannot be read ({type(error).__name__})") from None

    def save(self, folder: Path) -> None:
        """Write `folder`, all at once."""
        from alibi_detect.saving import save_detector

        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".drift-", dir=folder.parent))
        try:
            for name, detector in self._detectors.items():
                save_detector(detector, draft / name)
            text = json.dumps(self.summary, indent=2, sort_keys=True) + "\n"
            (draft / SUMMARY_FILE).write_text(text, encoding="utf-8")
            if folder.exists():
                shutil.rmtree(folder)
            draft.replace(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def test(self, window: Rows, level: float | None = None) -> dict[str, Result]:
        """Each detector's answer for `window`; the same window gives the same answers.

        `level` is what the p-values will be held against, the detectors' own threshold unless given. `fields`
        is absent where fewer than MIN_BATCH images have them. Raises GuardError for embeddings of
        another size.
        """
        found = {EMBEDDING: self.test_embedding(window.embedding, level)}
        if PROJECTION in self._detectors:
            foretold = np.array(self.summary["foretold"])
            surprise = _surprise(window, self.summary["seed"], foretold)
            found[PROJECTION] = self._test_columns(PROJECTION, surprise)
        if window.with_fields >= MIN_BATCH:
            found[FIELDS] = self._test_fields(window.fields)
        if LABEL in self._detectors:
            called = _called(window.score, self.summary["operating_point"])
            found[LABEL] = self._test_columns(LABEL, called)
        data = self._detectors[SCORE].predict(window.score[:, np.newaxis])["data"]
        found[SCORE] = _result(data, float(data["distance"][0]), float(data["p_val"][0]))
        return found

    def test_embedding(self, embedding: np.ndarray, level: float | None = None) -> Result:
        """The embedding detector's answer for float32 (N, E).

        When no permutation reaches the window's distance, and more of them could show that it is beyond
        `level`, they are drawn: a p-value that stops early is larger, so the level is kept (Besag and
        Clifford, Biometrika 78, 1991).
        """
        size = self.summary["embedding_size"]
        if embedding.shape[1] != size:
            raise GuardError(
                f"the batch has embeddings of {embedding.shape[1]} values, the detector of {size}; "
                "is it of this model?"
            )
        found = self._test_permuted(embedding, PERMUTATIONS)
        least = 1 / (PERMUTATIONS + 1)
        if level is not None and level < least and found.p_value <= least:
            found = self._test_permuted(embedding, MOST_PERMUTATIONS)
        return found

    def _test_permuted(self, embedding: np.ndarray, permutations: int) -> Result:
        detector = self._detectors[EMBEDDING]
        detector._detector.n_permutations = permutations  # alibi-detect has no other way to change it
        seed_permutations(self.summary["seed"])
        data = detector.predict(embedding)["data"]
        reached = round(float(data["p_val"]) * permutations)
        p_value = (reached + 1) / (permutations + 1)
        found = _result(data, float(data["distance"]), p_value)
        return replace(found, is_drift=p_value <= found.threshold)

    def _test_fields(self, fields: Mapping[str, tuple[str, ...]]) -> Result:
        missing = sorted(self._groups.keys() - fields.keys())
        if missing:
            raise GuardError(f"the window has no field {missing[0]}, which the reference has")
        return self._test_columns(FIELDS, _codes(fields, self._groups), sorted(self._groups))

    def _test_columns(self, name: str, values: np.ndarray, columns: list[str] | None = None) -> Result:
        """Of a detector that tests each column of `values` (M, columns); `by_field` if these have names."""
        data = self._detectors[name].predict(values)["data"]
        p_values = [float(value) for value in data["p_val"]]
        n = len(p_values)
        result = _result(data, float(max(data["distance"])), min(1.0, n * min(p_values)), n)
        return replace(result, by_field=dict(zip(columns or (), p_values, strict=False)))


def _result(data: Mapping[str, Any], score: float, p_value: float, tests: int = 1) -> Result:
    # alibi-detect's threshold is that of one test.
    return Result(bool(data["is_drift"]), score, p_value, float(data["threshold"]) * tests, {})


def _codes(fields: Mapping[str, tuple[str, ...]], groups: Mapping[str, list[str]]) -> np.ndarray:
    """Whole numbers (M, fields): the group's place in its field's list, or the place after the last.

    The fields stand in the order of their names: the reference was saved in it.
    """
    columns = [
        [known.index(value) if value in known else len(known) for value in fields[name]]
        for name, known in sorted(groups.items())
    ]
    return np.array(columns, dtype=np.int64).T


def _called(score: np.ndarray, operating_point: float) -> np.ndarray:
    """(N, 1): 1 for a positive call."""
    return (score >= operating_point).astype(np.int64)[:, np.newaxis]


def _projected(embedding: np.ndarray, seed: int) -> np.ndarray:
    """(N, PROJECTIONS): the embedding along directions that depend on the seed and its size only."""
    directions = np.random.default_rng(seed).normal(size=(embedding.shape[1], PROJECTIONS))
    return embedding @ directions


def _of_score(score: np.ndarray) -> np.ndarray:
    """(N, 4): what a projection may depend on: a constant, the score, its square and its log-odds."""
    p = np.clip(score.astype(np.float64), 1e-6, 1 - 1e-6)
    return np.stack([np.ones_like(p), p, p**2, np.log(p / (1 - p))], axis=1)


def _foretell(reference: Rows, seed: int) -> np.ndarray:
    """(4, PROJECTIONS): the least squares of the reference's projections on its scores."""
    return np.linalg.lstsq(_of_score(reference.score), _projected(reference.embedding, seed), rcond=None)[0]


def _surprise(window: Rows, seed: int, foretold: np.ndarray) -> np.ndarray:
    """(N, PROJECTIONS): the projections less what the scores foretell."""
    return (_projected(window.embedding, seed) - _of_score(window.score) @ foretold).astype(np.float32)


def seed_permutations(seed: int) -> None:
    """alibi-detect draws its permutations from the global generators."""
    import torch

    np.random.seed(seed)
    torch.manual_seed(seed)
