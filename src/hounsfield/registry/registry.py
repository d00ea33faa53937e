"""Which package is which version of the model, and which version is candidate or champion."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hounsfield.config import MODEL_NAME
from hounsfield.errors import RegistryError

if TYPE_CHECKING:
    from hounsfield.package.package import Package

CANDIDATE, CHAMPION = "candidate", "champion"
DIGEST_TAG = "package_digest"


@dataclasses.dataclass(frozen=True)
class ModelVersion:
    """One registered package. `source` is the URI a server loads it from."""

    version: int
    digest: str
    source: str
    tags: Mapping[str, str]


class Registry:
    """A thin MLflow model registry. `tracking_uri` as MLflow takes it: `sqlite:///path` or `http://...`.

    Every method raises RegistryError when the registry cannot be reached.
    """

    def __init__(self, tracking_uri: str, model_name: str = MODEL_NAME) -> None:
        # Late, for MLflow takes seconds to import and the command line must not wait for it.
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        self.model_name = model_name
        self._uri, self._failure = tracking_uri, MlflowException
        self._client = self._call(MlflowClient, tracking_uri=tracking_uri, registry_uri=tracking_uri)

    def register(
        self, package: Package, source_uri: str, run_id: str | None, tags: Mapping[str, object]
    ) -> int:
        """The version of `package`, made if it has none: one digest is one version, however often it runs."""
        for known in self.versions():
            if known.digest == package.digest:
                return known.version
        if not self._call(self._client.search_registered_models, f"name = '{self.model_name}'"):
            self._call(self._client.create_registered_model, self.model_name)
        made = self._call(
            self._client.create_model_version,
            self.model_name,
            source=source_uri,
            run_id=run_id,
            tags={**{key: str(value) for key, value in tags.items()}, DIGEST_TAG: package.digest},
        )
        return int(made.version)

    def set_alias(self, alias: str, version: int) -> None:
        """Point `alias` at `version`; it leaves the version that had it."""
        self._call(self._client.set_registered_model_alias, self.model_name, alias, str(version))

    def by_alias(self, alias: str) -> ModelVersion | None:
        """The version that `alias` points at, or None."""
        models = self._call(self._client.search_registered_models, f"name = '{self.model_name}'")
        version = models[0].aliases.get(alias) if models else None
        return None if version is None else self.get(int(version))

    def get(self, version: int) -> ModelVersion:
        return _read(self._call(self._client.get_model_version, self.model_name, str(version)))

    def versions(self) -> list[ModelVersion]:
        """Every version, oldest first."""
        found, token = [], None
        while True:
            page = self._call(
                self._client.search_model_versions, f"name = '{self.model_name}'", page_token=token
            )
            found += page
            token = page.token
            if not token:
                return sorted(map(_read, found), key=lambda each: each.version)

    def _call(self, function, *args, **kwargs):
        try:
            return function(*args, **kwargs)
        except self._failure as error:
            raise RegistryError(f"the model registry {self._uri} says: {error.message}") from None


def _read(found) -> ModelVersion:
    return ModelVersion(int(found.version), found.tags.get(DIGEST_TAG, ""), found.source, dict(found.tags))
