"""KServe's ModelServer with our doors: bounded connections, a drain that loses nothing, uvloop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator

import fastapi
import kserve
import uvicorn
import uvloop
from kserve.constants.constants import FASTAPI_APP_IMPORT_STRING
from kserve.protocol.rest.server import RESTServer
from starlette.exceptions import HTTPException

from hounsfield.errors import PlatformError
from hounsfield.serving.admission import MAX_INFLIGHT_BYTES, Admission
from serving.predictor.connections import SPARE_FILES, ConnectionLimits, bounded, raise_file_limit
from serving.predictor.dataplane import HounsfieldDataPlane
from serving.predictor.grpc import GrpcDoor
from serving.predictor.rest import RestDoor, on_http_exception

MAX_CONNECTIONS = 16_384


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
    """`host` is the address both doors listen on; KServe's own is always every address. Without a
    `grpc_port` there is no gRPC door.

    A client has `head_timeout_s` to send its headers and `read_timeout_s` to send a body; requests that are
    inside have `grace_s` to end after SIGTERM. `on_shed` is told why a request was turned away at the door.
    """

    rest_door: type[RestDoor] = RestDoor

    def __init__(
        self,
        host: str,
        http_port: int,
        grpc_port: int | None,
        version: str,
        *,
        max_inflight_bytes: int = MAX_INFLIGHT_BYTES,
        head_timeout_s: float = 10.0,
        read_timeout_s: float = 30.0,
        grace_s: float = 30.0,
        on_shed: Callable[[str], None] = lambda why: None,
    ) -> None:
        for port in (http_port, grpc_port):
            if port is not None:
                require_free(host, port)
        super().__init__(
            http_port=http_port,
            workers=1,
            enable_grpc=False,
            enable_latency_logging=False,
        )
        self._host, self._grace_s, self._head_timeout_s = host, grace_s, head_timeout_s
        self._admission = Admission(max_inflight_bytes, on_shed)
        self.dataplane = HounsfieldDataPlane(self.registered_models, version, self._admission)
        self._grpc_door = (
            None if grpc_port is None else GrpcDoor(f"{host}:{grpc_port}", self.dataplane, read_timeout_s)
        )
        self._rest_door = self.rest_door(self.dataplane, read_timeout_s)
        self._stopping: asyncio.Task | None = None

    def start(self, models: list[kserve.Model]) -> None:
        """Serve until SIGTERM, SIGINT or SIGQUIT, then drain and stop the models."""
        # As KServe's own `start`, which builds its REST server by name and forgets uvloop in `asyncio.run`.
        self._register_and_check_atleast_one_model_is_ready(models)
        limits = ConnectionLimits(
            connections=min(MAX_CONNECTIONS, raise_file_limit() - SPARE_FILES),
            head_timeout_s=self._head_timeout_s,
        )
        self._rest_server = _RestServer(self._host, self.http_port, self._rest_door, self.dataplane, limits)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            loop.add_signal_handler(number, self.stop, number)
        await asyncio.gather(
            self._rest_server.start(), *([self._grpc_door.start()] if self._grpc_door else [])
        )
        # Only now is nobody waiting for an answer. Off the loop: a model may have a log to write out.
        for name in list(self.registered_models.get_models()):
            await asyncio.to_thread(self.registered_models.unload, name)

    def stop(self, sig: int) -> None:
        """Begin to drain: not ready, nobody new is let in, what is inside ends, then both doors close."""
        if self._stopping is None:
            self._admission.drain()
            self._stopping = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        # The doors stay open meanwhile: whoever still comes is told to go elsewhere, and is not hung up on.
        if not await self._admission.emptied(self._grace_s):
            logging.getLogger("hounsfield.predictor").warning(
                "%d requests had not ended %g s after the signal", self._admission.inflight, self._grace_s
            )
        self._rest_server.close()
        if self._grpc_door:
            await self._grpc_door.stop(grace_s=1.0)


class _RestServer(RESTServer):
    """KServe's REST server with our routes, no middleware, and our connections."""

    def __init__(
        self,
        host: str,
        port: int,
        door: RestDoor,
        dataplane: HounsfieldDataPlane,
        limits: ConnectionLimits,
    ) -> None:
        # The grace is of connections only: the requests have ended before they are closed.
        super().__init__(FASTAPI_APP_IMPORT_STRING, dataplane, None, port, grace_period=2)
        self._door = door
        self.config.host = host
        self.config.http = bounded(limits)
        self.config.ws, self.config.lifespan = "none", "off"
        self.config.server_header = self.config.proxy_headers = False
        self._server = _Server(self.config)
        for name in ("uvicorn.error", "uvicorn.access", "kserve", "kserve.trace"):
            logging.getLogger(name).setLevel(logging.ERROR)
        access = logging.getLogger("uvicorn.access")
        access.handlers, access.propagate = [], False  # else a line a request is made, and thrown away

    def close(self) -> None:
        self._server.should_exit = True

    def _register_endpoints(self, app: fastapi.FastAPI) -> None:
        app.router.routes[:] = self._door.routes()
        app.router.redirect_slashes = False

    def _add_exception_handlers(self, app: fastapi.FastAPI) -> None:
        app.add_exception_handler(HTTPException, on_http_exception)

    def _add_middlewares(self, app: fastapi.FastAPI) -> None:
        """None: KServe's looks through all routes again, to time a request into its log."""


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the PredictorServer's: uvicorn would hang up on whoever is waiting."""
        yield
