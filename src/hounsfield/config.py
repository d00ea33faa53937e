"""Where things live and what a run was asked to do.

Frozen dataclasses, read from a mapping by `main()` only: no module below reads the environment.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from hounsfield.errors import ConfigError

T = TypeVar("T")

MODEL_NAME = "opacity"
"""Name of the served and registered model: the finding that it looks for."""

INTENDED_USE = "mark adult frontal chest radiographs with an opacity for a radiologist, who reads every study"
"""What the model is for: every package says it, and the change plan holds it to that."""

CLASS_NAMES = ("negative", "positive")
"""Label 0 and label 1, in this order, everywhere."""

SPLITS = ("train", "validation", "test")


def from_mapping(kind: type[T], values: Mapping[str, Any], source: str) -> T:
    """Build the frozen dataclass `kind` from `values`, refusing unknown and missing keys by name.

    `source` is what the error calls the mapping, for example `contract.json`.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ConfigError(f"{source}: unknown key {unknown[0]!r}; known keys are {', '.join(fields)}")
    missing = [
        name
        for name, field in fields.items()
        if name not in values
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{source}: key {missing[0]!r} is missing")
    return kind(**values)


@dataclasses.dataclass(frozen=True)
class Home:
    """The folder that holds everything a laptop run makes, `.hounsfield` beside the clone by default."""

    root: Path

    @classmethod
    def at(cls, root: str | Path) -> Home:
        return cls(Path(root).expanduser().resolve())

    @property
    def sample(self) -> Path:
        """The simulated sample set: `dicom/` and `labels.csv`."""
        return self.root / "sample"

    @property
    def pipeline_root(self) -> Path:
        """Outputs of `kfp.local`, and its cache."""
        return self.root / "pipeline"

    @property
    def models(self) -> Path:
        """The package store: one folder a package, named by its digest."""
        return self.root / "models"

    @property
    def mlflow_uri(self) -> str:
        return f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def mlflow_artifacts(self) -> Path:
        return self.root / "mlartifacts"

    @property
    def tree(self) -> Path:
        """The git repository that a rollout edits, seeded from `manifests/`."""
        return self.root / "gitops"

    @property
    def run(self) -> Path:
        """State of the running stack: supervisor socket, Envoy files, process logs."""
        return self.root / "run"

    @property
    def ledger(self) -> Path:
        return self.root / "ledger.jsonl"

    @property
    def deid_key(self) -> Path:
        return self.root / "deid.key"

    @property
    def keys(self) -> Path:
        """The pair that packages are signed and verified with."""
        return self.root / "keys"

    @property
    def access(self) -> Path:
        """API keys and the issuer of tokens, for the laptop's gateway."""
        return self.root / "access"

    @property
    def tls(self) -> Path:
        """The gateway's certificate: `tls.crt` and `tls.key`, a person's own or made at first need."""
        return self.root / "tls"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def report(self) -> Path:
        return self.root / "report.html"
