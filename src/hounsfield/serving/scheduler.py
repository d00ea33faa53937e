"""Who computes when: a bounded queue before one thread a core, first come, first served.

On a CPU a thread takes one request at a time, for a batch gains nothing there; on a GPU it takes all that
waits, up to `max_batch` instances, and never waits for more to come. Beyond the queue's bound a request is
turned away at once with the time after which to ask again: so the longest wait is known, whatever the load.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from hounsfield.serving.wire import Draining, Overloaded

Item = TypeVar("Item")
Result = TypeVar("Result")

_SMOOTHING = 0.1


@dataclass(eq=False)  # a job is itself, whatever it holds
class _Job(Generic[Item]):
    item: Item
    instances: int
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]


class Scheduler(Generic[Item, Result]):
    """Runs `compute` on its threads; `compute(items)` gives a result or an exception for each, in order.

    `max_waiting` bounds the instances that wait for a thread. A request that is larger than what is left of
    it is still taken: the bound is checked before, so that one of 256 instances can be asked at all.
    """

    def __init__(
        self,
        compute: Callable[[list[Item]], Sequence[Result | Exception]],
        threads: int,
        max_waiting: int,
        max_batch: int = 1,
    ) -> None:
        self._compute, self._max_waiting, self._max_batch = compute, max_waiting, max_batch
        self._queue: deque[_Job[Item]] = deque()
        self._changed = threading.Condition()
        self._waiting = self._idle = 0
        self._seconds_an_instance = 0.0
        self._is_closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"compute-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    async def submit(self, item: Item, instances: int = 1) -> Result:
        """The result of `item`, or its exception.

        Raises Overloaded when the queue is full and Draining after `close`. Cancelled while it waits (the
        client went away), it is never computed.
        """
        loop = asyncio.get_running_loop()
        job = _Job(item, instances, loop, loop.create_future())
        with self._changed:
            if self._is_closed:
                raise Draining("the server is stopping; ask again")
            # A job that an idle thread is about to take does not wait.
            if len(self._queue) >= self._idle and self._waiting >= self._max_waiting:
                raise Overloaded(
                    f"{self._waiting} instances wait already, and the limit is {self._max_waiting}",
                    self._seconds_until_empty(),
                )
            self._queue.append(job)
            self._waiting += instances
            self._changed.notify()
        try:
            return await job.future
        except asyncio.CancelledError:
            self._forget(job)
            raise

    @property
    def waiting(self) -> int:
        """Instances that wait for a thread."""
        return self._waiting

    def close(self) -> None:
        """Refuse what comes from now on, compute all that waits, and end the threads."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _seconds_until_empty(self) -> float:
        """At least 1, the least that the header Retry-After can say."""
        return max(1.0, self._waiting * self._seconds_an_instance / len(self._threads))

    def _forget(self, job: _Job[Item]) -> None:
        with self._changed, contextlib.suppress(ValueError):  # a thread has it already
            self._queue.remove(job)
            self._waiting -= job.instances

    def _work(self) -> None:
        while jobs := self._take():
            began_s = time.monotonic()
            try:
                outcomes = self._compute([job.item for job in jobs])
            except Exception as error:  # of our own: the thread must live on
                outcomes = [error] * len(jobs)
            spent_s = (time.monotonic() - began_s) / sum(job.instances for job in jobs)
            with self._changed:
                self._seconds_an_instance += _SMOOTHING * (spent_s - self._seconds_an_instance)
            for job, outcome in zip(jobs, outcomes, strict=True):
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    job.loop.call_soon_threadsafe(_settle, job.future, outcome)
            del jobs, outcomes  # a patient's image need not stay until the next one comes

    def _take(self) -> list[_Job[Item]]:
        """The first job that waits, and those behind it while they fit; none once closed and empty."""
        with self._changed:
            self._idle += 1
            while not self._queue and not self._is_closed:
                self._changed.wait()
            self._idle -= 1
            jobs: list[_Job[Item]] = []
            room = self._max_batch
            while self._queue and (not jobs or self._queue[0].instances <= room):
                jobs.append(self._queue.popleft())
                room -= jobs[-1].instances
                self._waiting -= jobs[-1].instances
            return jobs


def _settle(future: asyncio.Future[Any], outcome: Any) -> None:
    if future.done():  # cancelled meanwhile
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
