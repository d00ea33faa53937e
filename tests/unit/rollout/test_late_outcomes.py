"""Labels that come in days later: joined to the logs, counted once, never half-written, and able to speak."""

import json
from pathlib import Path

import pytest

from hounsfield.audit.chain import canonical
from hounsfield.audit.segments import Writer, now_text
from hounsfield.errors import LabelError, RolloutError
from hounsfield.rollout import champion, manifest, outcomes, repository, seed
from hounsfield.rollout.decide import METHOD
from hounsfield.rollout.evidence import Observation
from hounsfield.rollout.labels import read_csv
from hounsfield.rollout.ledger import Ledger, replay_ledger
from hounsfield.rollout.policy import Policy

MANIFESTS = Path(__file__).parents[3] / "manifests"
OLD, NEW = "a" * 64, "b" * 64
POLICY = {
    "steps": [50, 100],
    "interval_s": 2,
    "min_requests": 10,
    "guardrails": {
        "error_rate": {"margin": 0.05},
        "latency": {"limit_s": 0.5},
        "sensitivity": {"margin": 0.05, "minimum": 20, "when_unassessable": "ignore"},
    },
    "budgets": {"max_duration_s": 300, "failures_allowed": 5},
}


def prediction(request_id, digest, label, study="", shadow=False, instance=0, refusal=""):
    return {
        "kind": "prediction", "time": now_text(), "request_id": request_id, "instance": instance,
        "study": study, "shadow": shadow, "package_digest": digest, "label": label, "refusal": refusal,
        "subgroups": {"patient_sex": "F"},
    }  # fmt: skip


def feedback(request_id, truth):
    return {"kind": "feedback", "time": now_text(), "request_id": request_id, "instance": 0, "truth": truth}


@pytest.fixture
def hospital(tmp_path):
    """Two inference logs and a ledger with one rollout, of OLD against NEW."""

    class Hospital:
        ledger = Ledger(tmp_path / "ledger.jsonl")
        logs = tuple(tmp_path / "log" / role for role in ("stable", "canary"))

        def log(self, stable=(), canary=()):
            for folder, records in zip(self.logs, (stable, canary), strict=True):
                writer = Writer(folder)
                if records:
                    writer.commit([canonical(record) for record in records])
                writer.close()

        def begin(self, started_at=1000.0):
            policy = Policy.from_mapping(POLICY)
            self.ledger.record(
                "rollout_started", started_at, started_at=started_at, goes_on=False,
                policy=policy.as_dict(), policy_digest=policy.digest, method=METHOD,
                revisions={"stable": OLD, "canary": NEW},
            )  # fmt: skip

        def end(self, outcome="promoted"):
            self.ledger.record("rollout_ended", 1100.0, outcome=outcome, reason="")

        def add(self, text, name="labels.csv"):
            (tmp_path / name).write_text(text)
            return outcomes.add(self.ledger, self.logs, tmp_path / name, 2000.0, "ada")

        def last(self):
            return list(self.ledger.records())[-1]

    made = Hospital()
    made.begin()
    return made


def test_a_label_counts_for_every_revision_that_predicted_its_case(hospital):
    hospital.log(
        stable=[
            prediction("r1", OLD, "positive"),
            prediction("r2", OLD, "negative"),
            prediction("r3", OLD, "", refusal="NOT_DICOM"),
            prediction("r5", "c" * 64, "positive"),  # a champion of long ago
        ],
        canary=[prediction("r1", NEW, "negative", shadow=True), prediction("r4", NEW, "positive")],
    )
    added = hospital.add("request_id,label\nr1,positive\nr2,0\nr3,positive\nr4,1\nr5,positive\nr9,negative\n")
    assert (added.rows, added.new, added.known, added.unmatched) == (6, 5, 0, (7,))
    record = hospital.last()
    (rollout,) = record["rollouts"]
    assert rollout["stable"] == {
        "positive/positive": 1, "negative/negative": 1, "positive/refused": 1,
        "patient_sex=F/positive/positive": 1, "patient_sex=F/negative/negative": 1,
        "patient_sex=F/positive/refused": 1,
    }  # fmt: skip
    assert (rollout["canary"]["positive/negative"], rollout["canary"]["positive/positive"]) == (1, 1)
    assert record["counts"]["c" * 64]["positive/positive"] == 1
    assert not any(name in json.dumps(record) for name in ("r1", "r2", "r4"))


def test_a_study_was_called_positive_when_one_of_its_images_was(hospital):
    hospital.log(
        stable=[
            prediction("r1", OLD, "negative", "s1"),
            prediction("r2", OLD, "positive", "s1", instance=1),
            prediction("r3", OLD, "negative", "s2"),
        ]
    )
    hospital.add("study,label\ns1,positive\ns2,positive\n")
    (rollout,) = hospital.last()["rollouts"]
    assert (rollout["stable"]["positive/positive"], rollout["stable"]["positive/negative"]) == (1, 1)


def test_predictions_of_before_a_rollout_are_no_evidence_in_it(hospital):
    early = {**prediction("r1", OLD, "positive"), "time": "1970-01-01T00:16:39+00:00"}  # 999 s
    on_time = {**prediction("r2", OLD, "positive"), "time": "1970-01-01T00:16:40+00:00"}
    hospital.log(stable=[early, on_time])
    hospital.add("request_id,label\nr1,positive\nr2,positive\n")
    assert hospital.last()["rollouts"][0]["stable"]["positive/positive"] == 1
    assert hospital.last()["counts"][OLD]["positive/positive"] == 2


def test_the_same_file_again_changes_nothing_and_a_longer_one_adds_what_is_new(hospital):
    hospital.log(stable=[prediction("r1", OLD, "positive"), prediction("r2", OLD, "positive", "s2")])
    hospital.add("request_id,label\nr1,positive\n")
    whole = hospital.ledger.path.read_bytes()
    again = hospital.add("request_id,label\nr1,positive\n")
    assert (again.new, again.known, again.record) == (0, 1, None)
    assert hospital.ledger.path.read_bytes() == whole
    longer = hospital.add("request_id,label\nr2,positive\nr1,1\n")
    assert (longer.new, longer.known) == (1, 1)
    assert hospital.last()["rollouts"][0]["stable"]["positive/positive"] == 1
    assert hospital.add("study,label\ns2,positive\n").known == 1  # its image was counted by its request


def test_a_label_that_a_reader_sent_to_the_server_is_not_counted_twice(hospital):
    hospital.log(stable=[prediction("r1", OLD, "positive"), feedback("r1", "positive")])
    assert hospital.add("request_id,label\nr1,positive\n").known == 1
    with pytest.raises(LabelError, match="row 2: a reader gave the other label before"):
        hospital.add("request_id,label\nr1,negative\n")


def test_a_label_that_contradicts_an_earlier_one_refuses_the_whole_file(hospital):
    hospital.log(stable=[prediction("r1", OLD, "positive"), prediction("r2", OLD, "positive")])
    hospital.add("request_id,label\nr1,positive\n")
    whole = hospital.ledger.path.read_bytes()
    with pytest.raises(
        LabelError, match="nothing was added: row 3: it was added before with the other label"
    ):
        hospital.add("request_id,label\nr2,positive\nr1,negative\n")
    assert hospital.ledger.path.read_bytes() == whole


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("request_id,label\nDOE^JANE,maybe\n", r"row 2: the label is not one of negative, positive, 0, 1"),
        ("request_id,label\nr1,1\nr2\n", r"row 3: it has not as many fields as the header"),
        ("request_id,label\nr1,1,2\n", r"row 2: it has not as many"),
        ("request_id,study,label\nr1,s1,1\n", r"row 2: it must name a request_id or a study, and not both"),
        ("request_id,label\n,1\n", r"row 2: it must name"),
        ("request_id,instance,label\nr1,-1,1\n", r"row 2: the instance is not a whole number"),
        ("request_id,label\nr1,1\nr2,0\nr1,0\n", r"row 4: it has another label than row 2"),
        ("name,label\nDOE^JANE,1\n", r"needs a column 'label', and 'request_id'"),
        ("request_id,label,DOE^JANE\nr1,1,x\n", r"has 1 columns that are not read"),
        ("request_id,label\n", "has no rows"),
        ("request_id,label\n" + "r,maybe\n" * 12, r"row 11: .*; and 2 more$"),
        ("request_id,label\n\xff", None),
    ],
)
def test_a_row_that_cannot_be_used_is_named_by_its_number_alone(tmp_path, text, sentence):
    path = tmp_path / "labels.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(LabelError, match=sentence) as raised:
        read_csv(path)
    assert "DOE" not in str(raised.value)


def test_a_running_rollout_counts_each_label_in_one_look(hospital):
    hospital.log(stable=[prediction("r1", OLD, "positive")], canary=[prediction("r1", NEW, "positive")])
    inbox = outcomes.Inbox(hospital.ledger, 1000.0, ())
    down = Observation(1002.0, 2.0, 50, None, None)
    look = Observation(1004.0, 2.0, 50, {"ok": 3, "positive/positive": 1}, {"ok": 3})
    hospital.add("request_id,label\nr1,positive\n")
    assert inbox.added_to(down) == down
    found = inbox.added_to(look)
    assert found.stable == {"ok": 3, "positive/positive": 2, "patient_sex=F/positive/positive": 1}
    assert found.canary == {"ok": 3, "positive/positive": 1, "patient_sex=F/positive/positive": 1}
    assert found.outcomes == (hospital.last()["hash"],)
    assert inbox.added_to(look) == look
    restarted = outcomes.Inbox(hospital.ledger, 1000.0, found.outcomes)
    assert restarted.added_to(look) == look
    assert outcomes.Inbox(hospital.ledger, 999.0, ()).added_to(look) == look  # another rollout


def promoted(hospital, misses_of_new, cases=150):
    """A promoted rollout, and a file with `cases` positive cases that both revisions saw in the shadow."""
    hospital.end()
    stable = [prediction(f"r{n}", OLD, "negative" if n % 10 == 0 else "positive") for n in range(cases)]
    canary = [
        prediction(f"r{n}", NEW, "negative" if n % 10 < misses_of_new else "positive", shadow=True)
        for n in range(cases)
    ]
    hospital.log(stable, canary)
    return hospital.add("request_id,label\n" + "".join(f"r{n},positive\n" for n in range(cases)))


def test_labels_of_a_sound_champion_leave_it_where_it_is(hospital):
    promoted(hospital, misses_of_new=1)
    late = champion.judge(hospital.ledger, NEW, 3000.0)
    assert (late.verdict["decision"], late.is_rollback) == ("HOLD", False)
    assert champion.judge(hospital.ledger, NEW, 4000.0).record == late.record  # no new labels, no new verdict
    assert champion.judge(hospital.ledger, OLD, 3000.0) is None
    assert replay_ledger(hospital.ledger) == 1


def test_labels_take_a_champion_back_that_misses_more_than_its_margin(hospital, tmp_path):
    tree = tmp_path / "gitops"
    seed.seed_tree(MANIFESTS, tree)
    for digest, version in ((OLD, "1"), (NEW, "2")):
        manifest.set_revision(
            tree, "stable", storage_uri=f"file:///{digest}", model_version=version, package_digest=digest
        )
        repository.commit(tree, f"Serve version {version}", {})
    promoted(hospital, misses_of_new=5)
    late = champion.judge(hospital.ledger, NEW, 3000.0)
    assert late.is_rollback
    assert late.verdict["reasons"][0].startswith(
        "sensitivity 75 of 150 against 15 of 150 is beyond the margin"
    )
    assert not champion.is_done(tree, late)
    champion.take_back(tree, late)
    assert manifest.revision(tree, "stable") == manifest.Revision(f"file:///{OLD}", "1", OLD)
    assert repository.evidence_of(tree)["verdict"]["decision"] == "ROLLBACK"
    assert champion.is_done(tree, late)
    hospital.ledger.check_anchors(repository.ledger_anchors(tree))
    assert hospital.ledger.taken_back() == {NEW}
    assert champion.judge(hospital.ledger, NEW, 5000.0).record == late.record  # decided once
    assert replay_ledger(hospital.ledger) == 1


def test_a_rollout_that_another_version_decided_is_replayed_by_that_version(hospital, tmp_path):
    promoted(hospital, misses_of_new=1)
    older = Ledger(tmp_path / "older.jsonl")
    for record in hospital.ledger.records():
        older.record(**{key: value for key, value in record.items() if key not in ("hash", "method")})
    with pytest.raises(RolloutError, match="was decided by method 1, and this version has method"):
        replay_ledger(older)


def test_a_late_verdict_that_does_not_follow_from_its_labels_is_found(hospital, tmp_path):
    from hounsfield.audit.chain import ChainError

    promoted(hospital, misses_of_new=5)
    champion.judge(hospital.ledger, NEW, 3000.0)
    forged = Ledger(tmp_path / "forged.jsonl")
    for record in hospital.ledger.records():
        record.pop("hash")
        if record["kind"] == "late_verdict":
            record["observation"]["canary"]["positive/negative"] = 15
        forged.record(**record)
    with pytest.raises(ChainError, match="do not follow from the observations"):
        replay_ledger(forged)
