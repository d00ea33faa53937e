"""Test images as they are and with another intensity window: `python -m bench.drift.planted RUN OUT` (main).

RUN is the folder of a pipeline run (`.hounsfield/pipeline/...`). Writes for `python -m bench.drift` the
reference (validation) and the windows' pool (test), embeddings and tables, by the engine of the package: the
test split also as a console with a narrower window would have sent it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from hounsfield.imaging.preprocess import load_split
from hounsfield.package.engine import Engine, calibrate
from hounsfield.package.package import load_package

COLUMNS = ("patient_sex", "age_band", "view_position", "manufacturer")


def narrow_window(images: np.ndarray) -> np.ndarray:
    """The middle 60 % of the grey values over the whole range, the rest cut off."""
    return np.clip((images - 0.2) / 0.6, 0, 1).astype(np.float32)


def main(argv: list[str]) -> int:
    run, out = Path(argv[0]), Path(argv[1])
    out.mkdir(parents=True, exist_ok=True)
    package = load_package(next((run / "package" / "candidate_package").iterdir()))
    engine = Engine.open(package, threads=1)
    predictions = pd.read_parquet(run / "evaluate" / "evaluation" / "predictions.parquet")
    predictions = predictions.set_index("sop_instance_uid")
    for split in ("validation", "test"):
        images, table = load_split(run / "preprocess" / "tensors", split)
        rows = predictions.loc[table["sop_instance_uid"], [*COLUMNS, "label"]]
        kinds = {split: images} | ({"window": narrow_window(images)} if split == "test" else {})
        for name, shown in kinds.items():
            logit, embedding = engine.run(shown)
            np.save(out / f"{name}.npy", embedding)
            probability = calibrate(logit, package.model.temperature)
            rows.assign(probability=probability).to_csv(out / f"{name}.csv", index=False)
    (out / "operating_point").write_text(str(package.model.threshold))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
