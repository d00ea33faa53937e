import asyncio
import math
from types import SimpleNamespace

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from hounsfield.errors import AuditError
from hounsfield.package.engine import EngineError
from hounsfield.serving.feedback import Feedback
from hounsfield.serving.metrics import Metrics
from hounsfield.serving.scheduler import Scheduler
from hounsfield.serving.service import Service
from hounsfield.serving.wire import Draining, Overloaded, RequestError
from tests.unit.serving.parts import LABELS, KeptLog, MeanEngine, computer, files, images


class Traces:
    def __init__(self):
        self.reported = []

    def report(self, task, error=""):
        self.reported.append((task, error))


@pytest.fixture
def made():
    return make()


def make(engine=None, log=None, max_waiting=8):
    registry = CollectorRegistry()
    compute = computer(CollectorRegistry(), engine, log).compute
    metrics, traces = Metrics(**LABELS, registry=registry), Traces()
    scheduler = Scheduler(compute, 1, max_waiting)

    def ask(*questions, **options):
        async def all_of_them():
            return await asyncio.gather(*(service.answer(each) for each in questions), **options)

        return asyncio.run(all_of_them())

    def value(name, **labels):
        return registry.get_sample_value(name, {**LABELS, **labels})

    service = Service(scheduler, metrics, Feedback(metrics), traces)
    return SimpleNamespace(
        service=service, scheduler=scheduler, ask=ask, value=value, traces=traces, registry=registry
    )


def test_outcomes_are_counted_an_instance_and_latency_a_request(made):
    assert made.value("hounsfield_requests_total", outcome="error", traffic="live") == 0
    (answer,) = made.ask(files(b"1.0", b"bad", b"0.6"))
    assert answer.refusal == ("", "no_pixel_data", "")
    live = {"traffic": "live"}
    assert made.value("hounsfield_requests_total", outcome="ok", **live) == 2
    assert made.value("hounsfield_requests_total", outcome="refused", **live) == 1
    assert made.value("hounsfield_refusals_total", reason="no_pixel_data", **live) == 1
    assert made.value("hounsfield_request_latency_seconds_count", **live) == 1
    assert made.value("hounsfield_score_bucket", le="0.7", **live) == 1
    assert made.value("hounsfield_score_bucket", le="1.0", **live) == 2
    assert made.value("hounsfield_review_total", **live) == 1
    women = {"attribute": "patient_sex", "group": "F", **live}
    assert made.value("hounsfield_subgroup_requests_total", outcome="ok", **women) == 2
    assert made.value("hounsfield_subgroup_requests_total", outcome="refused", **women) == 1
    assert made.value("hounsfield_subgroup_positive_total", **women) == 2
    assert made.value("hounsfield_subgroup_review_total", **women) == 1  # 0.622; not the refused one


def test_a_mirrored_request_has_series_of_its_own_and_takes_no_feedback(made):
    made.ask(files(b"1.0", request_id="mirrored", shadow=True))
    assert made.value("hounsfield_requests_total", outcome="ok", traffic="live") == 0
    assert made.value("hounsfield_requests_total", outcome="ok", traffic="shadow") == 1
    assert made.value("hounsfield_request_latency_seconds_count", traffic="shadow") == 1
    assert made.service.feedback.predictions.find("mirrored", 0) is None


def test_an_answer_is_remembered_for_feedback(made):
    made.ask(files(b"1.0", b"bad", request_id="r7"))
    predicted, groups, truth = made.service.feedback.predictions.find("r7", 0)
    assert (predicted, groups[0], truth) == ("positive", "F", "")
    assert made.service.feedback.predictions.find("r7", 1)[0] == "refused"


def test_a_broken_model_counts_every_instance_as_an_error():
    class Broken(MeanEngine):
        def run(self, given):
            return np.full(len(given), np.nan, np.float32), np.zeros((len(given), 2), np.float32)

    made = make(Broken())
    with pytest.raises(EngineError, match="finite"):
        made.ask(images(0.5, 0.5, 0.5))
    assert made.value("hounsfield_requests_total", outcome="error", traffic="live") == 3
    assert made.value("hounsfield_request_latency_seconds_count", traffic="live") == 1


def test_a_clients_mistake_is_not_the_models_error(made):
    with pytest.raises(RequestError):
        made.ask(images(2.0))
    assert made.value("hounsfield_requests_total", outcome="error", traffic="live") == 0


def test_no_answer_leaves_without_its_record_and_the_next_one_does_when_the_disk_is_back():
    log = KeptLog(AuditError("No space left on device"))
    made = make(log=log)
    with pytest.raises(Draining, match="no prediction leaves without its record") as refused:
        made.ask(files(b"1.0"))
    assert refused.value.status == 503
    assert made.value("hounsfield_shed_total", why="log") == 1
    assert made.value("hounsfield_requests_total", outcome="error", traffic="live") == 1
    assert made.service.feedback.predictions.find("r1", 0) is None
    log.error = None
    assert made.ask(files(b"1.0"))[0].label == ("positive",)
    assert made.value("hounsfield_log_commit_seconds_count") == 1


def test_what_is_turned_away_is_counted_by_its_cause():
    made = make(max_waiting=1)
    outcomes = made.ask(*[images(0.5) for _ in range(9)], return_exceptions=True)
    shed = [each for each in outcomes if isinstance(each, Overloaded)]
    assert len(shed) >= 7  # one runs, one waits
    assert made.value("hounsfield_shed_total", why="queue") == len(shed)
    made.scheduler.close()
    with pytest.raises(Draining):
        made.ask(images(0.5))
    assert made.value("hounsfield_shed_total", why="draining") == 1


def test_a_client_that_went_away_is_counted(made):
    async def run():
        asking = asyncio.ensure_future(made.service.answer(files(b"1.0")))
        await asyncio.sleep(0)
        assert made.service.inflight == 1
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    asyncio.run(run())
    assert made.service.inflight == 0
    assert made.value("hounsfield_shed_total", why="client_gone") == 1


def test_every_request_is_traced_with_how_it_ended(made):
    made.ask(files(b"1.0"))
    made.ask(images(2.0), return_exceptions=True)
    (good, no_error), (_, error) = made.traces.reported
    assert (no_error, error) == ("", "RequestError")
    moments = [good.arrived_s, good.started_s, good.decoded_s, good.ran_s, good.computed_s, good.logged_s]
    assert moments == sorted(moments)
    assert all(math.isfinite(moment) and moment > 0 for moment in moments)
