"""The explainer as a KServe model, and its doors: the predictor's, with `:explain` and without inference."""

from __future__ import annotations

import kserve
from starlette.requests import Request
from starlette.responses import Response

from hounsfield.serving.explaining import Instance, read_instances
from hounsfield.serving.scheduler import Scheduler
from serving.predictor.rest import RestDoor, Row
from serving.predictor.server import PredictorServer


class ExplainedModel(kserve.Model):
    """Explains by `scheduler`, whose threads compute; `size_px` is the side of a prepared image."""

    def __init__(self, name: str, size_px: int, scheduler: Scheduler[list[Instance], bytes]) -> None:
        super().__init__(name)
        self.size_px, self._scheduler = size_px, scheduler
        self.ready = True

    def validate(self, payload: list[Instance]) -> list[Instance]:
        """KServe's own looks into a dictionary; the instances are checked when they are read."""
        return payload

    async def explain(self, payload: list[Instance], headers=None) -> bytes:
        """The answer as JSON. Raises what `Scheduler.submit` and `Explaining` raise."""
        return await self._scheduler.submit(payload, len(payload))


class ExplainerDoor(RestDoor):
    def table(self) -> list[Row]:
        return [
            ("/v1/models/{model}:explain", "POST", self.explain),
            ("/v1/models/{model}", "GET", self.model_ready),
            ("/v1/models", "GET", self.models),
            ("/v2/health/ready", "GET", self.ready),
            ("/v2/health/live", "GET", self.live),
            ("/metrics", "GET", self.metrics),
            ("/", "GET", self.live),
        ]

    async def explain(self, request: Request) -> Response:
        name = request.path_params["model"]
        model = self._dataplane.model(name)
        with self._dataplane.admission.enter() as body:
            instances = read_instances(await self._read(request, body), model.size_px)
            answer, _ = await self._dataplane.explain(name, instances, {})
        return Response(answer, media_type="application/json")


class ExplainerServer(PredictorServer):
    """The predictor's server, without gRPC: KServe routes explanations over v1 REST only."""

    rest_door = ExplainerDoor
