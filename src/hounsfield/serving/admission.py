"""What is inside the server at this moment: requests, and the bytes of their bodies. Both are bounded here.

Everything runs on one event loop, so there is no lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hounsfield.serving.wire import MAX_BODY_BYTES, Draining, Overloaded, RequestError

MAX_INFLIGHT_BYTES = 512 * 2**20


class Admission:
    """Lets requests in until `drain` is called, and their bodies up to `max_bytes` together.

    `on_shed` is called with "bytes" or "draining" for every request that is turned away.
    """

    def __init__(
        self, max_bytes: int = MAX_INFLIGHT_BYTES, on_shed: Callable[[str], None] = lambda why: None
    ) -> None:
        self.max_bytes, self.inflight, self.inflight_bytes, self.draining = max_bytes, 0, 0, False
        self._on_shed = on_shed
        self._empty = asyncio.Event()
        self._empty.set()

    @contextmanager
    def enter(self) -> Iterator[Body]:
        """Count one request in, and out again with all of its bytes. Raises Draining."""
        if self.draining:
            self._on_shed("draining")
            raise Draining("this server is shutting down; another one will answer")
        self.inflight += 1
        self._empty.clear()
        body = Body(self)
        try:
            yield body
        finally:
            self.inflight_bytes -= body.size
            self.inflight -= 1
            if not self.inflight:
                self._empty.set()

    def drain(self) -> None:
        """Let nobody in from now on."""
        self.draining = True

    async def emptied(self, timeout_s: float) -> bool:
        """Wait until the last request has left; False when it had not after `timeout_s`."""
        try:
            await asyncio.wait_for(self._empty.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    def shed(self, why: str, message: str) -> Overloaded:
        """Count a request as turned away and give the error to raise."""
        self._on_shed(why)
        return Overloaded(message)


class Body:
    """The bytes that one request holds. They count until the request has been answered."""

    def __init__(self, admission: Admission) -> None:
        self._admission, self.size = admission, 0

    def expect(self, size: int) -> None:
        """Refuse a body of a declared `size` before any of it is read. Raises RequestError or Overloaded."""
        if size > MAX_BODY_BYTES:
            raise RequestError(f"the request is larger than {MAX_BODY_BYTES} bytes", 413)
        if self._admission.inflight_bytes + size > self._admission.max_bytes:
            raise self._admission.shed("bytes", "too many bytes of other requests are being read or computed")

    def take(self, size: int) -> None:
        """Count `size` bytes that have arrived. Raises RequestError or Overloaded, and then counts none."""
        if self.size + size > MAX_BODY_BYTES:
            raise RequestError(f"the request is larger than {MAX_BODY_BYTES} bytes", 413)
        self.expect(size)
        self.size += size
        self._admission.inflight_bytes += size
