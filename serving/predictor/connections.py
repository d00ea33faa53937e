"""HTTP connections that a hostile or a slow client cannot hold on to: uvicorn's own protocol, with bounds.

uvicorn limits neither the time nor the size of a request's head, nor how many requests are pipelined, and
it times a connection out only after its first answer. Everything else here is uvicorn's.
"""

from __future__ import annotations

import asyncio
import dataclasses
import resource

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

SPARE_FILES = 512
"""File descriptors kept for the log, the workers and gRPC, out of the process's limit."""


@dataclasses.dataclass(frozen=True)
class ConnectionLimits:
    """`head_timeout_s` is from the connection, or a request's first byte, to the end of its headers.

    `head_bytes` bounds what is read without getting on: a request's head, or a chunked body's trailer.
    """

    connections: int
    head_timeout_s: float = 10.0
    head_bytes: int = 64 * 2**10
    pipelined: int = 16
    linger_s: float = 5.0
    """How long the rest of a body is read and dropped when the answer did not wait for it: a client that is
    still sending reads no answer from a connection that is closed under it."""
    write_timeout_s: float = 30.0
    """How long an answer may lie unread before its connection is cut."""


def raise_file_limit() -> int:
    """Raise this process's limit of open files as far as it may, and return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    hard = 2**16 if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class BoundedProtocol(HttpToolsProtocol):
    """One connection. `limits` is set on a subclass, for uvicorn builds the protocol itself (`bounded`)."""

    limits: ConnectionLimits

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._deadline: asyncio.TimerHandle | None = None
        self._in_head, self._silent_bytes, self._progress = True, 0, False
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._refuse(503, "too many connections are open", retry_after_s=1)
        else:
            self._arm(self.limits.head_timeout_s, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._progress = False
        super().data_received(data)
        if self.transport.is_closing():
            return
        # Not counted a header at a time: one endless header, or trailer, would never be counted.
        self._silent_bytes = 0 if self._progress else self._silent_bytes + len(data)
        if self._silent_bytes > self.limits.head_bytes:
            self._refuse_head()
        elif self._in_head and self._deadline is None:
            self._arm(self.limits.head_timeout_s, self._head_is_late)

    def eof_received(self) -> bool:
        """A client that has sent its whole request and closed its half still gets its answer."""
        if self.cycle is None or self.cycle.more_body or self.cycle.response_complete:
            return False
        self.cycle.keep_alive = False
        return True

    def on_message_begin(self) -> None:
        self._in_head = self._progress = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head, self._progress = False, True
        self._disarm()
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > self.limits.head_bytes:
            self._refuse_head()
            raise ValueError  # stops the parser, which tells of it by `send_400_response`: too late for that
        super().on_headers_complete()
        if len(self.pipeline) > self.limits.pipelined:
            self.transport.abort()

    def on_body(self, body: bytes) -> None:
        self._progress = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._progress = True
        super().on_message_complete()
        if self.cycle.response_complete:
            self._disarm()  # the rest of a body that nobody waited for has come to its end

    def on_response_complete(self) -> None:
        unread = self.cycle.more_body
        super().on_response_complete()
        if self.transport.get_write_buffer_size():
            self.loop.call_later(self.limits.write_timeout_s, self._cut_if_unread)
        if unread and not self.transport.is_closing():
            self._arm(self.limits.linger_s, self.transport.close)

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "this is not an HTTP request")

    def _unsupported_upgrade_warning(self) -> None:
        """An upgrade is not taken, and that is nothing to write into the log."""

    def _cut_if_unread(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def _head_is_late(self) -> None:
        self._deadline = None
        if self.scope is not None:  # at least one byte of a request has come
            self._refuse(408, f"the headers did not end within {self.limits.head_timeout_s:g} s")
        else:
            self.transport.close()

    def _refuse_head(self) -> None:
        self._refuse(431, f"the request's headers are larger than {self.limits.head_bytes} bytes")

    def _refuse(self, status: int, message: str, retry_after_s: int | None = None) -> None:
        """Answer without the application, in the protocol's form, and close."""
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            if self.pipeline or self.cycle.response_started or not self.cycle.more_body:
                self.transport.abort()  # another answer is being made or written: two would be mixed
                return
            # The application waits for a body that cannot be read on: for it the client has gone.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        content = orjson.dumps({"error": message})
        retry = b"" if retry_after_s is None else b"retry-after: %d\r\n" % retry_after_s
        self.transport.write(
            STATUS_LINE[status]
            + b"content-type: application/json\r\ncontent-length: %d\r\n" % len(content)
            + retry
            + b"connection: close\r\n\r\n"
            + content
        )
        self.transport.close()

    def _arm(self, delay_s: float, call) -> None:
        self._disarm()
        self._deadline = self.loop.call_later(delay_s, call)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def bounded(limits: ConnectionLimits) -> type[BoundedProtocol]:
    """The protocol class to give to uvicorn."""
    return type("BoundedProtocol", (BoundedProtocol,), {"limits": limits})
