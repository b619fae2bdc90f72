"""OTLP backends that answer anything: proper answers with parts replaced, cut, repeated, inflated or delayed.

A seed and the answer's number determine each answer. The exporter under test runs in a separate process,
which reports the results of its cycles and its peak memory.
"""

import gzip
import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsPartialSuccess,
    ExportMetricsServiceResponse,
)

from tests.integration.otlp_backends import EveryCall, listening

STATUSES = (
    *(200,) * 20,
    *(202, 204, 206, 100, 103, 301, 304, 400, 401, 403, 404, 407, 411, 413, 415, 422),
    *(429, 500, 502, 503, 504, 599, 999, 0, 1000),
)
RETRY_AFTER = (
    "0",
    "1",
    "-1",
    "1e9",
    "9" * 400,
    "nan",
    "inf",
    "٣",
    "",
    "Thu, 01 Jan 1970 00:00:00 GMT",
    "soon, 1",
)
KINDS = (
    "application/x-protobuf",
    "application/x-protobuf",
    "text/plain",
    "text/plain; charset=utf-99",
    "\xff",
)
LIMIT_BYTES = 128 * 2**20  # of memory; the libraries alone use up to 60 MiB


@cache
def bomb(mebibytes: int) -> bytes:
    """Return that many mebibytes of zeros, compressed."""
    return gzip.compress(bytes(mebibytes * 2**20), 9)


def partial(chance: random.Random) -> bytes:
    """Return a serialized response, valid or almost valid."""
    rejected = chance.choice((0, 0, 1, 5, 10**6, -1, -(2**63), 2**63 - 1))
    text = chance.choice(("", "bad points", "x" * 50_000, "\n\r\x00\u202e" * 50))
    message = ExportMetricsServiceResponse(
        partial_success=ExportMetricsPartialSuccess(rejected_data_points=rejected, error_message=text)
    ).SerializeToString()
    match chance.randrange(6):
        case 0:
            return message[: chance.randrange(len(message) + 1)]
        case 1:
            return message + chance.randbytes(chance.randrange(40))
        case 2:
            return chance.randbytes(chance.randrange(200))
        case _:
            return message


def http_answer(chance: random.Random) -> tuple[Sequence[bytes], bool]:
    """Return the pieces of an answer, and whether the connection is kept."""
    status, body = chance.choice(STATUSES), partial(chance)
    version = chance.choice((*("HTTP/1.1",) * 12, "HTTP/1.0", "HTTP/2", "ICY", ""))
    reason = chance.choice((*("OK", "", "No Way") * 4, "x" * 70_000, "a\x00b"))
    headers = [f"Content-Type: {chance.choice(KINDS)}"]
    if chance.random() < 0.3:
        headers.append(f"Retry-After: {chance.choice(RETRY_AFTER)}")
    if chance.random() < 0.1:
        headers.append("Content-Encoding: gzip")
        body = chance.choice((bomb(300), bomb(300)[:5000], gzip.compress(body)))
    if chance.random() < 0.1:
        headers += [
            f"X-{n}: {'y' * chance.choice((1, 900))}" for n in range(chance.choice((3, 99, 101, 400)))
        ]
    if chance.random() < 0.05:
        headers.append(
            chance.choice((": none", "no colon", "\tfolded", "Set-Cookie: a=b", "Location: http://x/"))
        )
    keep = chance.random() < 0.8
    match chance.randrange(8):
        case 0:
            size = chance.choice((b"0", b"-5", b"ffffffffff", b"zz", b"%x" % len(body)))
            body = size + b"\r\n" + body + b"\r\n" + chance.choice((b"0\r\n\r\n", b"", b"0\r\nT: x\r\n" * 50))
            headers.append("Transfer-Encoding: chunked")
        case 1:
            headers.append(f"Content-Length: {chance.choice((len(body) + 9, 2**30, -1, 'ten', 0))}")
            keep = False
        case 2:
            keep = False  # until the connection ends
        case _:
            headers.append(f"Content-Length: {len(body)}")
    status_line = f"{version} {status} {reason}".strip()
    head = "\r\n".join((status_line, *headers, "", "")).encode("utf-8", "replace")
    answer = head + body
    match chance.randrange(40):
        case 0:
            return [answer[: chance.randrange(len(answer))]], False
        case 1:
            return [chance.randbytes(chance.randrange(300))], False
        case 2:
            return [b"HTTP/1.1 100 Continue\r\n\r\n" * chance.choice((1, 3, 20_000)), answer], keep
        case 3:
            return [], False
        case 4:
            return [
                answer[n : n + 1] for n in range(min(len(answer), 30))
            ], False  # byte by byte, then the end
        case _:
            return [answer], keep


@dataclass(frozen=True)
class GrpcAnswer:
    """The answer to a call: a message, or a status."""

    body: bytes
    code: grpc.StatusCode
    details: str
    trailers: tuple[tuple[str, str | bytes], ...]
    compressed: bool


def grpc_answer(chance: random.Random) -> GrpcAnswer:
    """Return an answer over gRPC."""
    body = chance.choice((partial(chance), partial(chance), bytes(2 * 2**20), bytes(15 * 2**10)))
    codes = (*(grpc.StatusCode.OK,) * 16, *grpc.StatusCode)
    trailers: list[tuple[str, str | bytes]] = []
    if chance.random() < 0.5:
        delay = chance.choice(
            (b"", b"\xff\xff\xff", b"\x0a\x02\x08\x00", b"\x0a\x0b\x08" + b"\xff" * 9 + b"\x01")
        )
        trailers.append(
            ("google.rpc.retryinfo-bin", chance.choice((delay, chance.randbytes(20), bytes(6000))))
        )
    if chance.random() < 0.1:
        trailers += [(f"x-{n}", "y" * 400) for n in range(chance.choice((2, 15, 200)))]
    details = chance.choice(("", "no", "x" * 3000, "a\nb\x07", "token \u202e"))
    return GrpcAnswer(body, chance.choice(codes), details, tuple(trailers), chance.random() < 0.3)


Numbers = Iterator[int | None]
"""The numbers of a backend's answers. `None` selects a proper answer."""

_PROPER = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n"


@contextmanager
def http_backend(seed: int, numbers: Numbers | None = None) -> Generator[str]:
    """A backend over HTTP; yields its endpoint."""
    numbers = numbers or count()
    bomb(300)  # made before the first request, which has a timeout

    def serve(connection: socket.socket) -> None:
        with connection:
            while _request(connection):
                number = next(numbers)
                if number is None:
                    connection.sendall(_PROPER)
                    continue
                pieces, keep = http_answer(random.Random(f"{seed}-{number}"))
                for piece in pieces:
                    connection.sendall(piece)
                    if len(pieces) > 2:
                        time.sleep(0.001)
                if not keep:
                    return

    with listening(serve, backlog=64) as port:
        yield f"http://127.0.0.1:{port}"


@contextmanager
def grpc_backend(seed: int, numbers: Numbers | None = None) -> Generator[str]:
    """A backend over gRPC; yields its endpoint."""
    numbers = numbers or count()

    def export(_request: bytes, context: Any) -> bytes:
        number = next(numbers)
        if number is None:
            return b""
        answer = grpc_answer(random.Random(f"{seed}-{number}"))
        context.set_trailing_metadata(answer.trailers)
        if answer.compressed:
            context.set_compression(grpc.Compression.Gzip)
        context.set_code(answer.code)
        context.set_details(answer.details)
        return answer.body

    pool = ThreadPoolExecutor(4)
    server = grpc.server(pool)
    server.add_generic_rpc_handlers((EveryCall(export),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop(0).wait(30)
        pool.shutdown()


@contextmanager
def http2_errors(seed: int) -> Generator[str]:
    """A peer that ends each connection (GOAWAY) or request (RST_STREAM) with any error code."""
    numbers = count()

    def serve(connection: socket.socket) -> None:
        chance = random.Random(f"{seed}-{next(numbers)}")
        with connection:
            connection.recv(4096)
            connection.sendall(b"\0\0\0\4\0\0\0\0\0")  # SETTINGS
            code = chance.choice((chance.randrange(14), chance.randrange(14, 2**32))).to_bytes(4, "big")
            reset = b"\0\0\4\3\0\0\0\0\1" + code
            goaway = b"\0\0\x08\7\0\0\0\0\0" + b"\0\0\0\1" + code
            connection.sendall(chance.choice((reset, goaway, reset + goaway)))
            connection.recv(4096)

    with listening(serve, backlog=64) as port:
        yield f"http://127.0.0.1:{port}"


@contextmanager
def http2_refusals(_seed: int) -> Generator[str]:
    """A peer that ends each connection with a GOAWAY that allows the client to send the request again."""

    def serve(connection: socket.socket) -> None:
        with connection:
            connection.recv(4096)
            connection.sendall(b"\0\0\0\4\0\0\0\0\0")  # SETTINGS
            refused_stream = (7).to_bytes(4, "big")
            connection.sendall(b"\0\0\x08\7\0\0\0\0\0" + b"\0\0\0\1" + refused_stream)
            connection.recv(4096)

    with listening(serve, backlog=64) as port:
        yield f"http://127.0.0.1:{port}"


@contextmanager
def http2_floods() -> Generator[str]:
    """A peer that accepts a connection's first request, then floods it with frames that need no answer."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(b"\0\0\0\4\0\0\0\0\0")  # SETTINGS
        received = b""
        while b"\1\4\0\0\0\1" not in received:  # HEADERS of the first stream
            received += connection.recv(4096)
        connection.sendall(b"\0\0\x14\1\4\0\0\0\1\x88\x0f\x10\x10application/grpc")
        connection.sendall(b"\0\0\5\0\0\0\0\0\1" + bytes(5))  # an empty message
        connection.sendall(b"\0\0\x0f\1\5\0\0\0\1\0\x0bgrpc-status\x010")
        acknowledgment = b"\0\0\x08\6\1\0\0\0\0" + bytes(8)  # of a PING that was never sent
        while True:
            connection.sendall(acknowledgment * 10_000)

    with listening(serve, backlog=64) as port:
        yield f"http://127.0.0.1:{port}"


@contextmanager
def http2_garbage(seed: int) -> Generator[str]:
    """A peer that answers with truncated, oversized or meaningless HTTP/2 frames, and then may reset."""
    numbers = count()

    def serve(connection: socket.socket) -> None:
        chance = random.Random(f"{seed}-{next(numbers)}")
        with connection:
            connection.recv(4096)
            connection.sendall(b"\0\0\0\4\0\0\0\0\0" * chance.choice((0, 1, 1, 2)))
            for _ in range(chance.randrange(5)):
                size, kind = chance.choice((0, 5, 8, 16_384, 2**24 - 1)), chance.randrange(12)
                stream = chance.choice((0, 1, 1, 3, 2**31 - 1)).to_bytes(4, "big")
                frame = size.to_bytes(3, "big") + bytes([kind, chance.randrange(256)]) + stream
                connection.sendall(frame + chance.randbytes(min(size, 20_000)))
            if chance.random() < 0.5:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with listening(serve, backlog=64) as port:
        yield f"http://127.0.0.1:{port}"


def _request(connection: socket.socket) -> bool:
    received = b""
    while b"\r\n\r\n" not in received:
        part = connection.recv(65_536)
        if not part:
            return False
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < size:
        part = connection.recv(65_536)
        if not part:
            return False
        body += part
    return True


_SENDS_LOGS = """
import sys
from dataclasses import replace
import anyio
from agent.contract.encode import Mode, as_log, encode_state
from agent.errors import SinkUnavailable
from agent.sinks import otlp_logs
from agent.sinks.otlp_settings import Settings
from tests.unit.sinks.views import AGENT, view

endpoint, protocol, answers = sys.argv[1], sys.argv[2], int(sys.argv[3])
otlp_logs.RETRY_UNSUPPORTED_S = 0.0
failed = settled = wrong = 0
longest = ""

async def main():
    global failed, settled, wrong, longest
    chosen = Settings(endpoint=endpoint, protocol=protocol, signal="logs", timeout_s=0.3)
    sink = otlp_logs.OtlpLogsSink(chosen, AGENT)
    for number in range(1, answers + 1):
        events = [replace(view().state, sequence=2 * number + each) for each in range(2)]
        try:
            receipt = await sink.send([as_log(encode_state(each, AGENT, Mode.BINARY)) for each in events])
        except SinkUnavailable as error:
            failed += 1
            longest = max(longest, str(error), key=len)
            wrong += "internal error" in str(error) or not str(error)
        else:
            settled += 1
            wrong += not 0 <= len(receipt.refused) + sum(receipt.lost.values()) <= 2
    await sink.aclose()

anyio.run(main)
"""
_SENDS_METRICS = """
import sys
from agent.sinks.otlp_cycle import Cycle, CycleEnd, run_cycle
from agent.sinks.otlp_exporter import open_exporter
from agent.sinks.otlp_settings import Settings
from agent.sinks import otlp_points
from tests.unit.sinks.views import AGENT, sample, view

endpoint, protocol, answers = sys.argv[1], sys.argv[2], int(sys.argv[3])
exporter = open_exporter(Settings(endpoint=endpoint, protocol=protocol, timeout_s=0.3))
failed = settled = wrong = 0
longest = ""
for number in range(answers):
    cycle = Cycle([view(sample())], {}, 1_795_500_000 * 10**9)
    *reports, end = run_cycle(cycle, exporter, AGENT, "points", lambda: False)
    assert isinstance(end, CycleEnd)
    counted = sum(report.points_sent + sum(report.points_refused.values()) for report in reports)
    if end.failure is not None:
        failed += 1
        longest = max(longest, end.failure.detail, key=len)
        wrong += "internal error" in end.failure.detail or not end.failure.detail
    settled += bool(counted)
    wrong += counted not in (0, points) if number else 0
    wrong += any(report.points_sent < 0 for report in reports)
    points = counted or (points if number else 0) or POINTS
exporter.shutdown()
"""
_RESULT = """
import json
from pathlib import Path
# Not ru_maxrss, which a process inherits from the one that started it.
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
peak = int(status["VmHWM"].split()[0])
print(json.dumps({"failed": failed, "settled": settled, "wrong": wrong, "longest": len(longest),
                  "peak_bytes": peak * 1024}))
"""


@dataclass(frozen=True)
class Result:
    """The results of the cycles of one run."""

    failed: int
    settled: int  # cycles that counted points
    wrong: int  # cycles that counted another number of points than there were, or crashed
    longest: int  # characters of the longest reason
    peak_bytes: int  # of resident memory


def run(endpoint: str, protocol: str, answers: int, timeout_s: float, *, logs: bool = False) -> Result:
    """Run `answers` cycles of one VM, or batches of two log records, in a separate process."""
    from tests.unit.sinks.views import AGENT, sample, view

    points = _points_of_a_cycle(AGENT, view(sample()))
    program = (_SENDS_LOGS if logs else _SENDS_METRICS.replace("POINTS", str(points))) + _RESULT
    argv = [sys.executable, "-c", program, endpoint, protocol, str(answers)]
    ended = subprocess.run(
        argv, capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "\N{REPLACEMENT CHARACTER}" not in ended.stderr, ended.stderr  # bytes of the backend
    return Result(**json.loads(ended.stdout.splitlines()[-1]))


def _points_of_a_cycle(agent: Any, one: Any) -> int:
    from agent.contract.targets import targets
    from agent.sinks import otlp_points

    (target,) = targets([one], agent)
    built = otlp_points.build(
        target, otlp_points.NOTHING_SENT, agent, "points", 1_795_500_000 * 10**9, room_for_others=0
    )
    return built.points + sum(built.left_out.values())
