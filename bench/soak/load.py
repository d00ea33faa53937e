"""Open-loop load: requests leave when they are due, however long the server takes over those before."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
from collections.abc import Mapping

import grpc
from tritonclient.grpc import service_pb2

ID = b"soak-%012d"
LIMIT_S = 60.0

MIX = {
    "image-binary": 0.5,
    "image-json": 0.1,
    "scan": 0.1,
    "compressed-scan": 0.15,
    "image-grpc": 0.15,
}
"""Shares of the requests by kind."""

FAULTY = 0.1
"""Share of the HTTP requests that go through a fault."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One request: what came back, and how long after it was due. `status` '' means no answer."""

    number: int
    kind: str
    fault: str
    due_s: float
    latency_s: float
    status: str

    @property
    def is_error(self) -> bool:
        """Whether this is what the fault cannot explain. Being shed (429) is an answer, counted apart."""
        if self.fault in ("clean", "delay", "drip"):
            return self.status not in ("200", "429")
        return self.status.startswith("5")


class Load:
    """`templates` are whole HTTP requests by kind, to which a header with an id is added."""

    def __init__(
        self,
        templates: Mapping[str, bytes],
        image: bytes,
        ports: Mapping[str, int],
        grpc_port: int,
        seed: int = 3,
    ) -> None:
        self._templates = {kind: request.split(b"\r\n", 1) for kind, request in templates.items()}
        self._image, self._ports, self._random = image, ports, random.Random(seed)  # noqa: S311
        self._faults = [fault for fault in ports if fault != "clean"]
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}")
        self._infer = self._channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        self._numbers = 0
        self.outcomes: list[Outcome] = []

    async def open_loop(self, rate_per_s: float, seconds: float) -> None:
        """Poisson arrivals at `rate_per_s` for `seconds`; returns when the last one is answered."""
        due_s, end_s = time.monotonic(), time.monotonic() + seconds
        asked = set()
        while (due_s := due_s + self._random.expovariate(rate_per_s)) < end_s:
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            task = asyncio.create_task(self._one(due_s))
            asked.add(task)
            task.add_done_callback(asked.discard)
        if asked:
            await asyncio.wait(asked)

    async def closed_loop(self, clients: int, seconds: float) -> float:
        """Answers a second of `clients` that ask without pause and without faults: the capacity."""
        end_s = time.monotonic() + seconds

        async def client() -> int:
            answered = 0
            while (now_s := time.monotonic()) < end_s:
                outcome = await self._one(now_s, faults=False)
                answered += outcome.status == "200" and time.monotonic() <= end_s
            return answered

        answered = await asyncio.gather(*(client() for _ in range(clients)))
        return sum(answered) / seconds

    async def close(self) -> None:
        await self._channel.close()

    async def _one(self, due_s: float, faults: bool = True) -> Outcome:
        number, self._numbers = self._numbers, self._numbers + 1
        kind = self._random.choices(list(MIX), weights=list(MIX.values()))[0]
        fault = "clean"
        if faults and kind != "image-grpc" and self._random.random() < FAULTY:
            fault = self._random.choice(self._faults)
        try:
            async with asyncio.timeout(LIMIT_S):
                status = await (
                    self._grpc(number) if kind == "image-grpc" else self._http(number, kind, fault)
                )
        except (OSError, TimeoutError, ValueError, IndexError):
            status = ""
        outcome = Outcome(number, kind, fault, due_s, time.monotonic() - due_s, status)
        self.outcomes.append(outcome)
        return outcome

    async def _http(self, number: int, kind: str, fault: str) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._ports[fault])
        try:
            first, rest = self._templates[kind]
            writer.write(b"%s\r\nx-request-id: %s\r\nConnection: close\r\n" % (first, ID % number))
            writer.write(rest)
            await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.read()
            return head.split(b" ", 2)[1].decode()
        except asyncio.IncompleteReadError:
            return ""
        finally:
            writer.close()

    async def _grpc(self, number: int) -> str:
        call = service_pb2.ModelInferRequest(
            model_name="opacity", id=(ID % number).decode(), raw_input_contents=[self._image]
        )
        side = int((len(self._image) // 4) ** 0.5)
        call.inputs.add(name="image", datatype="FP32", shape=[1, 1, side, side])
        try:
            await self._infer(call.SerializeToString(), timeout=LIMIT_S)
        except grpc.aio.AioRpcError as error:
            return "429" if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED else f"5 {error.code().name}"
        return "200"
