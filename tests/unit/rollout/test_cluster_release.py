"""A rollout on a cluster: every move a push, and stable takes the package over before the canary lets go."""

import subprocess
from pathlib import Path

import pytest

from hounsfield.errors import RolloutError
from hounsfield.rollout import manifest, repository, seed
from hounsfield.rollout.actuator import GitActuator
from hounsfield.rollout.evidence import Snapshot
from hounsfield.rollout.ledger import Ledger
from hounsfield.rollout.release import release
from tests.passes import admitted
from tests.unit.rollout.test_rollout_controller import POLICY, World

MANIFESTS = Path(__file__).parents[3] / "manifests"
OLD, NEW = "a" * 64, "b" * 64


def git(tree, *arguments):
    done = subprocess.run(["git", "-C", str(tree), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


class Cluster(World):
    """The servers follow what was pushed; stable takes 60 s to come up with another package."""

    def __init__(self, tree):
        super().__init__()
        self.tree, self.asked_at = tree, None
        self.comes_up = True

    def sleep(self, seconds):
        self.stable_weight, self.canary_weight = manifest.weights(self.tree)
        self.mirrored = manifest.shadow(self.tree)
        super().sleep(seconds)

    def read(self, now):
        found = super().read(now)
        wants_new = manifest.revision(self.tree, "stable").package_digest == NEW
        self.asked_at = (self.asked_at or now) if wants_new else None
        if wants_new and self.comes_up and now >= self.asked_at + 60:
            found["stable"] = Snapshot(now, found["stable"].processes, ("2",))
        return found


@pytest.fixture
def tree(tmp_path):
    tree, upstream = tmp_path / "gitops", tmp_path / "upstream.git"
    seed.seed_tree(MANIFESTS, tree)
    for role, version, digest in (("stable", "1", OLD), ("canary", "2", NEW)):
        manifest.set_revision(
            tree, role, storage_uri=f"s3://{digest}", model_version=version, package_digest=digest
        )
    repository.commit(tree, "Deploy", {})
    subprocess.run(["git", "clone", "--quiet", "--bare", tree, upstream], check=True)
    git(tree, "remote", "add", "origin", str(upstream))
    git(tree, "fetch", "--quiet", "origin")
    git(tree, "branch", "--quiet", "--set-upstream-to=origin/main")
    return tree


def run(tree, cluster, **options):
    ledger = Ledger(tree.parent / "ledger.jsonl")
    admission = admitted(ledger, OLD, NEW)
    return release(POLICY, cluster, GitActuator(tree), ledger, cluster, admission=admission, **options)


def test_the_package_is_stable_before_the_canary_lets_go(tree):
    assert run(tree, Cluster(tree)).outcome == "promoted"
    titles = git(tree.parent / "upstream.git", "log", "--reverse", "--format=%s", "main").splitlines()[2:]
    assert titles == [
        "Canary at 5 %, stable at 95 %",
        "Canary at 25 %, stable at 75 %",
        "Canary at 50 %, stable at 50 %",
        "Canary at 100 %, stable at 0 %",
        "Promote version 2 to stable",
        "Canary at 0 %, stable at 100 %",
    ]
    assert manifest.revision(tree, "stable").package_digest == NEW
    # The last commit names the rollout's last record, so that it cannot be cut off unseen.
    assert repository.evidence_of(tree)["ledger"] == Ledger(tree.parent / "ledger.jsonl").head()


def test_stable_that_does_not_come_up_leaves_the_canary_its_traffic_and_the_next_run_goes_on(tree):
    cluster = Cluster(tree)
    cluster.comes_up = False
    with pytest.raises(RolloutError, match="stable does not serve version 2 after 120 s"):
        run(tree, cluster, takeover_timeout_s=120.0)
    assert manifest.weights(tree) == (0, 100)
    cluster.comes_up = True
    assert run(tree, cluster).outcome == "promoted"
    assert manifest.weights(tree) == (100, 0)
    commits = git(tree, "rev-list", "--count", "HEAD")
    assert run(tree, cluster).outcome == "promoted"  # nothing is left to do
    assert git(tree, "rev-list", "--count", "HEAD") == commits


def test_a_package_that_labels_took_back_gets_no_traffic_again(tree):
    ledger = Ledger(tree.parent / "ledger.jsonl")
    common = {"started_at": 1.0, "revisions": {"stable": OLD, "canary": NEW}}
    ledger.record("rollout_started", 1.0, goes_on=False, policy={}, policy_digest="", **common)
    ledger.record("late_verdict", 2.0, started_at=1.0, verdict={"decision": "ROLLBACK"}, observation={})
    with pytest.raises(RolloutError, match="labels took the package bbbbbbbbbbbb back"):
        run(tree, Cluster(tree))
    assert manifest.weights(tree) == (100, 0)
