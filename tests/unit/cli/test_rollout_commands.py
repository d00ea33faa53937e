"""`hounsfield rollout`: the ledger is verified against the tree, replayed, shown and added to."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hounsfield.cli.main import main
from hounsfield.rollout import approvals, decide, manifest, repository, seed, signed
from hounsfield.rollout.evidence import Observation
from hounsfield.rollout.ledger import Ledger
from hounsfield.rollout.policy import Policy

ADA = Ed25519PrivateKey.generate()
POLICY = Policy.from_mapping(
    {
        "shadow_first": False,
        "steps": [{"weight": 5, "approval": True}, 100],
        "interval_s": 2,
        "min_requests": 10,
        "guardrails": {"error_rate": {"margin": 0.2}, "latency": {"limit_s": 0.5, "quantile": 0.8}},
        "budgets": {"max_duration_s": 60, "failures_allowed": 1},
        "approvals": {"approvers": {"Ada": signed.key_name(ADA)}},
    }
)


@pytest.fixture
def home(tmp_path):
    """A rollout of two looks, and a tree of which a commit names the ledger's last record."""
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.record(
        "rollout_started", 0.0, weight=5, shadow=False, started_at=0.0, goes_on=False,
        policy=POLICY.as_dict(), policy_digest=POLICY.digest, commit="c", method=decide.METHOD,
        revisions={"stable": "aa" * 32, "canary": "bb" * 32},
    )  # fmt: skip
    counters = {"ok": 20, "refused": 0, "error": 0, "latency": 20, "latency<=0.5": 20}
    looks = [Observation(2.0 * n, 2.0, 5, counters, counters) for n in (1, 2)]
    for found, verdict in zip(looks, decide.replay(POLICY, 0.0, looks), strict=True):
        head = ledger.record(
            "verdict", found.at, weight=5, shadow=False, verdict=verdict.as_dict(), commit="c",
            observation=found.as_dict(),
        )  # fmt: skip
    tree = tmp_path / "gitops"
    seed.seed_tree(Path(__file__).parents[3] / "manifests", tree)
    manifest.set_weights(tree, 95, 5)
    repository.commit(tree, "Canary at 5 %", {"ledger": head})
    return tmp_path


def run(home, capsys, *arguments):
    code = main(["--home", str(home), "rollout", *arguments])
    said = capsys.readouterr()
    return code, said.out + said.err


def test_a_ledger_that_holds(home, capsys):
    code, said = run(home, capsys, "verify")
    assert (code, "3 records, the chain holds" in said, "1 commits name a record" in said) == (0, True, True)
    code, said = run(home, capsys, "replay")
    assert (code, "2 verdicts follow from their observations, to the bit" in said) == (0, True)


@pytest.mark.parametrize("how", ["edited", "dropped", "added", "reordered", "cut off"])
def test_a_ledger_that_was_tampered_with_is_found(home, capsys, how):
    path = home / "ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines = {
        "edited": [lines[0], lines[1].replace(b'"weight":5', b'"weight":6'), lines[2]],
        "dropped": [lines[0], lines[2]],
        "added": [lines[0], lines[1], lines[1], lines[2]],
        "reordered": [lines[0], lines[2], lines[1]],
        "cut off": lines[:2],
    }[how]
    path.write_bytes(b"".join(lines))
    code, said = run(home, capsys, "verify")
    assert code == 1
    assert "error:" in said
    assert "ledger.jsonl" in said


def test_a_head_that_was_kept_elsewhere_finds_what_was_cut_off_since(home, capsys):
    ledger = Ledger(home / "ledger.jsonl")
    whole, kept = ledger.path.read_bytes(), ledger.record("outcomes", 9.0)
    assert run(home, capsys, "verify", "--head", kept)[0] == 0
    ledger.path.write_bytes(whole)
    assert run(home, capsys, "verify")[0] == 0
    code, said = run(home, capsys, "verify", "--head", kept)
    assert (code, f"no record has the hash {kept[:12]}" in said) == (1, True)


def test_a_reader_that_has_had_enough_is_no_error(home):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "hounsfield.cli.main", "--home", str(home), "rollout", "verify"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_forged_verdict_in_a_chain_that_holds_is_found(home, capsys, tmp_path):
    forged = Ledger(tmp_path / "forged.jsonl")
    for record in Ledger(home / "ledger.jsonl").records():
        record.pop("hash")
        if record["kind"] == "verdict":
            record["verdict"]["decision"] = "PROMOTE"
        forged.record(**record)
    code, said = run(home, capsys, "replay", str(forged.path))
    assert code != 0
    assert "PROMOTE at 5 % and its numbers do not follow from the observations, which give HOLD" in said


def test_status_shows_the_guardrails_and_what_is_waited_for(home, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    code, said = run(home, capsys, "status")
    assert code == 0
    assert "at 5 %, 4 s, 2 looks: HOLD" in said
    assert "0/40 0.0%" in said
    assert "PROVEN" in said
    assert "- a person has to approve going on from 5 %" in said


def test_watching_ends_with_the_rollout(home, capsys):
    Ledger(home / "ledger.jsonl").record("rollout_ended", 9.0, weight=5, outcome="held", reason="someone")
    code, said = run(home, capsys, "status", "--watch")
    assert (code, "held" in said) == (0, True)
    code, said = run(home, capsys, "approve", "--step", "5", "--entry", "ada.json")
    assert (code, "has ended (held)" in said) == (2, True)


def test_an_approval_is_a_signed_record_and_each_approver_counts_once(home, capsys, tmp_path):
    canary = Ledger(home / "ledger.jsonl").stories()[0].revisions["canary"]
    (tmp_path / "ada.json").write_text(json.dumps(approvals.approve(ADA, canary, "5", 1e12)))
    approve = ("approve", "--step", "5", "--entry", str(tmp_path / "ada.json"))
    assert run(home, capsys, *approve) == (0, "Ada has approved going on from 5: 1 of 1\n")
    entry = json.loads((home / "ledger.jsonl").read_text().splitlines()[-1])["record"]["entry"]
    assert approvals.approver(entry, POLICY.approvers, canary, "5") == "Ada"
    code, said = run(home, capsys, *approve)
    assert (code, "Ada has approved this already; a second approval is another person's" in said) == (2, True)


def test_a_key_that_the_policy_does_not_list_approves_nothing(home, capsys, tmp_path):
    code, said = run(home, capsys, "approver", str(tmp_path / "eve.key"))
    assert code == 0
    before = (home / "ledger.jsonl").read_bytes()
    code, refusal = run(home, capsys, "approve", "--step", "5", "--key", str(tmp_path / "eve.key"))
    assert code == 2
    assert f"the key {said[:12]}... is of none of the policy's approvers (Ada)" in refusal
    code, refusal = run(home, capsys, "approve", "--step", "100", "--key", str(tmp_path / "eve.key"))
    assert (code, "the step '100' waits for no approval; of this rollout 5 does" in refusal) == (2, True)
    assert (home / "ledger.jsonl").read_bytes() == before


def test_without_a_ledger_there_is_one_sentence(tmp_path, capsys):
    code, said = run(tmp_path, capsys, "status")
    assert code == 2
    assert "no rollout has been run" in said
