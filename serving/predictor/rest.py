"""The REST door: the Open Inference Protocol's routes, on KServe's application and data plane.

KServe's own v2 and v1 handlers are not mounted: they call Python for every value of a tensor, answer 5xx to
a client's mistake, quote its bytes, and log a traceback for it.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable

import orjson
from prometheus_client import REGISTRY, CollectorRegistry, exposition
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hounsfield.serving.admission import Body
from hounsfield.serving.contract import Caller, Question
from hounsfield.serving.reply import choose_outputs, write_rest
from hounsfield.serving.wire import Draining, RequestError, read_call, read_feedback
from serving.predictor.dataplane import HounsfieldDataPlane
from serving.predictor.failures import Failure, describe, report
from serving.predictor.openapi import document

__all__ = ["RestDoor", "failed", "on_http_exception"]

LENGTH_HEADER = "inference-header-content-length"
LOADING_OFF = "loading and unloading over the API is off: change the manifest's storageUri instead"

_OPENMETRICS = "application/openmetrics-text"

Handler = Callable[[Request], Awaitable[Response]]
Row = tuple[str, str, Handler]
"""A path, its method, and who answers."""


class RestDoor:
    """`read_timeout_s` is how long a client may take to send its body."""

    def __init__(self, dataplane: HounsfieldDataPlane, read_timeout_s: float) -> None:
        self._dataplane, self._read_timeout_s = dataplane, read_timeout_s
        self._scrape = _Scrape()

    def routes(self) -> list[Route]:
        return [Route(path, _answered(handler), methods=[method]) for path, method, handler in self.table()]

    def table(self) -> list[Row]:
        """What is served, the most asked for first."""
        model, version = "/v2/models/{model}", "/versions/{version}"
        return [
            (f"{model}/infer", "POST", self.infer),
            (f"{model}{version}/infer", "POST", self.infer),
            (f"{model}/feedback", "POST", self.feedback),
            ("/v2/health/ready", "GET", self.ready),
            ("/v2/health/live", "GET", self.live),
            (f"{model}/ready", "GET", self.model_ready),
            (f"{model}{version}/ready", "GET", self.model_ready),
            (model, "GET", self.model_metadata),
            (f"{model}{version}", "GET", self.model_metadata),
            ("/v2/models", "GET", self.models),
            ("/v2", "GET", self.metadata),
            ("/v2/repository/models/{model}/{verb:path}", "POST", self.no_loading),
            ("/v1/models", "GET", self.models),
            ("/v1/models/{model}:predict", "POST", self.no_v1),
            ("/v1/models/{model}:explain", "POST", self.no_v1),
            ("/v1/models/{model}", "GET", self.model_ready),
            ("/metrics", "GET", self.metrics),
            ("/openapi.json", "GET", self.openapi),
            ("/", "GET", self.live),
        ]

    async def infer(self, request: Request) -> Response:
        name = request.path_params["model"]
        self._dataplane.model(name, request.path_params.get("version"))
        with self._dataplane.admission.enter() as body:
            content = await self._read(request, body)
            json_length = request.headers.get(LENGTH_HEADER)
            call = read_call(content, json_length)
            outputs = choose_outputs(call.outputs, call.parameters)
            door = "rest-json" if json_length is None else "rest-binary"
            caller = Caller.from_headers(request.headers, call.id, door)
            answer, _ = await self._dataplane.infer(name, Question(call.tensors, caller), request.headers)
            model = self._dataplane.model(name)
            head = {
                "model_name": name,
                "model_version": self._dataplane.version,
                "id": caller.request_id,
                "parameters": model.parameters,
            }
            written, length = write_rest(answer, outputs, head)
        if length is None:
            return Response(written, media_type="application/json")
        return Response(written, headers={LENGTH_HEADER: str(length)}, media_type="application/octet-stream")

    async def feedback(self, request: Request) -> Response:
        model = self._dataplane.model(request.path_params["model"])
        with self._dataplane.admission.enter() as body:
            given = read_feedback(await self._read(request, body))
            caller = Caller.from_headers(request.headers, "", "rest-json").caller
            added = model.feedback.add(given.request_id, given.instance, given.label, caller)
            if inspect.isawaitable(added):
                await added
        return _json({"accepted": 1})

    async def metadata(self, _: Request) -> Response:
        return _json(self._dataplane.metadata())

    async def models(self, _: Request) -> Response:
        return _json({"models": list(self._dataplane.model_registry.get_models())})

    async def live(self, _: Request) -> Response:
        return _json({"live": True})

    async def ready(self, _: Request) -> Response:
        if not await self._dataplane.ready():
            return failed(Failure(503, "the server is not ready", 1))
        return _json({"ready": True})

    async def model_metadata(self, request: Request) -> Response:
        path = request.path_params
        return _json(await self._dataplane.model_metadata(path["model"], path.get("version")))

    async def model_ready(self, request: Request) -> Response:
        path = request.path_params
        if not await self._dataplane.model_ready(path["model"], version=path.get("version")):
            return failed(Failure(503, "the model is not ready", 1))
        return _json({"name": path["model"], "ready": True})

    async def no_loading(self, _: Request) -> Response:
        raise RequestError(LOADING_OFF)

    async def no_v1(self, request: Request) -> Response:
        self._dataplane.model(request.path_params["model"])
        if request.url.path.endswith(":explain"):
            raise RequestError("explanations come from the explainer, at the gateway; this is the predictor")
        raise RequestError("this model speaks the Open Inference Protocol (v2) only")

    async def metrics(self, request: Request) -> Response:
        # Its version and escaping are not looked at: each would be another text to make and to keep.
        asked = _OPENMETRICS if _OPENMETRICS in request.headers.get("accept", "") else ""
        encoder, content_type = exposition.choose_encoder(asked)
        return Response(
            await self._scrape.text(encoder, content_type), headers={"content-type": content_type}
        )

    async def openapi(self, _: Request) -> Response:
        return _json(document(list(self._dataplane.model_registry.get_models())))

    async def _read(self, request: Request, body: Body) -> bytes:
        """The whole body, within its bounds of size and time. Raises RequestError."""
        headers = request.headers
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise RequestError("the body is compressed; send it as it is", 415)
        declared = headers.get("content-length")
        if declared is not None:
            body.expect(int(declared))  # the HTTP parser has seen to it that it is a number
        chunks = []
        try:
            async with asyncio.timeout(self._read_timeout_s):
                while True:
                    message = await request.receive()
                    if message["type"] == "http.disconnect":
                        raise RequestError("the body ended before its length")
                    if chunk := message["body"]:
                        body.take(len(chunk))
                        chunks.append(chunk)
                    if not message.get("more_body"):
                        return chunks[0] if len(chunks) == 1 else b"".join(chunks)
        except TimeoutError:
            raise RequestError(f"the body did not end within {self._read_timeout_s:g} s", 408) from None


class _Scrape:
    """The metrics' text, made off the event loop, and once for all who asked before it was begun."""

    def __init__(self) -> None:
        self._lock, self._begun = asyncio.Lock(), 0
        self._made: dict[str, tuple[int, bytes]] = {}

    async def text(self, encoder: Callable[[CollectorRegistry], bytes], content_type: str) -> bytes:
        """The text in the form of `content_type`, with all that happened before this call."""
        begun_before = self._begun
        async with self._lock:
            number, text = self._made.get(content_type, (0, b""))
            if number <= begun_before:
                self._begun += 1
                text = await asyncio.to_thread(encoder, REGISTRY)
                self._made[content_type] = self._begun, text
            return text


def failed(failure: Failure) -> Response:
    """A failure in the protocol's form: one field, `error`."""
    headers = {} if failure.retry_after_s is None else {"retry-after": str(failure.retry_after_s)}
    if failure.status == 408:
        headers["connection"] = "close"  # the rest of the body, should it come, is nobody's
    return Response(
        orjson.dumps({"error": failure.message}), failure.status, headers, media_type="application/json"
    )


async def on_http_exception(_: Request, error: Exception) -> Response:
    """What the router itself refuses: no such route (404), not with this method (405)."""
    assert isinstance(error, HTTPException)  # noqa: S101
    response = failed(Failure(error.status_code, str(error.detail)))
    response.headers.update(error.headers or {})
    return response


def _answered(handler: Handler) -> Handler:
    """`handler`, whose exceptions become answers."""

    @functools.wraps(handler)
    async def run(request: Request) -> Response:
        try:
            return await handler(request)
        except Exception as error:
            return failed(report(error, request.headers.get("x-request-id", ""), "rest"))
        except asyncio.CancelledError:  # only ever after SIGTERM, when the time for draining is over
            return failed(describe(Draining("this server was shut down before the request had ended")))

    return run


def _json(content: object) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")
