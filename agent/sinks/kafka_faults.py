"""What can be wrong with a Kafka cluster, in words that name the cause and the setting."""

import re
import socket
import ssl
from asyncio import IncompleteReadError
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from aiokafka.errors import IncompatibleBrokerVersion, UnsupportedVersionError

_TEXT_MAX = 200
_TLS_ALERT = 0x1503  # how a TLS listener answers a plain request (RFC 8446, section 5.1)
_NOT_PRINTABLE = re.compile(r"[^\x20-\x7e]+")


class Fault(StrEnum):
    """Why a broker did not accept a batch."""

    RECORD = "record"  # a record of it, which is refused every time
    TIME = "time"  # the timestamp of a record
    TOPIC = "topic"  # the topic is missing, or writing to it is not allowed: all its records stay queued
    SETTING = "setting"  # a setting of the agent or of the cluster; as with a topic, retried slowly
    CONNECTION = "connection"  # anything else; nothing is wrong with the records


class KafkaTrouble(Exception):
    """An error of a broker or of aiokafka, classified.

    `reason` is `too_large` or `invalid` for a refused record.
    """

    def __init__(self, fault: Fault, reason: str, detail: str) -> None:
        self.fault = fault
        self.reason = reason
        self.detail = detail
        super().__init__(detail)


class UnusableAnswer(ConnectionError):
    """An answer that is not read. The text is a clause about the broker, with what to do."""

    @classmethod
    def of_size(cls, size_bytes: int) -> "UnusableAnswer":
        """Return the error of an answer that announces this size."""
        if size_bytes >> 16 == _TLS_ALERT:
            return cls("answers with TLS; set kafka.tls.enabled: true")
        return cls(f"announces an answer of {size_bytes:,} bytes; use the port of a broker")


class Stage(StrEnum):
    """How far an attempt to connect has come."""

    READING = "reading"  # the files of `kafka.tls` or the password
    RESOLVING = "resolving"
    CONNECTING = "connecting"
    HANDSHAKE = "handshake"  # TLS
    VERSIONS = "versions"  # the first request and its answer
    TOKEN = "token"  # for OAUTHBEARER, from a file or a token endpoint
    LOGIN = "login"  # SASL


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where a broker is, and how the agent knows it."""

    host: str
    port: int
    node: int | None = None  # the broker that advertises the address; `None`: it is a bootstrap server
    has_tls: bool = False

    def __str__(self) -> str:
        return f"{plain(self.host)}:{self.port}"

    @property
    def source(self) -> str:
        """The setting that contains the address."""
        if self.node is None:
            return "kafka.bootstrap_servers"
        return f"advertised.listeners of broker {self.node}"


def plain(text: str) -> str:
    """Return text from a broker as one short line of printable ASCII."""
    line = _NOT_PRINTABLE.sub(" ", text[: 2 * _TEXT_MAX]).strip()
    return line if len(line) <= _TEXT_MAX else f"{line[:_TEXT_MAX]}..."


def no_answer(address: BrokerAddress, stage: Stage) -> str:
    """Return what to say of an attempt that waits for an answer."""
    match stage:
        case Stage.READING:
            return (
                "kafka: the certificates or the password have not been read yet; check the disk of this host"
            )
        case Stage.RESOLVING:
            return f"{address.source}: the resolver does not answer for {address}; check the DNS of this host"
        case Stage.CONNECTING:
            return f"{address.source}: {address} does not answer; {_reachable(address)}"
        case Stage.HANDSHAKE:
            return (
                f"{address.source}: {address} does not answer the TLS handshake; use the port of a "
                "TLS listener, or set kafka.tls.enabled: false"
            )
        case Stage.VERSIONS:
            return (
                f"{address.source}: {address} does not answer the first request; if it is a TLS listener, "
                "set kafka.tls.enabled: true"
            )
        case Stage.TOKEN:
            return (
                "kafka.sasl.oauth: no token yet; check the token endpoint and the route to it, or the disk "
                "that contains the token file"
            )
        case Stage.LOGIN:
            return f"kafka.sasl: {address} does not answer the login; check the broker"


def failure(address: BrokerAddress, stage: Stage, error: BaseException) -> KafkaTrouble:
    """Return why an attempt to connect failed."""
    for cause in (causes := list(_causes(error))):
        if isinstance(cause, KafkaTrouble):
            return cause
    for cause in reversed(causes):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return KafkaTrouble(Fault.SETTING, "", _certificate(address, cause))
        if isinstance(cause, ssl.SSLError):
            return KafkaTrouble(Fault.SETTING, "", _tls(address, cause))
        if isinstance(cause, IncompatibleBrokerVersion | UnsupportedVersionError):
            return incompatible(cause)
        if (words := _words(address, stage, cause)) is not None:
            return KafkaTrouble(Fault.CONNECTION, "", words)
    if stage in (Stage.VERSIONS, Stage.LOGIN):
        why = described(causes[-1])
        detail = f"{address} does not answer as a Kafka broker does ({why}); use the port of a broker"
    else:
        detail = f"{address}: {described(causes[-1])}; {_reachable(address)}"
    return KafkaTrouble(Fault.CONNECTION, "", f"{address.source}: {detail}")


def incompatible(error: BaseException) -> KafkaTrouble:
    """Return what to say where the agent and the brokers have no version of a request in common."""
    detail = (
        "the brokers do not support the versions of the Kafka protocol that the agent uses "
        f"({described(error)}); upgrade the agent or the brokers"
    )
    return KafkaTrouble(Fault.SETTING, "", detail)


def _words(address: BrokerAddress, stage: Stage, error: BaseException) -> str | None:
    match error:
        case UnusableAnswer():
            return f"{address.source}: {address} {error}"
        case socket.gaierror():
            why = error.strerror
            return f"{address.source}: {address} cannot be resolved ({why}); {_resolvable(address)}"
        case UnicodeError() if stage is Stage.RESOLVING:
            return f"{address.source}: {address} is not a valid address; {_resolvable(address)}"
        case ConnectionRefusedError():
            return f"{address.source}: {address} refuses the connection; {_reachable(address)}"
        case TimeoutError() if error.errno is None:
            return no_answer(address, stage)
        case IncompleteReadError() | ConnectionError() if stage not in (
            Stage.READING,
            Stage.RESOLVING,
            Stage.CONNECTING,
        ):
            return closed(address, stage)
        case OSError() if error.strerror:
            return f"{address.source}: {address}: {error.strerror}; {_reachable(address)}"
        case _:
            return None


def closed(address: BrokerAddress, stage: Stage) -> str:
    """Return what to say where the broker closed the connection."""
    match stage:
        case Stage.LOGIN:
            return f"kafka.sasl: {address} closed the connection at the login; see the log of the broker"
        case Stage.HANDSHAKE:
            return (
                f"{address.source}: {address} closed the connection at the TLS handshake; use the port of a "
                "TLS listener, or set kafka.tls.enabled: false"
            )
        case _:
            needs, settings = (
                ("a certificate of the agent", "kafka.tls.cert_file")
                if address.has_tls
                else ("TLS", "kafka.tls")
            )
            return (
                f"{address.source}: {address} closed the connection at the first request; if its listener "
                f"requires {needs} or a login, set {settings} and kafka.sasl"
            )


def described(error: BaseException) -> str:
    """Return an unexpected exception as text of one line."""
    text = plain(str(error))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield `error` and the exceptions that caused it, the first cause last."""
    each: BaseException | None = error
    for _ in range(8):
        if each is None:
            return
        yield each
        each = each.__cause__


def _certificate(address: BrokerAddress, error: ssl.SSLCertVerificationError) -> str:
    why = plain(error.verify_message or "")
    # X509_V_ERR_* of OpenSSL, x509_vfy.h
    match error.verify_code:
        case 62 | 64:
            return (
                f"{address.source}: the certificate of {address} is not valid for this name ({why}); use a "
                "name that the certificate contains, or issue one for this name"
            )
        case 9 | 10:
            return (
                f"{address}: the broker's certificate is not valid now ({why}); renew it, or check the clocks"
            )
        case _:
            return (
                f"kafka.tls.ca_file: the certificate of {address} is not trusted ({why}); use the file with "
                "the certificate authority that issued it"
            )


def _tls(address: BrokerAddress, error: ssl.SSLError) -> str:
    reason = (error.reason or "").lower().replace("_", " ") or described(error)
    if "alert" in reason and ("certificate" in reason or "unknown ca" in reason):
        return (
            f"kafka.tls.cert_file: {address} refuses the certificate of the agent ({reason}); use one that "
            "the broker trusts (ssl.truststore.location)"
        )
    if reason in (
        "wrong version number",
        "record layer failure",
        "unexpected eof while reading",
        "http request",
    ):
        return (
            f"{address.source}: {address} does not answer with TLS ({reason}); use the port of a TLS "
            "listener, or set kafka.tls.enabled: false"
        )
    return (
        f"kafka.tls: TLS with {address} failed ({reason}); compare the settings of the agent and the broker"
    )


def _resolvable(address: BrokerAddress) -> str:
    if address.node is None:
        return "correct the name, or check the DNS of this host"
    return "let the broker advertise a name that this host can resolve"


def _reachable(address: BrokerAddress) -> str:
    if address.node is None:
        return "correct the address, start the broker, or open the firewall"
    return (
        "start the broker, open the firewall, or let the broker advertise an address that this host can reach"
    )
