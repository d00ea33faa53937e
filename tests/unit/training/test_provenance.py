"""What a run says of its code where there is a repository, an image's commit, or neither."""

from hounsfield.training.provenance import code


def test_an_image_names_the_commit_that_it_was_built_from():
    found = code({"HOUNSFIELD_GIT_COMMIT": "3f" * 20})
    assert (found["git_commit"], found["git_dirty"]) == ("3f" * 20, "no")
    found = code({"HOUNSFIELD_GIT_COMMIT": f"{'3f' * 20}-dirty"})
    assert (found["git_commit"], found["git_dirty"]) == ("3f" * 20, "yes")


def test_without_a_commit_and_without_git_the_code_is_known_by_its_digest_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = code({"HOUNSFIELD_GIT_COMMIT": ""})
    assert (found["git_commit"], found["git_dirty"]) == ("unknown", "unknown")
    assert len(found["code_digest"]) == 16
