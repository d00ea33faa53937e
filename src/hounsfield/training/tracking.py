"""One MLflow run, followed live; rank 0 alone holds one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hounsfield.errors import RegistryError


@dataclass(frozen=True)
class Tracking:
    """Where a run is recorded. Without a `uri` nothing is recorded."""

    uri: str | None = None
    experiment: str = "hounsfield"
    run_name: str = "train"
    tags: Mapping[str, str] = field(default_factory=dict)


class RunLog:
    """A run of the MLflow tracking server; does nothing when `tracking.uri` is None.

    `run_id` continues that run instead of starting one. Every method raises RegistryError when the server
    cannot be used.
    """

    def __init__(self, tracking: Tracking, params: Mapping[str, Any], run_id: str | None = None) -> None:
        self.run_id = run_id
        self._uri, self._client = tracking.uri, None
        if tracking.uri is None:
            return
        import mlflow
        from mlflow.entities import Param

        with self._reaching():
            client = mlflow.MlflowClient(tracking_uri=tracking.uri)
            if self.run_id is None:
                experiment = client.get_experiment_by_name(tracking.experiment)
                experiment_id = (
                    experiment.experiment_id if experiment else client.create_experiment(tracking.experiment)
                )
                run = client.create_run(experiment_id, tags=dict(tracking.tags), run_name=tracking.run_name)
                self.run_id = run.info.run_id
                client.log_batch(
                    self.run_id, params=[Param(key, str(value)) for key, value in params.items()]
                )
            else:
                client.update_run(self.run_id, status="RUNNING")
        self._client = client

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        if self._client is None:
            return
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        with self._reaching():
            self._client.log_batch(
                self.run_id, metrics=[Metric(name, value, now_ms, step) for name, value in values.items()]
            )

    def tags(self, tags: Mapping[str, str]) -> None:
        if self._client is None:
            return
        from mlflow.entities import RunTag

        with self._reaching():
            self._client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def end(self, succeeded: bool) -> None:
        if self._client is not None:
            with self._reaching():
                self._client.set_terminated(self.run_id, "FINISHED" if succeeded else "FAILED")

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        import mlflow

        try:
            yield
        except mlflow.exceptions.MlflowException as error:
            raise RegistryError(
                f"MLflow at {self._uri} cannot record this run: {str(error).splitlines()[0]}"
            ) from None
