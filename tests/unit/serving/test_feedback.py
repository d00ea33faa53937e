import asyncio
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from hounsfield.errors import AuditError
from hounsfield.serving.feedback import Feedback, Predictions
from hounsfield.serving.inference_log import InferenceLog
from hounsfield.serving.metrics import Metrics
from hounsfield.serving.wire import Draining, RequestError
from tests.unit.serving.parts import GROUPS, LABELS, KeptLog, computer, files, task

OTHERS = ("M", "80+", "AP", "other")


@pytest.fixture
def made():
    return make()


def make(log=None, capacity=100):
    registry = CollectorRegistry()
    feedback = Feedback(Metrics(**LABELS, registry=registry), log, capacity)

    def value(name, **labels):
        return registry.get_sample_value(name, {**LABELS, **labels})

    return SimpleNamespace(
        feedback=feedback,
        value=value,
        remember=feedback.predictions.add,
        add=lambda *given: asyncio.run(feedback.add(*given)),
    )


def test_a_readers_label_is_counted_beside_ours_and_logged():
    log = KeptLog()
    made = make(log)
    made.remember("r1", 2, "positive", GROUPS)
    made.add("r1", 2, "negative", "reader")
    assert made.value("hounsfield_feedback_total", truth="negative", predicted="positive") == 1
    assert made.value("hounsfield_feedback_total", truth="positive", predicted="positive") == 0
    women = {"attribute": "patient_sex", "group": "F"}
    assert (
        made.value("hounsfield_subgroup_feedback_total", truth="negative", predicted="positive", **women) == 1
    )
    (record,) = log.records
    assert record.pop("time").endswith("Z")
    assert record == {
        "kind": "feedback",
        "request_id": "r1",
        "instance": 2,
        "truth": "negative",
        "caller": "reader",
    }


def test_the_same_label_again_is_taken_and_not_counted_twice():
    log = KeptLog()
    made = make(log)
    made.remember("r1", 0, "", GROUPS)
    for _ in range(3):
        made.add("r1", 0, "positive")
    assert made.value("hounsfield_feedback_total", truth="positive", predicted="refused") == 1
    assert len(log.records) == 1


def test_the_same_label_twice_at_once_is_counted_once(made):
    made.remember("r1", 0, "positive", GROUPS)

    async def both():
        await asyncio.gather(*(made.feedback.add("r1", 0, "positive") for _ in range(2)))

    asyncio.run(both())
    assert made.value("hounsfield_feedback_total", truth="positive", predicted="positive") == 1


def test_a_contradiction_is_409_and_what_was_never_predicted_is_404(made):
    made.remember("r1", 0, "positive", GROUPS)
    made.add("r1", 0, "positive")
    for given, status, words in [
        (("r1", 0, "negative"), 409, "the other label before"),
        (("r1", 1, "negative"), 404, "no prediction of that request_id and instance"),
        (("r2", 0, "negative"), 404, "among the last 100"),
    ]:
        with pytest.raises(RequestError, match=words) as refused:
            made.add(*given)
        assert refused.value.status == status
    assert made.value("hounsfield_feedback_total", truth="positive", predicted="positive") == 1


def test_a_label_that_cannot_be_logged_is_not_taken():
    log = KeptLog(AuditError("No space left on device"))
    made = make(log)
    made.remember("r1", 0, "positive", GROUPS)
    with pytest.raises(Draining, match="nothing was accepted"):
        made.add("r1", 0, "negative")
    assert made.value("hounsfield_feedback_total", truth="negative", predicted="positive") == 0
    log.error = None
    made.add("r1", 0, "positive")  # another label, for none was taken
    assert made.value("hounsfield_feedback_total", truth="positive", predicted="positive") == 1


def test_only_the_last_predictions_are_remembered():
    predictions = Predictions(capacity=3)
    for number in range(5):
        predictions.add(f"r{number}", 0, "positive", GROUPS)
    assert len(predictions) == 3
    assert [bool(predictions.find(f"r{number}", 0)) for number in range(5)] == [
        False,
        False,
        True,
        True,
        True,
    ]


def test_a_request_id_used_again_stands_for_its_last_prediction():
    predictions = Predictions(capacity=3)
    predictions.add("r", 0, "positive", GROUPS)
    predictions.label("r", 0, "positive")
    predictions.add("r", 0, "negative", OTHERS)
    assert predictions.find("r", 0) == ("negative", OTHERS, "")
    assert len(predictions) == 1


def test_every_prediction_keeps_its_groups_label_and_truth():
    predictions = Predictions(capacity=100)
    kept = {}
    for number, (label, groups, truth) in enumerate(
        (label, groups, truth)
        for label in ("", "negative", "positive")
        for groups in (GROUPS, OTHERS)
        for truth in ("", "negative", "positive")
    ):
        predictions.add("r", number, label, groups)
        if truth:
            predictions.label("r", number, truth)
        kept[number] = (label or "refused", groups, truth)
    assert {number: predictions.find("r", number) for number in kept} == kept


def test_a_restart_forgets_neither_predictions_nor_labels(tmp_path):
    with InferenceLog(tmp_path / "log", sync=False) as log:
        compute = computer(CollectorRegistry(), log=log).compute
        for number in range(6):
            (done,) = compute([task(files(b"1.0", b"bad", request_id=f"r{number}"))])
            done.logged.result(10)
        (done,) = compute([task(files(b"1.0", request_id="mirrored", shadow=True))])
        done.logged.result(10)
        made = make(log)
        made.remember("r5", 0, "positive", GROUPS)
        made.add("r5", 0, "negative")
    made = make(capacity=6)
    made.remember("r4", 0, "negative", OTHERS)  # predicted since the start
    made.feedback.refill(tmp_path / "log").join(10)
    find = made.feedback.predictions.find
    assert find("r4", 0) == ("negative", OTHERS, "")
    assert find("r5", 0) == ("positive", GROUPS, "negative")
    assert find("r5", 1) == ("refused", GROUPS, "")
    assert find("mirrored", 0) is None
    assert find("r0", 0) is None  # not among the last 6 records
    with pytest.raises(RequestError, match="the other label"):
        made.add("r5", 0, "positive")


def test_while_the_log_is_read_back_an_unknown_prediction_may_yet_be_found(made):
    made.feedback._is_refilling = True
    with pytest.raises(Draining, match="ask again"):
        made.add("r1", 0, "positive")


def test_a_log_that_cannot_be_read_back_stops_nothing(made, tmp_path):
    made.feedback.refill(tmp_path / "nothing").join(10)
    made.remember("r1", 0, "positive", GROUPS)
    made.add("r1", 0, "positive")
