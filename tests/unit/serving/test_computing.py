import base64
import hashlib
import json
import math

import numpy as np
import orjson
import pytest
from prometheus_client import CollectorRegistry

from hounsfield.errors import AuditError
from hounsfield.package.engine import EngineError, calibrate
from hounsfield.serving.wire import RequestError
from tests.unit.serving.parts import GROUPS, MODEL, KeptLog, MeanEngine, computer, files, images, task


def compute(question, **options):
    (outcome,) = computer(CollectorRegistry(), **options).compute([task(question)])
    return outcome


def test_calibration_is_the_sigmoid_over_the_temperature():
    probability = calibrate(np.array([0.0, 2.0, -800.0, 800.0], dtype=np.float32), 2.0)
    np.testing.assert_allclose(probability, [0.5, 1 / (1 + math.exp(-1)), 0.0, 1.0], atol=1e-7)
    assert probability.dtype == np.float32


def test_a_refused_instance_does_not_fail_the_others():
    answer = compute(files(b"1.0", b"bad", b"0.6")).answer
    # logits 5 and 1 over temperature 2
    assert answer.probability[0] == pytest.approx(1 / (1 + math.exp(-2.5)))
    assert math.isnan(answer.probability[1])
    assert answer.probability[2] == pytest.approx(1 / (1 + math.exp(-0.5)))  # 0.622
    assert answer.label == ("positive", "", "positive")
    assert answer.refusal == ("", "no_pixel_data", "")
    assert answer.review_required.tolist() == [False, True, True]
    np.testing.assert_array_equal(
        answer.embedding, np.array([[1, 1], [np.nan] * 2, [0.6, 0.6]], dtype=np.float32)
    )


def test_all_refused_is_an_answer_too():
    answer = compute(files(b"bad")).answer
    assert answer.refusal == ("no_pixel_data",)
    assert np.isnan(answer.probability).all()


def test_the_files_of_a_request_run_together_and_so_do_requests():
    engine = MeanEngine()
    outcomes = computer(CollectorRegistry(), engine).compute(
        [task(files(b"1.0", b"bad", b"0.5")), task(images(0.5)), task(files(b"bad"))]
    )
    assert engine.batches == [3]
    assert [round(float(each.answer.probability[-1]), 3) for each in outcomes[:2]] == [0.5, 0.5]


class Says:
    """An engine that says what it is told to about images of grey 1, and 0 about others."""

    embedding_size = 1

    def __init__(self, logit, embedding=0.0):
        self.logit, self.embedding = logit, embedding

    def run(self, given):
        odd = given[:, 0, 0, 0] == 1
        return (
            np.where(odd, self.logit, 0).astype(np.float32),
            np.where(odd, self.embedding, 0).astype(np.float32)[:, None],
        )


@pytest.mark.parametrize(
    "engine", [Says(np.nan), Says(0.0, np.nan), Says(0.0, np.inf)], ids=["logit", "embedding", "infinite"]
)
def test_a_number_that_is_not_finite_is_an_error_and_never_an_answer(engine):
    outcome = compute(images(0.5, 1.0), engine=engine)
    assert isinstance(outcome, EngineError)


def test_a_number_out_of_range_is_an_error_and_never_an_answer(monkeypatch):
    monkeypatch.setattr("hounsfield.serving.computing.calibrate", lambda logit, _: logit + 1.5)
    assert isinstance(compute(images(0.5), engine=Says(0.0)), EngineError)


def test_a_row_too_few_is_an_error_and_never_an_answer():
    class Short(MeanEngine):
        def run(self, given):
            logit, embedding = super().run(given)
            return logit[1:], embedding[1:]

    assert isinstance(compute(images(0.5, 0.5), engine=Short()), EngineError)


def test_one_requests_broken_image_does_not_fail_the_requests_beside_it():
    good, bad, refused = computer(CollectorRegistry(), Says(np.nan)).compute(
        [task(images(0.5)), task(images(1.0)), task(images(2.0))]
    )
    assert good.answer.probability.tolist() == [0.5]
    assert isinstance(bad, EngineError)
    assert isinstance(refused, RequestError)  # 2 is no grey
    assert "outside 0 to 1" in str(refused)


def test_a_record_says_who_asked_what_and_what_was_said():
    log = KeptLog()
    question = files(b"1.0", b"bad", caller="reader", study="s.1", shadow=True, door="grpc")
    done = compute(question, log=log)
    assert done.logged.done()
    first, second = log.records
    assert first | {"time": "", "latency_s": 0, "embedding": ""} == {
        "kind": "prediction",
        "time": "",
        "request_id": "r1",
        "instance": 0,
        "caller": "reader",
        "study": "s.1",
        "shadow": True,
        "door": "grpc",
        **MODEL,
        "input_kind": "dicom",
        "input_sha256": hashlib.sha256(b"1.0").hexdigest(),
        "probability": float(done.answer.probability[0]),
        "label": "positive",
        "review_required": False,
        "refusal": "",
        "latency_s": 0,
        "embedding": "",
        "subgroups": dict(
            zip(("patient_sex", "age_band", "view_position", "manufacturer"), GROUPS, strict=True)
        ),
    }
    assert first["time"].endswith("Z")
    assert first["latency_s"] > 0
    assert np.frombuffer(base64.b64decode(first["embedding"]), "<f2").tolist() == [1.0, 1.0]
    assert (second["instance"], second["refusal"], second["probability"], second["embedding"]) == (
        1,
        "no_pixel_data",
        None,
        None,
    )
    assert json.loads(orjson.dumps(log.records)) == log.records


def test_a_site_is_a_group_where_sites_are_declared():
    log = KeptLog()
    for site in ("north", "elsewhere", ""):
        compute(files(b"1.0", site=site), log=log, sites=("north", "south"))
    compute(files(b"1.0", site="north"), log=log)
    sites = [record["subgroups"].get("site") for record in log.records]
    assert sites == ["north", "other", "unknown", None]


def test_a_large_file_has_its_hash_too():
    log, large = KeptLog(), b"0." + b"5" * 2**20
    compute(files(large), log=log)
    assert log.records[0]["input_sha256"] == hashlib.sha256(large).hexdigest()


def test_a_prepared_image_is_hashed_as_its_values_and_has_no_groups():
    log = KeptLog()
    compute(images(0.5, 1.0), log=log)
    assert log.records[1]["input_kind"] == "image"
    assert log.records[1]["input_sha256"] == hashlib.sha256(np.ones(4, "<f4").tobytes()).hexdigest()
    assert set(log.records[1]["subgroups"].values()) == {"unknown"}


def test_a_request_that_the_model_failed_leaves_error_records():
    log = KeptLog()
    compute(images(1.0, 0.5), engine=Says(np.nan), log=log)
    assert [(each["kind"], each["instance"], each["error"]) for each in log.records] == [
        ("error", 0, "EngineError"),
        ("error", 1, "EngineError"),
    ]


def test_a_request_that_breaks_the_contract_leaves_no_record():
    log = KeptLog()
    assert isinstance(compute(images(2.0), log=log), RequestError)
    assert log.records == []


def test_a_log_that_takes_nothing_is_an_error_of_the_request():
    class FullLog:
        def append(self, records):
            raise AuditError("10000 records wait for the disk")

    assert isinstance(compute(images(0.5), log=FullLog()), AuditError)


def test_a_mistake_of_our_own_in_one_request_is_not_anothers():
    class Odd(MeanEngine):
        def run(self, given):
            if (given == 1).any():
                raise RuntimeError("planted")
            return super().run(given)

    good, bad = computer(CollectorRegistry(), Odd()).compute([task(images(0.5)), task(images(1.0))])
    assert good.answer.probability.tolist() == [0.5]
    assert isinstance(bad, RuntimeError)


def test_a_repeated_instance_comes_from_the_cache_and_is_logged_all_the_same():
    engine, log = MeanEngine(), KeptLog()
    cached = computer(CollectorRegistry(), engine, log, cache_entries=2)
    (first,) = cached.compute([task(files(b"1.0", b"0.6"))])
    (again,) = cached.compute([task(files(b"0.6", b"bad", b"1.0"))])
    assert engine.batches == [2]
    assert (first.cache_hits, again.cache_hits) == (0, 2)
    np.testing.assert_array_equal(again.answer.embedding[0], first.answer.embedding[1])
    assert again.answer.probability[[2, 0]].tolist() == first.answer.probability.tolist()
    assert again.groups == (GROUPS,) * 3
    assert len(log.records) == 5


def test_the_cache_forgets_what_was_used_longest_ago_and_never_keeps_a_refusal():
    engine = MeanEngine()
    cached = computer(CollectorRegistry(), engine, cache_entries=2)
    for source in (b"0.1", b"0.2", b"0.1", b"0.3", b"0.1", b"0.2"):
        cached.compute([task(files(source, b"bad"))])
    assert sum(engine.batches) == 4  # 0.2 was forgotten for 0.3


def test_without_a_cache_nothing_is_remembered():
    engine = MeanEngine()
    plain = computer(CollectorRegistry(), engine)
    for _ in range(2):
        (done,) = plain.compute([task(files(b"1.0"))])
    assert (engine.batches, done.cache_hits) == ([1, 1], 0)
