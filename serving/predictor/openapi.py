"""The REST door's OpenAPI 3.1 document: what the routes take and every status they may answer with."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from typing import Any

from hounsfield.config import CLASS_NAMES
from hounsfield.serving.contract import DICOM, IMAGE, MAX_INSTANCES, OUTPUT_DATATYPES

_STRING = {"type": "string"}
_TENSOR = {"name": _STRING, "datatype": _STRING, "shape": {"type": "array", "items": {"type": "integer"}}}


def _object(properties: dict[str, Any], required: Sequence[str] | None = None) -> dict[str, Any]:
    required = list(properties) if required is None else list(required)
    return {"type": "object", "properties": properties, "required": required}


def _list(items: dict[str, Any], **bounds: int) -> dict[str, Any]:
    return {"type": "array", "items": items, **bounds}


_INPUT = _object(
    {
        "name": {"enum": [DICOM, IMAGE]},
        "datatype": {"enum": ["BYTES", "FP32"]},
        "shape": _list({"type": "integer", "minimum": 0}, minItems=1, maxItems=4),
        "parameters": {"type": "object"},
        "data": {"type": "array", "maxItems": MAX_INSTANCES},
    },
    ["name", "datatype", "shape"],
)
_REQUEST = _object(
    {
        "id": {"type": "string", "maxLength": 256},
        "parameters": _object({"binary_data_output": {"type": "boolean"}}, []),
        "inputs": _list(_INPUT, minItems=1, maxItems=1),
        "outputs": _list(_object({"name": {"enum": list(OUTPUT_DATATYPES)}})),
    },
    ["inputs"],
)
_RESPONSE = _object(
    {
        "model_name": _STRING,
        "model_version": _STRING,
        "id": _STRING,
        "parameters": {"type": "object"},
        "outputs": _list(_object({**_TENSOR, "data": {"type": "array"}}, list(_TENSOR))),
    }
)
_FEEDBACK = _object(
    {
        "request_id": {"type": "string", "minLength": 1},
        "instance": {"type": "integer", "minimum": 0},
        "label": {"enum": list(CLASS_NAMES)},
    },
    ["request_id", "label"],
)
_METADATA = _object({"name": _STRING, "version": _STRING, "extensions": _list(_STRING)})
_MODEL = _object(
    {
        "name": _STRING,
        "versions": _list(_STRING),
        "platform": _STRING,
        "inputs": _list(_object(_TENSOR)),
        "outputs": _list(_object(_TENSOR)),
    }
)
_LIVE, _READY = _object({"live": {"type": "boolean"}}), _object({"ready": {"type": "boolean"}})
_MODEL_READY = _object({"name": _STRING, "ready": {"type": "boolean"}})
_MODELS = _object({"models": _list(_STRING)})

_REASONS = {
    400: "the request breaks the protocol or the model's contract",
    404: "no such model, version or request",
    405: "not with this method",
    408: "the body came too slowly",
    409: "another label was given before",
    413: "the body is too large",
    415: "the body is compressed",
    429: "too much is waiting; see Retry-After",
    503: "not ready, or shutting down; see Retry-After",
}
_BODY = (400, 404, 405, 408, 413, 415, 429, 503)


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}


def _operation(
    identifier: str,
    answer: dict[str, Any] | None,
    errors: Sequence[int],
    *,
    body: dict[str, Any] | None = None,
    parameters: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    responses = {
        str(status): {"description": _REASONS[status], **_json(_object({"error": _STRING}))}
        for status in errors
    }
    if answer is not None:
        responses["200"] = {"description": "the answer", **answer}
    operation: dict[str, Any] = {"operationId": identifier, "responses": responses}
    if parameters:
        operation["parameters"] = list(parameters)
    if body is not None:
        operation["requestBody"] = {"required": True, **_json(body)}
    return operation


def document(models: Sequence[str]) -> dict[str, Any]:
    """The document of a server that holds `models`."""
    model = {"name": "model", "in": "path", "required": True, "schema": {"enum": list(models)}}
    version = {"name": "version", "in": "path", "required": True, "schema": _STRING}
    one, both = [model], [model, version]
    infer = {**_json(_RESPONSE)}
    infer["content"]["application/octet-stream"] = {}

    def get(identifier: str, schema: dict, errors: Sequence[int] = (405,), parameters: Sequence = ()) -> dict:
        return {"get": _operation(identifier, _json(schema), errors, parameters=parameters)}

    def post(
        identifier: str, answer: dict | None, errors: Sequence[int], body: dict | None, parameters: Sequence
    ) -> dict:
        return {"post": _operation(identifier, answer, errors, body=body, parameters=parameters)}

    path = "/v2/models/{model}"
    return {
        "openapi": "3.1.0",
        "info": {"title": "Hounsfield predictor", "version": metadata.version("hounsfield")},
        "paths": {
            "/v2": get("metadata", _METADATA),
            "/v2/health/live": get("live", _LIVE),
            "/v2/health/ready": get("ready", _READY, (405, 503)),
            "/v2/models": get("models", _MODELS),
            path: get("model_metadata", _MODEL, (404, 405), one),
            f"{path}/ready": get("model_ready", _MODEL_READY, (404, 405, 503), one),
            f"{path}/infer": post("infer", infer, _BODY, _REQUEST, one),
            f"{path}/feedback": post(
                "feedback", _json(_object({"accepted": {"const": 1}})), (*_BODY, 409), _FEEDBACK, one
            ),
            f"{path}/versions/{{version}}": get("version_metadata", _MODEL, (404, 405), both),
            f"{path}/versions/{{version}}/ready": get("version_ready", _MODEL_READY, (404, 405, 503), both),
            f"{path}/versions/{{version}}/infer": post("version_infer", infer, _BODY, _REQUEST, both),
            "/v2/repository/models/{model}/load": post("load", None, (400, 405), None, one),
            "/v2/repository/models/{model}/unload": post("unload", None, (400, 405), None, one),
            "/v1/models/{model}:predict": post("v1_predict", None, (400, 404, 405), None, one),
            "/v1/models/{model}:explain": post("v1_explain", None, (400, 404, 405), None, one),
        },
    }
