"""Counters become evidence, and a gap in them becomes no evidence."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from hounsfield.errors import RolloutError
from hounsfield.rollout.evidence import Observation, Snapshot, Watch, increase, parse, snapshot
from hounsfield.serving.metrics import FIRST, SHADOW, Metrics


@pytest.fixture
def page():
    import numpy

    registry = CollectorRegistry()
    metrics = Metrics("opacity", "3", registry)
    metrics.count_answers(numpy.array([0.1, 0.5, 0.9]), numpy.array([False, True, False]))
    metrics.count("error")
    metrics.count_refusal("NOT_DICOM")
    metrics.count_answers(numpy.array([0.7]), numpy.array([True]), SHADOW)
    metrics.count_group(("F", "40-59", "PA", "other"), "positive", True)
    metrics.count_feedback(("F", "40-59", "PA", "other"), "positive", "negative")
    for seconds in (0.004, 0.02, 0.02, 7.0):
        metrics.observe_latency_s(seconds)
    return generate_latest(registry).decode()


def test_the_page_of_our_own_server_is_read(page):
    read = parse(page, at=100.0)
    counters = read.processes[""]
    assert {name: counters[name] for name in ("ok", "error", "refused", "review")} == {
        "ok": 3, "error": 1, "refused": 1, "review": 1
    }  # fmt: skip
    assert read.model_versions == ("3",)
    assert [counters[key] for key in ("latency<=0.005", "latency<=0.025", "latency<=5", "latency")] == [
        1,
        3,
        3,
        4,
    ]
    assert [counters[key] for key in ("score<=0.4", "score<=0.5", "score")] == [1, 2, 3]
    assert (counters["shadow/ok"], counters["shadow/review"], counters["shadow/score"]) == (1, 1, 1)
    assert (counters["patient_sex=F/ok"], counters["age_band=40-59/review"]) == (1, 1)
    assert (counters["positive/negative"], counters["patient_sex=F/positive/negative"]) == (1, 1)


def test_sites_and_first_callers_are_counted_apart():
    registry = CollectorRegistry()
    metrics = Metrics("opacity", "3", registry)
    metrics.count_group(("F", "40-59", "PA", "other", "north"), "positive", True)
    metrics.count("ok", 2, FIRST)
    metrics.count("ok", 3)
    counters = parse(generate_latest(registry).decode(), at=0).processes[""]
    assert (counters["site=north/ok"], counters["site=north/review"]) == (1, 1)
    assert (counters["first/ok"], counters["ok"]) == (2, 3)


def test_a_server_without_requests_has_counters_at_zero():
    registry = CollectorRegistry()
    Metrics("opacity", "3", registry)
    counters = parse(generate_latest(registry).decode(), at=0).processes[""]
    assert (counters["ok"], counters["error"], counters["refused"], counters["latency"]) == (0, 0, 0, 0)


@pytest.mark.parametrize("name", ["hounsfield_requests", "hounsfield_review", "hounsfield_request_latency"])
def test_a_page_that_lacks_a_metric_is_refused_not_read_as_zero(page, name):
    text = "".join(line for line in page.splitlines(keepends=True) if name not in line)
    with pytest.raises(RolloutError, match=f"have no {name}"):
        parse(text, at=0)


def test_a_counter_that_is_not_a_number_is_refused(page):
    line = next(line for line in page.splitlines() if line.endswith(" 3.0") and "requests_total" in line)
    with pytest.raises(RolloutError, match="not a number"):
        parse(page.replace(line, line.replace(" 3.0", " NaN")), at=0)


def test_a_page_that_is_no_metrics_page_is_refused():
    with pytest.raises(RolloutError):
        parse("<html>502 Bad Gateway</html>", at=0)
    with pytest.raises(RolloutError, match="lacks a label"):
        snapshot([("hounsfield_requests_total", {}, 1.0)], at=0)


def one(at=0.0, versions=(), **counters):
    return Snapshot(at, {"": counters}, versions)


def test_an_increase_is_the_difference_of_two_snapshots():
    assert increase(one(ok=100, error=1), one(ok=150, error=4)) == ({"error": 3, "ok": 50}, False)


def test_a_series_that_is_new_has_risen_from_zero():
    assert increase(one(ok=100), one(ok=101, refused=2)) == ({"ok": 1, "refused": 2}, False)


@pytest.mark.parametrize("after", [{"ok": 4, "error": 9}, {"ok": 4}], ids=["fell", "vanished"])
def test_a_process_that_began_anew_has_risen_by_what_it_counts_now(after):
    rises, restarted = increase(one(ok=5, error=5), one(**after))
    assert restarted
    assert rises == after


def test_processes_are_told_apart():
    before = Snapshot(0, {"a": {"ok": 100.0}, "b": {"ok": 50.0}})
    # The sum rose from 150 to 155, and yet b began anew; c has just come and only begins its window.
    after = Snapshot(1, {"a": {"ok": 103.0}, "b": {"ok": 2.0}, "c": {"ok": 50.0}})
    assert increase(before, after) == ({"ok": 5}, True)
    gone = Snapshot(2, {"a": {"ok": 104.0}})
    assert increase(after, gone) == ({"ok": 1}, True)


class Source:
    def __init__(self):
        self.now = {"stable": one(ok=1000, versions=("1",)), "canary": one(ok=10, versions=("2",))}

    def read(self, now):
        return self.now


def test_both_windows_begin_and_end_together_and_an_outage_loses_nothing():
    source = Source()
    watch = Watch(source)
    first = watch.look(100, 5)
    assert (first.stable, first.canary) == ({}, {})
    source.now = {"stable": one(ok=1100, versions=("1",)), "canary": None}
    gap = watch.look(102, 5)
    assert (gap.stable, gap.canary, gap.trouble) == (None, None, ("canary does not give its metrics",))
    source.now = {"stable": one(ok=1200, versions=("1",)), "canary": one(ok=25, versions=("2",))}
    found = watch.look(104, 5)
    assert (found.seconds, found.stable, found.canary, found.trouble) == (4, {"ok": 200}, {"ok": 15}, ())


def test_another_model_version_is_trouble_once():
    source = Source()
    watch = Watch(source)
    watch.look(100, 5)
    source.now = {**source.now, "canary": one(ok=12, versions=("3",))}
    assert watch.look(102, 5).trouble == ("canary answers as version 3, it was 2",)
    assert watch.look(104, 5).canary == {"ok": 0}


def test_a_restart_is_told_by_name():
    source = Source()
    watch = Watch(source)
    watch.look(100, 5)
    source.now = {**source.now, "canary": one(ok=3, versions=("2",))}
    found = watch.look(102, 5)
    assert (found.canary, found.restarted) == ({"ok": 3}, ("canary",))


def test_mirrored_requests_count_in_a_shadow_only():
    source = Source()
    watch = Watch(source)
    watch.look(100, 0, shadow=True)
    counters = {"ok": 10, "shadow/ok": 40, "shadow/patient_sex=F/ok": 8, "agree": 38}
    source.now = {**source.now, "canary": one(versions=("2",), **counters)}
    assert watch.look(102, 0, shadow=True).canary == {"agree": 38, "ok": 40, "patient_sex=F/ok": 8}
    source.now = {**source.now, "canary": one(versions=("2",), **{**counters, "shadow/ok": 50, "ok": 11})}
    assert watch.look(104, 5).canary == {"agree": 0, "ok": 1}


def test_an_observation_survives_the_ledger():
    import json

    found = Observation(
        1.5, 2.0, 5, {"ok": 3}, None, True, True, True, ("9f",), ("a",), ("canary",), ("Ada",)
    )
    assert Observation.from_dict(json.loads(json.dumps(found.as_dict()))) == found
    old = found.as_dict()
    for name in ("first", "late", "outcomes"):  # a ledger of before they existed
        del old[name]
    assert Observation.from_dict(old).outcomes == ()
