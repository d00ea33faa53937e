"""Calls `fit` and `score` in the guard environment from the main one: files in, files out."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import hounsfield
from hounsfield.errors import GuardError

_TIMEOUT_S = 600


def fit(
    reference: Path,
    table: Path,
    out: Path,
    guard_python: Path,
    p_value: float = 0.05,
    seed: int = 7,
    operating_point: float = 0.5,
) -> dict[str, Any]:
    """Fit detectors on images that the model was not trained on: their embeddings at `reference` (.npy, float
    (N, E)), their scores and DICOM fields in `table` (see `rows.read_rows`). A score from `operating_point`
    on is a positive call.

    Writes the folder `out` and returns the content of its `drift.json`. Raises GuardError with what the
    command said last.
    """
    return _call(
        guard_python,
        "hounsfield.drift.fit",
        f"--reference={reference}",
        f"--table={table}",
        f"--out={out}",
        f"--p-value={p_value}",
        f"--seed={seed}",
        f"--operating-point={operating_point}",
    )


def score(detectors: Path, batch: Path, guard_python: Path) -> dict[str, Any]:
    """Test the embeddings at `batch` (.npy, float (N, E)); returns what `hounsfield.drift.score` says."""
    return _call(guard_python, "hounsfield.drift.score", f"--detectors={detectors}", f"--batch={batch}")


def _call(guard_python: Path, module: str, *arguments: str) -> dict[str, Any]:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    source = Path(hounsfield.__file__).resolve().parents[1]
    # A clone's src/ holds hounsfield alone; site-packages would bring numpy 2 with it.
    if source.name not in ("site-packages", "dist-packages"):
        environment["PYTHONPATH"] = str(source)
    try:
        done = subprocess.run(
            [str(guard_python), "-m", module, *arguments],
            capture_output=True,
            text=True,
            env=environment,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError:
        raise GuardError(
            f"the guard environment's python {guard_python} does not exist; "
            "make it, or set HOUNSFIELD_GUARD_PYTHON"
        ) from None
    except subprocess.TimeoutExpired:
        raise GuardError(f"{module} did not end within {_TIMEOUT_S} s") from None
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        said = done.stderr.strip().splitlines()
        raise GuardError(f"{module} failed: {said[-1] if said else f'exit code {done.returncode}'}")
    try:
        return json.loads(lines[-1])
    except ValueError:
        raise GuardError(f"{module} answered something that is not JSON") from None
