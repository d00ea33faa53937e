"""The controller as a process, on a real tree and ledger: killed at any moment, it goes on."""

import http.server
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from hounsfield.audit import log
from hounsfield.rollout import manifest, repository, seed
from hounsfield.rollout.evidence import Observation
from hounsfield.rollout.ledger import Ledger, replay_ledger
from hounsfield.serving.metrics import LIVE, SHADOW, Metrics

ROOT = Path(__file__).parents[2]
POLICY = """
steps: [5, 25, 50, 100]
interval_s: 0.1
min_requests: 40
guardrails:
  error_rate: {margin: 0.05}
  latency: {limit_s: 0.5}
budgets: {max_duration_s: 300, failures_allowed: 20}
"""


class Hospital:
    """Both revisions' metrics pages, with 400 requests a second that follow the weights last taken over."""

    def __init__(self):
        self.weights, self.since, self.error_share = (
            {"stable": 100, "canary": 0, "shadow": 0},
            time.monotonic(),
            0.0,
        )
        self.registries = {"stable": CollectorRegistry(), "canary": CollectorRegistry()}
        self.metrics = {
            role: Metrics("opacity", version, self.registries[role])
            for role, version in (("stable", "1"), ("canary", "2"))
        }
        self.owed = dict.fromkeys(self.weights, 0.0)
        self.lock = threading.Lock()
        hospital = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.answer(hospital.page(self.path.strip("/")))

            def do_POST(self):
                hospital.take(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.answer(b"")

            def answer(self, body):
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def take(self, weights):
        with self.lock:
            self._catch_up()
            self.weights = weights

    def page(self, role):
        with self.lock:
            self._catch_up()
            return generate_latest(self.registries[role])

    def _catch_up(self):
        now = time.monotonic()
        for name, weight in self.weights.items():
            self.owed[name] += (now - self.since) * 400 * weight / 100
            requests, self.owed[name] = int(self.owed[name]), self.owed[name] % 1
            metrics = self.metrics["stable" if name == "stable" else "canary"]
            traffic = SHADOW if name == "shadow" else LIVE
            failed = 0 if name == "stable" else round(requests * self.error_share)
            metrics.count("ok", requests - failed, traffic)
            metrics.count("error", failed, traffic)
            for _ in range(requests):
                metrics.observe_latency_s(0.01, traffic)
        self.since = now


@pytest.fixture
def hospital():
    running = Hospital()
    yield running
    running.server.shutdown()
    running.server.server_close()


@pytest.fixture
def controller(tmp_path, hospital):
    tree = tmp_path / "gitops"
    seed.seed_tree(ROOT / "manifests", tree)
    (tmp_path / "policy.yaml").write_text(POLICY)
    running = []

    def start():
        process = subprocess.Popen(
            [
                sys.executable, Path(__file__).with_name("rollout_process.py"),
                tree, tmp_path / "ledger.jsonl", tmp_path / "policy.yaml", hospital.url,
            ],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        running.append(process)
        return process

    start.tree, start.ledger = tree, Ledger(tmp_path / "ledger.jsonl")
    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


def moves(tree):
    """(canary, shadow) of each commit that moved the traffic, in order."""
    titles = subprocess.run(
        ["git", "-C", tree, "log", "--reverse", "--format=%s"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    found = [
        re.match(r"Canary at (\d+) %, stable at (\d+) %(?:, (\d+) % mirrored)?", title) for title in titles
    ]
    for match in filter(None, found):
        assert int(match[1]) + int(match[2]) == 100
    return [(int(match[1]), int(match[3] or 0)) for match in found if match]


EVERY_STEP = [(0, 100), (5, 0), (25, 0), (50, 0), (100, 0)]


def test_ten_kills_at_random_moments_and_every_step_is_done_once(controller):
    dice = random.Random(os.environ.get("HOUNSFIELD_SEED", "4"))
    for _ in range(10):
        process = controller()
        for line in process.stdout:  # the interpreter's own start is not what is tested
            if line.startswith("rollout_started"):
                break
        time.sleep(dice.uniform(0.0, 0.6))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    last = controller()
    said, _ = last.communicate(timeout=60)
    assert said.splitlines()[-1] == "outcome promoted", said
    assert moves(controller.tree) == EVERY_STEP
    assert manifest.weights(controller.tree) == (0, 100)
    assert not repository.dirty(controller.tree)
    (story,) = controller.ledger.stories()
    assert story.outcome == "promoted"
    assert replay_ledger(controller.ledger) == len(story.verdicts)
    log.verify(controller.ledger.path, expected_head=repository.evidence_of(controller.tree)["ledger"])
    decided = [record["weight"] for record in story.verdicts if record["verdict"]["decision"] == "PROMOTE"]
    assert decided == [0, 5, 25, 50, 100]


def test_a_candidate_that_starts_failing_is_back_within_two_intervals(controller, hospital):
    process = controller()
    for line in process.stdout:
        if line.startswith("weights_set 50"):
            break
    hospital.take({"stable": 50, "canary": 50, "shadow": 0})
    hospital.error_share = 1.0
    said, _ = process.communicate(timeout=30)
    assert said.splitlines()[-1] == "outcome rolled_back"
    assert manifest.weights(controller.tree) == (100, 0)
    assert hospital.weights == {"stable": 100, "canary": 0, "shadow": 0}
    observations = [Observation.from_dict(record["observation"]) for record in
                    controller.ledger.stories()[0].verdicts]  # fmt: skip
    failing = [found for found in observations if found.canary and found.canary.get("error")]
    assert 1 <= len(failing) <= 2


def test_a_persons_commit_stops_the_controller_and_stands(controller):
    process = controller()
    for line in process.stdout:
        if line.startswith("weights_set 5"):
            break
    path = controller.tree / manifest.ROLLOUT_FILE
    while True:  # between two of the controller's own writes
        path.write_text(
            re.sub(r"canary: \d+", "canary: 0", re.sub(r"stable: \d+", "stable: 100", path.read_text()))
        )
        done = subprocess.run(["git", "-C", controller.tree, "commit", "-qam", "Stop it"], check=False)
        if done.returncode == 0:
            break
    said, _ = process.communicate(timeout=30)
    assert said.splitlines()[-1] == "outcome held", said
    assert manifest.weights(controller.tree) == (100, 0)
    assert controller.ledger.stories()[0].outcome == "held"
