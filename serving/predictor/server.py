"""KServe's ModelServer with what its constructor does not offer: the address, the gRPC bound, loading off."""

from __future__ import annotations

import socket
from concurrent import futures

import grpc
import kserve
from kserve.errors import InvalidInput
from kserve.model_server import app
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor
from kserve.protocol.grpc.server import GRPCServer
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.protocol.model_repository_extension import ModelRepositoryExtension

from hounsfield.errors import PlatformError
from hounsfield.serving.wire import MAX_BODY_BYTES
from serving.predictor.rest import HounsfieldDataPlane, add_routes


class FixedRepository(ModelRepositoryExtension):
    """A server holds the package it was started with; another one is another revision, by the manifests."""

    async def load(self, model_name: str) -> dict:
        raise InvalidInput("loading and unloading over the API is off; change the manifest's storageUri")

    unload = load


class BoundedGRPCServer(GRPCServer):
    """KServe's servicer, at one address, with messages up to `MAX_BODY_BYTES`, and no log line a call."""

    def __init__(self, address: str, dataplane: HounsfieldDataPlane, repository: FixedRepository) -> None:
        super().__init__(0, dataplane, repository, kwargs={})
        self._address = address

    async def start(self, max_workers: int) -> None:
        self._server = grpc.aio.server(
            futures.ThreadPoolExecutor(max_workers),
            interceptors=(ExceptionToStatusInterceptor(),),
            options=[
                ("grpc.max_receive_message_length", MAX_BODY_BYTES),
                ("grpc.max_send_message_length", MAX_BODY_BYTES),
                ("grpc.so_reuseport", 0),  # a second server on the port must fail, not share it
            ],
        )
        grpc_predict_v2_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
            InferenceServicer(self._data_plane, self._model_repository_extension), self._server
        )
        self._server.add_insecure_port(self._address)
        await self._server.start()
        await self._server.wait_for_termination()


def require_free(host: str, port: int) -> None:
    """Raise PlatformError when nobody could listen there: asked first, for KServe fails at length."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PlatformError(
                f"cannot listen on {host}:{port}: {error.strerror}; free it or choose another port"
            ) from None


class PredictorServer(kserve.ModelServer):
    """`host` is the address both doors listen on; KServe's own is always every address."""

    def __init__(self, host: str, http_port: int, grpc_port: int, version: str) -> None:
        require_free(host, http_port)
        require_free(host, grpc_port)
        super().__init__(
            http_port=http_port,
            grpc_port=grpc_port,
            workers=1,
            enable_grpc=False,
            enable_latency_logging=False,
        )
        self._host = host
        self.dataplane = HounsfieldDataPlane(model_registry=self.registered_models)
        self.model_repository_extension = FixedRepository(model_registry=self.registered_models)
        add_routes(app, self.dataplane, version)
        # `stop` of the base class ends whatever stands here; with enable_grpc off it starts none of its own.
        self._grpc_server = BoundedGRPCServer(
            f"{host}:{grpc_port}", self.dataplane, self.model_repository_extension
        )
        self.servers.append(self._grpc_server.start(self.max_threads))

    async def _serve(self) -> None:
        self._rest_server.config.host = self._host
        await super()._serve()
