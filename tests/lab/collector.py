"""A real OpenTelemetry Collector, and what came out of it; and what no Collector checks."""

import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.lab import setup
from tests.lab.kafka import free_port
from tests.lab.qemu import die_with_parent

_UCUM = re.compile(r"1|s|ms|By|\{[a-z_]+\}")


@dataclass(frozen=True, slots=True)
class Point:
    """One data point, as the Collector passed it on."""

    resource: tuple[tuple[str, str], ...]
    name: str
    unit: str
    kind: str  # "gauge", "counter" (monotonic sum) or "updowncounter"
    attributes: tuple[tuple[str, str], ...]
    time_ns: int
    start_ns: int | None
    value: float

    @property
    def stream(self) -> tuple[object, ...]:
        """What tells one stream from another (OTLP data model)."""
        return (self.resource, self.name, self.attributes)

    def about(self, name: str) -> str | None:
        """A resource attribute."""
        return dict(self.resource).get(name)


def problems(points: Sequence[Point]) -> list[str]:
    """Return what is wrong with points in the order they came, that Collectors let pass."""
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
                        float(each["asInt"] if "asInt" in each else each["asDouble"]),
                    )
                    for each in data["dataPoints"]
                ]
    return points


def _kind(metric: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    if "gauge" in metric:
        return "gauge", metric["gauge"]
    return ("counter" if metric["sum"].get("isMonotonic") else "updowncounter"), metric["sum"]


def _attributes(holder: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(
        sorted(
            (each["key"], str(next(iter(each["value"].values())))) for each in holder.get("attributes", [])
        )
    )


class Collector:
    """Receives OTLP by gRPC and HTTP, and keeps every point that comes out of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._points: list[Point] = []
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._server = self._receive()
        self.grpc_port, self.http_port = free_port(), free_port()
        self.grpc, self.http = f"http://127.0.0.1:{self.grpc_port}", f"http://127.0.0.1:{self.http_port}"
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
                    # One request at a time: the order of points is what the tests look at.
                    "sending_queue": {"num_consumers": 1},
                }
            },
            "service": {
                "telemetry": {"metrics": {"level": "none"}},
                "pipelines": {"metrics": {"receivers": ["otlp"], "exporters": ["otlp_http"]}},
            },
        }
        self._config = folder / "collector.yaml"
        self._config.write_text(json.dumps(config))

    def start(self, timeout_s: float = 20.0) -> None:
        """Start it, and return once it listens."""
        with (self._folder / "collector.log").open("ab") as log:
            self._process = subprocess.Popen(
                [setup.collector(), "--config", f"file:{self._config}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,
            )
        for port in (self.grpc_port, self.http_port):
            _wait_for_port(port, self._process, timeout_s, self._folder / "collector.log")

    def stop(self) -> None:
        """SIGKILL it; what came out stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """End everything."""
        self.stop()
        self._server.shutdown()
        self._server.server_close()

    def points(self) -> list[Point]:
        """Every point so far, in order of arrival."""
        with self._lock:
            return list(self._points)

    def _receive(self) -> ThreadingHTTPServer:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with collector._lock:
                    collector._points += parse(document)
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, format: str, *args: object) -> None:
                return

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server


@contextmanager
def collector(folder: Path) -> Generator[Collector]:
    """A Collector that runs, and ends with the block."""
    folder.mkdir(parents=True, exist_ok=True)
    running = Collector(folder)
    try:
        running.start()
        yield running
    finally:
        running.close()


def _wait_for_port(port: int, process: subprocess.Popen[bytes], timeout_s: float, log: Path) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), 1):
                return
        except OSError:
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError(f"nothing listens on port {port}; see {log}") from None
            time.sleep(0.05)
