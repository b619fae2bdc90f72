"""OTLP backends over HTTP and gRPC with answers set by the test. They decode with opentelemetry-proto."""

import gzip
import socket
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import (
    LogsServiceServicer,
    add_LogsServiceServicer_to_server,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsPartialSuccess,
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import (
    MetricsServiceServicer,
    add_MetricsServiceServicer_to_server,
)


@dataclass(frozen=True, slots=True)
class Point:
    """One data point that arrived."""

    instance: str  # service.instance.id
    name: str
    attributes: Mapping[str, str]
    time_ns: int
    start_ns: int
    value: int


@dataclass(frozen=True, slots=True)
class Request:
    """One request that arrived."""

    path: str
    headers: Mapping[str, str]
    points: Sequence[Point]
    logs: Sequence[str] = ()  # the ids of the events

    def instances(self) -> set[str]:
        """Return the ids of the VMs that have points in the request."""
        return {point.instance for point in self.points}


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer. `status` is HTTP's; over gRPC `_CODES` maps an error to a code, or it is UNAVAILABLE."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    rejected_points: int = 0
    silent: bool = False  # accepts the request and never answers
    trickle: bool = False  # sends the answer byte by byte, slowly


def parse(path: str, headers: Mapping[str, str], message: ExportMetricsServiceRequest) -> Request:
    """Return a request with the data points of `message`."""
    points: list[Point] = []
    for of_resource in message.resource_metrics:
        resource = {each.key: each.value.string_value for each in of_resource.resource.attributes}
        for metric in (metric for scope in of_resource.scope_metrics for metric in scope.metrics):
            data = metric.sum if metric.WhichOneof("data") == "sum" else metric.gauge
            points += [
                Point(
                    resource["service.instance.id"],
                    metric.name,
                    {each.key: each.value.string_value for each in point.attributes},
                    point.time_unix_nano,
                    point.start_time_unix_nano,
                    point.as_int,
                )
                for point in data.data_points
            ]
    return Request(path, headers, points)


def parse_logs(path: str, headers: Mapping[str, str], message: ExportLogsServiceRequest) -> Request:
    """Return a request with the event ids of the log records in `message`."""
    logs = [
        next(each.value.string_value for each in log.attributes if each.key == "barograph.event.id")
        for of_resource in message.resource_logs
        for scope in of_resource.scope_logs
        for log in scope.log_records
    ]
    return Request(path, headers, (), logs)


class Backend:
    """The common part of both backends: how to answer, and the requests received."""

    def __init__(self) -> None:
        self.answer: Callable[[Request], Answer] = lambda _: Answer()
        self.requests: list[Request] = []
        self.accepted: list[Request] = []
        self.endpoint = ""
        self.released = threading.Event()  # completes the answers that trickle
        self._ending = threading.Event()

    def take(self, request: Request) -> Answer:
        """Record a request and return its answer; block if the answer is a silent one."""
        answer = self.answer(request)
        self.requests.append(request)
        if answer.status == 200 and not answer.silent:
            self.accepted.append(request)
        if answer.silent:
            self._ending.wait(300)
        return answer

    def logs(self) -> list[str]:
        """Return the ids of the accepted events, in order."""
        return [event for request in self.accepted for event in request.logs]

    def points(self, name: str) -> list[Point]:
        """Return the accepted points of one metric, in order."""
        return [point for request in self.accepted for point in request.points if point.name == name]


class HttpBackend(Backend):
    """OTLP over HTTP."""

    protocol = "http"

    def __init__(self, port: int = 0) -> None:
        super().__init__()
        backend = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                headers = {name.lower(): value for name, value in self.headers.items()}
                if self.path.endswith("/v1/logs"):
                    request = parse_logs(self.path, headers, ExportLogsServiceRequest.FromString(body))
                else:
                    request = parse(self.path, headers, ExportMetricsServiceRequest.FromString(body))
                backend.respond(self, backend.take(request))

            def log_message(self, format: str, *args: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """End it, and every answer that is held back."""
        self._ending.set()
        self._server.shutdown()
        self._server.server_close()

    def respond(self, handler: BaseHTTPRequestHandler, answer: Answer) -> None:
        """Send the answer."""
        body = _response(answer).SerializeToString() if answer.status == 200 else b"no: told so by the test"
        try:
            handler.send_response(answer.status)
            for name, value in answer.headers.items():
                handler.send_header(name, value)
            kind = "application/x-protobuf" if answer.status == 200 else "text/plain"
            handler.send_header("Content-Type", kind)
            handler.send_header("Content-Length", str(1000 if answer.trickle else len(body)))
            handler.end_headers()
            if answer.trickle:
                written = 0
                while not self._ending.is_set() and not self.released.wait(0.05):
                    written += handler.wfile.write(b" ")
                body = b" " * (1000 - written)
            handler.wfile.write(body)
        except OSError:
            handler.close_connection = True  # the client has disconnected


class GrpcBackend(Backend):
    """OTLP over gRPC."""

    protocol = "grpc"

    def __init__(self, port: int = 0) -> None:
        super().__init__()
        backend = self

        class Servicer(MetricsServiceServicer):
            def Export(  # pyrefly: ignore[bad-override]
                self, request: ExportMetricsServiceRequest, context: Any
            ) -> ExportMetricsServiceResponse:
                return _response(answered(parse("", _metadata(context), request), context))

        class LogsServicer(LogsServiceServicer):
            def Export(self, request: ExportLogsServiceRequest, context: Any) -> ExportLogsServiceResponse:  # pyrefly: ignore[bad-override]
                answer = answered(parse_logs("", _metadata(context), request), context)
                return ExportLogsServiceResponse.FromString(_response(answer).SerializeToString())

        def answered(request: Request, context: Any) -> Answer:
            answer = backend.take(request)
            if answer.status != 200:
                context.set_trailing_metadata(tuple(answer.headers.items()))
                code = _CODES.get(answer.status, grpc.StatusCode.UNAVAILABLE)
                context.abort(code, "no: told so by the test")
            return answer

        self._pool = ThreadPoolExecutor(4)
        self._server = grpc.server(self._pool)
        add_MetricsServiceServicer_to_server(Servicer(), self._server)
        add_LogsServiceServicer_to_server(LogsServicer(), self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._server.start()

    def close(self) -> None:
        """End it, and every answer that is held back."""
        self._ending.set()
        self._server.stop(0).wait(30)
        self._pool.shutdown()


class EveryCall(grpc.GenericRpcHandler):
    """Handles the calls of every method with one function, which gets and returns bytes."""

    def __init__(self, handle: Callable[[bytes, Any], bytes]) -> None:
        self._handle = handle

    def service(self, handler_call_details: object) -> Any:
        return cast("Any", grpc).unary_unary_rpc_method_handler(self._handle)


_CODES = {400: grpc.StatusCode.INVALID_ARGUMENT, 404: grpc.StatusCode.UNIMPLEMENTED}


def _metadata(context: Any) -> dict[str, str]:
    return {str(name): str(value) for name, value in context.invocation_metadata()}


def _response(answer: Answer) -> ExportMetricsServiceResponse:
    return ExportMetricsServiceResponse(
        partial_success=ExportMetricsPartialSuccess(rejected_data_points=answer.rejected_points)
    )


@contextmanager
def http_backend(port: int = 0) -> Generator[HttpBackend]:
    """A backend over HTTP that ends with the block."""
    backend = HttpBackend(port)
    try:
        yield backend
    finally:
        backend.close()


@contextmanager
def grpc_backend(port: int = 0) -> Generator[GrpcBackend]:
    """A backend over gRPC that ends with the block."""
    backend = GrpcBackend(port)
    try:
        yield backend
    finally:
        backend.close()


@contextmanager
def listening(serve: Callable[[socket.socket], None], backlog: int = 16) -> Generator[int]:
    """A listener on loopback that handles each connection in a thread; yields its port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=backlog)

    def one(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            serve(connection)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
