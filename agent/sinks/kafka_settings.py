"""The settings of a Kafka cluster."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal, TypeAlias

Compression: TypeAlias = Literal["none", "gzip", "snappy", "lz4", "zstd"]
SaslMechanism: TypeAlias = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEndpoint:
    """A server that issues tokens by the client credentials grant (RFC 6749, section 4.4)."""

    url: str
    client_id: str
    client_secret_file: Path  # read at each request
    scope: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict[str, str])  # more of the request
    ca_file: Path | None = None  # None: the system's certificate authorities
    timeout_s: float = 10.0  # one request
    proxy: str | None = field(default=None, repr=False)  # http://, may have a user name and a password
    proxy_variable: str = ""  # the environment variable that the proxy is from


@dataclass(frozen=True, slots=True, kw_only=True)
class Oauth:
    """Where tokens come from, and what a login adds to them."""

    source: Path | TokenEndpoint  # a file is read at each login
    extensions: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Sasl:
    """The credentials of the agent."""

    mechanism: SaslMechanism
    username: str = ""
    password: str = field(default="", repr=False)
    password_file: Path | None = None  # read at each login, instead of `password`
    oauth: Oauth | None = None  # for OAUTHBEARER, instead of a user name and a password


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """TLS to the brokers. The files are read at each handshake, so that a renewed certificate is used."""

    ca_file: Path | None = None  # None: the system's certificate authorities
    cert_file: Path | None = None  # None: no client certificate
    key_file: Path | None = None  # None: the key is in cert_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One cluster, its topics and its timeouts."""

    bootstrap_servers: tuple[str, ...]  # "host:port"; looked up again after each failure
    samples_topic: str = "barograph.samples"
    states_topic: str = "barograph.states"
    memory_topic: str = "barograph.memory"
    client_id: str = "barograph"
    # Every client library and every Kafka-like service has gzip; some have none of the others.
    compression: Compression = "gzip"
    tls: Tls | None = None  # None: plaintext
    sasl: Sasl | None = None  # None: no authentication
    request_timeout_s: float = 10.0  # one request to one broker
    # All attempts to deliver one batch; then the connections are closed and opened again. Long enough for a
    # partition to get a new leader. aiokafka itself would retry forever.
    delivery_timeout_s: float = 30.0
    linger_s: float = 3.0  # the shortest time between two batches of a topic
    backlog_records_per_s: int = 200  # of each topic, or four times the rate of new records
    # Before compression, for each partition. Well below message.max.bytes of the broker (1 MiB), beyond
    # which the whole batch is refused.
    produce_batch_bytes: int = 256 * 1024

    def topics(self) -> Mapping[str, str]:
        """Return the topics by the kind of their records: every field that ends in `_topic`."""
        named = {each.name: getattr(self, each.name) for each in fields(self)}
        return {
            name.removesuffix("_topic"): topic for name, topic in named.items() if name.endswith("_topic")
        }
