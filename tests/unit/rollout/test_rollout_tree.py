"""The git tree of a rollout: edited in one file, each change a commit with its evidence."""

import os
import subprocess
import types
from pathlib import Path

import pytest

from hounsfield.errors import RolloutError
from hounsfield.rollout import manifest, recovery, repository, seed
from hounsfield.rollout.actuator import GitActuator, SomeoneElseError, alone
from hounsfield.rollout.policy import First

MANIFESTS = Path(__file__).parents[3] / "manifests"


@pytest.fixture
def tree(tmp_path):
    tree = tmp_path / "gitops"
    assert seed.seed_tree(MANIFESTS, tree)
    return tree


def git(tree, *arguments):
    done = subprocess.run(["git", "-C", str(tree), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def by_hand(tree, old, new):
    path = tree / manifest.ROLLOUT_FILE
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_setting_weights_changes_two_lines_and_keeps_the_comments(tree):
    before = (tree / manifest.ROLLOUT_FILE).read_text().splitlines()
    manifest.set_weights(tree, 95, 5)
    after = (tree / manifest.ROLLOUT_FILE).read_text().splitlines()
    changed = [(old.strip(), new.strip()) for old, new in zip(before, after, strict=True) if old != new]
    assert changed == [("stable: 100", "stable: 95"), ("canary: 0", "canary: 5")]


def test_the_shadow_is_one_line_more(tree):
    assert manifest.shadow(tree) == 0
    GitActuator(tree).set_weights(100, 0, {}, shadow=100)
    assert manifest.shadow(tree) == 100
    assert (
        git(tree, "log", "-1", "--format=%s")
        == "Canary at 0 %, stable at 100 %, 100 % mirrored to the canary"
    )
    GitActuator(tree).set_weights(95, 5, {})
    assert (manifest.shadow(tree), manifest.weights(tree)) == (0, (95, 5))


def test_a_tree_without_a_shadow_says_so_and_is_left_alone(tree):
    path = tree / manifest.ROLLOUT_FILE
    kept = [line for line in path.read_text().splitlines(keepends=True) if not line.startswith("  shadow:")]
    path.write_text("".join(kept))
    git(tree, "commit", "--quiet", "--all", "--message=by hand")
    assert manifest.shadow(tree) == 0
    with pytest.raises(RolloutError, match=r"has no weights\.shadow"):
        manifest.set_weights(tree, 100, 0, shadow=100)
    assert not repository.dirty(tree)


def test_what_each_revision_serves_is_told_by_its_digest(tree):
    manifest.set_revision(tree, "canary", storage_uri="file:///m", model_version="3", package_digest="ab")
    repository.commit(tree, "Deploy", {})
    assert GitActuator(tree).revisions() == {"stable": "none", "canary": "ab"}


@pytest.mark.parametrize(("stable", "canary"), [(95, 6), (101, -1), (50.0, 50.0), (True, 99)])
def test_weights_that_make_no_sense_are_refused(tree, stable, canary):
    with pytest.raises(RolloutError, match="together make 100"):
        manifest.set_weights(tree, stable, canary)
    assert not repository.dirty(tree)


def test_a_revision_is_written_with_its_version_as_text(tree):
    manifest.set_revision(
        tree, "canary", storage_uri="file:///models/ab", model_version=3, package_digest="ab" * 32
    )
    assert manifest.revision(tree, "canary") == manifest.Revision("file:///models/ab", "3", "ab" * 32)
    assert 'modelVersion: "3"' in (tree / manifest.ROLLOUT_FILE).read_text()
    assert manifest.revision(tree, "stable").storage_uri == "none"


def test_there_is_no_third_revision(tree):
    with pytest.raises(RolloutError, match="no revision 'shadow'"):
        manifest.revision(tree, "shadow")


def test_a_commit_holds_its_evidence(tree):
    manifest.set_weights(tree, 95, 5)
    evidence = {"verdict": {"decision": "PROMOTE", "numbers": {"error_rate_high": 0.05}}, "text": "# a: b\nc"}
    sha = repository.commit(tree, "Canary at 5 %", evidence)
    assert not repository.dirty(tree)
    assert repository.evidence_of(tree, sha) == evidence
    assert git(tree, "log", "-1", "--format=%(trailers:key=Evidence,valueonly)").startswith("{")
    assert git(tree, "log", "-1", "--format=%an") == "Hounsfield rollout"


def test_a_commit_of_a_person_has_no_evidence(tree):
    by_hand(tree, "stable: 100", "stable: 100 # for now")
    git(tree, "commit", "--quiet", "--all", "--message=by hand")
    assert repository.evidence_of(tree) == {}


def test_a_commit_does_not_go_to_the_repository_of_the_caller(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    manifest.set_weights(tree, 95, 5)
    repository.commit(tree, "Canary at 5 %", {})
    assert not repository.dirty(tree)


def test_a_tree_that_is_no_yaml_is_refused_with_the_line(tree):
    by_hand(tree, "canary: 0", "canary: ]")
    with pytest.raises(RolloutError, match=r"rollout.yaml line \d+: this is not YAML"):
        manifest.weights(tree)


def killed(at):
    """A stand-in that is where the process dies."""

    def die(*arguments, **options):
        raise KeyboardInterrupt(at)

    return die


def die_at_95_and_5(tree):
    actuator = GitActuator(tree)
    with pytest.raises(KeyboardInterrupt):
        actuator.set_weights(95, 5, {})


@pytest.mark.parametrize("where", ["replace", "add", "commit"])
def test_an_edit_that_was_killed_before_its_commit_is_taken_back(tree, monkeypatch, where):
    before = repository.head(tree)
    run = repository.git
    with monkeypatch.context() as patched:
        if where == "replace":
            die = killed("the draft is written, not yet in place")
            patched.setattr(manifest, "os", types.SimpleNamespace(environ=os.environ, fsync=die))
        if where == "add":
            patched.setattr(repository, "commit", killed("edited, not yet staged"))
        if where == "commit":
            patched.setattr(
                repository, "git", lambda tree, *a: killed("staged")() if a[0] == "commit" else run(tree, *a)
            )
        die_at_95_and_5(tree)
    (tree / ".git" / "index.lock").touch()  # what a git that was killed leaves
    applied = []
    assert GitActuator(tree, lambda: applied.append(manifest.weights(tree))).head() == before
    assert (applied, manifest.weights(tree), repository.dirty(tree)) == ([(100, 0)], (100, 0), False)


def test_a_git_process_that_outlived_its_parent_is_waited_for(tree, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(repository, "commit", killed("edited, not yet staged"))
        die_at_95_and_5(tree)
    with recovery.at_work(tree) as descriptors:
        orphan = subprocess.Popen(["sleep", "60"], pass_fds=descriptors)
    try:
        (tree / ".git" / "index.lock").touch()
        with monkeypatch.context() as patched:
            patched.setattr(recovery, "_PATIENCE_S", 0.0)
            with pytest.raises(RolloutError, match="still at work"):
                GitActuator(tree)
        assert (tree / ".git" / "index.lock").exists()  # it may be the living one's
    finally:
        orphan.kill()
        orphan.wait()
    assert GitActuator(tree).weights() == (100, 0)


def test_an_edit_that_reached_its_commit_stays(tree, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(recovery, "forget", killed("committed"))
        die_at_95_and_5(tree)
    assert GitActuator(tree).weights() == (95, 5)
    assert not manifest.recover(tree)


def test_a_persons_edit_after_a_kill_is_not_taken_back(tree, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(repository, "commit", killed("edited, not yet staged"))
        die_at_95_and_5(tree)
    by_hand(tree, "canary: 5", "canary: 5 # mine")
    with pytest.raises(RolloutError, match="was edited by someone after a rollout was killed"):
        GitActuator(tree)
    assert "canary: 5 # mine" in (tree / manifest.ROLLOUT_FILE).read_text()


def test_the_actuator_commits_then_applies(tree):
    applied = []
    actuator = GitActuator(tree, lambda: applied.append(manifest.weights(tree)))
    sha = actuator.set_weights(95, 5, {"ledger": "ab"})
    assert applied == [(95, 5)]
    assert sha == repository.head(tree) == actuator.head()
    assert actuator.foreign_edit() is None
    assert repository.evidence_of(tree) == {"ledger": "ab"}


def test_the_actuator_sees_an_edit_of_a_person_before_and_after_its_commit(tree):
    actuator = GitActuator(tree)
    by_hand(tree, "stable: 100", "stable: 100 # for now")
    assert "not committed" in actuator.foreign_edit()
    with pytest.raises(RolloutError, match="not committed"):
        actuator.set_weights(95, 5, {})
    git(tree, "commit", "--quiet", "--all", "--message=by hand")
    assert "someone committed" in actuator.foreign_edit()
    assert manifest.weights(tree) == (100, 0)


def test_a_commit_of_a_person_in_the_last_moment_wins(tree, monkeypatch):
    actuator = GitActuator(tree)
    commit = repository.commit

    def commit_after_a_person(*arguments):
        (tree / "README.md").write_text("mine")
        git(tree, "commit", "--quiet", "--message=by hand", "--", "README.md")
        return commit(*arguments)

    monkeypatch.setattr(repository, "commit", commit_after_a_person)
    with pytest.raises(SomeoneElseError, match="someone committed"):
        actuator.set_weights(95, 5, {})
    assert (manifest.weights(tree), repository.dirty(tree)) == ((100, 0), False)
    assert git(tree, "log", "-1", "--format=%s") == "by hand"


def test_the_first_callers_are_named_in_the_tree_and_in_its_commit(tree):
    actuator = GitActuator(tree)
    actuator.set_weights(100, 0, {}, first=First("x-hounsfield-site", ("north", "south.1")))
    assert (actuator.first(), actuator.weights()) == (100, (100, 0))
    assert """x-hounsfield-site: {regex: 'north|south[.]1'}""" in (tree / manifest.ROLLOUT_FILE).read_text()
    title = git(tree, "log", "-1", "--format=%s")
    assert title == "Canary at 0 %, stable at 100 %, x-hounsfield-site north, south.1 first"
    actuator.set_weights(100, 0, {})
    assert actuator.first() == 0
    assert "x-hounsfield-site: {exact: nobody}" in (tree / manifest.ROLLOUT_FILE).read_text()


def test_two_rollouts_cannot_hold_one_tree(tree):
    with alone(tree), pytest.raises(RolloutError, match="another rollout is at work"), alone(tree):
        pass
    with alone(tree):
        pass


@pytest.fixture
def upstream(tree, tmp_path):
    """The repository that ArgoCD watches; `tree` is a clone of it with an overlay of its own."""
    bare = tmp_path / "upstream.git"
    subprocess.run(["git", "clone", "--quiet", "--bare", tree, bare], check=True)
    git(tree, "remote", "add", "origin", str(bare))
    git(tree, "fetch", "--quiet", "origin")
    git(tree, "branch", "--quiet", "--set-upstream-to=origin/main")
    return bare


def test_where_the_branch_has_an_upstream_each_step_is_pushed(tree, upstream):
    actuator = GitActuator(tree)
    sha = actuator.set_weights(95, 5, {})
    assert git(upstream, "rev-parse", "main") == sha


def test_a_step_that_was_committed_and_not_pushed_is_pushed_by_the_next_start(tree, upstream, monkeypatch):
    with monkeypatch.context() as patched:
        actuator = GitActuator(tree)
        patched.setattr(repository, "push", killed("before the push"))
        with pytest.raises(KeyboardInterrupt):
            actuator.set_weights(95, 5, {})
    assert git(upstream, "rev-parse", "main") != repository.head(tree)
    assert GitActuator(tree).weights() == (95, 5)
    assert git(upstream, "rev-parse", "main") == repository.head(tree)


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_what_a_person_pushes_wins(tree, upstream, tmp_path, monkeypatch, when):
    theirs = tmp_path / "theirs"
    actuator = GitActuator(tree)

    def person():
        subprocess.run(["git", "clone", "--quiet", upstream, theirs], check=True)
        by_hand(theirs, "shadow: 0", "shadow: 1")
        git(theirs, "-c", "user.name=a", "-c", "user.email=a@b.invalid", "commit", "-qam", "by hand")
        git(theirs, "push", "--quiet")

    if when == "before":
        person()
        assert "someone pushed" in actuator.foreign_edit()
    else:
        push = repository.push
        monkeypatch.setattr(repository, "push", lambda tree: (person(), push(tree)))
    before = repository.head(tree)
    with pytest.raises(SomeoneElseError, match="someone pushed"):
        actuator.set_weights(95, 5, {})
    assert (repository.head(tree), manifest.weights(tree)) == (before, (100, 0))
    assert git(upstream, "log", "-1", "--format=%s", "main") == "by hand"


def test_a_rollout_does_not_start_on_someones_unfinished_edit(tree):
    by_hand(tree, "canary: 0", "canary: 0 # soon")
    with pytest.raises(RolloutError, match="commit or undo them"):
        GitActuator(tree)
