"""A run done again from its MLflow record alone, and compared: data, code, libraries, machine, weights."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hounsfield.errors import RegistryError, TrainingError
from hounsfield.training.provenance import PACKAGE, code_digest
from hounsfield.training.rebuild import RESULT

TOLERANCE = 0.02
"""Of the validation AUROC of any epoch, where another machine or library rounds otherwise.

A choice, not a measurement: rounding is amplified from step to step, and of the sample set's 220 validation
images a few pairs may change places.
"""


@dataclass(frozen=True)
class Difference:
    """One thing that the record and the rebuilt run have a value of."""

    what: str
    recorded: str
    now: str

    @property
    def same(self) -> bool:
        return self.recorded == self.now


@dataclass(frozen=True)
class Reproduction:
    """What came of it. `auroc_change` is the largest change of the validation AUROC in any epoch."""

    identity: list[Difference] = field(default_factory=list)
    machine: list[Difference] = field(default_factory=list)
    auroc_change: float = float("inf")

    @property
    def bit_equal(self) -> bool:
        return all(item.same for item in self.identity)

    @property
    def verdict(self) -> str:
        """`equal to the bit`, `within tolerance` or `not reproduced: ...` with what differs."""
        if self.bit_equal:
            return "equal to the bit"
        wrong = [item.what for item in self.identity if not item.same]
        other = [item.what for item in self.machine if not item.same]
        if wrong == ["weights"] and other and self.auroc_change <= TOLERANCE:
            return (
                f"within tolerance: the weights differ, as they may where {', '.join(other)} differ; the "
                f"validation AUROC changed by at most {self.auroc_change:.4f} ({TOLERANCE} is allowed)"
            )
        return f"not reproduced: {', '.join(wrong)} differ"

    @property
    def succeeded(self) -> bool:
        return not self.verdict.startswith("not reproduced")


def reproduce(
    run_id: str,
    tracking_uri: str,
    repo: Path,
    data: str | None = None,
    labels: Path | None = None,
    keep: Path | None = None,
    say: Callable[[str], None] = print,
) -> Reproduction:
    """Rebuild the run `run_id` from what MLflow at `tracking_uri` says of it, and compare.

    The code comes from a work tree of the recorded commit of the git repository `repo`, the data from where
    the record says it came from, or from `data` and `labels`. What was rebuilt stays in `keep` when given.
    Raises RegistryError for a run that MLflow does not hold or that did not finish, TrainingError for a
    commit that `repo` does not have, and for a rebuild that fails, with its sentence.
    """
    record, curve = _record(run_id, tracking_uri)
    tags = record["tags"]
    tags |= {name: str(value) for name, value in (("source", data), ("labels", labels)) if value is not None}
    with (
        tempfile.TemporaryDirectory() as scratch,
        _work_tree(repo, tags["git_commit"], Path(scratch)) as tree,
    ):
        say(f"code      commit {tags['git_commit'][:12]} in a work tree")
        out = Path(keep or Path(scratch) / "out").resolve()
        found_code = code_digest(tree / "src" / "hounsfield")
        result = _rebuild(record, tree, Path(scratch), out, say)
    return compare(record, curve, found_code, result)


def compare(
    record: Mapping[str, Mapping[str, str]],
    curve: Mapping[int, float],
    code: str,
    result: Mapping[str, Any],
) -> Reproduction:
    """`record` and `curve` (validation AUROC by epoch) of a run beside digest of `code` and the rebuild."""
    params, tags = record["params"], record["tags"]
    identity = [
        Difference("data", tags["data_fingerprint"], result["data_fingerprint"]),
        Difference("tensors", params["data"], result["data"]),
        Difference("code", tags["code_digest"], code),
        Difference("weights", tags["weights_sha256"], result["weights_sha256"]),
    ]
    before, after = json.loads(tags["machine"]), result["origin"]["machine"]
    machine = [Difference(name, str(before.get(name)), str(after.get(name))) for name in {**before, **after}]
    rebuilt = {row["epoch"]: row["validation_auroc"] for row in result["history"]}
    change = float("inf")
    if rebuilt.keys() == curve.keys():
        change = max(abs(rebuilt[epoch] - curve[epoch]) for epoch in curve)
    return Reproduction(identity, machine, change)


def _record(run_id: str, tracking_uri: str) -> tuple[dict[str, dict[str, str]], dict[int, float]]:
    """Parameters and tags of the run, and its validation AUROC by epoch."""
    import mlflow

    try:
        client = mlflow.MlflowClient(tracking_uri=tracking_uri)
        run = client.get_run(run_id)
        curve = {row.step: row.value for row in client.get_metric_history(run_id, "validation_auroc")}
    except mlflow.exceptions.MlflowException as error:
        raise RegistryError(f"MLflow at {tracking_uri}: {str(error).splitlines()[0]}") from None
    tags = {name: value for name, value in run.data.tags.items() if not name.startswith("mlflow.")}
    for name in ("git_commit", "code_digest", "data_fingerprint", "weights_sha256", "machine"):
        if name not in tags:
            raise RegistryError(
                f"run {run_id} has no tag {name!r}: it did not finish, or is no training run of this release"
            )
    return {"params": dict(run.data.params), "tags": tags}, curve


@contextlib.contextmanager
def _work_tree(repo: Path, commit: str, scratch: Path) -> Iterator[Path]:
    """A checkout of `commit` below `scratch`, taken away again; the repository's own files stay."""
    tree = scratch / "code"
    done = _git(repo, "worktree", "add", "--detach", str(tree), commit)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["git gives no reason"])[-1]
        raise TrainingError(
            f"commit {commit} cannot be checked out from {repo} ({said}): fetch it, or name another --repo"
        )
    try:
        if not (tree / "src/hounsfield/training/rebuild.py").is_file():
            raise TrainingError(f"the code of commit {commit} is older than `hounsfield reproduce`")
        yield tree
    finally:
        _git(repo, "worktree", "remove", "--force", str(tree))


def _rebuild(
    record: Mapping[str, Any], tree: Path, scratch: Path, out: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    (scratch / "record.json").write_text(json.dumps(record))
    threads = json.loads(record["tags"]["machine"])["threads"]
    command = [sys.executable, "-m", "hounsfield.training.rebuild", str(scratch / "record.json"), str(out)]
    environment = os.environ | {"PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": str(threads)}
    # An image's own commit is not the work tree's.
    environment.pop("HOUNSFIELD_GIT_COMMIT", None)
    last = ""
    with subprocess.Popen(
        command, cwd=tree, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout:
            last = line.strip() or last
            say(line.rstrip("\n"))
    if process.returncode != 0:
        raise TrainingError(f"the run could not be rebuilt: {last.removeprefix('error: ')}")
    return json.loads((out / RESULT).read_text())


def _git(repo: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(repo), *arguments], capture_output=True, text=True, check=False)


def checkout_of_this_code() -> Path:
    """The folder that the running package lies in, for `repo`."""
    return PACKAGE
