from types import SimpleNamespace

import pytest

from hounsfield.errors import RegistryError
from hounsfield.registry import CANDIDATE, CHAMPION, Registry


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    return Registry(f"sqlite:///{tmp_path_factory.mktemp('registry') / 'mlflow.db'}")


def package(digest):
    return SimpleNamespace(digest=digest)


def test_an_empty_registry_has_no_candidate(registry):
    empty = Registry(registry._uri, model_name="nothing")
    assert empty.by_alias(CANDIDATE) is None
    assert empty.versions() == []


def test_one_digest_is_one_version_and_keeps_its_tags(registry):
    first = registry.register(package("aa"), "file:///models/aa", None, {"git_commit": "c1", "images": 9})
    second = registry.register(package("bb"), "file:///models/bb", None, {})
    again = registry.register(package("aa"), "file:///elsewhere", None, {"git_commit": "c2"})
    assert (first, second, again) == (1, 2, 1)
    version = registry.get(1)
    assert (version.digest, version.source) == ("aa", "file:///models/aa")
    assert version.tags == {"git_commit": "c1", "images": "9", "package_digest": "aa"}
    assert [each.version for each in registry.versions()] == [1, 2]


def test_an_alias_points_at_one_version_at_a_time(registry):
    version = registry.register(package("cc"), "file:///models/cc", None, {})
    other = registry.register(package("dd"), "file:///models/dd", None, {})
    registry.set_alias(CANDIDATE, version)
    registry.set_alias(CHAMPION, version)
    registry.set_alias(CANDIDATE, other)
    assert registry.by_alias(CANDIDATE).digest == "dd"
    assert registry.by_alias(CHAMPION).digest == "cc"


def test_a_version_that_does_not_exist_is_an_error_with_its_number(registry):
    with pytest.raises(RegistryError, match="999"):
        registry.set_alias(CANDIDATE, 999)


def test_a_registry_that_cannot_be_reached_is_named(tmp_path):
    with pytest.raises(RegistryError, match="no-such-scheme"):
        Registry("no-such-scheme://x").versions()
