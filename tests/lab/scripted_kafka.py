"""A Kafka broker with scripted answers: one node, with the oldest API versions that the agent uses.

An answer is a tuple of fields, so that a generator can make any of them odd (`tests/lab/odd_kafka.py`).
Layouts: kafka.apache.org/protocol.
"""

import asyncio
import base64
import hashlib
import hmac
import ssl
import struct
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

PRODUCE, METADATA, SASL_HANDSHAKE, API_VERSIONS, INIT_PRODUCER_ID, SASL_AUTHENTICATE = 0, 3, 17, 18, 22, 36
"""API keys."""

VERSIONS = (
    (PRODUCE, 3),
    (METADATA, 1),
    (SASL_HANDSHAKE, 1),
    (API_VERSIONS, 0),
    (INIT_PRODUCER_ID, 0),
    (SASL_AUTHENTICATE, 0),
)

Kind: TypeAlias = Literal["i8", "i16", "i32", "i64", "str", "bytes", "array"]
_INTEGERS = {"i8": ">b", "i16": ">h", "i32": ">i", "i64": ">q"}


@dataclass(frozen=True, slots=True)
class Field:
    """One field of an answer. An array holds tuples of fields; `None` is Kafka's null."""

    kind: Kind
    value: "int | bytes | tuple[tuple[Field, ...], ...] | None"
    length: int | None = None  # announced instead of the true one

    def encoded(self) -> bytes:
        """Return the bytes of the field."""
        match self.value:
            case int():
                return struct.pack(_INTEGERS[self.kind], self.value)
            case None:
                return struct.pack(">h" if self.kind == "str" else ">i", -1)
            case bytes():
                length = len(self.value) if self.length is None else self.length
                return struct.pack(">h" if self.kind == "str" else ">i", length) + self.value
            case _:
                length = len(self.value) if self.length is None else self.length
                return struct.pack(">i", length) + b"".join(encode(each) for each in self.value)


Fields: TypeAlias = tuple[Field, ...]


def encode(fields: Fields) -> bytes:
    """Return the bytes of an answer's body."""
    return b"".join(each.encoded() for each in fields)


def i16(value: int) -> Field:
    return Field("i16", value)


def i32(value: int) -> Field:
    return Field("i32", value)


def i64(value: int) -> Field:
    return Field("i64", value)


def text(value: str | None) -> Field:
    return Field("str", None if value is None else value.encode())


def blob(value: bytes | None) -> Field:
    return Field("bytes", value)


def array(items: Sequence[Fields]) -> Field:
    return Field("array", tuple(items))


@dataclass(frozen=True, slots=True)
class Request:
    """One request: its API key, correlation id and body."""

    api: int
    correlation: int
    body: bytes


@dataclass(slots=True)
class Peer:
    """The answers of the broker. Every setting can be changed while it runs."""

    topic: str | None = "samples"  # None: each topic that is asked for
    partitions: int = 2
    advertised: tuple[str, int] | None = None  # None: the address on which it listens
    versions: Sequence[tuple[int, int, int]] = tuple((key, 0, newest) for key, newest in VERSIONS)
    topic_error: int = 0
    produce_error: int = 0
    init_error: int = 0
    throttle_ms: int = 0
    mechanisms: Sequence[str] = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
    handshake_error: int = 0
    password: str = "hunter2"
    login_error: tuple[int, str] = (0, "")
    iterations: int = 4096
    server_first: Callable[[bytes], bytes] | None = None  # the answer to a client's first SCRAM message
    silent_at: frozenset[int] = frozenset()  # API keys that are not answered
    close_at: frozenset[int] = frozenset()  # API keys at which the connection is closed
    send: "Callable[[Request, Fields, asyncio.StreamWriter], Awaitable[bool]] | None" = None
    answers: Mapping[int, Callable[[], Fields]] = field(default_factory=dict[int, Callable[[], Fields]])
    requests: Counter[int] = field(default_factory=Counter[int])
    records: int = 0  # in batches that were answered without an error
    logins: list[str] = field(default_factory=list[str])  # passwords of PLAIN and tokens, in order
    extensions: str = ""  # of the last login with a token
    port: int = 0

    def fields(self, request: Request, login: "_Login") -> Fields:
        """Return the answer to `request`: that in `answers`, if it has one for the API key."""
        if (own := self.answers.get(request.api)) is not None:
            return own()
        match request.api:
            case 18:
                return (i16(0), array([(i16(key), i16(low), i16(high)) for key, low, high in self.versions]))
            case 17:
                return (i16(self.handshake_error), array([(text(each),) for each in self.mechanisms]))
            case 36:
                code, message, token = login.answer(_token(request.body))
                return (i16(code), text(message or None), blob(token))
            case 22:
                return (i32(0), i16(self.init_error), i64(7), i16(0))
            case 3:
                host, port = self.advertised or ("127.0.0.1", self.port)
                partition = [
                    (i16(0), i32(number), i32(1), array([(i32(1),)]), array([(i32(1),)]))
                    for number in range(0 if self.topic_error else self.partitions)
                ]
                names = _topics(request.body) if self.topic is None else [self.topic]
                topics = [
                    (i16(self.topic_error), text(name), Field("i8", 0), array(partition)) for name in names
                ]
                brokers = array([(i32(1), text(host), i32(port), text(None))])
                return (brokers, i32(1), array(topics))
            case _:
                return self._produced(request.body)

    def _produced(self, body: bytes) -> Fields:
        topic, produced = _partitions(body)
        if not self.produce_error:
            self.records += sum(count for _, count in produced)
        topics = [
            (
                text(topic if self.topic is None else self.topic),
                array([(i32(number), i16(self.produce_error), i64(0), i64(-1)) for number, _ in produced]),
            )
        ]
        return (array(topics), i32(self.throttle_ms))


class _Login:
    """The server's side of one SASL login."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._first = b""
        self._server_first = b""

    def answer(self, token: bytes) -> tuple[int, str, bytes]:
        code, message = self._peer.login_error
        if token.startswith(b"n,,\x01auth=Bearer "):
            return self._bearer(token)
        if token == b"\x01":
            return 58, message or "invalid_token", b""
        if token.startswith(b"n,,"):
            self._first = token[3:]
            if self._peer.server_first is not None:
                return 0, "", self._peer.server_first(token)
            nonce = self._first.split(b",r=")[1]
            salt = base64.b64encode(b"salt")
            self._server_first = b"r=%sserver,s=%s,i=%d" % (nonce, salt, self._peer.iterations)
            return 0, "", self._server_first
        if code:
            return code, message, b""
        if token.startswith(b"c=biws"):
            return self._scram(token)
        password = token.split(b"\0")[2].decode()
        self._peer.logins.append(password)
        if password == self._peer.password:
            return 0, "", b""
        return 58, f"Authentication failed with {password}", b""  # a broker should not send this

    def _bearer(self, token: bytes) -> tuple[int, str, bytes]:
        """Answer as Kafka's OAuthBearerSaslServer: the refusal follows the client's reply to the reason."""
        bearer, _, rest = token[4:].removeprefix(b"auth=Bearer ").partition(b"\x01")
        self._peer.logins.append(bearer.decode())
        self._peer.extensions = rest.decode().strip("\x01")
        return (
            (0, "", b"") if bearer.decode() == self._peer.password else (0, "", b'{"status":"invalid_token"}')
        )

    def _scram(self, token: bytes) -> tuple[int, str, bytes]:
        without_proof, _, proof = token.partition(b",p=")
        message = b",".join((self._first, self._server_first, without_proof))
        salted = hashlib.pbkdf2_hmac("sha256", self._peer.password.encode(), b"salt", self._peer.iterations)
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        signature = hmac.digest(hashlib.sha256(client_key).digest(), message, "sha256")
        if bytes(a ^ b for a, b in zip(client_key, signature, strict=True)) != base64.b64decode(proof):
            return 58, "Authentication failed during authentication due to invalid credentials", b""
        server = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), message, "sha256")
        return 0, "", b"v=" + base64.b64encode(server)


async def serve(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one connection until it ends."""
    login = _Login(peer)
    try:
        while True:
            (size,) = struct.unpack(">i", await reader.readexactly(4))
            message = await reader.readexactly(size)
            api, _, correlation, name_length = struct.unpack(">hhih", message[:10])
            request = Request(api, correlation, message[10 + max(name_length, 0) :])
            peer.requests[api] += 1
            if api in peer.close_at:
                return
            if api in peer.silent_at:
                continue
            fields = peer.fields(request, login)
            if peer.send is not None:
                if not await peer.send(request, fields, writer):
                    return
                continue
            answer = struct.pack(">i", correlation) + encode(fields)
            writer.write(struct.pack(">i", len(answer)) + answer)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
        pass
    except (struct.error, IndexError, ValueError):
        pass  # a version that is not in `VERSIONS`
    finally:
        writer.transport.abort()


@asynccontextmanager
async def scripted_kafka(peer: Peer, tls: ssl.SSLContext | None = None) -> AsyncGenerator[str]:
    """Run the broker on this event loop until the block ends. Yield its address."""
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(serve(peer, reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", peer.port, ssl=tls)
    peer.port = server.sockets[0].getsockname()[1]
    try:
        yield f"127.0.0.1:{peer.port}"
    finally:
        server.close()
        left = list(tasks)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)
        await server.wait_closed()


@contextmanager
def scripted_kafka_thread(peer: Peer, tls: ssl.SSLContext | None = None) -> Generator[str]:
    """Run the broker in a thread until the block ends, for an agent in a process. Yield its address."""
    address: list[str] = []
    running, ending = threading.Event(), threading.Event()

    async def run() -> None:
        async with scripted_kafka(peer, tls) as where:
            address.append(where)
            running.set()
            await asyncio.get_running_loop().run_in_executor(None, ending.wait)

    thread = threading.Thread(target=asyncio.run, args=[run()], daemon=True)
    thread.start()
    if not running.wait(60):
        raise RuntimeError("the broker does not start")
    try:
        yield address[0]
    finally:
        ending.set()
        thread.join(60)


def _token(body: bytes) -> bytes:
    return body[4:]


def _topics(body: bytes) -> list[str]:
    """Return the topics of a Metadata request."""
    (count,) = struct.unpack_from(">i", body, 0)
    at, found = 4, list[str]()
    for _ in range(count):
        (length,) = struct.unpack_from(">h", body, at)
        found.append(body[at + 2 : at + 2 + length].decode())
        at += 2 + length
    return found


def _partitions(body: bytes) -> tuple[str, list[tuple[int, int]]]:
    """Return the only topic of a Produce request, and the number of records in each partition."""
    (name_length,) = struct.unpack_from(">h", body, 0)  # transactional ID
    at = 2 + max(name_length, 0) + 2 + 4 + 4  # acks, timeout, number of topics
    (topic_length,) = struct.unpack_from(">h", body, at)
    topic = body[at + 2 : at + 2 + topic_length].decode()
    at += 2 + topic_length
    (count,) = struct.unpack_from(">i", body, at)
    at += 4
    found: list[tuple[int, int]] = []
    for _ in range(count):
        number, size = struct.unpack_from(">ii", body, at)
        (records,) = struct.unpack_from(">i", body, at + 8 + 57)
        found.append((number, records))
        at += 8 + size
    return topic, found
