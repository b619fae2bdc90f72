"""The types of single settings: choices, hosts, URLs, topics, names. Errors say what to write instead."""

import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated
from urllib.parse import unquote, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    SecretStr,
    WithJsonSchema,
)
from pydantic_core import CoreSchema
from pydantic_core.core_schema import no_info_before_validator_function

from agent.sinks.otlp_headers import checked


class Section(BaseModel):
    """A group of settings. An unknown setting is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, validate_default=False)


class OnExit(StrEnum):
    """What a clean exit does with the intervals that the agent changed."""

    GIVE_BACK = "give-back"
    KEEP = "keep"


class SpoolMode(StrEnum):
    """Where records are queued for Kafka, and whether VMs are remembered after a restart."""

    AUTO = "auto"
    DISK = "disk"
    NONE = "none"


class KafkaCompression(StrEnum):
    """Compression of batches to Kafka."""

    NONE = "none"
    GZIP = "gzip"
    SNAPPY = "snappy"
    LZ4 = "lz4"
    ZSTD = "zstd"


class SaslMechanism(StrEnum):
    """How the agent authenticates to Kafka."""

    PLAIN = "PLAIN"
    SCRAM_256 = "SCRAM-SHA-256"
    SCRAM_512 = "SCRAM-SHA-512"
    OAUTHBEARER = "OAUTHBEARER"


class OtlpProtocol(StrEnum):
    """Transport of OTLP."""

    HTTP = "http"
    GRPC = "grpc"


class OtlpCompression(StrEnum):
    """Compression of requests to OTLP."""

    NONE = "none"
    GZIP = "gzip"


class Identity(StrEnum):
    """Where the ID, name and host of a VM are in OTLP."""

    POINTS = "points"
    RESOURCE = "resource"


class LogLevel(StrEnum):
    """The least severe level that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """Format of a log line."""

    CONSOLE = "console"
    JSON = "json"


class Switch(StrEnum):
    """On, off, or decided by the agent."""

    AUTO = "auto"
    ON = "true"
    OFF = "false"


_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?\.?|\[[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?\]")
IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,254}")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")  # Kafka, org.apache.kafka.common.internals.Topic

_PAIRS_MAX, _PAIR_CHARACTERS_MAX = 16, 1024
_EXTENSION = re.compile(r"[A-Za-z]+")  # RFC 7628, section 3.1; "auth" is the token
_OAUTH_PARAMETERS = {
    "grant_type": "it is client_credentials; remove it",
    "scope": "use the setting scope",
    "client_id": "use the setting client_id",
    "client_secret": "use client_secret_file",
}


def _switch(written: object) -> object:
    return str(written).lower() if isinstance(written, bool) else written


def _comma_separated(written: object) -> object:
    return (
        [part.strip() for part in written.split(",") if part.strip()] if isinstance(written, str) else written
    )


def _some(servers: tuple[str, ...]) -> tuple[str, ...]:
    if not servers:
        raise ValueError("empty; add HOST:PORT, or remove the setting")
    return servers


def _bootstrap_server(written: str) -> str:
    if "://" in written or "@" in written:
        raise ValueError(f"{shown_url(written)!r} is a URL; write HOST:PORT, e.g. kafka-1:9092")
    host, colon, port = written.rpartition(":")
    if not colon or not port.isdecimal() or (":" in host and not host.startswith("[")):
        raise ValueError(f"{written!r} has no port; write HOST:PORT, e.g. kafka-1:9092 or [2001:db8::1]:9092")
    if not 1 <= int(port) <= 65535:
        raise ValueError(f"{written!r} has an invalid port; use 1 to 65535")
    if _HOST.fullmatch(host) is None:
        raise ValueError(f"{written!r} has an invalid host {host!r}; write a name or an address")
    if host.startswith("["):
        _check_ipv6(written, host)
    return written


def split_address(written: str) -> tuple[str, int]:
    """Return the host and port of `HOST:PORT`; an IPv6 address without its brackets."""
    host, _, port = written.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _listen(written: str) -> str:
    example = "e.g. 127.0.0.1:19464 or [::1]:19464"
    host, colon, port = written.rpartition(":")
    if "://" in written or not colon or not port.isdecimal() or (":" in host and not host.startswith("[")):
        raise ValueError(f"{written!r} is not an address and port; write HOST:PORT, {example}")
    if int(port) > 65535:
        raise ValueError(f"{written!r} has an invalid port; use 1 to 65535, or 0 for any free port")
    if not host:
        raise ValueError(f"{written!r} has no host; write 0.0.0.0{written} to listen on all interfaces")
    if _HOST.fullmatch(host) is None:
        raise ValueError(f"{written!r} has an invalid host {host!r}; write an address, {example}")
    if host.startswith("["):
        _check_ipv6(written, host)
    return written


def _allowed_host(written: str) -> str:
    name = written.removeprefix("*.")
    if written != "*" and (name.startswith("[") or _HOST.fullmatch(name) is None):
        raise ValueError(
            f"{written!r} is not a host name; write it without scheme, port and path, e.g. "
            "node-7.example.net, or *.example.net"
        )
    return written


def _check_ipv6(written: str, host: str) -> None:
    try:
        socket.inet_pton(socket.AF_INET6, host[1:-1].partition("%")[0])
    except OSError as error:
        raise ValueError(
            f"{written!r} has an invalid IPv6 address {host}; write e.g. [2001:db8::1]"
        ) from error


def shown_url(written: str) -> str:
    """Return a URL for a message: without a user name and a password, and without its query."""
    visible = re.split(r"[?#]", written, maxsplit=1)[0]
    scheme, separator, rest = visible.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def _otlp_endpoint(written: str) -> str:
    example = "e.g. http://collector:4318 or https://otlp.example.net"
    return _endpoint(written, example, "send them in otlp.headers, e.g. authorization")


def _token_endpoint(written: str) -> str:
    return _endpoint(written, "e.g. https://sso.example.net/token", "use client_id and client_secret_file")


def _endpoint(written: str, example: str, for_secrets: str) -> str:
    shown = shown_url(written)
    if "://" not in written:
        raise ValueError(f"{shown!r} has no scheme; start it with http:// or https://, {example}")
    try:
        url = urlsplit(written)
        port = url.port
    except ValueError as error:
        # The error quotes a part of the URL, which may be of the password.
        reason = "" if "@" in written else f" ({error})"
        raise ValueError(f"{shown!r} is not a URL{reason}; write {example}") from error
    if url.scheme not in ("http", "https"):
        raise ValueError(f"{shown!r} has the scheme {url.scheme!r}; use http or https, {example}")
    if url.username is not None or url.password is not None:
        # The value is not repeated: it holds a secret.
        raise ValueError(f"contains a user name or a password; {for_secrets}")
    if (
        not url.hostname
        or _HOST.fullmatch(url.netloc.rpartition(":")[0] if port is not None else url.netloc) is None
    ):
        raise ValueError(f"{shown!r} has no valid host; write {example}")
    if port == 0:
        raise ValueError(f"{shown!r} has the port 0; use 1 to 65535")
    if url.query or url.fragment:
        raise ValueError(f"{shown!r} has a query or a fragment; remove what follows the path")
    return written


def _topic(written: str) -> str:
    if _TOPIC.fullmatch(written) is None or written in (".", ".."):
        raise ValueError(
            f"{written!r} is not a Kafka topic; use 1 to 249 letters, digits, dots, underscores or hyphens"
        )
    return written


def _identifier(written: str) -> str:
    if IDENTIFIER.fullmatch(written) is None:
        raise ValueError(
            f"{written!r} is not a valid name; use 1 to 255 letters, digits, dots, hyphens, underscores, "
            "colons or @, and start with a letter or digit"
        )
    return written


def _absolute(written: str) -> str:
    if not written.startswith("/"):
        raise ValueError(f"{written!r} is not an absolute path; start it with /")
    if "\0" in written or not written.isprintable():
        raise ValueError(f"{written!r} contains unprintable characters; remove them")
    return written


def _pairs(written: object) -> object:
    """Parse `k=v,k2=v2` with percent-encoded values, the form of OTEL_EXPORTER_OTLP_HEADERS."""
    if not isinstance(written, str):
        return written
    pairs: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in written.split(","))):
        name, equals, value = part.partition("=")
        if not equals:
            raise ValueError("not NAME=VALUE pairs; separate pairs by commas, and percent-encode values")
        pairs[name.strip()] = unquote(value.strip())
    return pairs


def _checked_headers(headers: Mapping[str, SecretStr]) -> Mapping[str, SecretStr]:
    checked(  # the value of an invalid header is not repeated
        {name: value.get_secret_value() for name, value in headers.items()}
    )
    return {name.lower(): value for name, value in headers.items()}


def _bounded(pairs: Mapping[str, str]) -> Mapping[str, str]:
    if len(pairs) > _PAIRS_MAX:
        raise ValueError(f"{len(pairs)} entries are too many; use at most {_PAIRS_MAX}")
    for name, value in pairs.items():
        if not name or len(name) + len(value) > _PAIR_CHARACTERS_MAX:
            raise ValueError(
                f"{name[:40]!r} is empty or too long; use at most {_PAIR_CHARACTERS_MAX} characters"
            )
        if not (name + value).isprintable():
            raise ValueError(f"{name[:40]!r} contains unprintable characters; remove them")
    return pairs


def _parameters(pairs: Mapping[str, str]) -> Mapping[str, str]:
    for name in pairs:
        if name in _OAUTH_PARAMETERS:
            raise ValueError(f"{name!r} cannot be set here; {_OAUTH_PARAMETERS[name]}")
    return _bounded(pairs)


def _extensions(pairs: Mapping[str, str]) -> Mapping[str, str]:
    for name, value in pairs.items():
        if name == "auth":
            raise ValueError("'auth' is not a SASL extension but the token; remove it")
        if _EXTENSION.fullmatch(name) is None:
            raise ValueError(f"{name[:40]!r} is not the name of a SASL extension; use only letters")
        if not value.isascii():
            raise ValueError(f"{name[:40]!r} has a value with characters that are not ASCII; use only ASCII")
    return _bounded(pairs)


def _count(written: object) -> object:
    if isinstance(written, bool):
        raise ValueError("not a number; write a whole number")  # pydantic would accept true as 1
    return written


@dataclass(frozen=True, slots=True)
class Takes:
    """What a setting accepts, as docs/configuration.md shows it."""

    words: str


@dataclass(frozen=True, slots=True)
class TextOr:
    """A value that may also be written as text, which `parse` converts."""

    parse: Callable[[object], object]

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_before_validator_function(self.parse, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, object]:
        return {"anyOf": [handler(schema), {"type": "string"}]}


Names = TextOr(_comma_separated)
OnOff = Annotated[Switch, BeforeValidator(_switch), WithJsonSchema({"enum": ["auto", True, False]})]
NotBool = BeforeValidator(_count)
Server = Annotated[str, AfterValidator(_bootstrap_server)]
Servers = Annotated[tuple[Server, ...], AfterValidator(_some), Names, Takes("list of `HOST:PORT`")]
Listen = Annotated[str, AfterValidator(_listen), Takes("`HOST:PORT`")]
AllowedHosts = Annotated[
    tuple[Annotated[str, AfterValidator(_allowed_host)], ...], Names, Takes("list of names")
]
_URL = WithJsonSchema({"type": "string", "pattern": "^https?://"})
Endpoint = Annotated[str, AfterValidator(_otlp_endpoint), _URL, Takes("URL")]
TokenUrl = Annotated[str, AfterValidator(_token_endpoint), _URL, Takes("URL")]
Topic = Annotated[
    str,
    AfterValidator(_topic),
    WithJsonSchema({"type": "string", "pattern": f"^{_TOPIC.pattern}$"}),
    Takes("topic"),
]
Identifier = Annotated[str, AfterValidator(_identifier), Takes("name")]
AbsolutePath = Annotated[
    str, AfterValidator(_absolute), WithJsonSchema({"type": "string", "pattern": "^/"}), Takes("path")
]
Headers = Annotated[
    Mapping[str, SecretStr], TextOr(_pairs), AfterValidator(_checked_headers), Takes("names and values")
]
Parameters = Annotated[
    Mapping[str, str], TextOr(_pairs), AfterValidator(_parameters), Takes("names and values")
]
Extensions = Annotated[
    Mapping[str, str], TextOr(_pairs), AfterValidator(_extensions), Takes("names and values")
]
Text = Annotated[str, Field(min_length=1), Takes("text")]
Secret = Annotated[SecretStr, Field(min_length=1), Takes("text")]
