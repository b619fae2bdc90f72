"""A real OpenTelemetry Collector, its output, and checks of points that Collectors do not make."""

import json
import re
import subprocess
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.lab import setup
from tests.lab.process import free_port, kill, listens, start, wait_until

# UCUM (ucum.org) as far as metrics need it: a prefix and a unit, 1, % or a note in braces; quotients of them.
_UCUM_TERM = r"(?:(?:[numkMGT]|[KMGT]i)?(?:s|By|bit|Hz|m|g|J|W|V|A|Cel)|min|h|d|%|1|)(?:\{[!-z|~]+\})?"
_UCUM = re.compile(rf"(?=.){_UCUM_TERM}(?:[./]{_UCUM_TERM})*")


@dataclass(frozen=True, slots=True)
class Point:
    """One data point, as the Collector passed it on."""

    resource: tuple[tuple[str, str], ...]
    name: str
    unit: str
    kind: str  # "gauge", "counter" (monotonic sum), "updowncounter", or "histogram", whose value is its count
    attributes: tuple[tuple[str, str], ...]
    time_ns: int
    start_ns: int | None
    value: float  # an int if sent as one; NaN if the point has no recorded value
    schema_urls: tuple[str, str]  # of the resource, of the scope

    @property
    def stream(self) -> tuple[object, ...]:
        """Return what identifies the stream (OTLP data model)."""
        return (self.resource, self.name, self.attributes)

    def about(self, name: str) -> str | None:
        """Return a resource attribute."""
        return dict(self.resource).get(name)


def problems(points: Sequence[Point]) -> list[str]:
    """Return the problems of points, given in order of arrival, that Collectors let pass."""
    found: list[str] = []
    newest: dict[tuple[object, ...], int] = {}
    for point in points:
        where = f"{point.name}{dict(point.attributes)} at {point.time_ns}"
        if point.kind == "counter" and not point.start_ns:
            found.append(f"{where}: a monotonic sum without a start")
        if point.start_ns and point.start_ns > point.time_ns:
            found.append(f"{where}: starts after its own time")
        if not _UCUM.fullmatch(point.unit):
            found.append(f"{where}: unit {point.unit!r} is not UCUM")
        before = newest.get(point.stream)
        if before is not None and point.time_ns == before:
            found.append(f"{where}: sent twice")
        elif before is not None and point.time_ns < before:
            found.append(f"{where}: older than the one before")
        newest[point.stream] = point.time_ns
    return found


@dataclass(frozen=True, slots=True)
class Log:
    """One log record, as the Collector passed it on."""

    resource: dict[str, str]
    event: str
    severity: str
    body: str
    attributes: dict[str, str]
    time_ns: int
    observed_ns: int


def parse_logs(document: dict[str, Any]) -> list[Log]:
    """Return the log records of one OTLP/JSON request, in order."""
    return [
        Log(
            dict(_attributes(of_resource.get("resource", {}))),
            each["eventName"],
            each["severityText"],
            each["body"]["stringValue"],
            dict(_attributes(each)),
            int(each["timeUnixNano"]),
            int(each["observedTimeUnixNano"]),
        )
        for of_resource in document.get("resourceLogs", [])
        for scope in of_resource["scopeLogs"]
        for each in scope["logRecords"]
    ]


def parse(document: dict[str, Any]) -> list[Point]:
    """Return the points of one OTLP/JSON request, in order."""
    points: list[Point] = []
    for of_resource in document.get("resourceMetrics", []):
        resource = _attributes(of_resource.get("resource", {}))
        for scope in of_resource.get("scopeMetrics", []):
            for metric in scope.get("metrics", []):
                kind, data = _kind(metric)
                points += [
                    Point(
                        resource,
                        metric["name"],
                        metric.get("unit", ""),
                        kind,
                        _attributes(each),
                        int(each["timeUnixNano"]),
                        int(each["startTimeUnixNano"]) if each.get("startTimeUnixNano") else None,
                        _value(each),
                        (of_resource.get("schemaUrl", ""), scope.get("schemaUrl", "")),
                    )
                    for each in data["dataPoints"]
                ]
    return points


def _value(point: dict[str, Any]) -> float:
    if int(point.get("flags", 0)) & 1:  # "no recorded value"
        return float("nan")
    if "bucketCounts" in point:
        return int(point.get("count", 0))  # JSON leaves a zero out
    return int(point["asInt"]) if "asInt" in point else float(point["asDouble"])


def _kind(metric: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    if "gauge" in metric:
        return "gauge", metric["gauge"]
    if "histogram" in metric:
        return "histogram", metric["histogram"]
    if "sum" not in metric:
        raise ValueError(f"{metric['name']} is neither a gauge nor a sum")
    return ("counter" if metric["sum"].get("isMonotonic") else "updowncounter"), metric["sum"]


def _attributes(holder: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(
        sorted(
            (each["key"], str(next(iter(each["value"].values())))) for each in holder.get("attributes", [])
        )
    )


class Collector:
    """A Collector that receives OTLP by gRPC and HTTP, and all points and log records that it exports."""

    def __init__(self, folder: Path, *, logs: bool = True, sends_to: str | None = None) -> None:
        """Write the configuration.

        Args:
            folder: for its files.
            logs: with a pipeline for logs.
            sends_to: the OTLP endpoint of a backend that also gets the metrics.
        """
        self._folder = folder
        self._points: list[Point] = []
        self._logs: list[Log] = []
        self._odd: list[str] = []
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._server = self._receive()
        self.grpc_port, self.http_port = free_port(), free_port()
        self.grpc, self.http = f"http://127.0.0.1:{self.grpc_port}", f"http://127.0.0.1:{self.http_port}"
        backend: dict[str, object] = {} if sends_to is None else {"otlp_http/backend": {"endpoint": sends_to}}
        exporters = {"metrics": ["otlp_http", *backend], "logs": ["otlp_http"]}
        config = {
            "receivers": {
                "otlp": {
                    "protocols": {
                        "grpc": {"endpoint": f"127.0.0.1:{self.grpc_port}"},
                        "http": {"endpoint": f"127.0.0.1:{self.http_port}"},
                    }
                }
            },
            "exporters": {
                "otlp_http": {
                    "endpoint": f"http://127.0.0.1:{self._server.server_address[1]}",
                    "encoding": "json",
                    "compression": "none",
                    # One request at a time, because the tests check the order of points.
                    "sending_queue": {"num_consumers": 1},
                },
                **backend,
            },
            "service": {
                "telemetry": {"metrics": {"level": "none"}},
                "pipelines": {
                    signal: {"receivers": ["otlp"], "exporters": exporters[signal]}
                    for signal in (("metrics", "logs") if logs else ("metrics",))
                },
            },
        }
        self._config = folder / "collector.yaml"
        self._config.write_text(json.dumps(config))

    def start(self, timeout_s: float = 120.0) -> None:
        """Start the process and return once it listens."""
        log = self._folder / "collector.log"
        self._process = process = start([setup.collector(), "--config", f"file:{self._config}"], log)
        for port in (self.grpc_port, self.http_port):
            wait_until(lambda port=port: listens(port), "the Collector", process, log, timeout_s)

    def stop(self) -> None:
        """Send SIGKILL. The points and log records stay available."""
        if self._process is not None:
            kill(self._process)
            self._process = None

    def close(self) -> None:
        """Stop the Collector and its receiver."""
        self.stop()
        self._server.shutdown()
        self._server.server_close()

    def points(self) -> list[Point]:
        """Return every point so far, in order of arrival.

        Raises:
            ValueError: the output contains something that `parse` does not understand.
        """
        with self._lock:
            if self._odd:
                raise ValueError(self._odd[0])
            return list(self._points)

    def logs(self) -> list[Log]:
        """Return every log record so far, in order of arrival.

        Raises:
            ValueError: the output contains something that `parse_logs` does not understand.
        """
        with self._lock:
            if self._odd:
                raise ValueError(self._odd[0])
            return list(self._logs)

    def _receive(self) -> ThreadingHTTPServer:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with collector._lock:
                    try:
                        collector._points += parse(document)
                        collector._logs += parse_logs(document)
                    except (KeyError, ValueError) as error:
                        collector._odd.append(f"{error!r} in {json.dumps(document)[:2000]}")
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, format: str, *args: object) -> None:
                return

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server


@contextmanager
def collector(folder: Path, *, logs: bool = True, sends_to: str | None = None) -> Generator[Collector]:
    """Run a Collector until the block ends. The arguments are those of `Collector`."""
    folder.mkdir(parents=True, exist_ok=True)
    running = Collector(folder, logs=logs, sends_to=sends_to)
    try:
        running.start()
        yield running
    finally:
        running.close()
