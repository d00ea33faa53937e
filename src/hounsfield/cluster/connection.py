"""The Kubernetes API: how to reach it, and what its refusals mean in one sentence."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import urllib3
from kubernetes import client, config

from hounsfield.errors import ClusterError

REQUEST_TIMEOUT_S = 30.0
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True)
class Connection:
    """An API server and the namespace that jobs are made in."""

    configuration: client.Configuration
    namespace: str

    def core(self) -> client.CoreV1Api:
        return client.CoreV1Api(client.ApiClient(self.configuration))

    def custom(self) -> client.CustomObjectsApi:
        return client.CustomObjectsApi(client.ApiClient(self.configuration))


def connect(namespace: str = "") -> Connection:
    """The cluster that this pod runs in, else the kubeconfig's current context.

    `namespace` is by default the pod's own, or the context's. Raises ClusterError when there is neither.
    """
    configuration = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=configuration)
        own = _NAMESPACE_FILE.read_text().strip() if _NAMESPACE_FILE.exists() else "default"
    except config.ConfigException:
        try:
            config.load_kube_config(client_configuration=configuration)
            own = config.list_kube_config_contexts()[1]["context"].get("namespace", "default")
        except (config.ConfigException, TypeError):
            raise ClusterError(
                "there is no Kubernetes to talk to, neither a pod's service account nor a kubeconfig: "
                "set KUBECONFIG, or use launcher 'torchrun'"
            ) from None
    return connection(configuration, namespace or own)


def connection(configuration: client.Configuration, namespace: str) -> Connection:
    """A Connection whose requests fail at once: what is tried again, and for how long, is ours to say."""
    configuration.retries = 0
    return Connection(configuration, namespace)


def status_of(error: BaseException) -> int | None:
    """HTTP status behind `error`: the Kubeflow clients wrap the API's answer, or raise beside it."""
    return next((link.status for link in _chain(error) if isinstance(link, client.ApiException)), None)


def is_lost(error: BaseException) -> bool:
    """True when there was no answer at all, or one that a proxy gives for a server that is away."""
    gone = (urllib3.exceptions.HTTPError, TimeoutError, multiprocessing.TimeoutError, ConnectionError)
    status = status_of(error)
    if status is not None:
        return status in (429, 500, 502, 503, 504) or status == 0
    return any(isinstance(link, gone) for link in _chain(error))


def explain(error: Exception, connection: Connection, verb: str, kind: str, name: str) -> ClusterError:
    """The sentence for `error`, met while trying to `verb` (create, read) the `kind` called `name`."""
    where = f"{kind} {name!r} in namespace {connection.namespace!r}"
    status, said = status_of(error), _said(error)
    if status == 401:
        return ClusterError(
            f"the Kubernetes API does not accept these credentials (401): renew them to {verb} {where}"
        )
    if status == 403:
        return ClusterError(f"no permission to {verb} {where} (403): {said}")
    if status == 404 and verb == "create":
        return ClusterError(
            f"cannot create {where} (404): the cluster has no such namespace, or no controller for {kind}"
        )
    if status == 404:
        return ClusterError(f"{where} is not there (404): it was deleted, or never made")
    if status == 409:
        return ClusterError(
            f"cannot create {where} (409): the name is taken; delete that one or give another name"
        )
    if status in (400, 422):
        return ClusterError(f"the cluster refuses {where} ({status}): {said}")
    if status is None and is_lost(error):
        return ClusterError(f"the Kubernetes API at {connection.configuration.host} does not answer")
    return ClusterError(f"cannot {verb} {where}" + (f" ({status})" if status else "") + f": {said}")


def _said(error: BaseException) -> str:
    """The message of the API's Status object, else the last words of the exception, on one line."""
    for link in _chain(error):
        if isinstance(link, client.ApiException):
            try:
                return " ".join(json.loads(link.body)["message"].split())
            except (TypeError, ValueError, KeyError, AttributeError):
                return str(link.reason)
    return " ".join(str(error).split())[:300] or type(error).__name__


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__
