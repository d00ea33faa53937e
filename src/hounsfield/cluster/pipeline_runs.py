"""Runs on Kubeflow Pipelines by the `kfp` SDK: refusals, old servers and lost connections as one sentence."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import urllib3

from hounsfield.cluster.watching import Clock
from hounsfield.errors import ClusterError, ConfigError
from hounsfield.progress import Reporter

ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
_DONE = ("SUCCEEDED", "SKIPPED", "CACHED")
_PROBE_TIMEOUT_S = 15.0


@dataclass(frozen=True)
class Credentials:
    """How to be known to the server: a bearer token, or the cookie that a browser got; a CA of one's own."""

    token: str | None = None
    cookie: str | None = None
    ca_file: str | None = None


@dataclass(frozen=True)
class RunResult:
    """How a run ended: `state` is one of ENDED, `failure` what its failed steps are called and say."""

    run_id: str
    state: str
    failure: str | None = None


def open_client(host: str, namespace: str = "", credentials: Credentials = Credentials()) -> Any:
    """A kfp.Client of the Kubeflow Pipelines at `host`, after a look whether it can be used.

    Raises ClusterError when it does not answer, wants to see a login, or is older than 2.0, and ConfigError
    when it is a multi-user installation and no `namespace` is given.
    """
    import kfp

    if not host:
        raise ConfigError("name the address of Kubeflow Pipelines: make submit HOST=https://kubeflow.example")
    host = host.rstrip("/") if "://" in host else f"https://{host.rstrip('/')}"
    healthy = _probe(host, credentials)
    if healthy.get("multi_user") and not namespace:
        raise ConfigError(f"{host} serves many teams: name the namespace of yours (NAMESPACE=team)")
    with warnings.catch_warnings(), _explained(host, "open"):
        warnings.simplefilter("ignore")
        client = kfp.Client(
            host=host,
            namespace=namespace or "kubeflow",
            existing_token=credentials.token,
            cookies=credentials.cookie,
            ssl_ca_cert=credentials.ca_file,
        )
    # Tried again by us, and told: urllib3 would wait in silence.
    client._existing_config.retries = 0
    return client


def submit(
    client: Any,
    host: str,
    package: Path,
    arguments: Mapping[str, Any],
    experiment: str,
    name: str,
    namespace: str = "",
    caching: bool = True,
    service_account: str | None = None,
) -> tuple[str, str]:
    """Start the compiled pipeline `package`; return the run's id and the address of its page."""
    with _explained(host, f"start run {name!r}"), contextlib.redirect_stdout(io.StringIO()):
        made = client.create_run_from_pipeline_package(
            str(package),
            arguments=dict(arguments),
            run_name=name,
            experiment_name=experiment,
            namespace=namespace or None,
            enable_caching=caching,
            service_account=service_account,
        )
    return made.run_id, f"{host.rstrip('/')}/#/runs/details/{made.run_id}"


def schedule(
    client: Any,
    host: str,
    package: Path,
    arguments: Mapping[str, Any],
    experiment: str,
    name: str,
    cron: str,
    namespace: str = "",
    caching: bool = True,
    service_account: str | None = None,
) -> tuple[str, str]:
    """Run `package` at the times of `cron` (seconds first, six fields); return its id and page's address."""
    if len(cron.split()) != 6:
        raise ConfigError(f"cron {cron!r} does not have six fields: second minute hour day month weekday")
    with _explained(host, f"schedule {name!r}"), contextlib.redirect_stdout(io.StringIO()):
        folder = client.create_experiment(experiment, namespace=namespace or None)
        made = client.create_recurring_run(
            folder.experiment_id,
            name,
            cron_expression=cron,
            max_concurrency=1,
            no_catchup=True,
            params=dict(arguments),
            pipeline_package_path=str(package),
            enable_caching=caching,
            service_account=service_account,
        )
    identifier = made.recurring_run_id
    return identifier, f"{host.rstrip('/')}/#/recurringrun/details/{identifier}"


def wait(
    client: Any,
    host: str,
    run_id: str,
    timeout_s: float = 24 * 3600,
    lost_after_s: float = 300.0,
    look_every_s: float = 10.0,
    clock: Clock | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> RunResult:
    """Wait for the run to end, telling `on_progress(done, steps, what runs)`; progress lines by default.

    Raises ClusterError when the server refuses, is away for longer than `lost_after_s`, or the run has not
    ended within `timeout_s`; it goes on then.
    """
    clock = clock or Clock()
    began = answered = clock.now()
    while True:
        try:
            with _explained(host, f"look at run {run_id}"):
                run = client.get_run(run_id)
        except _Lost:
            if clock.now() - answered > lost_after_s:
                raise ClusterError(
                    f"{host} has not answered for {lost_after_s:g} s; run {run_id} may still go on: see "
                    f"{host.rstrip('/')}/#/runs/details/{run_id}"
                ) from None
        else:
            answered = clock.now()
            tasks = [task for task in (run.run_details and run.run_details.task_details) or [] if task.state]
            steps = [task for task in tasks if not (task.display_name or "").startswith("root")]
            done = sum(task.state in _DONE for task in steps)
            running = [task.display_name for task in steps if task.state == "RUNNING"]
            if on_progress is not None:
                on_progress(done, len(steps), ", ".join(running))
            elif steps:
                Reporter("run", len(steps)).update(done, ", ".join(running))
            if run.state in ENDED:
                return RunResult(run_id, run.state, None if run.state in _DONE else _failure(run, steps))
        if clock.now() - began > timeout_s:
            raise ClusterError(f"run {run_id} has not ended within {timeout_s:g} s; it goes on")
        clock.sleep(look_every_s)


class _Lost(ClusterError):
    """No answer, or a proxy's that the server is away: worth another try."""


def _failure(run: Any, steps: list[Any]) -> str:
    failed = [task for task in steps if task.state == "FAILED"]
    said = [
        f"step {task.display_name}" + (f": {task.error.message}" if task.error and task.error.message else "")
        for task in failed
    ]
    if run.error and run.error.message:
        said.append(run.error.message)
    return "; ".join(said) or f"the run is {run.state}"


def _probe(host: str, credentials: Credentials) -> dict[str, Any]:
    """The server's healthz. kfp.Client itself would try for 25 s, and log a traceback each time."""
    headers = {"Authorization": f"Bearer {credentials.token}"} if credentials.token else {}
    if credentials.cookie:
        headers["Cookie"] = credentials.cookie
    session = requests.Session()
    session.headers.update(headers)

    def get(path: str) -> requests.Response:
        try:
            return session.get(
                f"{host}{path}",
                timeout=_PROBE_TIMEOUT_S,
                allow_redirects=False,
                verify=credentials.ca_file or True,
            )
        except requests.exceptions.SSLError:
            raise ClusterError(f"the certificate of {host} is not trusted: name its CA (--ca-file)") from None
        except (requests.RequestException, ValueError) as error:
            raise ClusterError(f"{host} does not answer ({type(error).__name__}): is HOST right?") from None

    answer = get("/apis/v2beta1/healthz")
    _refuse(host, answer.status_code, answer.headers.get("Content-Type", ""), answer.text)
    if answer.status_code == 404 and get("/apis/v1beta1/healthz").status_code == 200:
        raise ClusterError(
            f"{host} is Kubeflow Pipelines before 2.0: it knows no v2beta1; it has to be newer"
        )
    try:
        answer.raise_for_status()
        return dict(answer.json())
    except (requests.RequestException, ValueError, TypeError):
        raise ClusterError(
            f"{host} is not Kubeflow Pipelines: /apis/v2beta1/healthz answers {answer.status_code}"
        ) from None


def _refuse(host: str, status: int, content_type: str, body: str) -> None:
    if 300 <= status < 400 or (status == 200 and "html" in content_type):
        raise ClusterError(
            f"{host} shows a login page: put a token into KFP_TOKEN, or your browser's cookie into KFP_COOKIE"
        )
    if status == 401:
        raise ClusterError(f"{host} does not accept these credentials (401): renew KFP_TOKEN or KFP_COOKIE")
    if status == 403:
        raise ClusterError(f"{host} refuses (403): {_said(body)}")


def _said(body: Any) -> str:
    try:
        values = json.loads(body)
        return " ".join(str(values.get("message") or values.get("error")).split())[:300]
    except (ValueError, TypeError, AttributeError):
        return "these credentials may not do that"


@contextlib.contextmanager
def _explained(host: str, doing: str) -> Iterator[None]:
    """What the SDK raises as ClusterError; _Lost where another try may help."""
    import kfp_server_api

    try:
        yield
    except kfp_server_api.ApiException as error:
        status, headers = error.status or 0, error.headers or {}
        if status in (0, 429, 500, 502, 503, 504) and "look" in doing:
            raise _Lost(f"{host} does not answer ({status})") from None
        _refuse(host, status, headers.get("Content-Type", ""), error.body)
        raise ClusterError(f"{host} cannot {doing} ({status}): {_said(error.body)}") from None
    except (urllib3.exceptions.HTTPError, ConnectionError, TimeoutError):
        raise _Lost(f"{host} does not answer: cannot {doing}") from None
    except ValueError as error:  # a login page where JSON is due, or a package that KFP cannot read
        raise ClusterError(f"{host} cannot {doing}: {' '.join(str(error).split())[:300]}") from None
