"""A served package: a question in, an answer out, once it is on the disk. One object for every door."""

from __future__ import annotations

import asyncio
import time

from hounsfield.errors import AuditError
from hounsfield.serving.computing import Done, Task
from hounsfield.serving.contract import MAX_INSTANCES, Answer, Caller, Question
from hounsfield.serving.feedback import Feedback
from hounsfield.serving.metrics import FIRST, LIVE, SHADOW, Metrics
from hounsfield.serving.scheduler import Scheduler
from hounsfield.serving.tracing import Tracing
from hounsfield.serving.wire import Draining, Overloaded, RequestError


class Service:
    """Answers questions on the event loop; computing is the scheduler's, and the disk is the log's."""

    def __init__(
        self,
        scheduler: Scheduler[Task, Done],
        metrics: Metrics,
        feedback: Feedback,
        tracing: Tracing | None = None,
    ) -> None:
        self._scheduler, self._metrics = scheduler, metrics
        self.feedback, self._tracing = feedback, tracing
        self._inflight = 0

    @property
    def inflight(self) -> int:
        """Requests that have no answer yet."""
        return self._inflight

    async def answer(self, question: Question) -> Answer:
        """Answer every instance; a refused one does not fail the others.

        Raises RequestError for the client's faults, Overloaded, Draining (the log's disk fails, or the server
        stops), and EngineError when the model gives no usable number; an error of our own comes as it is.
        """
        task = Task(question, time.monotonic())
        failed = ""
        self._inflight += 1
        try:
            return await self._answer(task)
        except BaseException as error:
            failed = type(error).__name__
            raise
        finally:
            self._inflight -= 1
            if self._tracing is not None:
                self._tracing.report(task, failed)

    async def _answer(self, task: Task) -> Answer:
        caller, instances = task.question.caller, _instances(task.question)
        traffic = SHADOW if caller.shadow else FIRST if caller.first else LIVE
        try:
            done = await self._scheduler.submit(task, instances)
            if done.logged is not None:
                await asyncio.wrap_future(done.logged)
                self._metrics.observe_commit_s(time.monotonic() - task.computed_s)
        except asyncio.CancelledError:
            self._metrics.count_shed("client_gone")
            raise
        except Overloaded:
            self._metrics.count_shed("queue")
            raise
        except Draining:
            self._metrics.count_shed("draining")
            raise
        except RequestError:
            raise
        except Exception as error:
            self._metrics.count("error", instances, traffic)
            self._metrics.observe_latency_s(time.monotonic() - task.arrived_s, traffic)
            if isinstance(error, AuditError):
                self._metrics.count_shed("log")
                raise Draining(
                    "the inference log cannot be written, and no prediction leaves without its record"
                ) from error
            raise
        task.logged_s = time.monotonic()
        self._count(done, caller, task.logged_s - task.arrived_s, traffic)
        return done.answer

    def _count(self, done: Done, caller: Caller, latency_s: float, traffic: str) -> None:
        answer, metrics = done.answer, self._metrics
        metrics.observe_latency_s(latency_s, traffic)
        answered = [not reason for reason in answer.refusal]
        metrics.count_answers(answer.probability[answered], answer.review_required[answered], traffic)
        if done.cache_hits:
            metrics.count_cache_hits(done.cache_hits)
        for row, (reason, groups) in enumerate(zip(answer.refusal, done.groups, strict=True)):
            if reason:
                metrics.count_refusal(reason, traffic)
            metrics.count_group(groups, answer.label[row], bool(answer.review_required[row]), traffic)
            if not caller.shadow:  # nobody has seen the answer to a mirrored request
                self.feedback.predictions.add(caller.request_id, row, answer.label[row], groups)


def _instances(question: Question) -> int:
    """How many instances are asked, as far as can be told before the request is read."""
    shape = question.tensors[0].shape if question.tensors else ()
    return min(max(shape[0], 1), MAX_INSTANCES) if shape else 1
