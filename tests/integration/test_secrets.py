"""Tests that no output has a secret of the configuration, even if peers repeat what they were sent."""

import itertools
import json
import socket
import time
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.integration.otlp_backends import EveryCall
from tests.integration.test_otlp_troubles import listening
from tests.lab.agent import agent, barograph
from tests.lab.process import free_port

SECRETS = {
    "headers": "Key geheim-in-headers",
    "headers_file": "geheim-in-headers-file",
    "bearer_token_file": "geheim.in-token-file",
    "sasl": "geheim-of-sasl",
    "proxy": "geheim-of-proxy",
}
PAGES = ("healthz", "status", "metrics", "")


def repeat_over_http(connection: socket.socket) -> None:
    """Refuse each request with a text that repeats its secrets, at a different position each time."""
    for number in itertools.count():
        request = connection.recv(1 << 20)
        if not request:
            return
        lines = b" ".join(line for line in request.split(b"\r\n") if b"geheim" in line or b"Basic" in line)
        body = b"x" * (120 + number * 7 % 77) + lines
        head = b"HTTP/1.1 401 %s\r\nContent-Type: text/plain\r\n" % body
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)


def repeat_over_grpc(_: bytes, context: Any) -> bytes:
    """Refuse each call with details that repeat its metadata."""
    every = (f"{name}={value}" for name, value in context.invocation_metadata())
    context.set_trailing_metadata((("google.rpc.retryinfo-bin", b"\xff\xff\xff"),))
    context.abort(grpc.StatusCode.UNAUTHENTICATED, " ".join(each for each in every if "geheim" in each))
    return b""


def repeat_over_kafka(connection: socket.socket) -> None:
    """Answer with what was received."""
    while request := connection.recv(1 << 16):
        connection.sendall(request)


@pytest.mark.parametrize(("protocol", "form"), [("http", "json"), ("grpc", "console"), ("proxy", "json")])
def test_no_output_has_a_secret(folder: Path, protocol: str, form: str) -> None:
    token, headers = folder / "token", folder / "headers"
    token.write_text(f"{SECRETS['bearer_token_file']}\n")
    headers.write_text(f"x-key: {SECRETS['headers_file']}\n")
    with ExitStack() as stack:
        otlp = stack.enter_context(listening(repeat_over_http))
        kafka = stack.enter_context(listening(repeat_over_kafka))
        if protocol == "grpc":
            server = grpc.server(stack.enter_context(ThreadPoolExecutor(2)))
            server.add_generic_rpc_handlers((EveryCall(repeat_over_grpc),))
            otlp = server.add_insecure_port("127.0.0.1:0")
            server.start()
            stack.callback(lambda: server.stop(0).wait(30))
        env = {
            "BAROGRAPH_LOG__FORMAT": form,
            "BAROGRAPH_LOG__LEVEL": "debug",
            "BAROGRAPH_LINES__ENABLED": "true",
            "BAROGRAPH_POLLING__HEARTBEAT": "1s",
            "BAROGRAPH_WEB__ENABLED": "true",
            "BAROGRAPH_WEB__LISTEN": f"127.0.0.1:{(port := free_port())}",
            "BAROGRAPH_SPOOL__MODE": "none",
            "BAROGRAPH_KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{kafka}",
            "BAROGRAPH_KAFKA__SASL__MECHANISM": "PLAIN",
            "BAROGRAPH_KAFKA__SASL__USERNAME": "someone",
            "BAROGRAPH_KAFKA__SASL__PASSWORD": SECRETS["sasl"],
            "BAROGRAPH_OTLP__ENDPOINT": f"http://127.0.0.1:{otlp}",
            "BAROGRAPH_OTLP__PROTOCOL": "grpc" if protocol == "grpc" else "http",
            "BAROGRAPH_OTLP__INTERVAL": "200ms",
            "BAROGRAPH_OTLP__HEADERS": f"x-first={SECRETS['headers'].replace(' ', '%20')}",
            "BAROGRAPH_OTLP__HEADERS_FILE": str(headers),
            "BAROGRAPH_OTLP__BEARER_TOKEN_FILE": str(token),
        }
        if protocol == "proxy":
            env |= {"http_proxy": f"http://someone:{SECRETS['proxy']}@127.0.0.1:{otlp}"}
            env["BAROGRAPH_OTLP__ENDPOINT"] = "http://otlp.invalid:4318"
        shown = outputs(folder, env, port)

    assert "refuses" in shown["healthz"], shown["healthz"]
    # Neither a whole secret nor the beginning of one that was cut.
    marks = ("geheim", b64encode(b"someone:geheim").decode()[:18])
    found = {(place, mark) for place, text in shown.items() for mark in marks if mark in text}
    assert found == set()
    assert "hpack" not in shown["stderr"]  # it writes headers in a form that is not recognized


def outputs(folder: Path, env: Mapping[str, str], port: int) -> dict[str, str]:
    """Return all output of an agent that runs until both of its sinks have been degraded."""
    words = ("--monitor", f"{folder}/*.qmp")
    with socket.socket(socket.AF_UNIX) as unused:
        unused.bind(f"{folder}/vm.qmp")  # a VM that is unreachable has a state to export
    checked = barograph("check-config", *words, env=env)
    shown = {"check-config": checked.stdout + checked.stderr}
    with agent(folder, *words, env=env) as process:
        deadline_s = time.monotonic() + 240
        while True:
            assert time.monotonic() < deadline_s, shown
            try:
                shown |= {page: ask(port, page) for page in PAGES}
            except OSError:
                time.sleep(0.05)
                continue
            components = json.loads(shown["healthz"])["components"]
            if {components[name]["state"] for name in ("otlp", "kafka.states")} == {"degraded"}:
                break
        wait_for_record(port)
        until_failures(port, 15)  # so that a text was cut at several places
        shown |= {page: ask(port, page) for page in PAGES}
        shown["ps"] = Path(f"/proc/{process.process.pid}/cmdline").read_text()
        process.process.terminate()
        process.process.wait(180)
    shown["stderr"] = process.stderr.read_text()
    shown["stdout"] = process.stdout.read_text()
    return shown


def wait_for_record(port: int) -> None:
    """Wait until the agent's own record shows `degraded`, as /healthz does."""
    deadline_s = time.monotonic() + 240
    while json.loads(ask(port, "status"))["agent"]["state"] != "degraded":
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def until_failures(port: int, cycles: int) -> None:
    """Wait until that many OTLP cycles have failed."""
    deadline_s = time.monotonic() + 240
    while int(json.loads(ask(port, "status"))["agent"]["counters"].get("otlp_cycles_skipped", 0)) < cycles:
        assert time.monotonic() < deadline_s
        shown = ask(port, "healthz")
        assert "geheim" not in shown, shown
        time.sleep(0.02)


def ask(port: int, page: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=60) as answer:
        return answer.read().decode()
