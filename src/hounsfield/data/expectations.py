"""What new data is held against: hard limits that must not be broken, and the spread that it should have.

A data set's `profile.json` carries both. A person may edit them: widen a limit, remove a field.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from hounsfield.data.examine import INTENSITY_PERCENTILES
from hounsfield.dicom.groups import SEXES
from hounsfield.dicom.reading import OLDEST_AGE_YEARS
from hounsfield.errors import ConfigError, DataError

MIN_IMAGES = 30
"""Below this a batch is held against the hard limits only: so few say nothing about a spread."""

PSI_WARNS = 0.2
SIGNIFICANCE = 0.001
"""A shift is said when it is both large (population stability index) and no chance."""

_NUMBERS = ("pixel_spacing_mm", "rows", "columns", "age_years", *INTENSITY_PERCENTILES)
CATEGORIES = (
    "modality",
    "view_position",
    "bits_stored",
    "manufacturer",
    "patient_sex",
    "photometric_interpretation",
)
_ONE_OF = ("modality", "bits_stored", "photometric_interpretation")
"""Of which a value that was never seen means images that the model does not know how to read."""
_BETWEEN = ("pixel_spacing_mm", "rows", "columns")
_DECILES = np.arange(0.1, 1.0, 0.1)


@dataclass(frozen=True)
class Finding:
    """An expectation that a batch does not meet: `hard` ones fail, others warn. `number` says by how much."""

    field: str
    hard: bool
    number: float
    said: str

    def __str__(self) -> str:
        return f"{'FAIL' if self.hard else 'warn'}  {self.field}: {self.said}"


def expectations(index: pd.DataFrame) -> dict[str, dict]:
    """What `index` leads to expect of each field, JSON-ready.

    `one_of`, `min` and `max` are hard; a range is half of the least to twice the greatest value seen, for a
    detector may be another one but not of another kind. `shares` (of values, or of bins up to each of `edges`
    and above, the missing last) are statistical.
    """
    found: dict[str, dict] = {}
    for name in CATEGORIES:
        values = _values(index, name)
        shares = values.value_counts(normalize=True).sort_index()
        found[name] = {"shares": {str(value): float(share) for value, share in shares.items()}}
        if name in _ONE_OF:
            found[name]["one_of"] = sorted(value for value in found[name]["shares"] if value)
    found["patient_sex"]["one_of"] = list(SEXES)
    for name in _NUMBERS:
        values = pd.to_numeric(index[name])
        present = values.dropna()
        if present.empty:
            continue
        edges = sorted(set(np.quantile(present, _DECILES).tolist()))
        found[name] = {"edges": edges, "shares": (_counts(values, edges) / len(values)).tolist()}
        if name in _BETWEEN:
            found[name] |= {"min": float(present.min()) / 2, "max": float(present.max()) * 2}
    if "age_years" in found:
        found["age_years"] |= {"min": 0.0, "max": float(OLDEST_AGE_YEARS)}
    return found | {"images": {"count": len(index), "patients": _patients(index)}}


def load_expectations(path: Path) -> dict[str, dict]:
    """Those of a `profile.json`, given itself, its data set or its package; raises ConfigError."""
    path = path / "profile.json" if path.is_dir() else path
    try:
        return json.loads(path.read_text(encoding="utf-8"))["expectations"]
    except OSError as error:
        raise ConfigError(f"profile {path.name} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise ConfigError(
            f"profile {path.name} holds no expectations: ingest the reference set again"
        ) from None


def read_index(dataset: Path) -> pd.DataFrame:
    """The index of an ingested data set; raises DataError."""
    try:
        return pd.read_parquet(dataset / "index.parquet")
    except OSError:
        raise DataError(
            f"{dataset} holds no index.parquet: name the folder of an ingested data set"
        ) from None


def check(index: pd.DataFrame, expected: Mapping[str, Mapping]) -> list[Finding]:
    """What in `index` is not as `expected`, the hard findings first."""
    findings = []
    of_reference = expected["images"].get("patients", expected["images"]["count"])
    for name, expectation in expected.items():
        if name == "images" or not len(index):
            continue
        if name not in index:
            raise ConfigError(f"the profile expects {name!r}, which is no field of an index")
        findings += _hard(name, index, expectation)
        if len(index) >= MIN_IMAGES:
            findings += _statistical(name, index, expectation, of_reference)
    return sorted(findings, key=lambda finding: (not finding.hard, finding.field))


def _hard(name: str, index: pd.DataFrame, expectation: Mapping) -> list[Finding]:
    if "one_of" in expectation:
        values = _values(index, name)
        outside = values[(values != "") & ~values.isin(expectation["one_of"])]
        said = f"{len(outside)} of {len(index)} images are not one of {', '.join(expectation['one_of'])}"
    elif "min" in expectation:
        values = pd.to_numeric(index[name])
        outside = values[(values < expectation["min"]) | (values > expectation["max"])]
        limits = f"{expectation['min']:g} to {expectation['max']:g}"
        said = f"{len(outside)} of {len(index)} images lie outside {limits}"
        if len(outside):
            said += f": {outside.min():g} to {outside.max():g}"
    else:
        return []
    return [Finding(name, True, float(len(outside)), said)] if len(outside) else []


def _statistical(name: str, index: pd.DataFrame, expectation: Mapping, patients: int) -> list[Finding]:
    """`patients` are the reference's: images of one patient are alike, so that patients count, not images."""
    if "edges" in expectation:
        expected = np.array(expectation["shares"])
        counts = _counts(pd.to_numeric(index[name]), expectation["edges"])
    else:
        shares = expectation["shares"]
        seen = _values(index, name).value_counts()
        names = sorted({*shares, *seen.index})
        expected = np.array([shares.get(value, 0.0) for value in names])
        counts = np.array([seen.get(value, 0) for value in names])
    psi, p_value = stability(expected * patients, counts * (_patients(index) / len(index)))
    if psi < PSI_WARNS or p_value > SIGNIFICANCE:
        return []
    said = (
        f"its spread has moved: population stability index {psi:.2f} (from {PSI_WARNS} on), p = {p_value:.1g}"
    )
    return [Finding(name, False, psi, said)]


def stability(reference: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Population stability index of two histograms of counts over the same bins, and its p-value.

    Half a count is added to each bin, so that an empty one is no infinity. Without a shift the index over
    1/n + 1/m is about chi-squared with one degree of freedom less than bins (Yurdakul, 2018).
    """
    from scipy.stats import chi2

    if len(counts) < 2:
        return 0.0, 1.0
    before, now = reference + 0.5, counts + 0.5
    p, q = before / before.sum(), now / now.sum()
    psi = float(np.sum((q - p) * np.log(q / p)))
    return psi, float(chi2.sf(psi / (1 / before.sum() + 1 / now.sum()), len(counts) - 1))


def _patients(index: pd.DataFrame) -> int:
    return index["patient_id"].nunique() if "patient_id" in index else len(index)


def _values(index: pd.DataFrame, name: str) -> pd.Series:
    """The values of a category as text, '' where they are missing."""
    return index[name].map(
        lambda value: "" if pd.isna(value) else f"{value:g}" if _is_number(value) else str(value)
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number)


def _counts(values: pd.Series, edges: list[float]) -> np.ndarray:
    """How many of `values` lie in each bin: up to each edge, above the last one, and missing."""
    present = values.dropna()
    bins = np.searchsorted(edges, present, side="left")
    return np.append(np.bincount(bins, minlength=len(edges) + 1), len(values) - len(present))
