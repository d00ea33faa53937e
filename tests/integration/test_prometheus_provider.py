"""A real Prometheus server: one policy gives the verdicts on it that it gives on the laptop's scraper."""

import http.server
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import numpy
import pytest
import requests
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from hounsfield.errors import RolloutError
from hounsfield.rollout import decide
from hounsfield.rollout.evidence import Watch, parse
from hounsfield.rollout.policy import load_policy
from hounsfield.rollout.prometheus import PrometheusProvider
from hounsfield.rollout.scrape import ScrapeProvider
from hounsfield.serving.metrics import Metrics

PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
SHIPPED = Path(__file__).parents[2] / "manifests/base/rollout/policy.yaml"
SELECTORS = {"stable": 'revision="stable"', "canary": 'revision="canary"'}

needs_prometheus = pytest.mark.skipif(
    PROMETHEUS is None or PROMTOOL is None,
    reason="prometheus is not installed (Debian: apt install prometheus)",
)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def prometheus(tmp_path):
    """Start Prometheus with a configuration on what is in `tmp_path/data`; gives its address."""
    running = []

    def start(configuration="{}"):
        port = free_port()
        (tmp_path / "prometheus.yml").write_text(configuration)
        with (tmp_path / "prometheus.log").open("w") as log:
            process = subprocess.Popen(
                [
                    PROMETHEUS, f"--config.file={tmp_path / 'prometheus.yml'}",
                    f"--storage.tsdb.path={tmp_path / 'data'}", "--storage.tsdb.retention.time=10y",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=log, stderr=log,
            )  # fmt: skip
        running.append(process)
        deadline_s = time.monotonic() + 30
        while time.monotonic() < deadline_s:
            try:
                if requests.get(f"http://127.0.0.1:{port}/-/ready", timeout=1).ok:
                    return f"http://127.0.0.1:{port}"
            except requests.ConnectionError:
                assert process.poll() is None, (tmp_path / "prometheus.log").read_text()
            time.sleep(0.05)
        raise AssertionError((tmp_path / "prometheus.log").read_text())

    yield start
    for process in running:
        process.terminate()
        process.wait(timeout=20)


class Revision:
    """A predictor's own series, and the page that it would give."""

    def __init__(self, version):
        self.version, self.random = version, numpy.random.default_rng(int(version))
        self.restart()

    def restart(self):
        self.registry = CollectorRegistry()
        self.metrics = Metrics("opacity", self.version, self.registry)

    def serve(self, requests, error_rate=0.0):
        errors = int(self.random.binomial(requests, error_rate))
        scores = self.random.random(requests - errors)
        self.metrics.count("error", errors)
        self.metrics.count_answers(scores, (scores > 0.4) & (scores < 0.6))
        for score in scores:
            self.metrics.count_group(("F", "40-59", "PA", "other"), "positive", bool(0.4 < score < 0.6))
        for seconds in self.random.exponential(0.05, requests):
            self.metrics.observe_latency_s(float(seconds))

    def page(self):
        return generate_latest(self.registry).decode()


class Scraped:
    """The laptop's scraper, on servers that give the pages as they were at each time; 503 where none was."""

    def __init__(self, pages):
        self.pages, self.present = pages, {}
        scraped = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                page = scraped.present[self.path.strip("/")]
                body = (page or "").encode()
                self.send_response(503 if page is None else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{self.server.server_port}"
        self.provider = ScrapeProvider({role: f"{url}/{role}" for role in SELECTORS})

    def read(self, now):
        self.present = self.pages[now]
        return self.provider.read(now)

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def record(began, error_rate):
    """Looks of two seconds at 50 %: a canary that restarts at the 6th, without a page at the 9th and 10th."""
    stable, canary, pages = Revision("1"), Revision("2"), {}
    for number in range(25):
        stable.serve(20)
        canary.serve(20, error_rate if number > 12 else 0.0)
        if number == 6:
            canary.restart()
            canary.serve(7)
        down = number in (9, 10)
        pages[began + 2.0 * number] = {"stable": stable.page(), "canary": None if down else canary.page()}
    return pages


def as_openmetrics(pages):
    """The pages as one history that promtool can make blocks of: each series' samples together, in time."""
    history = {}
    for at, roles in pages.items():
        for role, page in roles.items():
            for family in text_string_to_metric_families(page) if page else ():
                for sample in family.samples:
                    labels = {**sample.labels, "revision": role, "instance": f"{role}:8080"}
                    series = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
                    line = f"{sample.name}{{{series}}} {sample.value} {at:.3f}"
                    history.setdefault((sample.name, series), []).append(line)
    return "\n".join(line for key in sorted(history) for line in history[key]) + "\n# EOF\n"


def verdicts(provider, times, policy):
    watch = Watch(provider)
    observations = [watch.look(at, 50) for at in times]
    return observations, [verdict.as_dict() for verdict in decide.replay(policy, times[0], observations)]


SUBGROUPS = """
subgroups:
  attributes: {patient_sex: [F, M], manufacturer: [other]}
  guardrails: {review_share: {margin: 0.3, minimum: 30, when_unassessable: ignore}}
"""


@needs_prometheus
@pytest.mark.parametrize("error_rate", [0.0, 0.5], ids=["sound", "fails from the 13th look"])
def test_a_recorded_prometheus_gives_the_verdicts_of_the_pages(tmp_path, prometheus, error_rate):
    pages = record(float(int(time.time()) - 7200), error_rate)
    (tmp_path / "history.txt").write_text(as_openmetrics(pages))
    subprocess.run(
        [PROMTOOL, "tsdb", "create-blocks-from", "openmetrics", "history.txt", "data"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    file = tmp_path / "policy.yaml"
    file.write_text(SHIPPED.read_text() + SUBGROUPS)
    policy, times, laptop = load_policy(file), list(pages), Scraped(pages)
    try:
        scraped = verdicts(laptop, times, policy)
    finally:
        laptop.close()
    provider = PrometheusProvider(prometheus(), SELECTORS, max_age_s=1.0)
    queried = verdicts(provider, times, policy)
    assert queried == scraped
    groups = {found["group"]: found["standing"] for found in scraped[1][-1]["findings"]}
    assert groups["patient_sex=M"] == "UNASSESSABLE"
    assert groups["patient_sex=F"] == groups["manufacturer=other"] != "UNASSESSABLE"
    decisions = [verdict["decision"] for verdict in scraped[1]]
    assert ("ROLLBACK" if error_rate else "PROMOTE") in decisions
    assert ("PROMOTE" if error_rate else "ROLLBACK") not in decisions[13:]
    assert [n for n, found in enumerate(queried[0]) if found.restarted] == [6]
    assert [n for n, found in enumerate(queried[0]) if found.canary is None] == [9, 10]


@needs_prometheus
def test_a_target_that_dies_is_no_evidence(tmp_path, prometheus):
    revisions = {"stable": Revision("1"), "canary": Revision("2")}
    servers = {role: serve_pages(revision) for role, revision in revisions.items()}
    targets = "\n".join(
        f"      - {{targets: ['127.0.0.1:{server.server_port}'], labels: {{revision: {role}}}}}"
        for role, server in servers.items()
    )
    url = prometheus(
        "global: {scrape_interval: 200ms, scrape_timeout: 200ms}\nscrape_configs:\n  - job_name: hounsfield\n"
        f"    static_configs:\n{targets}\n"
    )
    provider = PrometheusProvider(url, SELECTORS, max_age_s=2.0)
    revisions["canary"].serve(30)
    found = wait_for(provider, lambda read: read["canary"] and counters(read["canary"])["ok"] == 30)
    assert counters(found["canary"]) == counters(parse(revisions["canary"].page(), 0))
    assert found["canary"].model_versions == ("2",)
    servers["canary"].shutdown()
    servers["canary"].server_close()
    found = wait_for(provider, lambda read: read["canary"] is None)
    assert found["stable"] is not None
    servers["stable"].shutdown()
    servers["stable"].server_close()


def test_a_prometheus_that_is_not_there_is_no_evidence():
    provider = PrometheusProvider(f"http://127.0.0.1:{free_port()}", SELECTORS)
    assert provider.read(time.time()) == {"stable": None, "canary": None}


def test_a_revision_without_a_selector_is_refused():
    with pytest.raises(RolloutError, match="no Prometheus selector is given for the revision 'canary'"):
        PrometheusProvider("http://127.0.0.1:1", {"stable": 'revision="stable"'})


def counters(found):
    (only,) = found.processes.values()
    return only


def serve_pages(revision):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = revision.page().encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def wait_for(provider, is_there, timeout_s=20.0):
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        read = provider.read(time.time())
        if is_there(read):
            return read
        time.sleep(0.1)
    raise AssertionError("it did not come to that in time")
