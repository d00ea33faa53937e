"""Do a recorded run again with the code that this module belongs to: data, tensors, weights.

`python -m hounsfield.training.rebuild RECORD OUT`, which `hounsfield reproduce` calls in a work tree of the
recorded commit. RECORD is JSON with the `params` and `tags` of the MLflow run and nothing else; this command
line is all that two commits have to agree on.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hounsfield.config import from_mapping
from hounsfield.errors import ConfigError, DataError, HounsfieldError
from hounsfield.training.params import TrainingParams

RESULT = "rebuilt.json"


def rebuild(record: Mapping[str, Mapping[str, str]], out: Path, workers: int = 2) -> dict[str, Any]:
    """Ingest, preprocess and train into `out` as `record` says; the result is kept in `out`/rebuilt.json.

    The data's origin are the tags `source`, `labels`, `frames` and `deidentification`. Pseudonyms are
    drawn with a key of this moment: neither the split nor the order of the images depends on it. Returns
    `data_fingerprint`, `data`
    (the digest of what training saw), `weights_sha256`, `history` and `origin`, as a run records them. Raises
    HounsfieldError, a DataError before anything is trained when the data is not what it was.
    """
    from hounsfield.data.examine import Rules
    from hounsfield.data.ingest import ingest
    from hounsfield.dicom.deidentify import Profile
    from hounsfield.dicom.frames import Frames
    from hounsfield.imaging.contract import ImageContract
    from hounsfield.imaging.preprocess import preprocess
    from hounsfield.training.launcher import launch

    tags = record["tags"]
    params = recorded_params(record["params"])
    contract = from_mapping(ImageContract, json.loads(_tag(tags, "contract")), "the run's tag contract")
    out.mkdir(parents=True, exist_ok=True)
    rules = Rules(
        secrets.token_bytes(32),
        frames=Frames(tags.get("frames", "refuse")),
        profile=Profile.parse(tags.get("deidentification", "")),
    )
    source, labels, seed = _tag(tags, "source"), Path(_tag(tags, "labels")), int(_tag(tags, "split_seed"))
    summary = ingest(source, labels, out / "dataset", rules, seed=seed, workers=workers)
    if summary.fingerprint != _tag(tags, "data_fingerprint"):
        raise DataError(
            f"the data is not what it was: fingerprint {summary.fingerprint[:16]} now, "
            f"{tags['data_fingerprint'][:16]} recorded ({summary.accepted} images, {summary.positives} "
            f"positive, {summary.quarantined} in quarantine now)"
        )
    preprocess(out / "dataset", out / "tensors", contract, workers=workers)
    processes = int(_tag(tags, "processes"))
    if processes == 1:
        from hounsfield.training.fit import fit

        fit(out / "tensors", out / "model", params)
    else:
        launch(out / "tensors", out / "model", params, processes)
    model = json.loads((out / "model" / "training.json").read_text())
    result = {"data_fingerprint": summary.fingerprint}
    result |= {name: model[name] for name in ("data", "weights_sha256", "history", "origin")}
    (out / RESULT).write_text(json.dumps(result))
    return result


def recorded_params(params: Mapping[str, str]) -> TrainingParams:
    """The parameters of a run from those of its MLflow record, which are words."""
    kinds = {field.name: type(field.default) for field in dataclasses.fields(TrainingParams)}
    values = {name: kinds[name](text) for name, text in params.items() if name in kinds}
    return from_mapping(TrainingParams, values, "the run's parameters")


def _tag(tags: Mapping[str, str], name: str) -> str:
    if name not in tags:
        raise ConfigError(
            f"the run's record has no tag {name!r}: it was not made by the pipeline of this release"
        )
    return tags[name]


def main(argv: list[str]) -> int:
    try:
        rebuild(json.loads(Path(argv[0]).read_text()), Path(argv[1]))
    except HounsfieldError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
