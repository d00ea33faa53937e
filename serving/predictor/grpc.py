"""The gRPC door: KServe's service and data plane, with the protocol's statuses and nothing quoted.

KServe's servicer turns every value into a Python object and every mistake into a traceback in the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from hounsfield.serving.contract import Caller, Question
from hounsfield.serving.reply import OUTPUT_DATATYPES, choose_outputs, raw, shape
from hounsfield.serving.wire import MAX_BODY_BYTES, RequestError, Tensor, require_distinct
from serving.predictor.dataplane import HounsfieldDataPlane
from serving.predictor.failures import report

LOADING_OFF = "loading and unloading over the API is off: change the manifest's storageUri instead"
MAX_CALLS = 256
"""Calls at once, those still sending counted: gRPC holds a message until it is whole, up to the bound."""

STATUSES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
}
_CONTENTS = {"BYTES": "bytes_contents", "FP32": "fp32_contents"}

Handler = Callable[[Any, Mapping[str, str]], Awaitable[Any]]


class GrpcDoor:
    """Serves at `address` (host:port) until `stop`. A client has `read_timeout_s` to send its message."""

    def __init__(self, address: str, dataplane: HounsfieldDataPlane, read_timeout_s: float) -> None:
        self._address, self._dataplane, self._read_timeout_s = address, dataplane, read_timeout_s
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Listen, and return when stopped."""
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", MAX_BODY_BYTES),
                ("grpc.max_send_message_length", MAX_BODY_BYTES),
                ("grpc.max_metadata_size", 64 * 2**10),
                ("grpc.max_concurrent_streams", 256),
                ("grpc.server_handshake_timeout_ms", 10_000),
                ("grpc.max_connection_idle_ms", 600_000),
                ("grpc.so_reuseport", 0),  # a second server on the port must fail, not share it
            ],
            maximum_concurrent_rpcs=MAX_CALLS,
        )
        table: list[tuple[str, type, Handler]] = [
            ("ModelInfer", pb.ModelInferRequest, self.infer),
            ("ModelReady", pb.ModelReadyRequest, self.model_ready),
            ("ModelMetadata", pb.ModelMetadataRequest, self.model_metadata),
            ("ServerLive", pb.ServerLiveRequest, self.live),
            ("ServerReady", pb.ServerReadyRequest, self.ready),
            ("ServerMetadata", pb.ServerMetadataRequest, self.metadata),
            ("RepositoryModelLoad", pb.RepositoryModelLoadRequest, self.no_loading),
            ("RepositoryModelUnload", pb.RepositoryModelUnloadRequest, self.no_loading),
        ]
        service = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
        # One message comes, as the service says; read as a stream, or gRPC would wait for it for ever.
        handlers = {
            name: grpc.stream_unary_rpc_method_handler(
                self._answered(handler),
                request_deserializer=_parser(message),
                response_serializer=lambda response: response.SerializeToString(),
            )
            for name, message, handler in table
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        self._server.add_insecure_port(self._address)
        await self._server.start()
        await self._server.wait_for_termination()

    async def stop(self, grace_s: float) -> None:
        """Take no new call, let the others finish within `grace_s`, and close."""
        if self._server is not None:
            await self._server.stop(grace_s)

    async def infer(self, request: pb.ModelInferRequest, headers: Mapping[str, str]) -> pb.ModelInferResponse:
        name = request.model_name
        model = self._dataplane.model(name, request.model_version)
        with self._dataplane.admission.enter() as body:
            body.take(request.ByteSize())
            parameters = _parameters(request.parameters)
            parameters.pop("binary_data_output", None)  # of REST; here everything is binary
            outputs = choose_outputs(
                [(output.name, _parameters(output.parameters)) for output in request.outputs], parameters
            )
            caller = Caller.from_headers(headers, request.id, "grpc")
            question = Question(_tensors(request), caller)
            answer, _ = await self._dataplane.infer(name, question, headers)
            response = pb.ModelInferResponse(
                model_name=name, model_version=self._dataplane.version, id=caller.request_id
            )
            for key, value in model.parameters.items():
                response.parameters[key].string_param = value
            for output in outputs:
                response.outputs.add(
                    name=output.name,
                    datatype=OUTPUT_DATATYPES[output.name],
                    shape=shape(answer, output.name),
                )
                response.raw_output_contents.append(raw(answer, output.name))
        return response

    async def model_ready(self, request: pb.ModelReadyRequest, _: Mapping) -> pb.ModelReadyResponse:
        ready = await self._dataplane.model_ready(request.name, version=request.version)
        return pb.ModelReadyResponse(ready=ready)

    async def model_metadata(self, request: pb.ModelMetadataRequest, _: Mapping) -> pb.ModelMetadataResponse:
        return pb.ModelMetadataResponse(**await self._dataplane.model_metadata(request.name, request.version))

    async def live(self, _: pb.ServerLiveRequest, __: Mapping) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ready(self, _: pb.ServerReadyRequest, __: Mapping) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=await self._dataplane.ready())

    async def metadata(self, _: pb.ServerMetadataRequest, __: Mapping) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(**self._dataplane.metadata())

    async def no_loading(self, _: Any, __: Mapping) -> Any:
        raise RequestError(LOADING_OFF)

    def _answered(self, handler: Handler) -> Callable[[Any, grpc.aio.ServicerContext], Awaitable[Any]]:
        """`handler`, given its message; its exceptions become statuses."""

        async def run(_: Any, context: grpc.aio.ServicerContext) -> Any:
            metadata = context.invocation_metadata() or ()
            headers = {key: value for key, value in metadata if isinstance(value, str)}
            try:
                return await handler(await self._read(context), headers)
            except Exception as error:
                failure = report(error, headers.get("x-request-id", ""), "grpc")
                delay_s = failure.retry_after_s
                await context.abort(
                    STATUSES.get(failure.status, grpc.StatusCode.INTERNAL),
                    failure.message,
                    () if delay_s is None else (("retry-after", str(delay_s)),),
                )

        return run

    async def _read(self, context: grpc.aio.ServicerContext) -> Any:
        """The call's message. Raises RequestError."""
        try:
            async with asyncio.timeout(self._read_timeout_s):
                message = await context.read()
        except TimeoutError:
            raise RequestError(f"the message did not end within {self._read_timeout_s:g} s", 408) from None
        if message is None or message is grpc.aio.EOF:
            raise RequestError("the message is not of this method's type")
        return message


def _tensors(request: pb.ModelInferRequest) -> tuple[Tensor, ...]:
    """The inputs, their raw bytes as they lie in the message. Raises RequestError."""
    contents = list(request.raw_input_contents)
    if contents and len(contents) != len(request.inputs):
        raise RequestError("raw_input_contents has another number of tensors than inputs")
    tensors = []
    for position, item in enumerate(request.inputs):
        shape = tuple(item.shape)
        if any(size < 0 for size in shape):
            raise RequestError(f"inputs[{position}]: 'shape' is not a list of whole numbers from 0 up")
        if contents and item.HasField("contents"):
            raise RequestError(f"inputs[{position}]: has both 'contents' and raw_input_contents")
        values = None
        if not contents:
            field = _CONTENTS.get(item.datatype)
            values = getattr(item.contents, field) if field else ()
        tensors.append(
            Tensor(
                item.name,
                item.datatype,
                shape,
                values=values,
                raw=contents[position] if contents else None,
                parameters=_parameters(item.parameters),
            )
        )
    require_distinct(tensors)
    return tuple(tensors)


def _parameters(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Any]:
    found = {}
    for key, value in parameters.items():
        kind = value.WhichOneof("parameter_choice")
        found[key] = getattr(value, kind) if kind else None
    return found


def _parser(message: type) -> Callable[[bytes], Any]:
    def parse(content: bytes) -> Any:
        try:
            return message.FromString(content)
        except DecodeError:
            return None  # gRPC would answer that the server failed, and log the message

    return parse
