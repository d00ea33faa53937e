"""The training pipeline: DICOM in, a registered candidate out.

Wiring only. The same object is run by `kfp.local` (pipelines/run.py) and compiled for the Kubeflow
dashboard (pipelines/compile.py).
"""

from typing import List, NamedTuple  # noqa: UP035  KFP knows a list parameter by this name

from kfp import dsl, kubernetes
from kfp.dsl import Artifact, Dataset, Model

from components.evaluate.component import evaluate
from components.explain.component import explain
from components.export.component import export
from components.fit_drift.component import fit_drift
from components.images import STORAGE_CLAIM, TRAIN
from components.ingest.component import ingest
from components.package.component import package
from components.preprocess.component import preprocess
from components.read.component import read
from components.register.component import register
from components.train.component import train
from components.tune.component import tune


class Outputs(NamedTuple):
    dataset: Dataset
    validation_set: Dataset
    tuning: Artifact
    model: Model
    evaluation: Artifact
    explanation: Artifact
    detectors: Artifact
    registration: Artifact


@dsl.pipeline(
    name="hounsfield-training",
    description="DICOM -> read, ingest, preprocess, tune, train, evaluate, export, fit-drift, package, "
    "explain, register",
)
def training(
    source: str,
    labels: str,
    source_fingerprint: str,
    git_commit: str,
    models_uri: str,
    tracking_uri: str,
    checkpoints: str,
    model_name: str = "opacity",
    seed: int = 7,
    size_px: int = 96,
    parameters: dict = {},  # noqa: B006  KFP reads the default from the signature and never shares it
    processes: int = 2,
    workers: int = 2,
    experiment: str = "katib/experiment.yaml",
    tune_trials: int = 0,
    explain_cases: int = 6,
    drift_p_value: float = 0.05,
    shards: List[str] = ["1/1"],  # noqa: B006, UP006
    frames: str = "refuse",
    deidentification: str = "",
    ingest_store: str = "",
    reference_profile: str = "",
    launcher: str = "torchrun",
    cluster: dict = {},  # noqa: B006
) -> Outputs:
    """Train a candidate and register it.

    Args:
        source: folder, s3://bucket/prefix or dicomweb+https://host/path; each object ends in the index or in
            quarantine.
        labels: CSV of PatientID, StudyInstanceUID or SOPInstanceUID, of label, and of site if you like.
        source_fingerprint: digest of what is in `source` and `labels`: changed data is a cache miss.
        git_commit: commit of the code, a tag of the registered version.
        models_uri: where packages are published; KServe's storageUri points into it.
        tracking_uri: MLflow's tracking and registry URI.
        checkpoints: folder where an interrupted training goes on from.
        model_name: name of the registered model.
        seed: of the split, the weights, the augmentation and the bootstrap.
        size_px: side of the square model input, pixels.
        parameters: training parameters, for example {"preset": "standard", "epochs": 20}.
        processes: data-parallel training processes.
        workers: processes that read and decode DICOM.
        experiment: the Katib Experiment that `tune` runs.
        tune_trials: number of trials; 0 switches tuning off.
        explain_cases: number of SHAP overlays.
        drift_p_value: false-alarm rate that the drift detector is set to.
        shards: parts of the source that are read side by side, for example ["1/3", "2/3", "3/3"].
        frames: refuse objects of many frames, or split them into one image a frame.
        deidentification: words of `hounsfield.dicom.deidentify.Profile.parse`; empty is the default.
        ingest_store: folder that outlives runs and holds what was read, so that only new files are read; on a
            cluster a volume that all shards can write to, or empty.
        reference_profile: profile.json, or the data set or package that holds it: data that breaks its limits
            is refused. Empty is no check.
        launcher: torchrun (in the step), pytorchjob or trainjob; with a job `tune` runs by Katib.
        cluster: fields of `hounsfield.cluster.settings.JobSettings`, for example {"workers": 4, "gpus": 1,
            "storage": "s3://bucket/training"}.
    """
    with dsl.ParallelFor(shards) as shard:
        part = read(
            source=source,
            shard=shard,
            source_fingerprint=source_fingerprint,
            frames=frames,
            deidentification=deidentification,
            store=ingest_store,
            workers=workers,
        )
    ingested = ingest(
        labels=labels,
        seed=seed,
        reference_profile=reference_profile,
        shards=dsl.Collected(part.outputs["images"]),
    )
    preprocessed = preprocess(size_px=size_px, workers=workers, dataset=ingested.outputs["dataset"])
    tensors = preprocessed.outputs["tensors"]
    tuned = tune(
        experiment=experiment,
        trials=tune_trials,
        parameters=parameters,
        processes=processes,
        launcher=launcher,
        cluster=cluster,
        image=TRAIN,
        tensors=tensors,
    )
    trained = train(
        parameters=tuned.outputs["Output"],
        seed=seed,
        processes=processes,
        checkpoints=checkpoints,
        tracking_uri=tracking_uri,
        source=source,
        labels=labels,
        frames=frames,
        deidentification=deidentification,
        launcher=launcher,
        cluster=cluster,
        image=TRAIN,
        tensors=tensors,
    )
    if STORAGE_CLAIM:
        for task in (tuned, trained):
            kubernetes.mount_pvc(task, pvc_name=STORAGE_CLAIM, mount_path="/storage")
    evaluated = evaluate(
        seed=seed,
        tensors=tensors,
        model=trained.outputs["model"],
        baseline=trained.outputs["baseline"],
    )
    exported = export(
        tensors=tensors,
        model=trained.outputs["model"],
        evaluation=evaluated.outputs["evaluation"],
        baseline=trained.outputs["baseline"],
        baseline_evaluation=evaluated.outputs["baseline_evaluation"],
    )
    watched = fit_drift(
        p_value=drift_p_value,
        seed=seed,
        evaluation=evaluated.outputs["evaluation"],
        network=exported.outputs["network"],
    )
    packaged = package(
        git_commit=git_commit,
        dataset=ingested.outputs["dataset"],
        tensors=tensors,
        model=trained.outputs["model"],
        network=exported.outputs["network"],
        evaluation=evaluated.outputs["evaluation"],
        baseline=trained.outputs["baseline"],
        baseline_network=exported.outputs["baseline_network"],
        baseline_evaluation=evaluated.outputs["baseline_evaluation"],
        detectors=watched.outputs["detectors"],
    )
    explained = explain(
        cases=explain_cases,
        seed=seed,
        tensors=tensors,
        evaluation=evaluated.outputs["evaluation"],
        candidate_package=packaged.outputs["candidate_package"],
    )
    registered = register(
        model_name=model_name,
        models_uri=models_uri,
        tracking_uri=tracking_uri,
        git_commit=git_commit,
        pipeline_run=dsl.PIPELINE_JOB_NAME_PLACEHOLDER,
        dataset=ingested.outputs["dataset"],
        candidate_package=packaged.outputs["candidate_package"],
        baseline_package=packaged.outputs["baseline_package"],
    )
    registered.after(explained)  # what cannot be explained is not registered
    # Said here, because a namespace's LimitRange would give each step its default, 1 CPU and 1 GiB.
    light = (
        part,
        ingested,
        preprocessed,
        tuned,
        evaluated,
        exported,
        watched,
        packaged,
        explained,
        registered,
    )
    for task in light:
        task.set_cpu_request("500m").set_cpu_limit("2").set_memory_request("2Gi").set_memory_limit("8Gi")
    trained.set_cpu_request("2").set_cpu_limit("4").set_memory_request("4Gi").set_memory_limit("16Gi")
    return Outputs(
        dataset=ingested.outputs["dataset"],
        validation_set=ingested.outputs["validation_set"],
        tuning=tuned.outputs["record"],
        model=trained.outputs["model"],
        evaluation=evaluated.outputs["evaluation"],
        explanation=explained.outputs["explanation"],
        detectors=watched.outputs["detectors"],
        registration=registered.outputs["registration"],
    )
