"""POST requests over HTTP/1.1, with answers that are bounded in size and time.

For OTLP and for token endpoints. The usual clients decompress whatever a server sends and wait again for each
byte; the transport of the OTLP exporter also trusts the certificates of a Python package and reads settings
from the environment. Here the time limit is for the whole exchange, an answer is read up to
`ANSWER_BYTES_MAX`, and nothing is decompressed.
"""

import ssl
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from urllib.parse import quote

from agent.sinks.http_connection import Connection, Server, Stage, Target, begin_answer, host_and_port, send
from agent.sinks.tls_stream import TlsStream

ANSWER_BYTES_MAX = 64 * 1024
"""Of one answer, its headers included. The rest is not read, and the connection is closed."""
_READ_BYTES = 16 * 1024
_IN_A_PATH = "/%:@!$&'()*+,;=~-._"


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the server. `body` is empty if it is compressed, too long or broken."""

    status: int
    reason: str
    headers: Mapping[str, str]  # by name in lower case
    body: bytes = b""


class HttpClient:
    """Sends requests to one URL, one at a time. Used by one thread."""

    def __init__(
        self,
        target: Target,
        context: Callable[[], tuple[Hashable, ssl.SSLContext]],
        at: Callable[[Stage], None],
        redact: Callable[[str], str] = str,
    ) -> None:
        """Open nothing yet; the arguments are those of `Server`."""
        self._server = Server(target, context, at, redact)

    def post(self, body: bytes, headers: Mapping[str, str], timeout_s: float) -> Answer:
        """Send a request and return the answer.

        Raises:
            AttemptFailed: no answer came before the end of `timeout_s`, or none that is HTTP.
        """

        def perform(connection: Connection, deadline_s: float) -> Answer:
            if isinstance(connection, TlsStream):
                connection.renew()
            send(connection, self._head(len(body), headers) + body, deadline_s)
            return self._read(begin_answer(connection, "POST", ANSWER_BYTES_MAX, deadline_s))

        return self._server.exchange(perform, timeout_s)

    def close(self) -> None:
        """Close the connection. The next request opens another one."""
        self._server.close()

    def _head(self, body_bytes: int, headers: Mapping[str, str]) -> bytes:
        url = self._server.url
        target = quote(url.path or "/", safe=_IN_A_PATH)
        host = host_and_port(url.hostname or "", url.port)
        lines = [f"Host: {host}", "Accept-Encoding: identity", f"Content-Length: {body_bytes}"]
        if self._server.forwards:
            target = f"http://{host}{target}"
            lines += self._server.proxy_authorization()
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "".join(f"{line}\r\n" for line in (f"POST {target} HTTP/1.1", *lines, "")).encode("latin-1")

    def _read(self, response: HTTPResponse) -> Answer:
        parts: list[bytes] = []
        is_whole = False
        try:
            while part := response.read(_READ_BYTES):
                parts.append(part)
            is_whole = response.isclosed()
        except (HTTPException, ValueError, OSError):
            pass  # the status counts; the details are lost
        response.close()
        if response.will_close or not is_whole:
            self.close()
        headers = {name.lower(): value for name, value in response.headers.items()}
        encoded = headers.get("content-encoding", "identity").strip().lower() != "identity"
        body = b"".join(parts) if is_whole and not encoded else b""
        return Answer(response.status, response.reason, headers, body)
