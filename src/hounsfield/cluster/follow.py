"""Wait for a training job to end, showing its log: each way in which it may not end is one sentence."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import urllib3
from kubernetes import client

from hounsfield.cluster.connection import REQUEST_TIMEOUT_S, Connection
from hounsfield.cluster.jobs import JobKind
from hounsfield.cluster.log_stream import LogStream
from hounsfield.cluster.watching import Clock, JobFailed, JobStuck, Limits, looks, where

_ENDED = {"Succeeded": "Succeeded", "Complete": "Succeeded", "Failed": "Failed"}


def follow(
    connection: Connection,
    kind: JobKind,
    name: str,
    limits: Limits,
    on_line: Callable[[str], None],
    clock: Clock | None = None,
) -> None:
    """Return when the job has succeeded and its pods have ended.

    Raises JobFailed when it failed, JobStuck when it did not start or not end in time, and ClusterError when
    it was deleted or the API server refuses, or is away for longer than `limits.lost_after_s`.
    """
    clock, core = clock or Clock(), connection.core()
    log = LogStream(connection, kind.container, on_line, pause_s=min(1.0, limits.look_every_s))
    this = where(connection, kind, name)
    ran = clock.now()

    def list_pods() -> list[client.V1Pod]:
        return core.list_namespaced_pod(
            connection.namespace,
            label_selector=kind.selector.format(name),
            _request_timeout=REQUEST_TIMEOUT_S,
        ).items

    try:
        for job, pods, now in looks(connection, kind, name, limits, clock, list_pods):
            first = _first(pods, kind)
            if first is not None:
                log.follow(first.metadata.name)
            running = any(pod.status.phase == "Running" for pod in pods)
            ran = now if running else ran
            ended = _ended(job)
            if ended == "Succeeded" and not running:
                log.end()
                return
            if ended == "Failed":
                log.end()
                raise JobFailed(f"{this} failed: {_reason(job, pods, kind, log)}")
            if log.words.sentence and first is not None and _has_ended_once(first, kind):
                # It would say the same again: restarts are for crashes, not for errors
                # that training explains.
                raise JobStuck(f"{this} failed: {log.words.sentence}")
            if ended is None and now - ran > limits.start_timeout_s:
                raise JobStuck(
                    f"{this} has had no running pod for {limits.start_timeout_s:g} s (start_timeout_s): "
                    f"{_why_not_running(job, pods, core, connection, name)}"
                )
    finally:
        log.end(timeout_s=1.0)


def _ended(job: Mapping[str, Any]) -> str | None:
    for condition in (job.get("status") or {}).get("conditions") or []:
        if condition["status"] == "True" and condition["type"] in _ENDED:
            return _ENDED[condition["type"]]
    return None


def _first(pods: Sequence[client.V1Pod], kind: JobKind) -> client.V1Pod | None:
    """The pod whose log is shown, once its container has one."""
    for pod in pods:
        labels = pod.metadata.labels or {}
        if pod.status.phase != "Pending" and kind.first.items() <= labels.items():
            return pod
    return None


def _statuses(pod: client.V1Pod, kind: JobKind) -> list[client.V1ContainerStatus]:
    return [status for status in pod.status.container_statuses or [] if status.name == kind.container]


def _has_ended_once(pod: client.V1Pod, kind: JobKind) -> bool:
    return any(
        status.restart_count > 0 or (status.state is not None and status.state.terminated is not None)
        for status in _statuses(pod, kind)
    )


def _reason(job: Mapping[str, Any], pods: Sequence[client.V1Pod], kind: JobKind, log: LogStream) -> str:
    """Why it failed: the training's own sentence, else how containers ended and what the controller says."""
    if log.words.sentence:
        return log.words.sentence
    ends = [log.words.exception] if log.words.exception else []
    for pod in pods:
        for status in _statuses(pod, kind):
            for state in (status.state, status.last_state):
                ended = state.terminated if state else None
                if ended is not None and ended.exit_code:
                    ends.append(f"pod {pod.metadata.name}: {ended.reason} (exit code {ended.exit_code})")
                    break
        if pod.status.reason:
            ends.append(f"pod {pod.metadata.name}: {pod.status.reason}: {pod.status.message or 'no message'}")
    conditions = (job.get("status") or {}).get("conditions") or []
    said = [item.get("message") or item.get("reason") for item in conditions if item["type"] == "Failed"]
    return "; ".join([*ends[:2], *filter(None, said)]) or "no reason was given"


def _why_not_running(
    job: Mapping[str, Any],
    pods: Sequence[client.V1Pod],
    core: client.CoreV1Api,
    connection: Connection,
    name: str,
) -> str:
    for pod in pods:
        for status in pod.status.container_statuses or []:
            waiting = status.state.waiting if status.state else None
            if waiting and waiting.reason not in (None, "ContainerCreating", "PodInitializing"):
                return f"pod {pod.metadata.name}: {waiting.reason}: {waiting.message or 'no message'}"
        for condition in pod.status.conditions or []:
            if condition.type == "PodScheduled" and condition.status == "False":
                return f"pod {pod.metadata.name}: {condition.reason}: {condition.message}"
    if job["spec"].get("suspend") or (job["spec"].get("runPolicy") or {}).get("suspend"):
        return "it is suspended, perhaps by a queue that has not admitted it"
    with contextlib.suppress(client.ApiException, urllib3.exceptions.HTTPError):
        events = core.list_namespaced_event(
            connection.namespace, field_selector="type=Warning", _request_timeout=REQUEST_TIMEOUT_S
        ).items
        # The job's own, and those of what its controller makes: NAME-worker-0, NAME-node-0.
        mine = [event for event in events if (event.involved_object.name or "").startswith(name)]
        if mine:
            return f"{mine[-1].reason}: {mine[-1].message}"
    return "its pods wait to be started" if pods else "no controller has made pods for it"
