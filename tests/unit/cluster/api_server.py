"""A Kubernetes API server over HTTP (kmock), in a thread; what a controller would do is written into it."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from contextlib import contextmanager

from kmock import KubernetesEmulator, Server, resource
from kubernetes import client

from hounsfield.cluster.connection import connection
from hounsfield.cluster.watching import Clock, Limits

NAMESPACE = "team"
JOBS = resource("kubeflow.org/v1/pytorchjobs")
TRAINJOBS = resource("trainer.kubeflow.org/v1alpha1/trainjobs")
EXPERIMENTS = resource("kubeflow.org/v1beta1/experiments")
TRIALS = resource("kubeflow.org/v1beta1/trials")
PODS, EVENTS = resource("v1/pods"), resource("v1/events")
LIMITS = Limits(deadline_s=150, start_timeout_s=100, lost_after_s=50, look_every_s=0.01)


class Cluster:
    """`plan` holds what happens at each look of the code under test: a list of functions of this cluster."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.time_s, self.plan, self.lines = 0.0, [], []
        self.emulator: KubernetesEmulator | None = None
        self.server: Server | None = None
        self.run(self._start())

    async def _start(self):
        self.emulator = await KubernetesEmulator().__aenter__()
        self.emulator.resources.load_bundled()
        for custom in (JOBS, TRAINJOBS, EXPERIMENTS, TRIALS):
            self.emulator.resources[custom] = {"kind": custom.plural, "namespaced": True}
        self.server = await Server(self.emulator).__aenter__()

    async def _stop(self):
        server, self.server = self.server, None
        if server is not None:
            await server.__aexit__(None, None, None)

    async def _close(self):
        await self._stop()
        await self.emulator.__aexit__(None, None, None)

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def stop(self):
        """The API server goes away."""
        self.run(self._stop())

    def close(self):
        self.run(self._close())

    @property
    def connection(self):
        return connection(client.Configuration(host=str(self.server.url).rstrip("/")), NAMESPACE)

    @property
    def clock(self):
        return Clock(now=lambda: self.time_s, sleep=self._sleep)

    def _sleep(self, seconds):
        self.time_s += max(seconds, 10.0)
        assert self.time_s < 5000, "the code under test never ends"
        if self.plan:
            self.plan.pop(0)(self)

    def answer(self, *criteria, status, reason="", message="", times=None):
        """The API answers such requests with a Status object, from now on or so many times."""
        body = {"kind": "Status", "status": "Failure", "reason": reason, "message": message, "code": status}
        self.emulator[criteria][slice(times)] << status << body

    def requests(self, *criteria):
        return list(self.emulator[criteria])

    def put(self, kind, name, body):
        """An object as it is now, without a look at what it was."""
        self.emulator.objects[kind, NAMESPACE, name] = body | {
            "metadata": {"name": name, "namespace": NAMESPACE} | body.get("metadata", {})
        }

    def get(self, kind, name):
        """The object, None when it is not (any more) there."""
        if (kind, NAMESPACE, name) not in self.emulator.objects:
            return None
        found = self.emulator.objects[kind, NAMESPACE, name]
        return None if found.deleted else dict(found)

    def change(self, kind, name, change):
        self.emulator.objects[kind, NAMESPACE, name].patch(change)

    def drop(self, kind, name):
        self.emulator.objects[kind, NAMESPACE, name].delete()

    def pod(self, name, phase, labels=None, container=None, **status):
        """A pod; `container` is the state of its one container, called pytorch."""
        statuses = []
        if container is not None:
            statuses = [
                {
                    "name": "pytorch",
                    "image": "i",
                    "imageID": "i",
                    "ready": True,
                    "restartCount": container.pop("restartCount", 0),
                    "state": container,
                }
            ]
        self.put(
            PODS,
            name,
            {
                "metadata": {"labels": labels or {"training.kubeflow.org/replica-index": "0"}},
                "spec": {"containers": [{"name": "pytorch"}]},
                "status": {"phase": phase, "containerStatuses": statuses} | status,
            },
        )

    def condition(self, kind, name, condition, **more):
        self.change(kind, name, {"status": {"conditions": [{"type": condition, "status": "True"} | more]}})

    def log(self, pod, *lines, first=0):
        """The pod's log: one line a second from `first` on, with the kubelet's timestamps."""
        text = "".join(
            f"2026-01-01T00:00:{first + number:02d}.000000000Z {line}\n" for number, line in enumerate(lines)
        )
        self.emulator[re.compile(f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/log")] << text.encode()


@contextmanager
def running_cluster():
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    cluster = Cluster(loop)
    try:
        yield cluster
    finally:
        cluster.close()
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


def as_json(item) -> dict:
    """A model of a Kubeflow client as the API server gets it."""
    values = item.to_dict() if hasattr(item, "model_fields") else item
    return json.loads(json.dumps(client.ApiClient().sanitize_for_serialization(values)))
