"""KServe's data plane with what every door asks it: which model, which version, ready or not."""

from __future__ import annotations

from importlib import metadata

from kserve.model_repository import ModelRepository
from kserve.protocol.dataplane import DataPlane

from hounsfield.serving.admission import Admission
from hounsfield.serving.wire import RequestError

SERVER_NAME = "hounsfield"
PLATFORM = "onnx_onnxv1"


class HounsfieldDataPlane(DataPlane):
    """`version` is the one version that this server holds; `admission` knows whether it is going away."""

    def __init__(self, repository: ModelRepository, version: str, admission: Admission) -> None:
        super().__init__(model_registry=repository)
        self.version, self.admission = version, admission

    def metadata(self) -> dict:
        return {
            "name": SERVER_NAME,
            "version": metadata.version("hounsfield"),
            "extensions": ["binary_tensor_data"],
        }

    def model(self, name: str, version: str | None = None):
        """The model of that name. Raises RequestError 404 for another name or version; '' is any version."""
        model = self._model_registry.get_model(name)
        if model is None:
            raise RequestError("this server holds no model of that name", 404)
        if version and version != self.version:
            raise RequestError("this server holds another version of the model only", 404)
        return model

    async def model_metadata(self, model_name: str, model_version: str | None = None) -> dict:
        model = self.model(model_name, model_version)
        return {
            "name": model_name,
            "versions": [self.version],
            "platform": PLATFORM,
            "inputs": model.get_input_types(),
            "outputs": model.get_output_types(),
        }

    async def ready(self) -> bool:
        """Whether new requests are answered: every model is loaded, and the server is not on its way out."""
        models = self._model_registry.get_models()
        return bool(models) and not self.admission.draining and all(m.ready for m in models.values())

    async def model_ready(
        self, model_name: str, disable_predictor_health_check: bool = False, *, version: str | None = None
    ) -> bool:
        return self.model(model_name, version).ready and not self.admission.draining
