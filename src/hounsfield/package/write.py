"""Writing a model package: assembled beside the store, verified, then renamed to its digest."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hounsfield.config import CLASS_NAMES, INTENDED_USE, MODEL_NAME
from hounsfield.errors import ConfigError, PackageError
from hounsfield.explain.background import BACKGROUND, typical_negative
from hounsfield.imaging.contract import ImageContract
from hounsfield.package.card import card_page, render_card
from hounsfield.package.choice import MODEL, EngineChoice
from hounsfield.package.draft import draft, flush
from hounsfield.package.licences import licences_text
from hounsfield.package.network import read_network
from hounsfield.package.package import (
    ATTRIBUTIONS,
    CARD,
    CARD_PAGE,
    DETECTORS,
    ENGINE_RECORD,
    EXPLANATION,
    LICENCES,
    MANIFEST,
    METRICS,
    MODEL_RECORD,
    ONNX_RECORD,
    PROFILE,
    ModelRecord,
    Package,
    describe_files,
    load_package,
)
from hounsfield.package.sign import SIGNATURE, sign_package
from hounsfield.package.statements import Statements


def write_package(
    out_root: Path,
    *,
    model_dir: Path,
    network_dir: Path,
    evaluation_dir: Path,
    drift_dir: Path | None,
    dataset_dir: Path,
    tensors_dir: Path,
    lineage: Mapping[str, Any],
    signing_key: Path | None = None,
    statements: Statements | None = None,
) -> Package:
    """Write `out_root/<digest>/` from the outputs of the pipeline's steps and return it, verified.

    The same content is the same digest: writing it again returns the folder that is there, signed anew. With
    `signing_key`, an EC private key in PEM, the package is signed. `statements` are the card's written part,
    those of statements.json by default. A failure leaves nothing behind. Raises PackageError when an input is
    missing, the card would lack a field or attributions do not add up, ConfigError
    for an unusable key, PlatformError when the disk is full.
    """
    out_root, said = Path(out_root), statements or Statements.load()
    with draft(out_root) as folder:
        contract = ImageContract.load(Path(tensors_dir))
        contract.save(folder)
        metrics = _read_json(Path(evaluation_dir) / METRICS)
        dataset = _read_json(Path(dataset_dir) / "dataset.json")
        served = read_network(network_dir)
        record = _model_record(Path(model_dir), served.engine, metrics, lineage)
        shutil.copyfile(Path(evaluation_dir) / METRICS, folder / METRICS)
        _copy(Path(dataset_dir) / PROFILE, folder / PROFILE)
        if drift_dir is not None:
            shutil.copytree(drift_dir, folder / DETECTORS)
        (folder / LICENCES).write_text(licences_text(said.licence, drift_dir is not None))
        for file in sorted({MODEL, served.engine.file}):
            _copy(Path(network_dir) / file, folder / file)
        _write_json(folder / MODEL_RECORD, record.as_dict())
        _write_json(folder / ONNX_RECORD, served.onnx)
        if served.measured is not None:
            _write_json(folder / ENGINE_RECORD, served.measured)
        card = render_card(
            model=record.as_dict(),
            metrics=metrics,
            dataset=dataset,
            profile=_read_json(folder / PROFILE),
            contract={"size_px": contract.size_px, "version": contract.version},
            onnx=served.onnx,
            explanation=_write_explanation(Path(tensors_dir), folder, contract, record, dataset),
            drift=_read_json_if_there(drift_dir, "drift.json"),
            engine=served.measured,
            said=said,
        )
        (folder / CARD).write_text(card, encoding="utf-8")
        (folder / CARD_PAGE).write_text(card_page(card), encoding="utf-8")
        return _publish(folder, out_root, signing_key)


def _publish(folder: Path, out_root: Path, signing_key: Path | None) -> Package:
    manifest = json.dumps({"files": describe_files(folder)}, indent=2, sort_keys=True).encode() + b"\n"
    (folder / MANIFEST).write_bytes(manifest)
    # Named before it is signed: the signature carries the folder's name.
    folder = folder.rename(folder.with_name(hashlib.sha256(manifest).hexdigest()))
    if signing_key is not None:
        sign_package(folder, signing_key)
    flush(folder)
    target = out_root / folder.name
    if not target.exists():
        folder.rename(target)
    elif signing_key is not None:
        (folder / SIGNATURE).replace(target / SIGNATURE)
    return load_package(target)


def _write_explanation(
    tensors_dir: Path,
    folder: Path,
    contract: ImageContract,
    record: ModelRecord,
    dataset: Mapping[str, Any],
) -> dict[str, Any] | None:
    """Leave background, attributions and explanation.json in `folder`; None where there is no background."""
    from hounsfield.package.engine import Engine
    from hounsfield.package.explained import THREADS, explain_engine

    # The explainer's regions are of images: a model of volumes is shipped without.
    background = typical_negative(tensors_dir) if contract.depth_px is None else None
    if background is None:
        return None
    np.save(folder / BACKGROUND, background)
    engine = Engine(folder / record.engine.file, THREADS, record.engine)
    regions, explanation = explain_engine(
        lambda images: engine.run(images)[0], background, contract, record, bool(dataset.get("sample"))
    )
    np.save(folder / ATTRIBUTIONS, regions)
    _write_json(folder / EXPLANATION, explanation)
    return explanation


def _model_record(
    model_dir: Path, engine: EngineChoice, metrics: Mapping[str, Any], lineage: Mapping[str, Any]
) -> ModelRecord:
    from hounsfield.training.network import load_record

    try:
        trained = load_record(model_dir)
        return ModelRecord(
            name=MODEL_NAME,
            architecture=trained["architecture"],
            class_names=CLASS_NAMES,
            engine=engine,
            threshold=float(metrics["operating_point"]["threshold"]),
            temperature=float(metrics["temperature"]),
            review_band=tuple(float(end) for end in metrics["review_band"]),
            # What the change plan asks about: see hounsfield.rollout.change_plan.
            lineage={**lineage, "intended_use": INTENDED_USE, "hyperparameters": trained.get("params")},
        )
    except KeyError as error:
        raise PackageError(f"{METRICS} of the evaluation has no key {error}; run evaluate again") from None
    except ConfigError as error:
        raise PackageError(f"the evaluation gave a value that cannot be served: {error}") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except OSError:
        raise PackageError(f"{path.name} is missing in {path.parent}: run the step that writes it") from None
    except ValueError:
        raise PackageError(f"{path.name} in {path.parent} is not JSON") from None


def _read_json_if_there(folder: Path | None, name: str) -> dict[str, Any] | None:
    return _read_json(Path(folder) / name) if folder is not None and (Path(folder) / name).is_file() else None


def _copy(source: Path, target: Path) -> None:
    if not source.is_file():
        raise PackageError(f"{source.name} is missing in {source.parent}: run the step that writes it")
    shutil.copyfile(source, target)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
