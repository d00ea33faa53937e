"""A package as a KServe model: what the doors ask of it, and nothing more."""

from __future__ import annotations

import kserve

from hounsfield.package.package import Package
from hounsfield.serving.contract import Answer, Question, input_types, output_types
from hounsfield.serving.feedback import Feedback
from hounsfield.serving.service import Service


class PackagedModel(kserve.Model):
    """Serves one `service`. `parameters` go into every response; `feedback` takes a reader's labels."""

    def __init__(
        self, name: str, version: str, package: Package, embedding_size: int, service: Service
    ) -> None:
        super().__init__(name)
        self._service, self._size_px, self._embedding_size = service, package.contract.size_px, embedding_size
        self.parameters = {
            "model_version": version,
            "package_digest": package.digest,
            "contract_digest": package.contract.digest,
        }
        self.feedback: Feedback = service.feedback
        self.ready = True

    def get_input_types(self) -> list[dict]:
        return input_types(self._size_px)

    def get_output_types(self) -> list[dict]:
        return output_types(self._embedding_size)

    def validate(self, payload: Question) -> Question:
        """KServe's own looks for v1's `instances`; a question is checked when it is read."""
        return payload

    async def predict(self, payload: Question, headers=None, response_headers=None) -> Answer:
        """Raises what `Service.answer` raises; the doors turn it into their statuses."""
        try:
            return await self._service.answer(payload)
        except Exception as error:
            error.caller = payload.caller  # for the line that the door writes about it
            raise
