"""Labels of days later take a champion back: ledger, tree and registry agree, also after a kill."""

import types
from pathlib import Path

import pytest

from hounsfield.audit.chain import canonical
from hounsfield.audit.segments import Writer, now_text
from hounsfield.cli.main import main
from hounsfield.config import Home
from hounsfield.laptop import outcomes
from hounsfield.registry.registry import CHAMPION, Registry
from hounsfield.rollout import manifest, repository, seed
from hounsfield.rollout.decide import METHOD
from hounsfield.rollout.ledger import Ledger
from hounsfield.rollout.policy import Policy

MANIFESTS = Path(__file__).parents[2] / "manifests"
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


@pytest.fixture
def home(tmp_path):
    """Version 2 was promoted over version 1; 120 positive cases that both saw, of which it missed half."""
    home = Home.at(tmp_path / "home")
    seed.seed_tree(MANIFESTS, home.tree)
    registry = Registry(home.mlflow_uri)
    for version, digest in (("1", OLD), ("2", NEW)):
        manifest.set_revision(
            home.tree, "stable", storage_uri=f"file:///{digest}", model_version=version, package_digest=digest
        )
        repository.commit(home.tree, f"Serve version {version}", {})
        assert registry.register(types.SimpleNamespace(digest=digest), f"file:///{digest}", None, {}) == int(
            version
        )
    registry.set_alias(CHAMPION, 2)
    ledger, policy = Ledger(home.ledger), Policy.from_mapping(POLICY)
    ledger.record(
        "rollout_started", 1000.0, started_at=1000.0, goes_on=False, policy=policy.as_dict(),
        policy_digest=policy.digest, method=METHOD, revisions={"stable": OLD, "canary": NEW},
    )  # fmt: skip
    ledger.record("rollout_ended", 1100.0, outcome="promoted", reason="")
    for role, digest, missed in (("stable", OLD, 10), ("canary", NEW, 2)):
        writer = Writer(home.root / "log" / role)
        common = {"kind": "prediction", "time": now_text(), "instance": 0, "package_digest": digest,
                  "study": "", "subgroups": {}}  # fmt: skip
        writer.commit(
            [
                canonical(
                    {**common, "request_id": f"r{n}", "label": "positive" if n % missed else "negative"}
                )
                for n in range(120)
            ]
        )
        writer.close()
    (tmp_path / "labels.csv").write_text(
        "request_id,label\n" + "".join(f"r{n},positive\n" for n in range(120))
    )
    return home


def add(home, capsys):
    code = main(["--home", str(home.root), "outcomes", "add", str(home.root.parent / "labels.csv")])
    return code, capsys.readouterr().out


def test_a_champion_that_misses_more_is_taken_back_once_and_a_killed_process_ends_the_same(
    home, capsys, monkeypatch
):
    with monkeypatch.context() as patched:

        def die(home):
            raise KeyboardInterrupt

        patched.setattr(outcomes, "_align_registry", die)  # killed after the commit, before the registry
        assert add(home, capsys)[0] == 130
    assert manifest.revision(home.tree, "stable").package_digest == OLD
    assert Registry(home.mlflow_uri).by_alias(CHAMPION).version == 2
    code, said = add(home, capsys)
    assert (code, said.splitlines()[0]) == (0, "120 labels: 0 added, 120 known before")
    assert Registry(home.mlflow_uri).by_alias(CHAMPION).version == 1
    assert Ledger(home.ledger).taken_back() == {NEW}
    assert main(["--home", str(home.root), "rollout", "verify"]) == 0
    assert main(["--home", str(home.root), "rollout", "replay"]) == 0
    assert "1 verdicts follow" in capsys.readouterr().out


def test_it_is_said_and_the_exit_code_tells(home, capsys):
    code, said = add(home, capsys)
    assert code == 3
    assert "120 labels: 120 added" in said
    assert "champion: ROLLBACK: sensitivity 60 of 120 against 12 of 120 is beyond the margin of 5.0%" in said
    assert said.endswith("version 1 is champion again\n")
