"""Tests of calls to gRPC's own server, and to peers that send HTTP/2 frames of a test's choice."""

import socket
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.client import HTTPException
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sinks import grpc_call, otlp_failures
from agent.sinks.grpc_answer import PREFIX, Code, GrpcAnswer, decode
from agent.sinks.grpc_call import ANSWER_BYTES_MAX, GrpcClient
from agent.sinks.http_connection import AttemptFailed, Stage
from agent.sinks.otlp_settings import Settings
from tests.integration.otlp_backends import EveryCall, listening

METHOD = "/test.Service/Call"
SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 4, 6, 7, 8, 9
HEADERS, DATA, PRIORITY, RST_STREAM, PUSH_PROMISE, UNKNOWN = 1, 0, 2, 3, 5, 200
END_HEADERS, END_STREAM, ACK = 4, 1, 1
OK_HEADERS = b"\x88\x0f\x10\x10application/grpc"
OK_TRAILERS = b"\0\x0bgrpc-status\x010"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def header(name: str, value: str) -> bytes:
    """Return a literal header of HPACK that is not indexed."""
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def accepted(stream: int, message: bytes = b"") -> bytes:
    body = PREFIX.pack(False, len(message)) + message
    return (
        frame(HEADERS, END_HEADERS, stream, OK_HEADERS)
        + frame(DATA, 0, stream, body)
        + frame(HEADERS, END_HEADERS | END_STREAM, stream, OK_TRAILERS)
    )


def no_tls() -> tuple[None, ssl.SSLContext]:
    raise AssertionError("TLS must not be used here")


def no_stage(_: Stage) -> None:
    return


@contextmanager
def client_of(
    port: int, stages: list[Stage] | None = None, proxy: str | None = None
) -> Generator[GrpcClient]:
    settings = Settings(endpoint=f"http://127.0.0.1:{port}", protocol="grpc", proxy=proxy)
    at = no_stage if stages is None else stages.append
    with closing(GrpcClient(otlp_failures.target(settings), METHOD, no_tls, at)) as client:
        yield client


class Peer:
    """The server's side of a connection: it reads requests, and sends the frames of a test."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._received = b""
        self._preface = 24
        connection.sendall(frame(SETTINGS, 0, 0))

    def request(self) -> int:
        """Return the stream of the next request, once its headers have arrived."""
        while True:
            kind, stream, _ = self.next_frame()
            if kind == HEADERS:
                return stream

    def next_frame(self) -> tuple[int, int, bytes]:
        start = self._preface
        while len(self._received) < start + 9:
            self._read()
        size = int.from_bytes(self._received[start : start + 3], "big")
        while len(self._received) < start + 9 + size:
            self._read()
        head, payload = self._received[start : start + 9], self._received[start + 9 : start + 9 + size]
        self._received, self._preface = self._received[start + 9 + size :], 0
        return head[3], int.from_bytes(head[5:9], "big"), payload

    def send(self, *frames: bytes) -> None:
        self.connection.sendall(b"".join(frames))

    def _read(self) -> None:
        data = self.connection.recv(65_536)
        if not data:
            raise ConnectionError
        self._received += data


@contextmanager
def peer_of(*scripts: Callable[[Peer], None]) -> Generator[tuple[GrpcClient, list[int]]]:
    """Yield a client of a peer that runs the next script on each connection, and one item per connection."""
    left, connections = list(scripts), list[int]()

    def serve(connection: socket.socket) -> None:
        connections.append(1)
        left.pop(0)(Peer(connection))

    with listening(serve) as port, client_of(port) as client:
        yield client, connections


def answers(*frames_of: Callable[[int], bytes]) -> Callable[[Peer], None]:
    """Return a script that answers each request with the next of these functions."""

    def script(peer: Peer) -> None:
        for of in frames_of:
            peer.send(of(peer.request()))
        while True:
            peer.next_frame()

    return script


@contextmanager
def server_of(
    handle: Callable[[bytes, Any], bytes], options: Sequence[tuple[str, int]] = ()
) -> Generator[int]:
    """Run gRPC's own server; yield its port."""
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool, options=list(options))
        server.add_generic_rpc_handlers((EveryCall(handle),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield port
        finally:
            server.stop(0).wait(30)


# --- gRPC's own server ---


def test_a_message_arrives_with_its_headers_and_the_answer_is_returned() -> None:
    seen: list[tuple[bytes, dict[str, str], float]] = []

    def handle(message: bytes, context: Any) -> bytes:
        metadata = {str(name): str(value) for name, value in context.invocation_metadata()}
        seen.append((message, metadata, context.time_remaining()))
        return b"answer"

    with server_of(handle) as port, client_of(port) as client:
        answer = client.call(b"question", {"user-agent": "barograph", "x-tenant": "one"}, 30.0)

    assert (answer.code, answer.message) == (Code.OK, b"answer")
    ((message, metadata, left_s),) = seen
    assert message == b"question"
    assert (metadata["user-agent"], metadata["x-tenant"]) == ("barograph", "one")
    assert 0 < left_s <= 30


def test_a_long_message_waits_for_the_servers_windows() -> None:
    message = bytes(range(256)) * 12_000
    lengths: list[int] = []

    def handle(message: bytes, _: Any) -> bytes:
        lengths.append(len(message))
        return b""

    with server_of(handle, [("grpc.max_receive_message_length", -1)]) as port, client_of(port) as client:
        answers = [client.call(message, {}, 60.0) for _ in range(2)]

    assert [each.code for each in answers] == [Code.OK] * 2
    assert lengths == [len(message)] * 2


def test_one_connection_serves_many_calls_and_long_answers() -> None:
    with server_of(lambda *_: bytes(40_000)) as port:
        stages: list[Stage] = []
        with client_of(port, stages) as client:
            answers = [client.call(b"", {}, 30.0) for _ in range(20)]

    assert {(each.code, len(each.message)) for each in answers} == {(Code.OK, 40_000)}
    assert stages.count(Stage.CONNECT) == 1


def test_a_compressed_message_is_declared() -> None:
    import gzip

    with server_of(lambda message, _: message[::-1]) as port, client_of(port) as client:
        answer = client.call(gzip.compress(b"abc"), {}, 30.0, is_gzip=True)

    assert answer.message == b"cba"


def test_a_refusal_has_its_code_its_text_and_its_trailers() -> None:
    def handle(_: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("x-some-bin", b"\0\xff"),))
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "kein Zutritt: 100 % ü")
        raise AssertionError

    with server_of(handle) as port, client_of(port) as client:
        answer = client.call(b"", {}, 30.0)

    assert answer.code is Code.UNAUTHENTICATED
    assert answer.details == "kein Zutritt: 100 % ü"
    assert answer.binary("x-some-bin") == b"\0\xff"
    assert answer.binary("y-absent-bin") == b""


def test_a_server_that_ends_between_two_calls_makes_no_call_fail() -> None:
    stages: list[Stage] = []
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    with client_of(port, stages) as client:
        for _ in range(2):
            with ThreadPoolExecutor(1) as pool:
                server = grpc.server(pool)
                server.add_generic_rpc_handlers((EveryCall(lambda *_: b""),))
                server.add_insecure_port(f"127.0.0.1:{port}")
                server.start()
                assert client.call(b"", {}, 30.0).code is Code.OK
                server.stop(0).wait(30)

    assert stages.count(Stage.CONNECT) == 2


def test_a_proxy_passes_on_the_connection_even_without_tls() -> None:
    asked: list[bytes] = []

    def handle(_: bytes, context: Any) -> bytes:
        return context.peer().encode()

    with server_of(handle) as port:

        def serve(connection: socket.socket) -> None:
            asked.append(connection.recv(65_536))
            with socket.create_connection(("127.0.0.1", port)) as onward:
                connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                threading.Thread(target=copy, args=(onward, connection), daemon=True).start()
                copy(connection, onward)

        with listening(serve) as proxy_port:
            proxy = f"http://user:secret@127.0.0.1:{proxy_port}"
            with client_of(port, proxy=proxy) as client:
                assert client.call(b"", {}, 30.0).code is Code.OK

    assert asked[0].startswith(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n".encode())
    assert b"Proxy-Authorization: Basic dXNlcjpzZWNyZXQ=\r\n" in asked[0]


def copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while part := source.recv(65_536):
            target.sendall(part)
    except OSError:
        pass


# --- the end of a connection ---


def test_a_connection_that_is_being_shut_down_still_answers() -> None:
    def gracefully(stream: int) -> bytes:
        both = frame(GOAWAY, 0, 0, (2**31 - 1).to_bytes(4, "big") + bytes(4)) + frame(PING, 0, 0, bytes(8))
        return both + accepted(stream) + frame(GOAWAY, 0, 0, stream.to_bytes(4, "big") + bytes(4))

    with peer_of(answers(gracefully), answers(accepted)) as (client, connections):
        assert client.call(b"", {}, 30.0).code is Code.OK
        assert client.call(b"", {}, 30.0).code is Code.OK

    assert len(connections) == 2


def test_a_call_that_the_server_does_not_process_is_repeated_on_another_connection() -> None:
    def refused(stream: int) -> bytes:
        return frame(GOAWAY, 0, 0, (stream - 2).to_bytes(4, "big") + bytes(4))

    with peer_of(answers(accepted, refused), answers(accepted)) as (client, connections):
        assert client.call(b"", {}, 30.0).code is Code.OK
        assert client.call(b"", {}, 30.0).code is Code.OK

    assert len(connections) == 2


def test_a_server_that_shuts_each_connection_down_is_tried_once() -> None:
    def shut(_: int) -> bytes:
        return frame(GOAWAY, 0, 0, bytes(8))

    with peer_of(answers(shut)) as (client, connections), pytest.raises(AttemptFailed) as failed:
        client.call(b"", {}, 30.0)

    assert len(connections) == 1
    assert "ended the connection" in str(failed.value)


def test_a_kept_connection_that_sends_nonsense_is_replaced() -> None:
    with peer_of(
        answers(lambda stream: accepted(stream) + frame(DATA, 0, stream + 40, b"x")), answers(accepted)
    ) as (client, connections):
        assert client.call(b"", {}, 30.0).code is Code.OK
        assert client.call(b"", {}, 30.0).code is Code.OK

    assert len(connections) == 2


def test_an_answer_before_the_whole_message_has_been_sent_counts() -> None:
    def early(stream: int) -> bytes:
        refusal = OK_HEADERS + header("grpc-status", "8") + header("grpc-message", "too%20large")
        return frame(HEADERS, END_HEADERS | END_STREAM, stream, refusal)

    with peer_of(answers(early), answers(accepted)) as (client, connections):
        answer = client.call(bytes(1_000_000), {}, 30.0)
        assert client.call(b"", {}, 30.0).code is Code.OK

    assert answer.code is Code.RESOURCE_EXHAUSTED
    assert answer.details == "too large"
    assert len(connections) == 2  # the rest of the message was not sent on the first one


def test_a_call_is_not_accepted_before_the_whole_message_has_been_sent() -> None:
    with peer_of(answers(accepted)) as (client, _):
        answer = client.call(bytes(1_000_000), {}, 30.0)

    assert answer.code is Code.UNKNOWN
    assert "before it got the whole message" in answer.details


def test_nothing_that_a_server_sends_through_a_tunnel_at_once_is_lost() -> None:
    """A server may send its settings and a larger window before the first byte of the client."""

    def serve(connection: socket.socket) -> None:
        connection.recv(65_536)
        window = frame(WINDOW_UPDATE, 0, 0, (1 << 24).to_bytes(4, "big"))
        settings = frame(SETTINGS, 0, 0, b"\0\4" + (1 << 24).to_bytes(4, "big"))
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n" + settings + window)
        peer = Peer(connection)
        stream, received = peer.request(), 0
        while received < 1_000_005:
            kind, _, payload = peer.next_frame()
            received += len(payload) if kind == DATA else 0
        peer.send(accepted(stream))
        peer.next_frame()

    with listening(serve) as port, client_of(1, proxy=f"http://127.0.0.1:{port}") as client:
        assert client.call(bytes(1_000_000), {}, 30.0).code is Code.OK


def test_a_connection_is_replaced_after_many_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_call, "_CALLS_MAX", 3)
    stages: list[Stage] = []
    with server_of(lambda *_: b"") as port, client_of(port, stages) as client:
        for _ in range(7):
            assert client.call(b"", {}, 30.0).code is Code.OK

    assert stages.count(Stage.CONNECT) == 3


# --- peers that send without end ---

BIG_ENTRY = b"\x40\x03x-a\x7f\xa1\x1e" + b"y" * 4000
FLOODS: dict[str, Callable[[int], tuple[bytes, bytes]]] = {  # sent first, and sent repeatedly
    "ping": lambda _: (b"", frame(PING, 0, 0, bytes(8)) * 500),
    "ping answers": lambda _: (b"", frame(PING, ACK, 0, bytes(8)) * 500),
    "settings": lambda _: (b"", frame(SETTINGS, 0, 0, b"\0\1\0\0\0\0") * 500),
    "window updates": lambda _: (b"", frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1") * 500),
    "priorities": lambda _: (b"", frame(PRIORITY, 0, 41, bytes(5)) * 500),
    "unknown frames": lambda _: (b"", frame(UNKNOWN, 0, 0, bytes(16_000))),
    "resets of other calls": lambda _: (b"", frame(RST_STREAM, 0, 41, bytes(4)) * 500),
    "promises": lambda stream: (b"", frame(PUSH_PROMISE, END_HEADERS, stream, b"\0\0\0\2\x88") * 500),
    "headers of headers": lambda stream: (
        frame(HEADERS, 0, stream, b"\x88"),
        frame(CONTINUATION, 0, stream, header("x-a", "abc") * 1000),
    ),
    "empty headers": lambda stream: (
        frame(HEADERS, 0, stream, b"\x88"),
        frame(CONTINUATION, 0, stream) * 500,
    ),
    "headers that unpack": lambda stream: (
        frame(HEADERS, 0, stream, b"\x88" + BIG_ENTRY),
        frame(CONTINUATION, 0, stream, b"\xbe" * 16_000),
    ),
    "headers again": lambda stream: (
        frame(HEADERS, END_HEADERS, stream, b"\x88" + BIG_ENTRY),
        frame(HEADERS, END_HEADERS, stream, b"\xbe" * 16_000),
    ),
    "empty data": lambda stream: (
        frame(HEADERS, END_HEADERS, stream, OK_HEADERS),
        frame(DATA, 0, stream) * 500,
    ),
    "data": lambda stream: (
        frame(HEADERS, END_HEADERS, stream, OK_HEADERS),
        frame(DATA, 0, stream, bytes(16_000)),
    ),
    "a long frame": lambda _: (b"\xff\xff\xff\xc8\0\0\0\0\0", bytes(16_000)),
}


@pytest.mark.parametrize("name", FLOODS)
def test_endless_data_of_a_server_is_read_up_to_the_bound(name: str) -> None:
    sent = 0

    def flood(peer: Peer) -> None:
        nonlocal sent
        first, again = FLOODS[name](peer.request())
        peer.send(first)
        peer.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
        while True:
            sent += peer.connection.send(again)

    with peer_of(flood, answers(accepted)) as (client, _):
        began_s = time.process_time()
        with pytest.raises(AttemptFailed) as failed:
            client.call(b"", {}, 60.0)
        assert time.process_time() - began_s < 5.0
        assert client.call(b"", {}, 60.0).code is Code.OK

    assert "does not answer in gRPC" in str(failed.value) or "ended the connection" in str(failed.value)


def test_between_two_calls_nothing_is_read() -> None:
    stopped, over = threading.Event(), threading.Event()

    def flood(peer: Peer) -> None:
        peer.send(accepted(peer.request()))
        peer.connection.settimeout(0.5)
        try:
            while True:
                peer.send(frame(PING, ACK, 0, bytes(8)) * 500)
        except TimeoutError:
            stopped.set()
            over.wait(60)

    with peer_of(flood, answers(accepted)) as (client, connections):
        assert client.call(b"", {}, 60.0).code is Code.OK
        assert stopped.wait(60)
        assert client.call(b"", {}, 60.0).code is Code.OK
        over.set()

    assert len(connections) == 2


def test_unknown_settings_cost_nothing_later() -> None:
    def unknown(number: int) -> Callable[[int], bytes]:
        pairs = b"".join(each.to_bytes(2, "big") + bytes(4) for each in range(100 + number, 65_000, 7))
        frames = [frame(SETTINGS, 0, 0, pairs[at : at + 15_000]) for at in range(0, len(pairs), 15_000)]
        return lambda stream: b"".join(frames) + accepted(stream)

    def empty(stream: int) -> bytes:
        return frame(SETTINGS, 0, 0) * 6_000 + accepted(stream)

    with peer_of(answers(*(unknown(number) for number in range(7)), empty)) as (client, connections):
        for _ in range(7):
            assert client.call(b"", {}, 60.0).code is Code.OK
        began_s = time.process_time()
        assert client.call(b"", {}, 60.0).code is Code.OK
        took_s = time.process_time() - began_s

    assert len(connections) == 1
    assert took_s < 1.5


@pytest.mark.parametrize("piece", [b"", frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1")], ids=["silent", "trickling"])
def test_a_call_ends_at_its_deadline(piece: bytes) -> None:
    over = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        while not over.wait(0.05):
            peer.send(piece)

    with peer_of(script) as (client, _):
        began_s = time.monotonic()
        with pytest.raises(AttemptFailed) as failed:
            client.call(b"", {}, 0.6)
        took_s = time.monotonic() - began_s
        over.set()

    assert 0.5 < took_s < 20
    assert "otlp.timeout: no complete answer" in str(failed.value)


def test_a_server_without_a_window_gets_no_message() -> None:
    def script(peer: Peer) -> None:
        peer.send(frame(SETTINGS, 0, 0, b"\0\4\0\0\0\0"))
        while True:
            peer.next_frame()

    with peer_of(script) as (client, _), pytest.raises(AttemptFailed) as failed:
        client.call(bytes(200_000), {}, 0.6)

    assert "otlp.timeout" in str(failed.value)


def test_a_server_that_speaks_http_1_is_reported() -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")

    with listening(serve) as port, client_of(port) as client, pytest.raises(AttemptFailed) as failed:
        client.call(b"", {}, 30.0)

    assert "does not answer in gRPC" in str(failed.value)
    assert "set otlp.protocol: http" in str(failed.value)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (7, Code.UNAVAILABLE),
        (8, Code.CANCELLED),
        (11, Code.RESOURCE_EXHAUSTED),
        (2, Code.INTERNAL),
        (99, Code.INTERNAL),
    ],
)
def test_a_call_that_is_reset_has_a_code(error: int, code: Code) -> None:
    reset = error.to_bytes(4, "big")
    with peer_of(answers(lambda stream: frame(RST_STREAM, 0, stream, reset))) as (client, _):
        answer = client.call(b"", {}, 30.0)

    assert answer.code is code
    assert f"HTTP/2 error {error}" in answer.details


frames = st.tuples(
    st.sampled_from((*range(10), UNKNOWN)),
    st.integers(0, 255),
    st.sampled_from((0, 1, 2, 3)),
    st.binary(max_size=40),
).map(lambda parts: frame(*parts))


@given(st.lists(st.one_of(frames, st.binary(max_size=20), st.just(accepted(1))), max_size=8))
def test_any_frames_are_an_answer_or_a_failed_attempt(sent: list[bytes]) -> None:
    mine, theirs = socket.socketpair()

    class Given(GrpcClient):
        def __init__(self) -> None:
            settings = Settings(endpoint="http://127.0.0.1:1", protocol="grpc")
            super().__init__(otlp_failures.target(settings), METHOD, no_tls, no_stage)
            self._server._connection = mine

    with mine, theirs:
        theirs.sendall(frame(SETTINGS, 0, 0) + b"".join(sent))
        theirs.shutdown(socket.SHUT_WR)
        try:
            answer = Given().call(b"message", {}, 10.0)
        except AttemptFailed:
            return

    assert isinstance(answer, GrpcAnswer)


# --- decoding ---


@pytest.mark.parametrize(
    ("headers", "trailers", "code", "details"),
    [
        ({":status": "200"}, {"grpc-status": "12"}, Code.UNIMPLEMENTED, ""),
        ({":status": "200"}, {"grpc-status": "0"}, Code.INTERNAL, "the answer has no message"),
        ({":status": "503", "content-type": "text/html"}, {}, Code.UNAVAILABLE, "HTTP 503"),
        ({":status": "503"}, {"grpc-status": "0"}, Code.UNAVAILABLE, "HTTP 503"),
        ({":status": "503"}, {"grpc-status": "7"}, Code.PERMISSION_DENIED, ""),
        ({":status": "418"}, {}, Code.UNKNOWN, "HTTP 418"),
        ({":status": "200"}, {"grpc-status": "99"}, Code.UNKNOWN, ""),
        ({":status": "200"}, {"grpc-status": "-1"}, Code.UNKNOWN, ""),
        ({":status": "200"}, {"grpc-status": "²"}, Code.UNKNOWN, ""),
        ({":status": "200"}, {"grpc-status": "13, 0"}, Code.UNKNOWN, ""),
        (
            {":status": "200", "content-type": "application/grpc", "grpc-status": "0"},
            {},
            Code.UNKNOWN,
            "the answer has no grpc-status",
        ),
    ],
)
def test_each_answer_has_a_code(
    headers: dict[str, str], trailers: dict[str, str], code: Code, details: str
) -> None:
    answer = decode(headers, trailers, b"")

    assert (answer.code, answer.details) == (code, details)


def test_a_call_that_was_reset_is_not_accepted_whatever_came_before() -> None:
    answer = decode({":status": "200"}, {"grpc-status": "0"}, PREFIX.pack(False, 0), reset_code=7)

    assert answer.code is Code.UNAVAILABLE


def test_an_answer_of_another_content_type_is_not_grpc() -> None:
    with pytest.raises(HTTPException):
        decode({":status": "200", "content-type": "text/html"}, {}, b"<html>")


@pytest.mark.parametrize("body", [b"\0\0", PREFIX.pack(True, 3) + b"abc", PREFIX.pack(False, 4) + b"abc"])
def test_a_message_that_is_compressed_or_broken_is_lost_and_the_status_counts(body: bytes) -> None:
    answer = decode({":status": "200"}, {"grpc-status": "0"}, body)

    assert (answer.code, answer.message) == (Code.OK, b"")


def test_a_binary_trailer_needs_no_padding() -> None:
    for value in (b"a", b"ab", b"abc", b""):
        encoded = b64encode(value).decode().rstrip("=")
        assert GrpcAnswer(Code.OK, trailers={"x-bin": encoded}).binary("x-bin") == value
    assert GrpcAnswer(Code.OK, trailers={"x-bin": "a"}).binary("x-bin") == b""


def test_an_answer_may_be_as_long_as_the_bound() -> None:
    message = bytes(ANSWER_BYTES_MAX - 1000)
    with server_of(lambda *_: message) as port, client_of(port) as client:
        assert client.call(b"", {}, 30.0).message == message
