"""Tests that a failing OTLP backend is reported within two seconds, with the cause and the setting."""

import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import anyio
import grpc
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsPartialSuccess,
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from structlog.testing import capture_logs

from agent.core.health import Health
from agent.sinks.otlp import OtlpSink
from agent.sinks.otlp_answers import of_success
from agent.sinks.otlp_exporter import open_exporter
from agent.sinks.otlp_settings import Settings
from agent.telemetry import Counters
from tests.integration.otlp_backends import EveryCall, listening
from tests.unit.sinks.views import AGENT, sample, view

TLS = Path(__file__).parents[1] / "data" / "tls"
CA = TLS / "ca.pem"
Protocol = Literal["http", "grpc"]
TOLD_WITHIN_S = 2.0
SLACK_S = 13.0  # for a busy machine and the first import of the exporters; their own timeout is 25 s here


@pytest.fixture(params=["http", "grpc"])
def protocol(request: pytest.FixtureRequest) -> Protocol:
    return request.param


class Secure:
    """A backend with TLS that accepts everything and records the headers of each request."""

    def __init__(self, protocol: Protocol, certificate: str, authority: Path | None = None) -> None:
        self.headers: list[dict[str, str]] = []
        self._stack = ExitStack()
        pem = TLS / certificate
        self.port = self._http(pem, authority) if protocol == "http" else self._grpc(pem, authority)
        self.endpoint = f"https://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._stack.close()

    def _http(self, pem: Path, authority: Path | None) -> int:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        if authority is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(authority)
        return self._stack.enter_context(listening(lambda each: self._serve(context, each)))

    def _serve(self, context: ssl.SSLContext, plain: socket.socket) -> None:
        with context.wrap_socket(plain, server_side=True) as connection:
            while request := connection.recv(1 << 20):
                lines = request.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
                self.headers.append(
                    {name.lower(): value for name, _, value in (x.partition(": ") for x in lines)}
                )
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    def _grpc(self, pem: Path, authority: Path | None) -> int:
        pool = self._stack.enter_context(ThreadPoolExecutor(2))
        server = grpc.server(pool)
        content = pem.read_bytes()
        roots = None if authority is None else authority.read_bytes()
        credentials = grpc.ssl_server_credentials([(content, content)], roots, authority is not None)
        port = server.add_secure_port("127.0.0.1:0", credentials)

        def export(_: bytes, context: Any) -> bytes:
            self.headers.append({str(name): str(value) for name, value in context.invocation_metadata()})
            return b""

        server.add_generic_rpc_handlers((EveryCall(export),))
        server.start()
        self._stack.callback(lambda: server.stop(0).wait(30))
        return port


def answering(answer: bytes) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        while connection.recv(1 << 20):
            connection.sendall(answer)

    return serve


@contextmanager
def secure(protocol: Protocol, certificate: str, authority: Path | None = None) -> Generator[Secure]:
    backend = Secure(protocol, certificate, authority)
    try:
        yield backend
    finally:
        backend.close()


async def told(settings: Settings) -> str:
    """Return why the sink is degraded; check that it was reported in time, and in one line of the log."""
    sink = OtlpSink(replace(settings, interval_s=30.0, timeout_s=25.0), AGENT, Counters())
    problem, took_s = "", 0.0
    with capture_logs() as logs, anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            began_s = time.monotonic()
            group.start_soon(sink.run, lambda: [view(sample())])
            while sink.status.health is not Health.DEGRADED:  # noqa: ASYNC110 - sets no event
                await anyio.sleep(0.01)
            took_s = time.monotonic() - began_s
            problem = sink.status.why
            group.cancel_scope.cancel()
        await sink.finish(0.1)
    lines = [each for each in logs if each["event"] == "otlp backend unavailable"]
    assert [each["problem"] for each in lines] == [problem]
    assert took_s < TOLD_WITHIN_S + SLACK_S
    return problem


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(60):
        while not condition():  # noqa: ASYNC110 - a thread sets it
            await anyio.sleep(0.01)


# --- certificates ---


@pytest.mark.parametrize(
    ("certificate", "ca_file", "words"),
    [
        ("server.pem", None, ("otlp.tls.ca_file: ", "is not trusted", "install the CA on this host")),
        (
            "other-name.pem",
            CA,
            ("otlp.endpoint: ", "has another name", "use a name that"),
        ),
        ("expired.pem", CA, ("has expired", "renew it on the backend")),
    ],
)
async def test_a_refused_certificate_is_named_with_its_cause(
    protocol: Protocol, certificate: str, ca_file: Path | None, words: tuple[str, ...]
) -> None:
    with secure(protocol, certificate) as backend:
        problem = await told(Settings(endpoint=backend.endpoint, protocol=protocol, ca_file=ca_file))

    assert f"the certificate of 127.0.0.1:{backend.port}" in problem
    assert [each for each in words if each not in problem] == []


PROGRAM = """
import sys
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from agent.sinks.otlp_exporter import open_exporter
from agent.sinks.otlp_settings import Settings

exporter = open_exporter(Settings(endpoint=sys.argv[1], protocol=sys.argv[2], timeout_s=20.0))
outcome = exporter.export(ExportMetricsServiceRequest())
assert outcome.accepted, outcome
"""
BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")


@pytest.mark.skipif(os.geteuid() != 0 or not BUNDLE.exists(), reason="needs root and a store of the system")
def test_a_ca_that_the_system_trusts_is_trusted(protocol: Protocol, tmp_path: Path) -> None:
    store = tmp_path / "ca-certificates.crt"
    store.write_bytes(BUNDLE.read_bytes() + CA.read_bytes())
    of_a_ca = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    environ = {name: value for name, value in os.environ.items() if name not in of_a_ca}
    with secure(protocol, "server.pem") as backend:
        script = f'mount --bind {store} {BUNDLE} && exec "$0" -c "$1" {backend.endpoint} {protocol}'
        argv = ["unshare", "--mount", "sh", "-c", script, sys.executable, PROGRAM]
        ended = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=300, check=False)

    assert ended.returncode == 0, ended.stderr


# --- files that change ---


async def test_a_token_and_a_ca_are_read_again_when_their_files_change(
    protocol: Protocol, tmp_path: Path
) -> None:
    ca_file, token_file, headers_file = (tmp_path / name for name in ("ca.pem", "token", "headers"))
    shutil.copy(TLS / "cert.pem", ca_file)  # another CA
    token_file.write_text("first-token\n")
    headers_file.write_text("x-tenant: one\n")
    with secure(protocol, "server.pem") as backend:
        settings = Settings(
            endpoint=backend.endpoint,
            protocol=protocol,
            interval_s=0.1,
            timeout_s=10.0,
            ca_file=ca_file,
            bearer_token_file=token_file,
            headers_file=headers_file,
        )
        sink = OtlpSink(settings, AGENT, Counters())
        async with anyio.create_task_group() as group:
            group.start_soon(sink.run, lambda: [view(sample())])
            await until(lambda: sink.status.health is Health.DEGRADED)
            assert "is not trusted" in sink.status.why
            os.replace(shutil.copy(CA, tmp_path / "new.pem"), ca_file)
            await until(lambda: backend.headers)
            token_file.write_text("second-token\n")
            headers_file.write_text("x-tenant: two\n")
            await until(
                lambda: (
                    (backend.headers[-1]["authorization"], backend.headers[-1]["x-tenant"])
                    == ("Bearer second-token", "two")
                )
            )
            await until(lambda: sink.status.health is Health.OK)
            token_file.write_text("")  # truncated before it is written: the old token stays in use
            count = len(backend.headers)
            await until(lambda: len(backend.headers) > count + 1)
            group.cancel_scope.cancel()
        await sink.finish(5.0)

    assert backend.headers[0]["authorization"] == "Bearer first-token"
    assert backend.headers[-1]["authorization"] == "Bearer second-token"


# --- unreachable ---


async def test_a_refused_connection_is_named(protocol: Protocol) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        problem = await told(Settings(endpoint=endpoint, protocol=protocol))

    assert problem.startswith("otlp.endpoint: 127.0.0.1:")
    assert "is unreachable" in problem
    assert "Connection refused" in problem


async def test_a_backend_that_drops_packets_is_named_long_before_the_timeout(protocol: Protocol) -> None:
    # A listener with a full queue: the kernel answers no further attempt to connect.
    with socket.socket() as full, ExitStack() as stack:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        endpoint = f"http://127.0.0.1:{full.getsockname()[1]}"
        problem = await told(Settings(endpoint=endpoint, protocol=protocol))

    assert "answer" in problem
    assert "otlp.endpoint: " in problem


async def test_a_name_that_cannot_be_resolved_is_named(protocol: Protocol) -> None:
    problem = await told(Settings(endpoint="http://otlp.invalid:4318", protocol=protocol))

    assert "otlp.endpoint: " in problem
    assert "otlp.invalid:4318" in problem


# --- refused over HTTP ---


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("401 Unauthorized", ("otlp.headers: ", "refuses the credentials", "otlp.bearer_token_file")),
        ("403 Forbidden", ("otlp.headers: ", "refuses the credentials")),
        ("404 Not Found", ("otlp.endpoint: ", "does not serve OTLP at this path")),
        ("413 Content Too Large", ("too large for the backend",)),
        ("429 Too Many Requests", ("throttles", "raise otlp.interval")),
    ],
)
async def test_a_refusal_names_the_cause_and_the_setting(status: str, words: tuple[str, ...]) -> None:
    answer = f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode()
    with listening(answering(answer)) as port:
        problem = await told(Settings(endpoint=f"http://127.0.0.1:{port}", protocol="http"))

    assert f"HTTP {status}" in problem
    assert [each for each in words if each not in problem] == []


@pytest.mark.parametrize(("status", "remedy"), [(403, "NO_PROXY"), (407, "user name and password")])
async def test_a_proxy_that_refuses_is_named_without_its_password(status: int, remedy: str) -> None:
    with listening(answering(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status)) as port:
        settings = Settings(
            endpoint="https://otlp.invalid:4318",
            protocol="http",
            proxy=f"http://user:geheim@127.0.0.1:{port}",
            proxy_variable="HTTPS_PROXY",
        )
        problem = await told(settings)

    assert problem.startswith(f"HTTPS_PROXY: the proxy 127.0.0.1:{port} refuses")
    assert f"HTTP {status}" in problem
    assert remedy in problem
    assert "geheim" not in problem


async def test_a_backend_behind_a_proxy_is_reached_through_its_tunnel(protocol: Protocol) -> None:
    asked: list[bytes] = []

    with secure(protocol, "server.pem") as backend:

        def serve(connection: socket.socket) -> None:
            asked.append(connection.recv(65_536))
            with socket.create_connection(("127.0.0.1", backend.port)) as onward:
                connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                back = threading.Thread(target=copy, args=(onward, connection), daemon=True)
                back.start()
                copy(connection, onward)

        with listening(serve) as port:
            settings = Settings(
                endpoint=f"https://localhost:{backend.port}",
                protocol=protocol,
                interval_s=0.1,
                ca_file=CA,
                proxy=f"http://user:geheim@127.0.0.1:{port}",
                proxy_variable="HTTPS_PROXY",
            )
            sink = OtlpSink(settings, AGENT, Counters())
            async with anyio.create_task_group() as group:
                group.start_soon(sink.run, lambda: [view(sample())])
                await until(lambda: sink.status.health is Health.OK)
                group.cancel_scope.cancel()
            await sink.finish(5.0)

    assert asked[0].startswith(f"CONNECT localhost:{backend.port} HTTP/1.1\r\n".encode())
    assert b"Proxy-Authorization: Basic dXNlcjpnZWhlaW0=\r\n" in asked[0]


def copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while part := source.recv(65_536):
            target.sendall(part)
        target.shutdown(socket.SHUT_WR)


# --- the environment ---


async def test_the_environment_configures_no_exporter(
    protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "HEADERS": "x-from-the-environment=1",
        "METRICS_HEADERS": "x-from-the-environment=1",
        "CERTIFICATE": "/nowhere/ca.pem",
        "METRICS_CERTIFICATE": "/nowhere/ca.pem",
        "CLIENT_CERTIFICATE": "/nowhere/cert.pem",
        "INSECURE": "true",
        "METRICS_TIMEOUT": "soon",
    }.items():
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", value)
    for name in ("HTTP", "GRPC"):
        monkeypatch.setenv(f"OTEL_PYTHON_EXPORTER_OTLP_{name}_CREDENTIAL_PROVIDER", "nobody")
    for name in ("https_proxy", "HTTPS_PROXY", "grpc_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")  # only the configuration reads it
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    with secure(protocol, "server.pem") as backend:
        settings = Settings(endpoint=backend.endpoint, protocol=protocol, interval_s=0.1, ca_file=CA)
        sink = OtlpSink(settings, AGENT, Counters())
        async with anyio.create_task_group() as group:
            group.start_soon(sink.run, lambda: [view(sample())])
            await until(lambda: backend.headers)
            group.cancel_scope.cancel()
        await sink.finish(5.0)

    assert "x-from-the-environment" not in backend.headers[0]


# --- secrets in messages, and the clock of the host ---


def test_a_secret_in_a_long_message_is_masked_before_it_is_cut() -> None:
    message = ExportMetricsServiceResponse(
        partial_success=ExportMetricsPartialSuccess(error_message="x" * 190 + "geheim-token-12345")
    )

    outcome = of_success(message, lambda text: text.replace("geheim-token-12345", "***"))

    assert "geheim" not in outcome.detail


def test_an_export_ends_by_its_timeout_when_the_clock_of_the_host_is_set_back(
    protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_back = iter(range(0, 10_000, 5))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - next(set_back))
    with listening(lambda connection: time.sleep(15)) as port:
        settings = Settings(endpoint=f"http://127.0.0.1:{port}", protocol=protocol, timeout_s=1.0)
        exporter = open_exporter(settings)
        began_s = time.monotonic()
        outcome = exporter.export(ExportMetricsServiceRequest())
        took_s = time.monotonic() - began_s
        exporter.shutdown()

    assert not outcome.accepted
    assert took_s < 12.0  # and not until the peer closes the connection
