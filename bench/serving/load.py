"""The load client, a process of its own: `python -m bench.serving.load PLAN` prints one line of JSON.

It shares the machine's cores with the server it measures, so it does as little as can be: the request's bytes
are made beforehand, HTTP is one epoll loop over plain sockets that looks at the status and the length only,
and gRPC is a sync stub that sends and receives bytes. Each client waits for its answer before it asks again;
one that is told 429 or 503 waits for the Retry-After it was given, and is counted as shed.
"""

from __future__ import annotations

import collections
import dataclasses
import heapq
import json
import resource
import select
import socket
import sys
import threading
import time
from pathlib import Path

DEFAULT_RETRY_S = 1.0


@dataclasses.dataclass(frozen=True)
class Plan:
    """`request` is a file: for `http` all bytes of one HTTP request, for `grpc` one ModelInferRequest.

    Nothing counts before `warmup_s`; then everything that ends within `seconds`.
    """

    door: str
    port: int
    request: str
    clients: int
    seconds: float
    warmup_s: float = 1.0


class Tally:
    """What was seen between the end of the warm-up and the end; safe for threads: a note is one append."""

    def __init__(self, plan: Plan) -> None:
        self.began_s = time.monotonic() + plan.warmup_s
        self.end_s = self.began_s + plan.seconds
        self.ended: list[tuple[float, float, str]] = []

    def note(self, sent_s: float, status: str) -> None:
        now_s = time.monotonic()
        if self.began_s <= now_s <= self.end_s:
            self.ended.append((sent_s, now_s, status))

    def summary(self, plan: Plan) -> dict:
        statuses = collections.Counter(status for _, _, status in self.ended)
        used = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "latency_s": [now_s - sent_s for sent_s, now_s, status in self.ended if status == "ok"],
            "rate_per_s": statuses["ok"] / plan.seconds,
            "statuses": dict(statuses),
            "client_cpu_s": (used.ru_utime + used.ru_stime) / max(1, len(self.ended)),
        }


class Connection:
    """One HTTP client: sends the request, reads one answer, and so on."""

    def __init__(self, port: int, request: bytes) -> None:
        self._port, self._request = port, memoryview(request)
        self.connect()

    def connect(self) -> None:
        self.socket = socket.create_connection(("127.0.0.1", self._port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)

    def begin(self) -> None:
        self.sent, self.answer, self.expected = 0, bytearray(), None
        self.sent_s = time.monotonic()

    def send(self) -> bool:
        """Send what goes; whether all is sent."""
        while self.sent < len(self._request):
            try:
                self.sent += self.socket.send(self._request[self.sent :])
            except BlockingIOError:
                return False
        return True

    def receive(self) -> bool:
        """Read what there is; whether the answer is whole. Raises ConnectionError."""
        try:
            part = self.socket.recv(65536)
        except BlockingIOError:
            return False
        if not part:
            raise ConnectionError
        self.answer += part
        if self.expected is None:
            end = self.answer.find(b"\r\n\r\n")
            if end < 0:
                return False
            head = bytes(self.answer[:end]).lower()
            at = head.find(b"content-length:")
            # Chunked: the end is the empty chunk.
            self.expected = end + 4 + int(head[at + 15 :].split(b"\r\n")[0]) if at >= 0 else -1
        if self.expected < 0:
            return self.answer.endswith(b"0\r\n\r\n")
        return len(self.answer) >= self.expected

    def ask(self) -> str:
        """Send the request and wait for the answer's status; `connection` where there is none."""
        try:
            self.socket.setblocking(True)
            self.begin()
            self.send()
            while not self.receive():
                pass
            closing = b"\r\nconnection: close" in bytes(self.answer[:1024]).lower()
        except OSError:
            closing = True
        answer = self.status() or "connection"
        if closing:
            self.socket.close()
            self.connect()
        return answer

    def status(self) -> str:
        return self.answer[9:12].decode()

    def retry_s(self) -> float:
        head = bytes(self.answer).split(b"\r\n\r\n")[0].lower()
        at = head.find(b"retry-after:")
        return float(head[at + 12 :].split(b"\r\n")[0]) if at >= 0 else DEFAULT_RETRY_S


def http(plan: Plan, tally: Tally) -> None:
    request = Path(plan.request).read_bytes()
    poll = select.epoll()
    connections: dict[int, Connection] = {}
    resting: list[tuple[float, int]] = []

    def begin(connection: Connection) -> None:
        connection.begin()
        done = connection.send()
        poll.modify(connection.socket, select.EPOLLIN | (0 if done else select.EPOLLOUT))

    def rest(connection: Connection, seconds: float) -> None:
        heapq.heappush(resting, (time.monotonic() + seconds, connection.socket.fileno()))

    for _ in range(plan.clients):
        connection = Connection(plan.port, request)
        connections[connection.socket.fileno()] = connection
        poll.register(connection.socket, select.EPOLLIN)
        begin(connection)
    while (now_s := time.monotonic()) < tally.end_s:
        while resting and resting[0][0] <= now_s:
            begin(connections[heapq.heappop(resting)[1]])
        next_s = min(resting[0][0] if resting else tally.end_s, tally.end_s)
        for number, event in poll.poll(max(0.0, next_s - now_s)):
            connection = connections[number]
            try:
                if event & select.EPOLLOUT and connection.send():
                    poll.modify(number, select.EPOLLIN)
                if not event & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                    continue
                if not connection.receive():
                    continue
            except OSError:
                tally.note(connection.sent_s, "connection")
                poll.unregister(number)
                del connections[number]
                connection.socket.close()
                connection.connect()
                connections[connection.socket.fileno()] = connection
                poll.register(connection.socket, select.EPOLLIN)
                connection.begin()
                rest(connection, 0.05)
                continue
            status = connection.status()
            tally.note(connection.sent_s, "ok" if status == "200" else status)
            if status in ("429", "503"):
                rest(connection, connection.retry_s())
            else:
                begin(connection)


def grpc(plan: Plan, tally: Tally) -> None:
    import grpc

    request = Path(plan.request).read_bytes()
    limit = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]

    def client() -> None:
        with grpc.insecure_channel(f"127.0.0.1:{plan.port}", options=limit) as channel:
            infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            while (sent_s := time.monotonic()) < tally.end_s:
                try:
                    infer(request, timeout=60)
                    tally.note(sent_s, "ok")
                except grpc.RpcError as error:
                    tally.note(sent_s, error.code().name)
                    told = dict(error.trailing_metadata() or ())
                    shed = error.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
                    pause_s = float(told.get("retry-after", DEFAULT_RETRY_S)) if shed else 0.05
                    time.sleep(min(pause_s, max(0.0, tally.end_s - time.monotonic())))

    threads = [threading.Thread(target=client, daemon=True) for _ in range(plan.clients)]
    for thread in threads:
        thread.start()
    time.sleep(max(0.0, tally.end_s - time.monotonic()))


def main(text: str) -> int:
    plan = Plan(**json.loads(text))
    tally = Tally(plan)
    {"http": http, "grpc": grpc}[plan.door](plan, tally)
    print(json.dumps(tally.summary(plan)), flush=True)
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1])
    # Calls still under way are nobody's: their threads need not be waited for.
    import os

    os._exit(status)
