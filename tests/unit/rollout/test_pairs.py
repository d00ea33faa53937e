"""Agreement with the champion: cases that both revisions saw, found in their logs while these are written."""

from hounsfield.audit.chain import canonical
from hounsfield.audit.segments import Writer
from hounsfield.rollout import pairs
from hounsfield.rollout.evidence import Snapshot, Watch
from hounsfield.rollout.pairs import Pairs, WithPairs

OLD, NEW = "a" * 64, "b" * 64
DIGESTS = {"stable": OLD, "canary": NEW}


def prediction(request_id, digest, label, instance=0):
    return {"kind": "prediction", "request_id": request_id, "instance": instance, "package_digest": digest,
            "label": label}  # fmt: skip


class Logs:
    def __init__(self, folder):
        self.folder = folder

    def write(self, pod, *records):
        writer = Writer(self.folder / pod)
        writer.commit([canonical({"time": "2026-01-01T00:00:00Z", **record}) for record in records])
        writer.close()


def test_a_request_and_its_copy_are_one_case_and_what_was_before_is_none(tmp_path):
    logs = Logs(tmp_path)
    logs.write("stable", prediction("r0", OLD, "positive"))
    found = Pairs(tmp_path, DIGESTS)
    logs.write("canary", prediction("r0", NEW, "negative"))
    logs.write(
        "stable", prediction("r1", OLD, "positive"), prediction("r2", OLD, "positive"),
        prediction("r3", OLD, ""), prediction("r4", OLD, "negative"), {"kind": "feedback"},
        prediction("r5", "c" * 64, "negative"),
    )  # fmt: skip
    found.update()
    assert (found.agree, found.differ) == (0, 0)
    logs.write(
        "canary", prediction("r2", NEW, "negative"), prediction("r1", NEW, "positive"),
        prediction("r3", NEW, ""), prediction("r4", NEW, "negative", instance=1),
        prediction("r5", NEW, "positive"),
    )  # fmt: skip
    found.update()
    found.update()
    assert (found.agree, found.differ) == (2, 1)  # both refused r3


def test_only_so_many_are_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(pairs, "MOST_WAITING", 2)
    found, logs = Pairs(tmp_path, DIGESTS), Logs(tmp_path)
    logs.write("stable", *(prediction(f"r{n}", OLD, "positive") for n in range(3)))
    logs.write("canary", *(prediction(f"r{n}", NEW, "positive") for n in (2, 1, 0)))
    found.update()
    assert found.agree == 2


class Pages:
    def read(self, now):
        return {role: Snapshot(now, {"": {"ok": now}}, ("1",)) for role in DIGESTS}


def test_agreement_stands_beside_the_other_counters_and_a_log_that_broke_is_no_evidence(tmp_path):
    logs = Logs(tmp_path)
    logs.write("stable", prediction("r1", OLD, "positive"))
    watch = Watch(WithPairs(Pages(), Pairs(tmp_path, DIGESTS)))
    watch.look(1.0, 50)
    logs.write("stable", prediction("r2", OLD, "positive"))
    logs.write("canary", prediction("r2", NEW, "negative"))
    found = watch.look(2.0, 50)
    assert found.canary == {"ok": 1, "agree": 0, "differ": 1}
    assert found.stable == {"ok": 1}
    logs.write("canary", prediction("r3", NEW, "negative"))
    segment = max((tmp_path / "canary").glob("*.jsonl"))
    segment.write_bytes(segment.read_bytes().replace(b'"r3"', b'"r4"'))
    assert watch.look(3.0, 50).trouble == ("canary does not give its metrics",)
