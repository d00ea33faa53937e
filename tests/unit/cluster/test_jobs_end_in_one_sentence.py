"""A training job against an API server over HTTP: every way to end, and what is left behind."""

import re

import pytest

from hounsfield.cluster.run import run_job
from hounsfield.cluster.watching import JobFailed
from hounsfield.errors import ClusterError
from tests.unit.cluster.api_server import EVENTS, JOBS, LIMITS, NAMESPACE

NAME = "train-1"
POD = f"{NAME}-master-0"
WATCHES = (JOBS, {"watch": "True"})


def run(cluster, settings, launcher="pytorchjob", connection=None):
    run_job(
        connection or cluster.connection,
        launcher,
        NAME,
        settings,
        "hounsfield/train:1",
        ["--tensors=s3://bucket/t"],
        cluster.lines.append,
        cluster.clock,
        LIMITS,
    )


def pod_runs(cluster):
    cluster.pod(POD, "Running", container={"running": {}})


def pod_ends(cluster, code=0, reason="Completed", phase=None):
    cluster.pod(
        POD,
        phase or ("Failed" if code else "Succeeded"),
        container={"terminated": {"exitCode": code, "reason": reason}},
    )


def job_becomes(kind, **more):
    return lambda cluster: cluster.condition(JOBS, NAME, kind, **more)


def test_success_shows_the_log_once_and_deletes_the_job(cluster, settings):
    cluster.log(POD, "epoch=0 validation_auroc=0.5", "epoch=1 validation_auroc=0.9")
    cluster.plan = [pod_runs, lambda c: None, pod_ends, job_becomes("Succeeded")]
    run(cluster, settings)
    assert cluster.lines == [
        f"PyTorchJob {NAME} in namespace {NAMESPACE} is made",
        "epoch=0 validation_auroc=0.5",
        "epoch=1 validation_auroc=0.9",
    ]
    assert cluster.get(JOBS, NAME) is None


def test_job_is_not_deleted_while_a_pod_of_it_still_writes(cluster, settings):
    kept = []
    cluster.plan = [
        pod_runs,
        job_becomes("Succeeded"),
        lambda c: kept.append(c.get(JOBS, NAME) is not None),
        pod_ends,
    ]
    run(cluster, settings)
    assert kept == [True]
    assert cluster.get(JOBS, NAME) is None


def test_failed_job_is_kept_and_says_what_training_said(cluster, settings):
    cluster.log(
        POD, "epoch=0 train_loss=nan", "error: the loss is not a number in epoch 0; lower learning_rate"
    )
    cluster.plan = [
        pod_runs,
        lambda c: pod_ends(c, 1, "Error"),
        job_becomes("Failed", message="PyTorchJob train-1 is failed because 1 Master replica(s) failed."),
    ]
    with pytest.raises(
        JobFailed, match=r"failed: the loss is not a number in epoch 0; lower learning_rate"
    ) as end:
        run(cluster, settings)
    assert str(end.value).endswith(f"it is kept: kubectl describe pytorchjobs {NAME} -n {NAMESPACE}")
    assert cluster.get(JOBS, NAME) is not None


def test_error_that_training_explains_is_not_tried_again(cluster, settings):
    cluster.log(POD, "error: a dataset with one class")
    cluster.plan = [lambda c: c.pod(POD, "Running", container={"running": {}, "restartCount": 1})] * 3
    with pytest.raises(JobFailed, match="failed: a dataset with one class"):
        run(cluster, settings)
    assert cluster.get(JOBS, NAME)["spec"]["runPolicy"]["suspend"] is True  # it holds no machine


def test_container_without_words_is_named_with_its_end(cluster, settings):
    cluster.plan = [
        pod_runs,
        lambda c: pod_ends(c, 137, "OOMKilled"),
        job_becomes("Failed", message="failed"),
    ]
    with pytest.raises(JobFailed, match=re.escape(f"pod {POD}: OOMKilled (exit code 137)")):
        run(cluster, settings)


def test_no_permission_in_the_namespace(cluster, settings):
    said = 'pytorchjobs.kubeflow.org is forbidden: User "steps" cannot create resource "pytorchjobs"'
    cluster.answer("create", JOBS, status=403, reason="Forbidden", message=said)
    with pytest.raises(
        ClusterError, match="no permission to create PyTorchJob 'train-1' in namespace 'team'"
    ) as end:
        run(cluster, settings)
    assert said in str(end.value)


def test_permission_taken_away_while_it_runs(cluster, settings):
    cluster.plan = [
        pod_runs,
        lambda c: c.answer("fetch", JOBS, status=403, reason="Forbidden", message="cannot get resource"),
    ]
    with pytest.raises(ClusterError, match=r"no permission to read PyTorchJob .*cannot get resource"):
        run(cluster, settings)


def test_name_that_is_taken(cluster, settings):
    cluster.put(JOBS, NAME, {"spec": {"mine": False}})
    with pytest.raises(ClusterError, match=r"cannot create PyTorchJob .*\(409\): the name is taken"):
        run(cluster, settings)
    assert cluster.get(JOBS, NAME)["spec"] == {"mine": False}


def test_cluster_without_the_controller(cluster, settings):
    cluster.answer("create", JOBS, status=404, message="the server could not find the requested resource")
    with pytest.raises(ClusterError, match="no such namespace, or no controller for PyTorchJob"):
        run(cluster, settings)


def test_rejected_object_is_told_with_the_webhooks_reason(cluster, settings):
    cluster.answer("create", JOBS, status=422, reason="Invalid", message="spec.pytorchReplicaSpecs: Required")
    with pytest.raises(ClusterError, match=r"refuses PyTorchJob .* \(422\): spec\.\w+: Required"):
        run(cluster, settings)


def test_watch_that_is_gone_loses_nothing(cluster, settings):
    gone = {
        "type": "ERROR",
        "object": {"code": 410, "reason": "Expired", "message": "too old resource version"},
    }
    cluster.emulator[WATCHES] << (gone,)
    cluster.plan = [pod_runs, lambda c: None, pod_ends, job_becomes("Succeeded")]
    run(cluster, settings)
    assert len(cluster.requests(*WATCHES)) >= 3
    assert cluster.get(JOBS, NAME) is None


def test_watch_that_drops_loses_nothing(cluster, settings):
    cluster.emulator[WATCHES] << (b'{"type": "MODI', ConnectionResetError)
    cluster.plan = [pod_runs, lambda c: None, pod_ends, job_becomes("Succeeded")]
    run(cluster, settings)
    assert len(cluster.requests(*WATCHES)) >= 3
    assert cluster.get(JOBS, NAME) is None


def test_log_that_breaks_is_read_on_without_repeating_a_line(cluster, settings):
    log = re.compile(f"/api/v1/namespaces/{NAMESPACE}/pods/{POD}/log")
    whole = b"2026-01-01T00:00:00.000000000Z one\n2026-01-01T00:00:01.000000000Z two\n"
    cluster.emulator[log][:2] << (whole[:45], ConnectionResetError)
    cluster.emulator[log] << whole
    cluster.plan = [pod_runs, *[lambda c: None] * 5, pod_ends, job_becomes("Succeeded")]
    run(cluster, settings)
    assert cluster.lines[1:] == ["one", "two"]


def test_job_that_never_starts_says_what_the_scheduler_says(cluster, settings):
    why = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    cluster.plan = [
        lambda c: c.pod(
            POD,
            "Pending",
            conditions=[
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why}
            ],
        )
    ]
    with pytest.raises(
        JobFailed, match=r"no running pod for 100 s \(start_timeout_s\).*Unschedulable"
    ) as end:
        run(cluster, settings)
    assert why in str(end.value)
    assert cluster.get(JOBS, NAME)["spec"]["runPolicy"]["suspend"] is True


def test_image_that_cannot_be_pulled_is_named(cluster, settings):
    waiting = {
        "waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "hounsfield/train:1"'}
    }
    cluster.plan = [lambda c: c.pod(POD, "Pending", container=waiting)]
    with pytest.raises(JobFailed, match=r"ImagePullBackOff: Back-off pulling image"):
        run(cluster, settings)


def test_pods_that_admission_refuses_are_told_from_the_events(cluster, settings):
    cluster.put(
        EVENTS,
        "e",
        {
            "involvedObject": {"kind": "PyTorchJob", "name": NAME},
            "reason": "FailedCreatePod",
            "message": 'violates PodSecurity "restricted:latest"',
            "type": "Warning",
        },
    )
    with pytest.raises(JobFailed, match='FailedCreatePod: violates PodSecurity "restricted:latest"'):
        run(cluster, settings)


def test_nobody_makes_pods(cluster, settings):
    with pytest.raises(JobFailed, match="no controller has made pods for it"):
        run(cluster, settings)


def test_spot_nodes_that_leave_are_waited_for(cluster, settings):
    cluster.plan = [
        pod_runs,
        lambda c: c.pod(POD, "Pending"),
        *[lambda c: None] * 8,  # 80 s: less than start_timeout_s
        pod_runs,
        pod_ends,
        job_becomes("Succeeded"),
    ]
    run(cluster, settings)
    assert cluster.get(JOBS, NAME) is None


def test_deadline_ends_the_wait_and_frees_the_machine(cluster, settings):
    cluster.plan = [pod_runs]
    with pytest.raises(JobFailed, match=r"has not ended within 150 s \(deadline_s\)"):
        run(cluster, settings)
    assert cluster.get(JOBS, NAME)["spec"]["runPolicy"]["suspend"] is True


def test_job_deleted_by_someone_else(cluster, settings):
    cluster.plan = [pod_runs, lambda c: c.drop(JOBS, NAME)]
    with pytest.raises(ClusterError, match="was deleted while it ran"):
        run(cluster, settings)


def test_lost_api_server(cluster, settings):
    cluster.plan = [pod_runs, Stop()]
    with pytest.raises(ClusterError, match=r"has not answered for 50 s; PyTorchJob .* may still run"):
        run(cluster, settings)


def test_api_server_away_for_a_while_is_waited_for(cluster, settings):
    cluster.plan = [
        pod_runs,
        lambda c: c.answer("fetch", JOBS, status=503, message="etcdserver: leader changed", times=3),
        *[lambda c: None] * 5,
        pod_ends,
        job_becomes("Succeeded"),
    ]
    run(cluster, settings)
    assert cluster.get(JOBS, NAME) is None


def test_ctrl_c_leaves_no_job_behind(cluster, settings):
    def interrupt(cluster):
        raise KeyboardInterrupt

    cluster.plan = [pod_runs, interrupt]
    with pytest.raises(KeyboardInterrupt):
        run(cluster, settings)
    assert cluster.get(JOBS, NAME) is None


class Stop:
    def __call__(self, cluster):
        cluster.stop()
