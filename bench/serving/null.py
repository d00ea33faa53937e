"""The server that does nothing, to see what the client costs: reads the request, answers at once.

`python -m bench.serving.null --http_port P --grpc_port Q`
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from concurrent import futures

ANSWER = b'{"model_name":"null","outputs":[]}'


class Null(asyncio.Protocol):
    """HTTP/1.1, one request at a time on a connection, its length in Content-Length."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._head, self._left = transport, b"", None

    def data_received(self, data: bytes) -> None:
        if self._left is None:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._head[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n")[0]) if at >= 0 else 0
            self._left = length - (len(self._head) - end - 4)
        else:
            self._left -= len(data)
        if self._left <= 0:
            self._head, self._left = b"", None
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(ANSWER), ANSWER))


def main(argv: list[str]) -> int:
    import grpc
    import uvloop

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--http_port", type=int, required=True)
    parser.add_argument("--grpc_port", type=int, required=True)
    arguments = parser.parse_args(argv)
    handler = grpc.method_handlers_generic_handler(
        "inference.GRPCInferenceService",
        {"ModelInfer": grpc.unary_unary_rpc_method_handler(lambda request, context: b"")},
    )
    server = grpc.server(
        futures.ThreadPoolExecutor(2),
        options=[("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)],
    )
    server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port(f"127.0.0.1:{arguments.grpc_port}")
    server.start()

    async def serve() -> None:
        listener = await asyncio.get_running_loop().create_server(Null, "127.0.0.1", arguments.http_port)
        await listener.serve_forever()

    uvloop.run(serve())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
