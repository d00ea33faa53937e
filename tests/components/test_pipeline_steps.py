"""Each step of the training pipeline, run through kfp.local's SubprocessRunner on a small sample."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from hounsfield.config import Home
from hounsfield.errors import LabelError, PlatformError


def read(path):
    return json.loads(path.read_text())


def executor_metadata(run, step, name):
    """Metadata of the output artifact `name` of `step`, as KFP keeps it."""
    outputs = read(run.folder / step / "executor_output.json")
    return outputs["artifacts"][name]["artifacts"][0]["metadata"]


def test_ingest_accounts_for_every_file_and_freezes_the_test_split(pipeline_run, small_sample):
    dataset = pipeline_run.artifacts["dataset"]
    index, quarantine = (
        pd.read_parquet(dataset / "index.parquet"),
        pd.read_parquet(dataset / "quarantine.parquet"),
    )
    assert len(index) + len(quarantine) == sum(
        1 for path in (small_sample / "dicom").rglob("*") if path.is_file()
    )
    frozen = pipeline_run.artifacts["validation_set"]
    assert len(pd.read_csv(frozen / "truth.csv")) == (index["split"] == "test").sum()
    metrics = executor_metadata(pipeline_run, "ingest", "metrics")
    assert (metrics["accepted"], metrics["quarantined"]) == (len(index), len(quarantine))


def test_preprocess_writes_a_tensor_for_every_accepted_image(pipeline_run):
    tensors = pipeline_run.folder / "preprocess" / "tensors"
    shards = [np.load(path) for path in sorted(tensors.glob("shard-*.npy"))]
    assert sum(map(len, shards)) == len(pd.read_parquet(pipeline_run.artifacts["dataset"] / "index.parquet"))
    assert all(shard.dtype == np.float32 and shard.shape[1:] == (1, 64, 64) for shard in shards)
    assert min(shard.min() for shard in shards) >= 0
    assert max(shard.max() for shard in shards) <= 1


def test_tune_is_off_and_passes_the_parameters_on(pipeline_run):
    outputs = read(pipeline_run.folder / "tune" / "executor_output.json")
    assert outputs["parameterValues"]["Output"] == {"epochs": 1, "batch_size": 16}


def test_train_writes_the_network_and_the_baseline(pipeline_run):
    training = read(pipeline_run.artifacts["model"] / "training.json")
    assert training["architecture"] == "efficientnet-b0"
    assert training["epochs"] == 1
    assert len(training["history"]) == 1
    assert (
        read(pipeline_run.folder / "train" / "baseline" / "training.json")["architecture"]
        == "pixel-statistics"
    )


def test_evaluate_logs_the_roc_curve_and_the_confusion_matrix_for_the_dashboard(pipeline_run):
    metrics = read(pipeline_run.artifacts["evaluation"] / "metrics.json")
    curve = executor_metadata(pipeline_run, "evaluate", "roc")
    assert len(curve["confidenceMetrics"]) == len(metrics["roc"]["fpr"])
    rows = [row["row"] for row in curve["confusionMatrix"]["rows"]]
    assert rows == metrics["confusion_matrix"]
    assert sum(map(sum, rows)) == metrics["counts"]["test"]
    assert "<svg" in (pipeline_run.folder / "evaluate" / "page").read_text()


def test_explain_writes_the_overlays_into_its_page(pipeline_run):
    cases = read(pipeline_run.artifacts["explanation"] / "explain.json")["cases"]
    page = (pipeline_run.folder / "explain" / "page").read_text()
    assert len(cases) > 0
    assert page.count("data:image/png;base64,") == len(cases) + 1  # and the global one


def test_fit_drift_fits_on_the_validation_split(pipeline_run):
    index = pd.read_parquet(pipeline_run.artifacts["dataset"] / "index.parquet")
    drift = read(pipeline_run.artifacts["detectors"] / "drift.json")
    assert 0 < drift["n_reference"] <= (index["split"] == "validation").sum()


def test_package_is_named_by_the_digest_of_its_manifest(pipeline_run):
    import hashlib

    digest = executor_metadata(pipeline_run, "package", "candidate_package")["digest"]
    folder = pipeline_run.folder / "package" / "candidate_package" / digest
    assert hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest() == digest


def test_register_makes_the_baseline_champion_and_the_model_candidate(pipeline_run):
    from hounsfield.registry.registry import Registry

    registry = Registry(pipeline_run.home.mlflow_uri)
    candidate, champion = registry.by_alias("candidate"), registry.by_alias("champion")
    assert (champion.version, candidate.version) == (1, 2)
    assert champion.tags["role"] == "baseline"
    assert candidate.tags["git_commit"] == "0" * 40
    assert (
        candidate.tags["data_fingerprint"]
        == read(pipeline_run.artifacts["dataset"] / "dataset.json")["fingerprint"]
    )
    assert candidate.tags["pipeline_run"].startswith("hounsfield-training-")
    registration = read(pipeline_run.artifacts["registration"])
    assert registration["candidate"]["digest"] == candidate.digest
    assert float(candidate.tags["attribution_stability"]) == registration["attribution_stability"]["value"]


def test_rerun_with_the_same_inputs_comes_from_the_cache(pipeline_run, small_sample, run_small_pipeline):
    artifacts, screen = run_small_pipeline(
        pipeline_run.home, small_sample / "dicom", small_sample / "labels.csv"
    )
    assert artifacts == pipeline_run.artifacts
    assert "11 of 11 steps came from the cache" in screen


def test_wrong_labels_are_refused_before_anything_is_read(small_sample, tmp_path, run_small_pipeline):
    lines = (small_sample / "labels.csv").read_text().splitlines()
    lines[3] = lines[3].rsplit(",", 1)[0] + ",maybe"
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join(lines) + "\n")
    with pytest.raises(LabelError, match=r"row 4: label 'maybe' is not one of"):
        run_small_pipeline(Home.at(tmp_path / "home"), small_sample / "dicom", labels)


def test_failing_step_is_one_sentence(small_sample, tmp_path, run_small_pipeline):
    header, *rows = (small_sample / "labels.csv").read_text().splitlines()
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join([header, *(row.rsplit(",", 1)[0] + ",positive" for row in rows)]) + "\n")
    with pytest.raises(PlatformError, match="label positive: training needs both classes") as failure:
        run_small_pipeline(Home.at(tmp_path / "home"), small_sample / "dicom", labels)
    assert "Traceback" not in str(failure.value)
