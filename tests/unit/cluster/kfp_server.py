"""A server that speaks the part of the KFP v2beta1 API that a client uses to run pipelines."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

API = "/apis/v2beta1"


class Pipelines:
    """`states` are what a run is found in, one a look (the last stays); `refusals` answer before all else."""

    def __init__(self) -> None:
        self.experiments, self.runs, self.recurring, self.headers = {}, {}, {}, []
        self.states = [("SUCCEEDED", [])]
        self.healthz = {"multi_user": False}
        self.refusals = {}
        self.looks = 0

    def answer(self, method, path, query, body):
        """(status, JSON object) of a request."""
        if path == f"{API}/healthz":
            return 200, self.healthz
        if path == f"{API}/experiments" and method == "POST":
            made = {**body, "experiment_id": f"experiment-{len(self.experiments)}"}
            self.experiments[made["display_name"]] = made
            return 200, made
        if path == f"{API}/experiments":
            found = [made for name, made in self.experiments.items() if json.dumps(name)[1:-1] in query]
            return 200, {"experiments": found}
        if path == f"{API}/runs" and method == "POST":
            made = {**body, "run_id": f"run-{len(self.runs)}"}
            self.runs[made["run_id"]] = made
            return 200, made
        if path.startswith(f"{API}/runs/"):
            state, tasks = self.states[min(self.looks, len(self.states) - 1)]
            self.looks += 1
            details = {
                "task_details": [{"display_name": name, "state": how, **more} for name, how, more in tasks]
            }
            return 200, {**self.runs[path.rsplit("/", 1)[1]], "state": state, "run_details": details}
        if path == f"{API}/recurringruns" and method == "POST":
            made = {**body, "recurring_run_id": f"recurring-{len(self.recurring)}"}
            self.recurring[made["recurring_run_id"]] = made
            return 200, made
        return 404, {"message": "no such path"}


def _handler(pipelines):
    class Handler(BaseHTTPRequestHandler):
        def _serve(self):
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            path, _, query = self.path.partition("?")
            pipelines.headers.append({name.lower(): value for name, value in self.headers.items()})
            for (method, start), (status, headers, text) in list(pipelines.refusals.items()):
                if self.command == method and path.startswith(start):
                    return self._send(status, headers, text.encode())
            status, found = pipelines.answer(self.command, path, query, body)
            return self._send(status, {"Content-Type": "application/json"}, json.dumps(found).encode())

        def _send(self, status, headers, data):
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _serve

        def log_message(self, *_):
            pass

    return Handler


@contextmanager
def running_pipelines():
    """(Pipelines, address, a function that takes the server away)."""
    pipelines = Pipelines()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(pipelines))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    stopped = []

    def stop():
        if not stopped:
            stopped.append(True)
            server.shutdown()
            server.server_close()

    try:
        yield pipelines, f"http://127.0.0.1:{server.server_address[1]}", stop
    finally:
        stop()
        thread.join(5)
