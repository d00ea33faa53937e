"""What a run must keep so that it can be done again: the code, the libraries, the machine."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hounsfield

LIBRARIES = (
    "torch", "numpy", "monai", "pytorch-lightning", "scikit-learn", "pandas", "pydicom",
    "opencv-python-headless", "python-gdcm", "pylibjpeg", "pylibjpeg-openjpeg",
)  # fmt: skip
"""What decides a pixel, a batch or a weight."""

PACKAGE = Path(hounsfield.__file__).parent


def code(environment: Mapping[str, str]) -> dict[str, str]:
    """`git_commit`, `git_dirty` and `code_digest` of the running package.

    An image has no repository: its build leaves the commit in HOUNSFIELD_GIT_COMMIT, with `-dirty` after it
    where there were changes. `git_commit` is `unknown` where neither says it.
    """
    found = {"git_commit": "unknown", "git_dirty": "unknown", "code_digest": code_digest(PACKAGE)}
    if given := environment.get("HOUNSFIELD_GIT_COMMIT"):
        built, changes, _ = given.partition("-dirty")
        return found | {"git_commit": built, "git_dirty": "yes" if changes else "no"}
    commit = _git("rev-parse", "HEAD")
    if commit:
        changed = _git("status", "--porcelain", "--", ".")
        found |= {"git_commit": commit, "git_dirty": "yes" if changed else "no"}
    return found


def code_digest(package: Path) -> str:
    """SHA-256 over the names and contents of the package's Python files, shortened."""
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def machine(threads: int, device: str) -> dict[str, Any]:
    """Libraries and hardware: sums are rounded in another order by another version, CPU or thread count."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "absent"
    return {
        "python": platform.python_version(),
        "cpu": _cpu(),
        "threads": threads,
        "device": device,
        **versions,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(PACKAGE), *arguments], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:  # an image has no git either
        return None
    return done.stdout.strip() if done.returncode == 0 else None
