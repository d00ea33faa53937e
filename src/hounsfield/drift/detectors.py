"""The detectors of one model, alibi-detect's: what changed, the pictures, the patients or the answers?

  embedding  MMDDrift: maximum mean discrepancy (Gretton et al., JMLR 13, 2012) with a permutation p-value
             and a Gaussian kernel whose width is the median distance of the reference.
  fields     ChiSquareDrift on the groups of the DICOM header, a test a field, with Bonferroni's correction.
  score      KSDrift (Kolmogorov-Smirnov) on the probabilities.

`p_value` is the chance that a window without drift raises an alarm, by any detector: each is set to its
share of it (Bonferroni again). Windows follow each other, so 0.05 means one false alarm in 20 windows.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hounsfield.drift.rows import Rows
from hounsfield.errors import GuardError

EMBEDDING, FIELDS, SCORE = "embedding", "fields", "score"
NAMES = (EMBEDDING, FIELDS, SCORE)
SUMMARY_FILE = "drift.json"
PERMUTATIONS = 500
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
    def fit(cls, reference: Rows, p_value: float, seed: int) -> Detectors:
        """Detectors that compare with `reference`, each image of which must have its fields."""
        from alibi_detect.cd import ChiSquareDrift, KSDrift, MMDDrift

        if not reference.fields:
            raise GuardError("the reference has no DICOM fields; its table needs a column for each")
        share = p_value / len(NAMES)
        groups = {
            name: sorted(v for v in set(values) if values.count(v) >= LEAST_OF_A_GROUP)
            for name, values in reference.fields.items()
        }
        seed_permutations(seed)
        detectors = {
            EMBEDDING: MMDDrift(
                reference.embedding,
                backend="pytorch",
                p_val=share,
                n_permutations=PERMUTATIONS,
                device="cpu",
            ),
            FIELDS: ChiSquareDrift(_codes(reference.fields, groups), p_val=share),
            SCORE: KSDrift(reference.score[:, np.newaxis], p_val=share),
        }
        summary = {
            "detector": "MMDDrift on embeddings, ChiSquareDrift on DICOM fields, KSDrift on scores",
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
            return cls({name: load_detector(folder / name) for name in NAMES}, groups, summary)
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

    def test(self, window: Rows) -> dict[str, Result]:
        """Each detector's answer for `window`; the same window gives the same answers.

        `fields` is absent where fewer than MIN_BATCH images have them. Raises GuardError for embeddings of
        another size.
        """
        found = {EMBEDDING: self.test_embedding(window.embedding)}
        if window.with_fields >= MIN_BATCH:
            found[FIELDS] = self._test_fields(window.fields)
        data = self._detectors[SCORE].predict(window.score[:, np.newaxis])["data"]
        found[SCORE] = _result(data, float(data["distance"][0]), float(data["p_val"][0]))
        return found

    def test_embedding(self, embedding: np.ndarray) -> Result:
        """The embedding detector's answer for float32 (N, E)."""
        size = self.summary["embedding_size"]
        if embedding.shape[1] != size:
            raise GuardError(
                f"the batch has embeddings of {embedding.shape[1]} values, the detector of {size}; "
                "is it of this model?"
            )
        seed_permutations(self.summary["seed"])
        data = self._detectors[EMBEDDING].predict(embedding)["data"]
        return _result(data, float(data["distance"]), float(data["p_val"]))

    def _test_fields(self, fields: Mapping[str, tuple[str, ...]]) -> Result:
        missing = sorted(self._groups.keys() - fields.keys())
        if missing:
            raise GuardError(f"the window has no field {missing[0]}, which the reference has")
        data = self._detectors[FIELDS].predict(_codes(fields, self._groups))["data"]
        p_values = [float(value) for value in data["p_val"]]
        n = len(p_values)
        result = _result(data, float(max(data["distance"])), min(1.0, n * min(p_values)), n)
        return Result(
            result.is_drift,
            result.score,
            result.p_value,
            result.threshold,
            dict(zip(sorted(self._groups), p_values, strict=True)),
        )


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


def seed_permutations(seed: int) -> None:
    """alibi-detect draws its permutations from the global generators."""
    import torch

    np.random.seed(seed)
    torch.manual_seed(seed)
