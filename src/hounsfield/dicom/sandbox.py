"""Worker processes that may die, so that a decoder's crash costs one file and not the program."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import queue
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

from hounsfield.dicom.quarantine import Reason, Refused
from hounsfield.errors import PlatformError

Item = TypeVar("Item")
Given = TypeVar("Given")
Result = TypeVar("Result")

# spawn: a fork of a process that holds threads (gRPC, torch) may inherit a locked lock.
_CONTEXT = multiprocessing.get_context("spawn")
_START_LIMIT_S = 120.0

MEMORY_BYTES = 3 * 2**30
"""What a worker may allocate. The largest image allowed needs half: its file, decoded, and as float32."""

# glibc's malloc.h. Its largest threshold, and as much as a radiograph needs in all its stages.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_REUSED_BYTES, _KEPT_BYTES = 32 * 2**20, 128 * 2**20


class Sandbox:
    """A context manager over `workers` processes, each running one item at a time.

    A worker that aborts gives Refused(DECODER_ABORTED), one that takes more than `timeout_s` for an item is
    killed and gives Refused(DECODE_TIMEOUT); either is replaced. Beyond `memory_bytes` a worker's allocations
    fail, whatever size a file claims. An exception of the function itself, Refused among them, is raised in
    the caller; PlatformError when no worker can start.
    Safe to use from many threads; a caller waits for a free worker.
    """

    def __init__(self, workers: int, timeout_s: float = 10.0, memory_bytes: int = MEMORY_BYTES) -> None:
        self.workers, self.timeout_s, self.memory_bytes = max(1, workers), timeout_s, memory_bytes
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._all: list[_Worker] = []

    def __enter__(self) -> Sandbox:
        self._all = [_Worker(self.memory_bytes) for _ in range(self.workers)]
        for worker in self._all:
            self._idle.put(worker)
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._all:
            worker.stop()

    def call(self, function: Callable[[Item], Result], item: Item) -> Result:
        """`function(item)` in a worker; both must pickle, and so must the result."""
        worker = self._idle.get()
        try:
            return worker.run(function, item, self.timeout_s)
        finally:
            self._idle.put(worker)

    def map(
        self,
        function: Callable[[Given], Result],
        items: Iterable[Item],
        prepare: Callable[[Item], Given] | None = None,
        threads: int | None = None,
    ) -> Iterator[tuple[Item, Result | Refused]]:
        """(item, result or refusal) in the order of `items`, reading only a little ahead of the caller.

        `prepare` makes of an item what `function` is given, in a thread of this process: the place to wait
        for a network, whose time is not the decoder's. `threads` (default: `workers`) may wait at once.
        """
        threads = threads or self.workers

        def one(item: Item) -> Result:
            return self.call(function, item if prepare is None else prepare(item))

        with ThreadPoolExecutor(threads, thread_name_prefix="sandbox") as pool:
            pending: deque[tuple[Item, Future[Result]]] = deque()
            try:
                for item in items:
                    pending.append((item, pool.submit(one, item)))
                    if len(pending) > 4 * threads:
                        yield _outcome(*pending.popleft())
                while pending:
                    yield _outcome(*pending.popleft())
            finally:
                for _, future in pending:
                    future.cancel()


def _outcome(item: Item, future: Future[Result]) -> tuple[Item, Result | Refused]:
    try:
        return item, future.result()
    except Refused as refusal:
        return item, refusal


class _Worker:
    """One process and the pipe to it; used by one thread at a time."""

    def __init__(self, memory_bytes: int) -> None:
        self._memory_bytes = memory_bytes
        self._start()

    def _start(self) -> None:
        self._pipe, far_end = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_serve, args=(far_end, self._memory_bytes), daemon=True)
        # Ctrl-C reaches the whole process group, but the parent decides when a worker ends: it starts with
        # the signal blocked, and so from its first import on.
        resource_tracker.ensure_running()  # its own start would unblock the signal again
        earlier = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, earlier)
        # Only the worker holds the far end now, so its death closes the pipe.
        far_end.close()
        self._ready = self._warm = False

    def run(self, function: Callable[[Item], Result], item: Item, timeout_s: float) -> Result:
        self._await_ready(function)
        try:
            self._pipe.send((function, item))
            if not self._pipe.poll(timeout_s):
                self._replace()
                raise Refused(Reason.DECODE_TIMEOUT, f"no result within {timeout_s:g} s")
            succeeded, value = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(1)
            code = self._process.exitcode
            self._replace()
            raise Refused(Reason.DECODER_ABORTED, f"the worker process ended with code {code}") from None
        if succeeded:
            return value
        raise value

    def _await_ready(self, function: Callable) -> None:
        """A start (imports) is not counted against an item's time, and its failure is no file's fault."""
        if self._warm:
            return
        if self._process is None:
            self._start()
        try:
            if not self._ready:
                self._hear()
                self._ready = True
            # A function's module, and all that it imports, is imported as the function arrives.
            self._pipe.send((_arrive, function))
            self._hear()
        except (EOFError, OSError):
            self._process.join(1)
            code = self._process.exitcode
            self.stop()
            raise PlatformError(
                "a process that decodes DICOM files "
                + (f"ended with code {code} while it started" if code is not None else "did not start")
                + ": it imports the main program anew, which must be a file, not standard input, whose work "
                "stands under `if __name__ == '__main__':`"
            ) from None
        self._warm = True

    def _hear(self) -> None:
        if not self._pipe.poll(_START_LIMIT_S):
            raise EOFError
        self._pipe.recv()

    def _replace(self) -> None:
        self.stop()
        self._start()

    def stop(self) -> None:
        if self._process is None:
            return
        self._pipe.close()
        self._process.kill()
        self._process.join()
        self._process.close()
        self._process = None


def _arrive(_: Callable) -> None:
    """The first thing that a worker is given to do, so that the next one finds everything imported."""


def _serve(pipe: Connection, memory_bytes: int) -> None:
    """The worker's loop; ends when the parent closes the pipe or dies."""
    _keep_no_traces()
    _reuse_memory()
    pipe.send("ready")
    bounded = False
    while True:
        try:
            function, item = pipe.recv()
        except (EOFError, OSError):
            return
        if not bounded:
            # Not before: the function's modules are imported as it arrives, and their own size depends on the
            # machine (numpy's libraries reserve address space by the core).
            _bound_memory(memory_bytes)
            bounded = True
        try:
            answer = (True, function(item))
        except Exception as error:
            answer = (False, error)
        try:
            pipe.send(answer)
        except (BrokenPipeError, ConnectionError):
            return
        except Exception as error:
            pipe.send(
                (False, RuntimeError(f"a result or error of the worker does not pickle: {type(error)}"))
            )


def _reuse_memory() -> None:
    """Let blocks of an image's size be used again for the next one.

    glibc gives them back at once, and for the next the kernel zeroes them page by page: a third of the time
    of reading an uncompressed radiograph.
    """
    with contextlib.suppress(OSError, AttributeError):  # another libc
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _REUSED_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def _bound_memory(memory_bytes: int) -> None:
    """Let allocations fail beyond `memory_bytes` more address space than there is now (Linux)."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _keep_no_traces() -> None:
    """No core dump and no chatter of C libraries: both may hold the patient's data."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
