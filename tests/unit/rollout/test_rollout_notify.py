"""Hooks hear of what they asked for, and a hook that is down holds nothing up."""

import http.server
import json
import threading
import time

from hounsfield.rollout.controller import Event
from hounsfield.rollout.notify import Notifier
from hounsfield.rollout.policy import Notification


def test_a_hook_hears_the_events_that_it_asked_for_in_order():
    heard = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        with Notifier([Notification(url, ("weights_set", "rollout_ended"))]) as notify:
            for kind, weight in (("rollout_started", 0), ("weights_set", 5), ("rollout_ended", 100)):
                notify(Event(kind, 1.5, weight, f"{kind} said"))
        server.shutdown()
    assert heard == [
        {"kind": "weights_set", "at": 1.5, "weight": 5, "message": "weights_set said"},
        {"kind": "rollout_ended", "at": 1.5, "weight": 100, "message": "rollout_ended said"},
    ]
    assert (notify.delivered, notify.failed) == (2, 0)


def test_a_hook_that_is_down_or_silent_holds_nothing_up():
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        urls = (f"http://127.0.0.1:{silent.getsockname()[1]}", "http://127.0.0.1:1")
        began_s = time.monotonic()
        with Notifier([Notification(url, ("verdict",)) for url in urls], timeout_s=0.2) as notify:
            notify(Event("verdict", 1.0, 5, "HOLD"))
            told_s = time.monotonic() - began_s
    assert told_s < 0.1
    assert (notify.delivered, notify.failed) == (0, 2)
