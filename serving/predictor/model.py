"""A package as a KServe model: KServe's request in, a thread of the pool, KServe's response out."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import kserve
import numpy as np
from kserve.errors import InferenceError, InvalidInput

from hounsfield.package.engine import EngineError
from hounsfield.serving.contract import Answer, input_types, output_types, read_instances
from hounsfield.serving.service import Service
from hounsfield.serving.wire import RequestError, Tensor
from serving.predictor.rest import where

log = logging.getLogger("hounsfield.predictor")


class PackagedModel(kserve.Model):
    """Serves one `Service`. `threads` requests are computed at once, off the event loop."""

    def __init__(self, name: str, version: str, service: Service, threads: int) -> None:
        super().__init__(name)
        self.version = version
        self._service = service
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="predict")
        package = service.package
        self._size_px = package.contract.size_px
        self._parameters = {
            "model_version": version,
            "package_digest": package.digest,
            "contract_digest": package.contract.digest,
        }
        self.ready = True

    def get_input_types(self) -> list[dict]:
        return input_types(self._size_px)

    def get_output_types(self) -> list[dict]:
        return output_types()

    async def predict(self, payload, headers=None, response_headers=None) -> kserve.InferResponse:
        """`payload` is an InferRequest, with raw or listed data. Raises InvalidInput (the protocol's 400)."""
        arrived_s = time.monotonic()
        if not isinstance(payload, kserve.InferRequest):
            raise InvalidInput("this model speaks the Open Inference Protocol (v2) only")
        if payload.model_version and payload.model_version != self.version:
            raise InvalidInput(f"this server holds version {self.version} of the model only")
        unknown = {output.name for output in payload.request_outputs or ()} - {
            output["name"] for output in output_types()
        }
        if unknown:
            raise InvalidInput("an output was asked for that the model does not have")
        try:
            answer = await asyncio.get_running_loop().run_in_executor(
                self._pool, self._answer, payload, arrived_s
            )
        except RequestError as error:
            raise InvalidInput(str(error)) from None
        except EngineError as error:
            raise InferenceError(str(error)) from None
        except Exception as error:
            # The kind and the place only: a message may quote what it choked on, and that is a patient's.
            log.error("request failed by %s at %s", type(error).__name__, where(error))
            raise InferenceError("the model failed on this request") from None
        return self._response(payload, answer)

    def stop(self) -> None:
        self._pool.shutdown(wait=False)
        super().stop()

    def _answer(self, payload: kserve.InferRequest, arrived_s: float) -> Answer:
        tensors = [
            Tensor(
                each.name,
                each.datatype,
                tuple(each.shape),
                # KServe's only way to raw bytes that does not turn every value into a Python object.
                raw=each._raw_data,
                values=None if each._raw_data is not None else each.data,
                parameters=each.parameters or {},
            )
            for each in payload.inputs
        ]
        return self._service.answer(read_instances(tensors, self._size_px), arrived_s)

    def _response(self, payload: kserve.InferRequest, answer: Answer) -> kserve.InferResponse:
        shape = [len(answer.refusal)]
        columns = {
            "probability": answer.probability,
            "label": np.array([label.encode() for label in answer.label], dtype=object),
            "review_required": answer.review_required,
            "refusal": np.array([reason.encode() for reason in answer.refusal], dtype=object),
        }
        outputs = [
            kserve.InferOutput(each["name"], shape, each["datatype"], data=columns[each["name"]])
            for each in output_types()
        ]
        if payload.from_grpc:
            # KServe's own conversion asks an array for its truth, and fails from two instances up.
            for output in outputs:
                output.set_data_from_numpy(output.data, binary_data=True)
        return kserve.InferResponse(
            response_id=payload.id or str(uuid.uuid4()),
            model_name=self.name,
            model_version=self.version,
            infer_outputs=outputs,
            parameters=dict(self._parameters),
            use_binary_outputs=payload.use_binary_outputs,
            requested_outputs=payload.request_outputs,
        )
