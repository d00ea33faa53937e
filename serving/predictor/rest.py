"""The REST door: KServe's v2 handler behind a reader of our own, and errors that never quote a request.

Routes added to KServe's application before it adds its own come first; all else stays KServe's.
"""

from __future__ import annotations

import logging

import kserve
import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from kserve.errors import InferenceError, InvalidInput, ModelNotFound, ModelNotReady
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.infer_type import RequestedOutput
from kserve.protocol.rest.v2_endpoints import V2Endpoints
from starlette.exceptions import HTTPException

from hounsfield.serving.wire import MAX_BODY_BYTES, RequestError, read_call

log = logging.getLogger("hounsfield.predictor")

_LENGTH_HEADER = "inference-header-content-length"


class HounsfieldDataPlane(DataPlane):
    """Reads a v2 body, JSON or binary, by `hounsfield.serving.wire`."""

    def decode_inference_request(self, body: bytes, headers: dict, model_name: str) -> kserve.InferRequest:
        call = read_call(body, headers.get(_LENGTH_HEADER))
        inputs = []
        for tensor in call.tensors:
            item = kserve.InferInput(
                tensor.name,
                list(tensor.shape),
                tensor.datatype,
                data=tensor.values,
                parameters=tensor.parameters,
            )
            item._raw_data = (
                tensor.raw
            )  # as KServe's own `InferRequest(raw_inputs=...)` sets it, which is all or none
            inputs.append(item)
        binary = call.parameters.get("binary_data_output") is True
        outputs = [
            RequestedOutput(name, {"binary_data": binary, **parameters}) for name, parameters in call.outputs
        ]
        return kserve.InferRequest(
            model_name,
            inputs,
            request_id=call.id,
            parameters=call.parameters,
            request_outputs=outputs or None,
        )


def add_routes(app: FastAPI, dataplane: HounsfieldDataPlane, version: str) -> None:
    """Put the infer routes and the error handlers in front of KServe's."""
    endpoints = V2Endpoints(dataplane)

    async def infer(request: Request, model_name: str, model_version: str | None = None) -> Response:
        try:
            if model_version not in (None, version):
                raise RequestError(f"this server holds version {version} of the model only", 404)
            answer = await endpoints.infer(request, Response(), model_name, await _read_body(request))
        except RequestError as error:
            return _error(error.status, str(error))
        except InvalidInput as error:
            return _error(400, str(error))
        except ModelNotFound:
            return _error(404, "this server holds no model of that name")
        except ModelNotReady:
            return _error(503, "the model is not ready")
        except InferenceError as error:
            return _error(500, str(error))
        except Exception as error:
            # The kind and the place only: a message may quote what it choked on, and that is a patient's.
            log.error("request failed by %s at %s", type(error).__name__, where(error))
            return _error(500, "the server failed on this request")
        if isinstance(answer, Response):  # the binary extension
            return Response(
                answer.body,
                headers={_LENGTH_HEADER: answer.headers[_LENGTH_HEADER]},
                media_type="application/octet-stream",
            )
        # NaN becomes null: JSON has no other word for it.
        return Response(orjson.dumps(answer.model_dump(exclude_none=True)), media_type="application/json")

    for path in ("/v2/models/{model_name}/infer", "/v2/models/{model_name}/versions/{model_version}/infer"):
        app.add_api_route(path, infer, methods=["POST"], response_model=None)
    app.add_exception_handler(RequestValidationError, _validation_handler)
    app.add_exception_handler(HTTPException, _http_handler)


async def _read_body(request: Request) -> bytes:
    """The whole body, but no more than the bound, whatever Content-Length says."""
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise RequestError(f"the request is larger than {MAX_BODY_BYTES} bytes", 413)
        chunks.append(chunk)
    return b"".join(chunks)


def where(error: BaseException) -> str:
    """File and line that raised `error`."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "?" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"


def _error(status: int, message: str) -> Response:
    return Response(orjson.dumps({"error": message}), status_code=status, media_type="application/json")


async def _validation_handler(_: Request, exc: Exception) -> Response:
    # FastAPI's own answer repeats the input.
    return _error(400, "the request does not fit this route")


async def _http_handler(_: Request, exc: HTTPException) -> Response:
    return _error(exc.status_code, str(exc.detail))
