"""A trained network as it will be served: ONNX, its engine by measurement, and what that answers.

It comes before the drift detectors and not with the package, because they compare what is served: a reference
of the PyTorch network's embeddings made windows that INT8 had answered cry wolf two to three times as often.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hounsfield.data.folder import whole_folder
from hounsfield.dicom.groups import ATTRIBUTES, groups_of
from hounsfield.errors import PackageError
from hounsfield.imaging.contract import ImageContract
from hounsfield.imaging.preprocess import load_split
from hounsfield.package.choice import MODEL, EngineChoice

if TYPE_CHECKING:
    import pandas as pd

RECORD = "network.json"
REFERENCE, REFERENCE_TABLE = "reference.npy", "reference.csv"


@dataclasses.dataclass(frozen=True)
class ServedNetwork:
    """`onnx` is the proof that the export answers as PyTorch does; `measured` is what `engine` was chosen by,
    None where there was nothing to choose.
    """

    engine: EngineChoice
    onnx: dict[str, Any]
    measured: dict[str, Any] | None


def write_network(out: Path, *, model_dir: Path, tensors_dir: Path, temperature: float) -> ServedNetwork:
    """Export the network in `model_dir` into `out`, prove the export and choose its engine.

    Writes the files that the engine opens, `network.json`, and what the engine answers on the validation
    split, the reference of the drift detectors: `reference.npy`, embeddings, float32 (N, E), and beside it
    `reference.csv`, the calibrated probability and the groups of the DICOM header by the code that the server
    has. A network without convolutions gains nothing from other engines: ONNX Runtime fp32, unmeasured. `out`
    appears whole or not at all. Raises PackageError where ONNX differs from PyTorch, PlatformError when the
    disk is full.
    """
    from hounsfield.package.choose import choose_engine, has_convolutions
    from hounsfield.package.engine import Engine, calibrate
    from hounsfield.package.export import TOLERANCE, export_onnx, largest_difference
    from hounsfield.training.network import load_network

    network = load_network(Path(model_dir))
    images, index = load_split(tensors_dir, "validation")
    with whole_folder(Path(out), RECORD) as folder:
        export_onnx(network, ImageContract.load(Path(tensors_dir)).shape, folder / MODEL)
        difference = largest_difference(network, Engine(folder / MODEL).run, images)
        if not difference <= TOLERANCE:
            raise PackageError(
                f"ONNX differs from PyTorch by {difference:.2g} on the validation images, above "
                f"{TOLERANCE:g}: the export of this architecture is not to be trusted"
            )
        proof = {"images": len(images), "largest_difference": difference, "tolerance": TOLERANCE}
        chosen, measured = EngineChoice(), None
        if has_convolutions(network):
            # Ranges come from images that the accuracy is not judged on.
            calibration, _ = load_split(tensors_dir, "train")
            label = index["label"].to_numpy()
            chosen, measured = choose_engine(folder, network, calibration, images, label, temperature)
        logit, embedding = Engine(folder / chosen.file, 1, chosen).run(images)
        np.save(folder / REFERENCE, embedding)
        reference = _header_groups(index).assign(probability=calibrate(logit, temperature))
        reference.to_csv(folder / REFERENCE_TABLE, index=False)
        served = ServedNetwork(chosen, proof, measured)
        text = json.dumps(dataclasses.asdict(served), indent=2, sort_keys=True, allow_nan=False) + "\n"
        (folder / RECORD).write_text(text)
    return served


def read_network(folder: Path) -> ServedNetwork:
    """What `write_network` returned; PackageError when it did not run."""
    try:
        values = json.loads((Path(folder) / RECORD).read_text())
        return ServedNetwork(**{**values, "engine": EngineChoice(**values["engine"])})
    except OSError:
        raise PackageError(f"{RECORD} is missing in {folder}: run the step export") from None
    except (ValueError, KeyError, TypeError):
        raise PackageError(f"{RECORD} in {folder} is not what the step export writes") from None


def _header_groups(table: pd.DataFrame) -> pd.DataFrame:
    """The groups of each image's header in ATTRIBUTES, as `groups_of` gives them to the inference log."""
    import pandas as pd

    headers = table.astype(object).where(table.notna(), None).to_dict("records")
    known = tuple(sorted({header["manufacturer"] for header in headers if header.get("manufacturer")}))
    return pd.DataFrame([groups_of(header, known) for header in headers], columns=list(ATTRIBUTES))
