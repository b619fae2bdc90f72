"""Unary calls over gRPC, with answers that are bounded in size and time.

gRPC's own library reads all that a server sends in threads of its own, also between two calls, and has no
bound for headers and frames without content. Here a call reads up to `ANSWER_BYTES_MAX` before its deadline,
nothing is read between two calls, and nothing is decompressed. h2 does HTTP/2: it bounds what headers unpack
to, and the number of their frames.

Sources: gRPC over HTTP/2 (grpc/doc/PROTOCOL-HTTP2.md); RFC 9113.
"""

import ssl
import struct
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import H2Error, NoAvailableStreamIDError, TooManyStreamsError
from h2.settings import SettingCodes, Settings
from hpack import NeverIndexedHeaderTuple

from agent.sinks.grpc_answer import PREFIX, Code, GrpcAnswer, decode
from agent.sinks.http_connection import (
    BrokenProtocolError,
    Connection,
    Server,
    Stage,
    Target,
    host_and_port,
    left_s,
    send,
)
from agent.sinks.tls_stream import TlsStream

ANSWER_BYTES_MAX = 64 * 1024
"""Of one answer, with all frames. The call fails if the server sends more."""
_HEADERS_BYTES_MAX = 16 * 1024  # unpacked; gRPC's own default is 8 KiB
_READ_BYTES = 16 * 1024
_TIMEOUT_MS_MAX = 99_999_999  # eight digits
_FRAME = struct.Struct(">BHBBI")  # its header: size in bytes (high, low), type, flags, stream
_SETTINGS, _GOAWAY = 4, 7
_SETTING = struct.Struct(">HI")  # identifier and value
_KNOWN_SETTINGS = frozenset(int(code) for code in SettingCodes)
_CALLS_MAX = 10_000  # on one connection: h2 remembers each call


class GrpcClient:
    """Calls one method of one server, one call at a time. Used by one thread."""

    def __init__(
        self,
        target: Target,
        method: str,
        context: Callable[[], tuple[Hashable, ssl.SSLContext]],
        at: Callable[[Stage], None],
        redact: Callable[[str], str] = str,
    ) -> None:
        """Open nothing yet.

        Args:
            target: the URL of the server, and the proxy if there is one.
            method: such as `/package.Service/Method`.
            context: as in `Server`.
            at: as in `Server`.
            redact: as in `Server`.
        """
        self._server = Server(target, context, at, redact, has_tunnel=True)
        self._method = method
        self._session: _Session | None = None

    def call(
        self, message: bytes, headers: Mapping[str, str], timeout_s: float, *, is_gzip: bool = False
    ) -> GrpcAnswer:
        """Send a message and return the answer.

        Args:
            message: encoded, and compressed if `is_gzip`.
            headers: more of them, by name in lower case.
            timeout_s: for everything.
            is_gzip: whether `message` is compressed.

        Raises:
            AttemptFailed: no answer came before the end of `timeout_s`, or none that is gRPC.
        """

        def perform(connection: Connection, deadline_s: float) -> GrpcAnswer:
            if self._session is None or self._session.connection is not connection:
                self._session = _Session(connection)
            timeout_ms = min(max(int(left_s(deadline_s) * 1000), 1), _TIMEOUT_MS_MAX)
            request = [*self._request(is_gzip=is_gzip, timeout_ms=timeout_ms), *headers.items()]
            prefix = PREFIX.pack(is_gzip, len(message))
            answer = self._session.exchange(request, prefix + message, deadline_s)
            if not self._session.is_usable:
                self.close()
            return answer

        return self._server.exchange(perform, timeout_s)

    def close(self) -> None:
        """Close the connection. The next call opens another one."""
        self._session = None
        self._server.close()

    def _request(self, *, is_gzip: bool, timeout_ms: int) -> Sequence[tuple[str, str]]:
        url = self._server.url
        return [
            (":method", "POST"),
            (":scheme", url.scheme),
            (":path", self._method),
            (":authority", host_and_port(url.hostname or "", url.port)),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("grpc-timeout", f"{timeout_ms}m"),
            ("grpc-accept-encoding", "identity"),
            *([("grpc-encoding", "gzip")] if is_gzip else []),
        ]


class _Session:
    """HTTP/2 on one connection."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.is_usable = True  # for another call
        self._is_new = True
        self._calls = 0
        self._received = bytearray()  # and not taken yet
        config = H2Configuration(client_side=True, header_encoding=None)
        self._http2 = H2Connection(config)
        self._http2.local_settings = Settings(
            client=True,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.MAX_HEADER_LIST_SIZE: _HEADERS_BYTES_MAX,
            },
        )
        self._http2.decoder.max_header_list_size = _HEADERS_BYTES_MAX
        self._http2.initiate_connection()

    def exchange(self, request: Sequence[tuple[str, str]], body: bytes, deadline_s: float) -> GrpcAnswer:
        """Send a request and return the answer.

        Raises:
            ConnectionError: the server has ended the connection, or does not process the request.
            OSError, BrokenProtocolError: there is no answer.
        """
        if isinstance(self.connection, TlsStream):
            self.connection.renew()
        try:
            stream = self._http2.get_next_available_stream_id()
            # Not indexed: their values are secrets or change, and hpack's table may get out of step.
            self._http2.send_headers(stream, [NeverIndexedHeaderTuple(*each) for each in request])
        except (TooManyStreamsError, NoAvailableStreamIDError):
            raise ConnectionResetError("the server allows no request on this connection") from None
        answer, rest, left = _Answering(stream), memoryview(body), ANSWER_BYTES_MAX
        while not answer.is_complete:
            rest = self._send(stream, rest, deadline_s)
            frame = self._next_frame()
            if frame is not None:
                self._take(frame, answer)
                continue
            left -= self._read(deadline_s)
            if left < 0:
                raise self._violation(f"the answer has more than {ANSWER_BYTES_MAX} bytes")
        self._is_new = False
        self._calls += 1
        self.is_usable &= self._calls < _CALLS_MAX
        result = answer.result()
        if not rest:
            return result
        self.is_usable = False
        if result.code is not Code.OK:
            return result
        return GrpcAnswer(Code.UNKNOWN, "the server has answered before it got the whole message")

    def _send(self, stream: int, rest: memoryview, deadline_s: float) -> memoryview:
        """Send as much of the body as the server allows now, and what HTTP/2 has to say; return the rest."""
        http2 = self._http2
        while rest:
            size = min(http2.local_flow_control_window(stream), http2.max_outbound_frame_size, len(rest))
            if size <= 0:
                break
            http2.send_data(stream, rest[:size], end_stream=size == len(rest))
            rest = rest[size:]
            send(self.connection, http2.data_to_send(), deadline_s)
        if data := http2.data_to_send():
            send(self.connection, data, deadline_s)
        return rest

    def _read(self, deadline_s: float) -> int:
        """Wait for more; return how many bytes came."""
        self.connection.settimeout(left_s(deadline_s))
        data = memoryview(bytearray(_READ_BYTES))
        size_bytes = self.connection.recv_into(data)
        if not size_bytes:
            raise ConnectionResetError("the server has closed the connection")
        self._received += data[:size_bytes]
        return size_bytes

    def _next_frame(self) -> bytes | None:
        """Return the next frame; `None`: it has not come as a whole."""
        received = self._received
        if len(received) < _FRAME.size:
            return None
        high, low, *_ = _FRAME.unpack_from(received)
        size_bytes = _FRAME.size + (high << 16) + low
        if size_bytes > _FRAME.size + self._http2.max_inbound_frame_size:
            raise self._violation("a frame is too long")
        if len(received) < size_bytes:
            return None
        frame = bytes(received[:size_bytes])
        del received[:size_bytes]
        return frame

    def _take(self, frame: bytes, answer: "_Answering") -> None:
        if frame[3] == _GOAWAY:
            # h2 accepts nothing after it, but the calls up to the last stream are still answered.
            self.is_usable = False
            last_stream = int.from_bytes(frame[_FRAME.size : _FRAME.size + 4], "big") & 0x7FFFFFFF
            if last_stream < answer.stream:
                raise ConnectionResetError("the server is shutting the connection down")
            return
        if frame[3] == _SETTINGS:
            frame = _without_unknown(frame)
        try:
            events = self._http2.receive_data(frame)
            for event in events:
                answer.take(event)
                if isinstance(event, DataReceived):
                    self._http2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        except H2Error as error:
            raise self._violation(type(error).__name__) from error

    def _violation(self, reason: str) -> Exception:
        """Return the error for a broken protocol. Of a kept connection it is one that has another opened."""
        return BrokenProtocolError(reason) if self._is_new else ConnectionResetError(reason)


class _Answering:
    """The answer on one stream, while it comes."""

    def __init__(self, stream: int) -> None:
        self.stream = stream
        self.is_complete = False
        self._reset_code: int | None = None
        self._headers: dict[str, str] = {}
        self._trailers: dict[str, str] = {}
        self._body = bytearray()

    def take(self, event: Event) -> None:
        """Take what has come on the connection."""
        match event:
            case ResponseReceived(stream_id=self.stream, headers=headers, stream_ended=ended):
                self._headers = _decoded(headers)
                if ended is not None:
                    self._trailers = self._headers
            case DataReceived(stream_id=self.stream, data=data):
                self._body += data
            case TrailersReceived(stream_id=self.stream, headers=headers):
                self._trailers = _decoded(headers)
            case StreamEnded(stream_id=self.stream):
                self.is_complete = True
            case StreamReset(stream_id=self.stream, error_code=error_code) if not self.is_complete:
                self.is_complete = True
                self._reset_code = int(error_code)
            case _:
                pass

    def result(self) -> GrpcAnswer:
        """Return the answer, once it is complete; raises as `decode`."""
        return decode(self._headers, self._trailers, bytes(self._body), self._reset_code)


def _without_unknown(frame: bytes) -> bytes:
    """Return a frame with settings without those that are unknown: h2 keeps each of them."""
    payload = frame[_FRAME.size :]
    if len(payload) % _SETTING.size:
        return frame
    known = [pair for pair in _SETTING.iter_unpack(payload) if pair[0] in _KNOWN_SETTINGS]
    kept = b"".join(_SETTING.pack(*pair) for pair in known)
    return len(kept).to_bytes(3, "big") + frame[3 : _FRAME.size] + kept


def _decoded(headers: Iterable[tuple[object, object]]) -> dict[str, str]:
    """Return headers by name; the values of several with the same name are joined (RFC 9110, section 5.3)."""
    decoded: dict[str, str] = {}
    for header, value in headers:
        name = _text(header)
        decoded[name] = f"{decoded[name]}, {_text(value)}" if name in decoded else _text(value)
    return decoded


def _text(part: object) -> str:
    return part.decode("latin-1") if isinstance(part, bytes) else str(part)
