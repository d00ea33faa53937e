"""The tree is seeded from the clone, and after an upgrade takes over what is new without losing an edit."""

import shutil
from pathlib import Path

import pytest

from hounsfield.errors import RolloutError
from hounsfield.rollout import manifest, repository, seed

MANIFESTS = Path(__file__).parents[3] / "manifests"
POLICY = Path("base/rollout/policy.yaml")


@pytest.fixture
def clone(tmp_path):
    """The manifests of a clone, to be upgraded."""
    for name in ("base", "overlays/laptop"):
        shutil.copytree(MANIFESTS / name, tmp_path / "clone" / name)
    return tmp_path / "clone"


@pytest.fixture
def tree(tmp_path, clone):
    tree = tmp_path / "home" / "gitops"
    assert seed.seed_tree(clone, tree)
    return tree


def edit(folder, file, old, new):
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new, 1))


def history(tree):
    return repository.git(tree, "log", "--format=%s").splitlines()


def test_a_seeded_tree_is_clean_and_holds_the_laptop_overlay_only(tree):
    assert not repository.dirty(tree)
    assert len(history(tree)) == 1
    assert [path.name for path in (tree / "overlays").iterdir()] == ["laptop"]
    assert manifest.weights(tree) == (100, 0)


def test_seeding_again_changes_nothing(tree, clone):
    manifest.set_weights(tree, 75, 25)
    before = repository.commit(tree, "A step", {})
    assert not seed.seed_tree(clone, tree)
    assert repository.head(tree) == before
    assert manifest.weights(tree) == (75, 25)


def test_a_folder_of_someone_else_is_not_seeded_over(tmp_path):
    (tmp_path / "gitops").mkdir()
    (tmp_path / "gitops" / "notes.txt").write_text("mine")
    with pytest.raises(RolloutError, match="neither empty nor a git repository"):
        seed.seed_tree(MANIFESTS, tmp_path / "gitops")
    assert (tmp_path / "gitops" / "notes.txt").read_text() == "mine"


def test_a_folder_that_is_no_manifests_folder_leaves_nothing(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RolloutError, match="it is not the manifests folder"):
        seed.seed_tree(tmp_path / "empty", tmp_path / "gitops")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_an_upgrade_is_merged_with_what_was_edited_here(tree, clone):
    edit(tree, POLICY, "steps: [5, 25, 50, 100]", "steps: [10, 100]")
    manifest.set_revision(
        tree, "stable", storage_uri="file:///model", model_version="7", package_digest="a" * 64
    )
    repository.commit(tree, "Two steps, and version 7", {"package_digest": "a" * 64, "role": "stable"})
    edit(clone, POLICY, "max_duration_s: 300", "max_duration_s: 900")
    (clone / "base" / "new.yaml").write_text("new: true\n")
    (clone / "base" / "rollout" / "change-plan.yaml").unlink()

    assert seed.take_over(clone, tree)
    policy = (tree / POLICY).read_text()
    assert "steps: [10, 100]" in policy
    assert "max_duration_s: 900" in policy
    assert (tree / "base" / "new.yaml").read_text() == "new: true\n"
    assert not (tree / "base" / "rollout" / "change-plan.yaml").exists()
    assert manifest.revision(tree, "stable").model_version == "7"
    assert repository.former_champions(tree) == {"a" * 64}
    assert history(tree)[0] == "Take over the clone's manifests"
    assert not repository.dirty(tree)
    assert [path.name for path in tree.parent.iterdir()] == ["gitops"]

    before = repository.head(tree)
    assert not seed.take_over(clone, tree)
    assert repository.head(tree) == before


def test_a_tree_of_before_the_branch_was_kept_is_upgraded_too(tree, clone):
    repository.git(tree, "branch", "-D", seed.BRANCH)
    edit(clone, POLICY, "max_duration_s: 300", "max_duration_s: 900")
    assert seed.take_over(clone, tree)
    assert "max_duration_s: 900" in (tree / POLICY).read_text()


@pytest.mark.parametrize("traffic", [{"canary": 5}, {"shadow": 100}])
def test_nothing_changes_under_a_rollout(tree, clone, traffic):
    canary = traffic.get("canary", 0)
    manifest.set_weights(tree, 100 - canary, canary, traffic.get("shadow", 0))
    before = repository.commit(tree, "A step", {})
    edit(clone, POLICY, "max_duration_s: 300", "max_duration_s: 900")
    assert not seed.take_over(clone, tree)
    assert repository.head(tree) == before


def test_nothing_changes_under_a_persons_hands_or_in_a_tree_of_their_own(tree, clone, tmp_path):
    edit(tree, POLICY, "interval_s: 2", "interval_s: 3")
    edit(clone, POLICY, "max_duration_s: 300", "max_duration_s: 900")
    assert not seed.take_over(clone, tree)
    repository.commit(tree, "Slower", {})
    repository.git(tree, "branch", "-D", seed.BRANCH)
    repository.git(tree, "checkout", "--quiet", "--orphan", "theirs")
    before = repository.commit(tree, "A history of our own", {})
    assert not seed.take_over(clone, tree)
    assert repository.head(tree) == before


def test_lines_that_both_have_changed_are_a_persons_to_settle(tree, clone):
    edit(tree, POLICY, "max_duration_s: 300", "max_duration_s: 600")
    before = repository.commit(tree, "Ten minutes", {})
    edit(clone, POLICY, "max_duration_s: 300", "max_duration_s: 900")
    for _ in range(2):
        with pytest.raises(RolloutError, match=r"the same lines of base/rollout/policy\.yaml: merge"):
            seed.take_over(clone, tree)
        assert repository.head(tree) == before
        assert not repository.dirty(tree)
    repository.git(tree, "merge", "--quiet", "-s", "ours", seed.BRANCH)
    assert not seed.take_over(clone, tree)
    assert "max_duration_s: 600" in (tree / POLICY).read_text()
