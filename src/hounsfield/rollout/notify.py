"""Tell other systems what a rollout does: a JSON object by POST to each address of the policy that asked
for it.

A hook that is slow or down must never hold a rollout up: a thread of its own delivers, once and in order,
and what could not be delivered is counted, not tried again. The ledger is the record; this is a courtesy.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence

import requests

from hounsfield.rollout.controller import Event
from hounsfield.rollout.policy import Notification

_WAITING = 1000
"""Events that may wait for a slow hook; more are dropped, and counted."""


class Notifier:
    """Call it with each event, and leave it as a context manager: that waits `grace_s` for the last
    deliveries."""

    def __init__(
        self, notifications: Sequence[Notification], timeout_s: float = 2.0, grace_s: float = 5.0
    ) -> None:
        self._notifications, self._timeout_s, self._grace_s = tuple(notifications), timeout_s, grace_s
        self._events: queue.Queue[Event | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._deliver, daemon=True)
        self.delivered = self.failed = 0

    def __call__(self, event: Event) -> None:
        if any(event.kind in notification.on for notification in self._notifications):
            try:
                self._events.put_nowait(event)
            except queue.Full:
                self.failed += 1

    def __enter__(self) -> Notifier:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._events.put(None, timeout=self._grace_s)
        except queue.Full:
            return
        self._thread.join(self._grace_s)

    def _deliver(self) -> None:
        with requests.Session() as session:
            session.trust_env = False  # a proxy of the hospital's network has no part in this
            while (event := self._events.get()) is not None:
                body = {"kind": event.kind, "at": event.at, "weight": event.weight, "message": event.message}
                for notification in self._notifications:
                    if event.kind not in notification.on:
                        continue
                    try:
                        session.post(notification.url, json=body, timeout=self._timeout_s).raise_for_status()
                        self.delivered += 1
                    except requests.RequestException:
                        self.failed += 1
