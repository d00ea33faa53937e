"""Rules and dashboards: promtool, and every query against a real Prometheus that scrapes a real model."""

import json
import math
import re
import shutil
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
import yaml

from hounsfield.drift import metrics as drift
from hounsfield.errors import PlatformError
from hounsfield.laptop.programs import find_program
from tests.integration.predictor_process import (
    NOT_DICOM,
    free_ports,
    json_request,
    make_package,
    radiograph,
    start,
    stop,
)

ROOT = Path(__file__).parents[2]
WATCHING = ROOT / "manifests/cluster/watching"
PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
needs_prometheus = pytest.mark.skipif(
    PROMETHEUS is None or PROMTOOL is None,
    reason="prometheus is not installed (Debian: apt install prometheus)",
)
ELSEWHERE = """\
seldon_validator_total{deployment_name="gate"} 3
seldon_validator_passed_total{deployment_name="gate"} 2
kubelet_volume_stats_available_bytes{namespace="hounsfield",persistentvolumeclaim="hounsfield-log"} 9e9
kubelet_volume_stats_capacity_bytes{namespace="hounsfield",persistentvolumeclaim="hounsfield-log"} 2e10
kube_cronjob_status_last_successful_time{namespace="hounsfield",cronjob="hounsfield-backup"} 1.8e9
"""
"""What no process of a laptop shows: the kubelet's and kube-state-metrics' series, by their documentation,
and the gate's, whose names tests/integration/test_gate_service.py reads from the real Seldon microservice."""

SELECTOR = re.compile(r"\b(?:hounsfield|seldon|kubelet|kube|envoy|process)[a-z0-9_:]*(?:\{[^}]*\})?")


def read_rules():
    return yaml.safe_load((WATCHING / "rules.yaml").read_text())["spec"]


def alerts():
    return [rule for group in read_rules()["groups"] for rule in group["rules"] if "alert" in rule]


def panels():
    for file in sorted((WATCHING / "dashboards").glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{file.stem}: {panel['title']}", target["expr"]


def test_every_alert_has_a_severity_a_sentence_and_a_runbook():
    for alert in alerts():
        assert alert["labels"]["severity"] in ("page", "ticket")
        assert {"summary", "description", "runbook_url"} == set(alert["annotations"])
        assert (ROOT / alert["annotations"]["runbook_url"]).is_file(), alert["annotations"]["runbook_url"]
    names = [alert["alert"] for alert in alerts()]
    assert len(names) == len(set(names)) == 19


def test_the_first_callers_of_a_candidate_count_wherever_clinicians_do():
    """Traffic is live, first or shadow: a query that asks for `live` alone would not see the first."""
    queries = [expr for _, expr in panels()]
    queries += [rule["expr"] for group in read_rules()["groups"] for rule in group["rules"]]
    selected = {found for query in queries for found in re.findall(r'\btraffic *([=!~]+ *"[^"]*")', query)}
    assert selected == {'!="shadow"', '="shadow"'}


def test_every_runbook_is_of_an_alert_and_says_what_to_do():
    asked = {Path(alert["annotations"]["runbook_url"]).name for alert in alerts()}
    found = {path.name for path in (ROOT / "docs/runbooks").glob("*.md")}
    assert found - {"README.md"} == asked
    for name in asked:
        text = (ROOT / "docs/runbooks" / name).read_text()
        of_it = [a["alert"] for a in alerts() if a["annotations"]["runbook_url"].endswith(f"/{name}")]
        assert all(f"`{alert}`" in text for alert in of_it), name
        for heading in ("## What it means", "## Look", "## Do"):
            assert heading in text, name


@needs_prometheus
def test_each_alert_fires_when_it_should_and_is_quiet_when_it_should(tmp_path):
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(read_rules()))
    subprocess.run([PROMTOOL, "check", "rules", "rules.yaml"], cwd=tmp_path, check=True, capture_output=True)
    cases = ROOT / "tests/manifests/alerts/alerts.yaml"
    shutil.copy(cases, tmp_path)
    done = subprocess.run(
        [PROMTOOL, "test", "rules", "alerts.yaml"], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    seen = {"fires": set(), "is quiet": set()}
    for scenario in yaml.safe_load(cases.read_text())["tests"]:
        for check in scenario["promql_expr_test"]:
            if name := re.search(r'alertname="(\w+)"', check["expr"]):
                seen["fires" if check["exp_samples"] else "is quiet"].add(name[1])
    names = {alert["alert"] for alert in alerts()}
    assert seen == {"fires": names, "is quiet": names}


@needs_prometheus
def test_a_wrong_threshold_is_found_by_the_cases(tmp_path):
    rules = yaml.safe_dump(read_rules()).replace("ratio_rate30m > 0.1", "ratio_rate30m > 0.9")
    (tmp_path / "rules.yaml").write_text(rules)
    cases = yaml.safe_load((ROOT / "tests/manifests/alerts/alerts.yaml").read_text())
    cases["tests"] = [case for case in cases["tests"] if case["name"] == "a fifth of the images is refused"]
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(cases))
    done = subprocess.run(
        [PROMTOOL, "test", "rules", "alerts.yaml"], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 1


def serve(page):
    """A page for Prometheus, from a thread."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """The address of a Prometheus with our rules that scrapes a real predictor, drift page and Envoy."""
    folder = tmp_path_factory.mktemp("watched")
    try:
        envoy = find_program("envoy")
    except PlatformError as error:
        pytest.skip(str(error))
    server = start(make_package(folder / "package"), folder / "predictor.txt", f"--log_dir={folder / 'log'}")
    admin, http = free_ports(2)
    result = {"score": 0.1, "p_value": 0.4, "threshold": 0.05, "is_drift": False, "by_field": {"sex": 0.5}}
    worker = drift.Metrics()
    worker.set_result("opacity", "3", {"image": result})
    worker.set_filling("opacity", "3", 12)
    worker.set_logs(0, 0)
    worker.count_windows("opacity", "3")
    pages = [drift.serve(worker, "127.0.0.1", 0), serve(ELSEWHERE)]
    addresses = [server.http, f"127.0.0.1:{admin}", *(f"127.0.0.1:{page.server_port}" for page in pages)]
    rules = read_rules()
    for group in rules["groups"]:
        group["interval"] = "300ms"
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    (folder / "envoy.yaml").write_text(
        f"admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}\n"
    )
    scrapes = [
        {"job_name": name, "metrics_path": path, "static_configs": [{"targets": [address], "labels": labels}]}
        for name, path, address, labels in (
            # What the PodMonitor's relabelings add on a cluster.
            ("serving", "/metrics", addresses[0], {"component": "predictor", "revision": "stable"}),
            ("gateway", "/stats/prometheus", addresses[1], {}),
            ("drift", "/metrics", addresses[2], {}),
            ("elsewhere", "/metrics", addresses[3], {}),
        )
    ]
    often = {"scrape_interval": "300ms", "scrape_timeout": "300ms"}
    configuration = {"global": often, "scrape_configs": scrapes, "rule_files": ["rules.yaml"]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    processes = [
        subprocess.Popen(command, stdout=log, stderr=log)
        for command, log in (
            ([envoy, "-c", folder / "envoy.yaml", "--base-id", str(admin), "-l", "off"], subprocess.DEVNULL),
            (
                [PROMETHEUS, f"--config.file={folder / 'prometheus.yml'}",
                 f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{http}"],
                (folder / "prometheus.txt").open("w"),
            ),
        )
    ]  # fmt: skip
    try:
        yield server, f"http://127.0.0.1:{http}"
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(10)
        for page in pages:
            page.shutdown()
            page.server_close()
        stop(server)


def ask(address, query):
    """The values that `query` has now."""
    try:
        answer = requests.get(f"{address}/api/v1/query", params={"query": query}, timeout=5).json()
    except requests.ConnectionError:
        return []
    assert answer["status"] == "success", f"{query}: {answer.get('error')}"
    result = answer["data"]["result"]
    return (
        [float(item["value"][1]) for item in result]
        if answer["data"]["resultType"] == "vector"
        else [result[1]]
    )


def filled(expression):
    """A panel's query as Grafana would send it."""
    for variable, value in {
        "$__rate_interval": "1m",
        "$model": ".*",
        "$cpu_price": "0.04",
        "$memory_price": "0.005",
    }.items():
        expression = expression.replace(variable, value)
    return expression


@needs_prometheus
def test_no_panel_and_no_rule_is_empty(watched, tmp_path):
    server, prometheus = watched
    scan = json_request(radiograph(tmp_path, seed=7))
    queries = dict(panels())
    assert len(queries) >= 36
    wanted = {f"{name} {n}": filled(expr) for n, (name, expr) in enumerate(panels())}
    for group in read_rules()["groups"]:
        for rule in group["rules"]:
            if "record" in rule:
                wanted[rule["record"]] = rule["record"]
            for selector in SELECTOR.findall(rule["expr"]):
                wanted[f"{rule.get('alert', rule.get('record'))}: {selector}"] = selector
    deadline, empty = time.monotonic() + 60, wanted
    while empty and time.monotonic() < deadline:
        requests.post(server.infer, json=scan, timeout=10)
        requests.post(server.infer, json=scan, headers={"Host": "opacity-shadow"}, timeout=10)
        requests.post(server.infer, json=json_request(NOT_DICOM), timeout=10)
        time.sleep(0.3)
        empty = {
            name: query
            for name, query in empty.items()
            if not any(math.isfinite(value) for value in ask(prometheus, query))
        }
    assert list(empty) == []


@needs_prometheus
def test_a_query_of_a_series_that_nobody_has_is_found_empty(watched):
    assert ask(watched[1], "hounsfield_renamed_total") == []


@pytest.mark.skipif(
    shutil.which("amtool") is None, reason="amtool is missing (Debian: prometheus-alertmanager)"
)
def test_alertmanager_takes_the_routes_and_sends_each_alert_to_its_people():
    file = ROOT / "manifests/alertmanager/alertmanager.yaml"
    assert subprocess.run(["amtool", "check-config", file], capture_output=True, check=False).returncode == 0
    for alert in alerts():
        severity, name = alert["labels"]["severity"], alert["alert"]
        command = ["amtool", "config", "routes", "test", f"--config.file={file}"]
        done = subprocess.run(
            [*command, f"alertname={name}", f"severity={severity}"],
            capture_output=True,
            text=True,
            check=True,
        )
        of_the_model = {
            "HounsfieldDrift",
            "HounsfieldGateFailed",
            "HounsfieldRefusesMuch",
            "HounsfieldReviewsMuch",
        }
        expected = "on-call" if severity == "page" else "model-owners" if name in of_the_model else "tickets"
        assert done.stdout.strip().endswith(expected), name
