"""What a compute thread does with requests: read, decode, run the model, check what it says, record it."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from hounsfield.config import CLASS_NAMES
from hounsfield.dicom.groups import NO_GROUPS, groups_of, site_of
from hounsfield.errors import AuditError
from hounsfield.package.engine import EngineError, calibrate
from hounsfield.package.package import Package
from hounsfield.serving.cache import Cache, Row
from hounsfield.serving.contract import DICOM, IMAGE, Answer, Question, read_instances
from hounsfield.serving.decoding import Decoded
from hounsfield.serving.metrics import Metrics
from hounsfield.serving.records import error_records, prediction_records
from hounsfield.serving.wire import RequestError

_LARGE_BYTES = 2**20
"""Hashing this much takes half a millisecond, ten times what another thread costs."""


class Runs(Protocol):
    """The engine, as far as it is needed here."""

    embedding_size: int

    def run(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...


class Log(Protocol):
    """The inference log, as far as it is needed here."""

    def append(self, records: Sequence[Mapping[str, Any]]) -> Future[None]: ...


@dataclass(eq=False)
class Task:
    """One request on its way, and its moments (`time.monotonic`, seconds; 0 for one not yet reached)."""

    question: Question
    arrived_s: float
    started_s: float = 0.0
    decoded_s: float = 0.0
    ran_s: float = 0.0
    computed_s: float = 0.0
    logged_s: float = 0.0


@dataclass(frozen=True)
class Done:
    """`answer` may leave when `logged` has ended well; `groups` has one row an instance."""

    answer: Answer
    groups: tuple[tuple[str, ...], ...]
    cache_hits: int
    logged: Future[None] | None


@dataclass(eq=False)
class _Work:
    """A request while it is computed: `rows[i]` is None until instance i is known."""

    task: Task
    kind: str
    sha256s: list[Callable[[], str]]
    rows: list[Row | None]
    cache_hits: int = 0
    # Of the rows that are to run: where it stands, its image float32 (1, size, size), its groups.
    pending: list[tuple[int, np.ndarray, tuple[str, ...]]] = field(default_factory=list)
    error: Exception | None = None


class Computer:
    """Computes requests for `Scheduler`; safe to call from many threads.

    `decode` prepares the bytes of one DICOM file. `log` None means that no record is kept.
    """

    def __init__(
        self,
        package: Package,
        engine: Runs,
        decode: Callable[[bytes], Decoded],
        metrics: Metrics,
        *,
        model: Mapping[str, str],
        manufacturers: tuple[str, ...] = (),
        sites: tuple[str, ...] = (),
        log: Log | None = None,
        cache_entries: int = 0,
    ) -> None:
        self._record, self._size_px = package.model, package.contract.size_px
        self._engine, self._decode, self._metrics, self._log = engine, decode, metrics, log
        self._model, self._manufacturers, self._sites = model, manufacturers, sites
        self._cache = Cache(cache_entries)
        self._hashers = ThreadPoolExecutor(thread_name_prefix="sha256")

    def compute(self, tasks: Sequence[Task]) -> list[Done | Exception]:
        """One outcome a task: its answer, or a RequestError, EngineError, AuditError or error of our own."""
        works = [self._prepare(task) for task in tasks]
        self._run([work for work in works if work.error is None and work.pending])
        return [self._finish(work) for work in works]

    def _prepare(self, task: Task) -> _Work:
        task.started_s = time.monotonic()
        work = _Work(task, "", [], [])
        try:
            self._read(work)
        except Exception as error:
            work.error = error
        task.decoded_s = time.monotonic()
        return work

    def _read(self, work: _Work) -> None:
        instances = read_instances(work.task.question.tensors, self._size_px)
        work.kind = DICOM if instances.images is None else IMAGE
        sources = instances.files if instances.images is None else instances.images
        work.rows = [None] * len(instances)
        if self._log is not None or self._cache:
            work.sha256s = [self._hash(source) for source in sources]
        for position, source in enumerate(sources):
            known = self._cache.get(work.kind, work.sha256s[position]()) if self._cache else None
            if known is not None:
                work.rows[position] = known
                work.cache_hits += 1
            elif work.kind == IMAGE:
                work.pending.append((position, source, NO_GROUPS))
            else:
                decoded = self._decode(source)
                groups = groups_of(decoded.attributes, self._manufacturers)
                if decoded.image is None:
                    work.rows[position] = Row(decoded.refusal, groups, math.nan, None)
                else:
                    work.pending.append((position, decoded.image, groups))

    def _hash(self, source: bytes | np.ndarray) -> Callable[[], str]:
        """The SHA-256 of an input, when it is asked for; a large file is hashed while it is decoded."""
        if len(source) > _LARGE_BYTES:
            return self._hashers.submit(_sha256, source).result
        sha256 = _sha256(source)
        return lambda: sha256

    def _run(self, works: Sequence[_Work]) -> None:
        """Run all in one batch; when that fails each alone, so that one request's fault is not another's."""
        if not works:
            return
        try:
            self._run_together(works)
        except Exception as error:
            if len(works) == 1:
                works[0].error = error
                return
            for work in works:
                self._run([work])

    def _run_together(self, works: Sequence[_Work]) -> None:
        images = [image for work in works for _, image, _ in work.pending]
        self._metrics.observe_batch(len(images))
        logit, embedding = self._engine.run(images[0][np.newaxis] if len(images) == 1 else np.stack(images))
        probability = calibrate(logit, self._record.temperature)
        self._check(probability, embedding, len(images))
        run_at_s, row = time.monotonic(), 0
        for work in works:
            for position, _, groups in work.pending:
                known = Row("", groups, float(probability[row]), embedding[row].copy())
                work.rows[position] = known
                if self._cache:
                    self._cache.put(work.kind, work.sha256s[position](), known)
                row += 1
            work.pending = []
            work.task.ran_s = run_at_s

    def _check(self, probability: np.ndarray, embedding: np.ndarray, count: int) -> None:
        """Whatever engine it is: what is not a probability is an error and never an answer."""
        if probability.shape != (count,) or embedding.shape != (count, self._engine.embedding_size):
            raise EngineError("the model's outputs do not have one row an image")
        # Written so that a NaN fails too.
        if not (((probability >= 0) & (probability <= 1)).all() and np.isfinite(embedding).all()):
            raise EngineError("the model's output is not one finite number in 0 to 1 an image")

    def _finish(self, work: _Work) -> Done | Exception:
        task, caller = work.task, work.task.question.caller
        error = work.error
        if error is None:
            answer = self._answer(work.rows)
            site = site_of(caller.site, self._sites)
            groups = tuple((*row.groups, *site) for row in work.rows)
        elif isinstance(error, RequestError):  # the client's; nothing was predicted
            return error
        logged = None
        if self._log is not None:
            latency_s = time.monotonic() - task.arrived_s
            try:
                if error is not None:
                    self._log.append(
                        error_records(caller, self._model, len(work.rows), type(error).__name__, latency_s)
                    )
                else:
                    logged = self._log.append(
                        prediction_records(
                            caller,
                            self._model,
                            input_kind=work.kind,
                            sha256s=[sha256() for sha256 in work.sha256s],
                            answer=answer,
                            groups=groups,
                            latency_s=latency_s,
                        )
                    )
            except AuditError as failed:
                error = error or failed
        task.computed_s = time.monotonic()
        return Done(answer, groups, work.cache_hits, logged) if error is None else error

    def _answer(self, rows: Sequence[Row]) -> Answer:
        probability = np.array([row.probability for row in rows], dtype=np.float32)
        embedding = np.full((len(rows), self._engine.embedding_size), np.nan, dtype=np.float32)
        for position, row in enumerate(rows):
            if row.embedding is not None:
                embedding[position] = row.embedding
        low, high = self._record.review_band
        refusal = tuple(row.refusal for row in rows)
        refused = np.array([bool(reason) for reason in refusal])
        return Answer(
            probability=probability,
            label=tuple(
                "" if reason else CLASS_NAMES[int(value >= self._record.threshold)]
                for value, reason in zip(probability.tolist(), refusal, strict=True)
            ),
            # NaN compares false: a refused instance is sent to a person by the first term.
            review_required=refused | ((probability >= low) & (probability <= high)),
            refusal=refusal,
            embedding=embedding,
        )


def _sha256(source: bytes | np.ndarray) -> str:
    """Of the file, or of the image's values as little-endian float32."""
    if isinstance(source, np.ndarray):
        source = np.ascontiguousarray(source, dtype="<f4").data.cast("B")
    return hashlib.sha256(source).hexdigest()
