"""One connection to one broker: aiokafka's, with bounds on what the peer can cost.

The differences to aiokafka 0.14.0 (conn.py):

- names are resolved, and certificates and passwords read, in a daemon thread; aiokafka uses the event loop's
  own threads, which the interpreter waits for at its end;
- an answer may have 64 KiB, with metadata 1 MiB; aiokafka keeps as much as the peer announces;
- TLS records without data are bounded by agent/sinks/kafka_tls.py;
- the SCRAM login is agent/sinks/kafka_scram.py, with a bound on the iterations, and the tokens of OAUTHBEARER
  are from agent/sinks/kafka_tokens.py;
- an error of any kind is a `KafkaError` or a `KafkaTrouble`.
"""

# aiokafka's connections have no types.

import asyncio
import secrets
import socket
import ssl
import struct
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any, cast

import anyio
from aiokafka import errors as kafka_errors
from aiokafka.conn import AIOKafkaConnection, AIOKafkaProtocol
from aiokafka.protocol.admin import SaslAuthenticateRequest, SaslHandShakeRequest
from aiokafka.util import create_future

from agent.redaction import Redactor
from agent.sinks import kafka_oauth
from agent.sinks.kafka_blocking import Blocking
from agent.sinks.kafka_faults import (
    BrokerAddress,
    Fault,
    KafkaTrouble,
    Stage,
    UnusableAnswer,
    closed,
    described,
    failure,
    plain,
)
from agent.sinks.kafka_journal import Journal
from agent.sinks.kafka_scram import Scram, ScramError, ScramRefused
from agent.sinks.kafka_settings import Oauth, Sasl, Settings, Tls
from agent.sinks.kafka_tls import BoundedTls
from agent.sinks.kafka_tokens import Tokens
from agent.sinks.tls_context import restrict

_ANSWER_MAX_BYTES = 64 * 1024
_LARGE_ANSWER_MAX_BYTES = 1024 * 1024  # the metadata of a topic of 10,000 partitions take half of it
_PRODUCE, _METADATA = 0, 3  # kafka.apache.org/protocol, API keys

_PASSWORD_MAX_BYTES = 65_536
_BUFFER_BYTES = 64 * 1024
_ILLEGAL_SASL_STATE, _UNSUPPORTED_MECHANISM = 34, 33  # kafka.apache.org/protocol, error codes


class BrokerConnection(AIOKafkaConnection):
    """A connection to a broker at `address`, as `settings` describe. Use `dial` to make one."""

    def __init__(
        self,
        address: BrokerAddress,
        settings: Settings,
        journal: Journal,
        blocking: Blocking,
        tokens: Tokens | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            address.host,
            address.port,
            client_id=settings.client_id,
            request_timeout_ms=int(settings.request_timeout_s * 1000),
            security_protocol=_protocol(settings),
            **options,
        )
        self.address = address
        self.stage = Stage.RESOLVING
        self._settings = settings
        self.throttled = journal.throttled
        """Called when a broker delays its answers, since a quota is exceeded."""
        self._journal = journal
        self._blocking = blocking
        self._tokens = tokens

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect, agree on the versions, and log in. If it fails, nothing is left open."""
        self._closed_fut = create_future()
        try:
            async with asyncio.timeout(self._request_timeout):
                await self._open()
            self._read_task = self._create_reader_task()
            self._reach(Stage.VERSIONS)
            await self._do_version_lookup()
            if self._settings.sasl is not None:
                self._reach(Stage.LOGIN)
                await self._log_in(self._settings.sasl)
        except BaseException:
            self.close()
            raise
        if self._max_idle_ms is not None:
            self._idle_handle = self._loop.call_soon(self._idle_check, weakref.ref(self))
        return self._reader, self._writer

    def send(self, request: Any, expect_response: bool = True) -> Coroutine[Any, Any, Any]:
        """Send `request`; the returned coroutine waits for the answer, up to the request timeout.

        Raises:
            KafkaError: the request was not sent.
        """
        try:
            answer = super().send(request, expect_response)
        except (NotImplementedError, KeyError, ValueError, TypeError, struct.error) as error:
            raise kafka_errors.IncompatibleBrokerVersion(plain(str(error))) from None
        return self._checked(answer)

    async def _checked(self, answer: Awaitable[Any]) -> Any:
        response = await answer
        throttle_ms = getattr(response, "throttle_time_ms", 0)
        if isinstance(throttle_ms, int) and throttle_ms > 0:
            self.throttled(throttle_ms, anyio.current_time())
        return response

    async def _open(self) -> None:
        """Resolve the name, connect to one of its addresses, and do the TLS handshake."""
        host, tls = self.address.host, self._settings.tls
        self._reach(Stage.READING)
        context = None if tls is None else await self._blocking.run(partial(_ssl_context, tls))
        places = await self._resolved()
        self._reach(Stage.CONNECTING)
        connected = await self._connected(places)
        if context is not None:
            self._reach(Stage.HANDSHAKE)
        reader = asyncio.StreamReader(limit=_BUFFER_BYTES, loop=self._loop)
        protocol = AIOKafkaProtocol(self._closed_fut, reader, loop=self._loop)
        transport, _ = await self._loop.create_connection(
            lambda: protocol,
            sock=connected,
            ssl=context,
            server_hostname=None if context is None else host,
        )
        writer = asyncio.StreamWriter(transport, protocol, reader, self._loop)
        self._reader, self._writer, self._protocol = reader, writer, protocol  # pyrefly: ignore[bad-override-mutable-attribute]

    async def _resolved(self) -> list[tuple[int, Any]]:
        """Return the families and addresses of the host, without a thread for one that is numeric."""
        self._reach(Stage.RESOLVING)
        host, port = self.address.host, self.address.port
        if not host or not 0 < port < 65_536:
            raise UnicodeError
        try:
            family = socket.AF_INET6 if ip_address(host).version == 6 else socket.AF_INET
        except ValueError:
            return await self._blocking.run(partial(_look_up, host, port))
        return [(family, (host, port))]

    async def _connected(self, places: list[tuple[int, Any]]) -> socket.socket:
        """Return a socket that is connected to the first place that accepts."""
        deadline_s = self._loop.time() + self._request_timeout
        for number, (family, place) in enumerate(places):
            is_last = number == len(places) - 1
            one = socket.socket(family, socket.SOCK_STREAM)
            try:
                one.setblocking(False)
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                share_s = (deadline_s - self._loop.time()) / (len(places) - number)
                async with asyncio.timeout(share_s):
                    await self._loop.sock_connect(one, place)
            except OSError:
                one.close()
                if is_last:
                    raise
            except BaseException:
                one.close()
                raise
            else:
                return one
        raise OSError(None, "the name has no address")

    def _reach(self, stage: Stage) -> None:
        self.stage = stage
        self._journal.reaches(self.address, stage, anyio.current_time())

    @staticmethod
    async def _read(self_ref: Any) -> None:
        connection = self_ref()
        if connection is None:
            return
        reader = connection._reader
        del connection
        while True:
            (size_bytes,) = struct.unpack(">i", await reader.readexactly(4))
            connection = self_ref()
            if connection is None:
                return
            if not 0 <= size_bytes <= connection._answer_max_bytes():
                raise UnusableAnswer.of_size(size_bytes)
            del connection
            answer = await reader.readexactly(size_bytes)
            connection = self_ref()
            if connection is None:
                return
            connection._handle_frame(answer)
            del connection

    def _answer_max_bytes(self) -> int:
        """Return how large the next answer may be. To decode it takes up to 0.5 s for 1 MiB."""
        if not self._requests:
            raise UnusableAnswer("sent an answer without a request; use the port of a broker")
        _, request, _ = self._requests[0]
        is_large = request is not None and request.API_KEY in (_PRODUCE, _METADATA)
        return _LARGE_ANSWER_MAX_BYTES if is_large else _ANSWER_MAX_BYTES

    async def _log_in(self, sasl: Sasl) -> None:
        password = sasl.password
        if self._tokens is not None:
            self._reach(Stage.TOKEN)
            password = await self._tokens.get()
        elif sasl.password_file is not None:
            self._reach(Stage.READING)
            password = await self._blocking.run(partial(_password, sasl.password_file))
        self._reach(Stage.LOGIN)
        handshake = await self.send(SaslHandShakeRequest(sasl.mechanism))
        offered = [plain(str(each)) for each in handshake.enabled_mechanisms or ()][:10]
        if handshake.error_code == _ILLEGAL_SASL_STATE:
            detail = (
                f"the listener of {self.address} does not use SASL; remove the section, or use a SASL"
                " listener"
            )
            raise _refused("kafka.sasl", detail)
        if handshake.error_code == _UNSUPPORTED_MECHANISM or (
            not handshake.error_code and sasl.mechanism not in offered
        ):
            detail = f"{self.address} does not offer {sasl.mechanism}; " + (
                f"use one of {', '.join(offered)}" if offered else "enable SASL on the listener"
            )
            raise _refused("kafka.sasl.mechanism", detail)
        if handshake.error_code:
            error = kafka_errors.for_code(handshake.error_code)()
            raise _refused(
                "kafka.sasl", f"{self.address} refuses the login ({described(error)}); check the broker"
            )
        # The password may be newer than those that the log is redacted of.
        redact = Redactor((password,)) if password else str
        ask = partial(self._ask, redact) if handshake.API_VERSION else self._ask_without_header
        if sasl.oauth is not None and self._tokens is not None:
            await self._log_in_by_token(sasl.oauth, self._tokens, password)
            return
        if sasl.mechanism == "PLAIN":
            await ask("\0".join((sasl.username, sasl.username, password)).encode())
            return
        scram = Scram(sasl.mechanism, sasl.username, password, secrets.token_hex(16))
        try:
            server_first = await ask(scram.first())
            final = await self._blocking.run(partial(scram.final, server_first))
            scram.verify(await ask(final))
        except ScramRefused as error:
            raise _login_refused(self.address, plain(redact(str(error)))) from error
        except ScramError as error:
            detail = f"{self.address} {plain(redact(str(error)))}; check that it is your broker"
            raise _refused("kafka.sasl", detail) from error

    async def _log_in_by_token(self, oauth: Oauth, tokens: Tokens, token: str) -> None:
        redact = Redactor((token,))  # before the text is cut, which may leave a part of the token
        answer = await self.send(SaslAuthenticateRequest(kafka_oauth.first_message(token, oauth.extensions)))
        why = answer.error_message or f"error {answer.error_code}"
        if not answer.error_code and (message := answer.sasl_auth_bytes or b""):
            why = kafka_oauth.refusal(message)
            answer = await self.send(SaslAuthenticateRequest(kafka_oauth.AFTER_REFUSAL))
            why = answer.error_message or why
        elif not answer.error_code:
            return
        tokens.refused(token)
        detail = f"{self.address} refuses the token ({plain(redact(why))}); compare its issuer, audience and "
        raise _refused(
            "kafka.sasl.oauth", f"{detail}expiry with what the broker expects, and check the clocks"
        )

    async def _ask(self, redact: Callable[[str], str], token: bytes) -> bytes:
        answer = await self.send(SaslAuthenticateRequest(token))
        if answer.error_code:
            why = redact(answer.error_message or f"error {answer.error_code}")  # before it is cut
            raise _login_refused(self.address, plain(why))
        return answer.sasl_auth_bytes or b""

    async def _ask_without_header(self, token: bytes) -> bytes:
        """Exchange tokens as brokers before Kafka 1.0 do (KIP-152)."""
        try:
            return cast("bytes", await self._send_sasl_token(token))
        except kafka_errors.KafkaConnectionError as error:
            raise _refused("kafka.sasl", closed(self.address, Stage.LOGIN).partition(": ")[2]) from error


async def dial(
    address: BrokerAddress,
    settings: Settings,
    journal: Journal,
    blocking: Blocking,
    tokens: Tokens | None = None,
    **options: Any,
) -> BrokerConnection:
    """Return a connection that can be used, and report each step to `journal`.

    Without `tokens`, a login by OAUTHBEARER gets a token of its own.

    Raises:
        KafkaTrouble: the broker cannot be used. Nothing is left open, also when canceled.
    """
    own = None
    if tokens is None and settings.sasl is not None and settings.sasl.oauth is not None:
        tokens = own = Tokens(settings.sasl.oauth)
    connection = BrokerConnection(address, settings, journal, blocking, tokens, **options)
    try:
        await connection.connect()
    except Exception as error:
        trouble = failure(address, connection.stage, error)
        journal.failed(address, trouble)
        raise trouble from error
    except BaseException:
        journal.abandoned(address)
        raise
    finally:
        if own is not None:
            own.end()
    journal.connected(address)
    return connection


def _protocol(settings: Settings) -> str:
    match settings.sasl, settings.tls:
        case None, None:
            return "PLAINTEXT"
        case None, _:
            return "SSL"
        case _, None:
            return "SASL_PLAINTEXT"
        case _:
            return "SASL_SSL"


def _look_up(host: str, port: int) -> list[tuple[int, Any]]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, place) for family, _, _, _, place in found]


def _ssl_context(tls: Tls) -> ssl.SSLContext:
    """Return the settings of TLS, from the files as they are now."""
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
        context.sslobject_class = BoundedTls
        restrict(context)
        if tls.cert_file:
            context.load_cert_chain(tls.cert_file, tls.key_file, password=_no_passphrase)
    except (OSError, ValueError) as error:
        names = ", ".join(str(name) for name in (tls.ca_file, tls.cert_file, tls.key_file) if name)
        raise _refused("kafka.tls", f"the files ({names}) cannot be used: {error}; correct them") from error
    return context


def _no_passphrase() -> str:
    raise ValueError("the key is encrypted")


def _password(file: Path) -> str:
    """Return the password, from the file as it is now."""
    try:
        with file.open("rb") as opened:
            password = opened.read(_PASSWORD_MAX_BYTES).decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not text in UTF-8"
        raise _refused("kafka.sasl.password_file", f"{file} cannot be read: {why}; correct it") from error
    if not password:
        raise _refused("kafka.sasl.password_file", f"{file} is empty; write the password to it")
    return password


def _refused(setting: str, detail: str) -> KafkaTrouble:
    return KafkaTrouble(Fault.SETTING, "", f"{setting}: {detail}")


def _login_refused(address: BrokerAddress, why: str) -> KafkaTrouble:
    detail = f"{address} refuses the user name or the password ({why}); correct them"
    return _refused("kafka.sasl", detail)
