"""A TCP proxy that breaks connections on purpose: one listening port a fault, so that the client knows which.

`python -m bench.soak.proxy '{"upstream": 8080, "ports": {"clean": 9000, ...}}'`
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import struct
import sys
from collections.abc import Callable

CHUNK = 65536
SLOW_S = 2.0
FAULTS = {
    "clean": "as it came",
    "delay": "nothing for half a second in each direction, then as it came",
    "drip": "the request's first 4 KiB in 40 pieces over two seconds",
    "reset": "half of the request's first 64 KiB, then a reset to both sides",
    "cut": "half of the request's first 64 KiB, then a regular end",
    "garbage": "some bytes of the request's first 64 KiB replaced at random",
    "hangup": "the client is gone when the answer comes",
}


class FaultProxy:
    """Copies bytes between a client and `upstream`, a port of this machine, with the fault of the port."""

    def __init__(self, upstream: int, seed: int = 5) -> None:
        self._upstream, self._random = upstream, random.Random(seed)  # noqa: S311

    def handler(self, fault: str) -> Callable:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
                try:
                    await asyncio.gather(
                        self._request(fault, reader, writer, server_writer),
                        self._answer(fault, server_reader, writer),
                    )
                finally:
                    for each in (writer, server_writer):
                        each.close()

        return handle

    async def _request(
        self,
        fault: str,
        reader: asyncio.StreamReader,
        client: asyncio.StreamWriter,
        server: asyncio.StreamWriter,
    ) -> None:
        first = await reader.read(CHUNK)
        if not first:
            return
        if fault == "delay":
            await asyncio.sleep(SLOW_S / 4)
        if fault == "drip":
            for start in range(0, 4000, 100):
                server.write(first[start : start + 100])
                await server.drain()
                await asyncio.sleep(SLOW_S / 40)
            first = first[4000:]
        if fault == "garbage":
            broken = bytearray(first)
            for _ in range(20):
                broken[self._random.randrange(len(broken))] = self._random.randrange(256)
            first = bytes(broken)
        if fault in ("reset", "cut"):
            server.write(first[: len(first) // 2])
            await server.drain()
            if fault == "reset":
                _reset(server)
                _reset(client)
            raise ConnectionAbortedError
        server.write(first)
        while chunk := await reader.read(CHUNK):
            server.write(chunk)
            await server.drain()
        if fault != "hangup" and server.can_write_eof():
            server.write_eof()

    async def _answer(self, fault: str, server: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        while chunk := await server.read(CHUNK):
            if fault == "delay":
                await asyncio.sleep(SLOW_S / 4)
            if fault == "hangup":
                _reset(client)
                raise ConnectionAbortedError
            client.write(chunk)
            await client.drain()
        client.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST: SO_LINGER of zero seconds."""
    connection = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def serve(upstream: int, ports: dict[str, int]) -> None:
    """Listen on every port of `ports`, for ever."""
    proxy = FaultProxy(upstream)
    servers = [
        await asyncio.start_server(proxy.handler(fault), "127.0.0.1", port, backlog=512)
        for fault, port in ports.items()
    ]
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(**json.loads(sys.argv[1])))
