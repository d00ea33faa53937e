"""The file that a rollout edits: `overlays/NAME/rollout.yaml` of a git tree holds weights and revisions.

On the laptop the tree is a repository of its own, seeded from the clone's `manifests/`; on a cluster it is a
clone of the repository that ArgoCD watches. What is written counts when `repository.commit` has it.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hounsfield.errors import RolloutError
from hounsfield.rollout import recovery, repository
from hounsfield.rollout.evidence import REVISIONS
from hounsfield.rollout.policy import First

NOTHING = "none"
"""The `storage_uri` and the `package_digest` of a revision that serves nothing."""


NOBODY = First("x-hounsfield-site", ("nobody",))


def rollout_file(overlay: str) -> Path:
    """The file of an overlay, from the tree's root."""
    return Path("overlays") / overlay / "rollout.yaml"


ROLLOUT_FILE = rollout_file("laptop")


@dataclass(frozen=True)
class Revision:
    """What one InferenceService serves; `storage_uri` is NOTHING for nothing."""

    storage_uri: str
    model_version: str
    package_digest: str


def weights(tree: Path, file: Path = ROLLOUT_FILE) -> tuple[int, int]:
    """Percents (stable, canary) in the working tree; RolloutError unless whole and together 100."""
    values = _mapping(_load(tree, file), "weights")
    return _checked_weights(values.get("stable"), values.get("canary"))


def shadow(tree: Path, file: Path = ROLLOUT_FILE) -> int:
    """Percent of requests that are mirrored to the canary in the working tree; 0 in a tree that has no such
    key."""
    return _checked_percent(_mapping(_load(tree, file), "weights").get("shadow", 0))


def first(tree: Path, file: Path = ROLLOUT_FILE) -> int:
    """Percent of the first callers' requests that the canary answers; 0 in a tree that has no such key."""
    document = _load(tree, file)
    if "first" not in document:
        return 0
    values = _mapping(document, "first")
    return _checked_weights(values.get("stable"), values.get("canary"))[1]


def set_weights(
    tree: Path,
    stable: int,
    canary: int,
    shadow: int = 0,
    first: First | None = None,
    file: Path = ROLLOUT_FILE,
) -> None:
    """Write the weights into the working tree, keeping every comment; `commit` makes it count.

    `first` are those whom the canary answers whatever its weight is.
    """
    _checked_weights(stable, canary)
    document = _load(tree, file)
    weights = _mapping(document, "weights")
    missing = "weights.shadow" if shadow and "shadow" not in weights else ""
    missing = "first" if first and "first" not in document else missing
    if missing:
        raise RolloutError(
            f"{file} has no {missing}, which the policy's strategy needs: take it from the clone's own "
            f"manifests/{file}, or remove {tree} to have it seeded again"
        )
    weights.update(stable=stable, canary=canary)
    if "shadow" in weights:
        weights["shadow"] = _checked_percent(shadow)
    if "first" in document:
        _mapping(document, "first").update(stable=0 if first else 100, canary=100 if first else 0)
        _set_headers(document["first"], first or NOBODY)
    _save(tree, document, file)


def revision(tree: Path, role: str, file: Path = ROLLOUT_FILE) -> Revision:
    """What `role` (stable or canary) serves according to the working tree."""
    return _revision(_load(tree, file), role, file)


def past_revision(tree: Path, role: str, package_digest: str, file: Path = ROLLOUT_FILE) -> Revision:
    """The last commit's word on the package of that digest that `role` served; RolloutError without one."""
    for sha in repository.git(tree, "rev-list", "HEAD", "--", str(file)).splitlines():
        found = _revision(_yaml().load(repository.git(tree, "show", f"{sha}:{file}")), role, file)
        if found.package_digest == package_digest:
            return found
    raise RolloutError(f"no commit of {tree} has {role} at the package {package_digest[:12]}")


def set_revision(
    tree: Path,
    role: str,
    *,
    storage_uri: str,
    model_version: str,
    package_digest: str,
    file: Path = ROLLOUT_FILE,
) -> None:
    """Write what `role` serves into the working tree, keeping every comment; `commit` makes it count."""
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    document = _load(tree, file)
    _mapping(_mapping(document, "revisions"), _checked_role(role)).update(
        storageUri=str(storage_uri),
        modelVersion=DoubleQuotedScalarString(
            str(model_version)
        ),  # it becomes a label, which is never a number
        packageDigest=str(package_digest),
    )
    _save(tree, document, file)


def recover(tree: Path, file: Path = ROLLOUT_FILE) -> bool:
    """Take back what a killed process left edited and not committed; whether it was killed at that."""
    return recovery.recover(tree, file, lambda *arguments: repository.git(tree, *arguments))


def _revision(document: Any, role: str, file: Path) -> Revision:
    values = _mapping(_mapping(document, "revisions"), _checked_role(role))
    try:
        return Revision(str(values["storageUri"]), str(values["modelVersion"]), str(values["packageDigest"]))
    except KeyError as error:
        raise RolloutError(f"{file}: revisions.{role} lacks the key {error.args[0]!r}") from None


def _set_headers(values: Any, first: First) -> None:
    """Istio's StringMatch: the whole header, one of the values (RE2, where a dot would be any character)."""
    from ruamel.yaml.comments import CommentedMap

    names = [name.replace(".", "[.]") for name in first.values]
    kind, text = ("exact", first.values[0]) if len(first.values) == 1 else ("regex", "|".join(names))
    if values.get("headers") != {first.header: {kind: text}}:
        match = CommentedMap({kind: text})
        match.fa.set_flow_style()
        values["headers"] = CommentedMap({first.header: match})


def _load(tree: Path, file: Path) -> Any:
    from ruamel.yaml.error import YAMLError

    path = tree / file
    if not path.is_file():
        raise RolloutError(
            f"{path} does not exist; `git restore` it, or remove {tree} to have it seeded again"
        )
    try:
        return _yaml().load(path.read_text(encoding="utf-8"))
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise RolloutError(
            f"{path}{line}: this is not YAML: {getattr(error, 'problem', 'it does not parse')}"
        ) from None


def _save(tree: Path, document: Any, file: Path) -> None:
    path = tree / file
    text = io.StringIO()
    _yaml().dump(document, text)
    content = text.getvalue().encode()
    recovery.note(tree, repository.head(tree), content)
    draft = path.with_name(f".{path.name}.draft")
    with draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _yaml() -> Any:
    from ruamel.yaml import YAML  # the guard environment has no ruamel

    yaml = YAML()  # round trip: comments, quotes and order stay
    yaml.preserve_quotes = True
    yaml.width = 4096
    return yaml


def _mapping(document: Any, key: str) -> Any:
    values = document.get(key) if isinstance(document, Mapping) else None
    if not isinstance(values, Mapping):
        raise RolloutError(f"{ROLLOUT_FILE}: the key {key!r} is missing, or is no mapping")
    return values


def _checked_weights(stable: Any, canary: Any) -> tuple[int, int]:
    whole = all(isinstance(value, int) and not isinstance(value, bool) for value in (stable, canary))
    if not whole or min(stable, canary) < 0 or stable + canary != 100:
        raise RolloutError(
            f"{ROLLOUT_FILE}: the weights are stable {stable!r} and canary {canary!r}; "
            "they must be whole percents that together make 100"
        )
    return int(stable), int(canary)


def _checked_percent(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 100:
        raise RolloutError(f"{ROLLOUT_FILE}: weights.shadow is {value!r}; it must be a whole percent")
    return int(value)


def _checked_role(role: str) -> str:
    if role not in REVISIONS:
        raise RolloutError(f"there is no revision {role!r}; there are {' and '.join(REVISIONS)}")
    return role
