"""`make submit` against a server that speaks the KFP API over HTTP: what it sends, and every refusal."""

from __future__ import annotations

import json

import pytest

from hounsfield.cluster import pipeline_runs
from hounsfield.cluster.pipeline_runs import open_client, wait
from hounsfield.cluster.watching import Clock
from hounsfield.errors import ClusterError, ConfigError
from pipelines import submit
from pipelines.compile import PIPELINES, compile_package
from tests.unit.cluster.kfp_server import API, running_pipelines

PARAMS = {
    "source": "s3://hospital/dicom",
    "labels": "s3://hospital/labels.csv",
    "models_uri": "s3://models",
    "tracking_uri": "http://mlflow:5000",
    "checkpoints": "s3://training/checkpoints",
}
LOGIN = {"Location": "https://dex.example/auth?client_id=kubeflow"}


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """Both pipelines, compiled once."""
    out = tmp_path_factory.mktemp("packages")
    return {pipeline.name: compile_package(pipeline, out) for pipeline in PIPELINES.values()}


@pytest.fixture
def server(monkeypatch, tmp_path, packages):
    monkeypatch.setattr(submit, "compile_package", lambda pipeline, out: packages[pipeline.name])
    monkeypatch.setattr("kfp.client.client.Client._LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
    for name in ("KFP_TOKEN", "KFP_COOKIE"):
        monkeypatch.delenv(name, raising=False)
    seconds = [0.0]

    def sleep(s):
        seconds[0] += s

    clock = Clock(now=lambda: seconds[0], sleep=sleep)
    monkeypatch.setattr(pipeline_runs, "Clock", lambda: clock)
    with running_pipelines() as (pipelines, host, stop):
        pipelines.host, pipelines.stop, pipelines.clock = host, stop, clock
        yield pipelines


@pytest.fixture
def params(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("".join(f"{name}: {value}\n" for name, value in PARAMS.items()))
    return str(path)


def said(capsys, server, *more):
    """The one line of a command that ends with status 2."""
    assert submit.main(["--host", server.host, *more]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_run_is_submitted_with_its_parameters_and_waited_for(server, params, capsys):
    server.states = [
        ("RUNNING", [("ingest", "SUCCEEDED", {}), ("train", "RUNNING", {})]),
        ("SUCCEEDED", [("ingest", "SKIPPED", {}), ("train", "SUCCEEDED", {})]),
    ]
    given = ["--params", params, "--param", "tune_trials=4", "--param", "parameters={epochs: 3}"]
    assert submit.main(["--host", server.host, *given, "--experiment", "lungs", "--name", "first"]) == 0
    (run,) = server.runs.values()
    assert server.experiments["lungs"]["experiment_id"] == run["experiment_id"]
    assert run["display_name"] == "first"
    sent = run["runtime_config"]["parameters"]
    assert sent.items() >= PARAMS.items()
    assert (sent["tune_trials"], sent["parameters"]) == (4, {"epochs": 3})
    assert len(sent["git_commit"]) == 40
    assert run["pipeline_spec"]["pipelineInfo"]["name"] == "hounsfield-training"
    assert caching(run) == {True}
    out = capsys.readouterr().out
    assert f"first: {server.host}/#/runs/details/run-0\n" in out
    assert "[progress] run 1/2 train" in out
    assert out.endswith("run run-0 succeeded\n")


def caching(run):
    """What the steps say of caching."""
    tasks = run["pipeline_spec"]["root"]["dag"]["tasks"].values()
    return {bool(task["cachingOptions"].get("enableCache")) for task in tasks}


def test_second_run_uses_the_same_experiment_and_no_cache_reaches_every_step(server, params, capsys):
    for more in ([], ["--no-cache", "--no-wait"]):
        assert submit.main(["--host", server.host, "--params", params, *more]) == 0
    assert list(server.experiments) == ["hounsfield"]
    assert caching(server.runs["run-1"]) == {False}


def test_failed_run_is_status_1_and_names_the_step(server, params, capsys):
    error = {
        "error": {"code": 13, "message": "labels.csv row 4: label 'maybe' is not one of negative, positive"}
    }
    server.states = [("FAILED", [("ingest", "FAILED", error)])]
    assert submit.main(["--host", server.host, "--params", params]) == 1
    assert "run run-0 failed: step ingest: labels.csv row 4: label 'maybe'" in capsys.readouterr().out


def test_recurring_run_of_the_retraining_pipeline(server, params, capsys):
    more = ["--pipeline", "retraining", "--cron", "0 0 3 * * *", "--param", "prometheus_url=http://p:9090"]
    assert submit.main(["--host", server.host, "--params", params, *more, "--name", "nightly"]) == 0
    (made,) = server.recurring.values()
    assert made["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * *"
    assert made["mode"] == "ENABLE"
    assert made["no_catchup"] is True
    assert made["pipeline_spec"]["pipelineInfo"]["name"] == "hounsfield-retraining"
    assert "recurringrun/details/recurring-0" in capsys.readouterr().out


def test_token_and_cookie_reach_the_server(server, params, monkeypatch, capsys):
    monkeypatch.setenv("KFP_TOKEN", "secret-token")
    monkeypatch.setenv("KFP_COOKIE", "authservice_session=abc")
    assert submit.main(["--host", server.host, "--params", params, "--no-wait"]) == 0
    assert {headers.get("authorization") for headers in server.headers} == {"Bearer secret-token"}
    assert {headers.get("cookie") for headers in server.headers} == {"authservice_session=abc"}
    assert "secret" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("status", [302, 307])
def test_redirect_to_a_login_page(server, params, capsys, status):
    server.refusals[("GET", API)] = (status, LOGIN, "")
    assert "shows a login page: put a token into KFP_TOKEN" in said(capsys, server, "--params", params)


def test_login_page_in_the_place_of_an_answer(server, params, capsys):
    server.refusals[("GET", API)] = (200, {"Content-Type": "text/html"}, "<html>Log in</html>")
    assert "shows a login page" in said(capsys, server, "--params", params)


def test_credentials_that_are_not_accepted(server, params, capsys):
    server.refusals[("GET", API)] = (401, {}, "Unauthorized")
    assert "does not accept these credentials (401)" in said(capsys, server, "--params", params)


def test_no_permission_in_the_namespace(server, params, capsys):
    body = json.dumps({"code": 7, "message": "User 'x' is not authorized to create runs in namespace 'y'"})
    server.refusals[("POST", f"{API}/runs")] = (403, {"Content-Type": "application/json"}, body)
    assert "refuses (403): User 'x' is not authorized to create runs" in said(
        capsys, server, "--params", params
    )
    assert server.runs == {}


def test_old_server(server, params, capsys):
    server.refusals[("GET", f"{API}/healthz")] = (404, {}, "404 page not found")
    server.refusals[("GET", "/apis/v1beta1/healthz")] = (200, {}, "{}")
    assert "is Kubeflow Pipelines before 2.0" in said(capsys, server, "--params", params)


def test_address_of_something_else(server, params, capsys):
    server.refusals[("GET", f"{API}/healthz")] = (404, {}, "404 page not found")
    assert "is not Kubeflow Pipelines" in said(capsys, server, "--params", params)


def test_server_that_is_not_there(server, params, capsys):
    server.stop()
    assert "does not answer (ConnectionError): is HOST right?" in said(capsys, server, "--params", params)


def test_many_teams_want_a_namespace(server, params, capsys):
    server.healthz = {"multi_user": True}
    assert "name the namespace of yours (NAMESPACE=team)" in said(capsys, server, "--params", params)
    assert submit.main(["--host", server.host, "--params", params, "--namespace", "team", "--no-wait"]) == 0
    assert server.experiments["hounsfield"]["namespace"] == "team"


def test_connection_lost_while_waiting(server, params, capsys):
    server.states = [("RUNNING", [])]
    client = open_client(server.host)
    server.runs["r"] = {"run_id": "r"}
    answers = iter([None, None, server.stop])

    def progress(done, steps, running):
        action = next(answers)
        if action:
            action()

    with pytest.raises(ClusterError, match="has not answered for 300 s; run r may still go on"):
        wait(client, server.host, "r", clock=server.clock, on_progress=progress)


def test_server_away_for_a_moment_is_waited_for(server):
    server.refusals[("GET", f"{API}/runs")] = (503, {}, "upstream connect error")
    client = open_client(server.host)
    server.runs["r"] = {"run_id": "r"}
    moments = []

    def sleep(seconds):
        moments.append(seconds)
        if len(moments) == 3:
            server.refusals.clear()

    clock = Clock(now=lambda: float(sum(moments)), sleep=sleep)
    assert wait(client, server.host, "r", clock=clock).state == "SUCCEEDED"


def test_run_that_never_ends(server):
    server.states = [("RUNNING", [])]
    client = open_client(server.host)
    server.runs["r"] = {"run_id": "r"}
    with pytest.raises(ClusterError, match="has not ended within 100 s; it goes on"):
        wait(client, server.host, "r", timeout_s=100, clock=server.clock)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {},
            "hounsfield-training needs source, labels, models_uri, tracking_uri, checkpoints: put them into",
        ),
        ({**PARAMS, "sauce": 1}, "has no parameter 'sauce'"),
    ],
)
def test_wrong_parameters_are_named(given, expected):
    with pytest.raises(ConfigError, match=expected):
        submit.arguments(PIPELINES["training"], None, given)


def test_wrong_files_and_times_are_named(server, params, tmp_path, capsys):
    assert "absent.yaml does not exist" in said(capsys, server, "--params", str(tmp_path / "absent.yaml"))
    assert "does not have six fields" in said(capsys, server, "--params", params, "--cron", "0 3 * * *")
